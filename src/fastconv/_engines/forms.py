"""The forms of Winograd's convolutions: what is done along the axes of an image.

`_kernels/winograd.h` has their transforms. Images of one axis are planes of one row.
"""

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fastconv._geometry import Geometry
from fastconv._validation import Array


class Axis(NamedTuple):
    """What is done along an axis: m results of a tile, from m + taps - 1 cells."""

    m: int
    taps: int

    @property
    def points(self) -> int:
        """Cells of a tile, and numbers that it is transformed to."""
        return self.m + self.taps - 1


class Form(NamedTuple):
    """What is done along the rows and the columns."""

    row: Axis
    column: Axis

    @property
    def m(self) -> tuple[int, int]:
        """Results of a tile along both axes."""
        return self.row.m, self.column.m

    @property
    def taps(self) -> tuple[int, int]:
        """Taps along both axes."""
        return self.row.taps, self.column.taps

    @property
    def cells(self) -> tuple[int, int]:
        """Cells that a tile reads along both axes."""
        return self.row.points, self.column.points

    @property
    def points(self) -> int:
        """Numbers that stand for a tile."""
        return math.prod(self.cells)

    @property
    def key(self) -> int:
        """The name that winograd.h has for it."""
        return functools.reduce(lambda key, digit: 10 * key + digit, (*self.row, *self.column))

    def growth(self, along: Mapping[Axis, tuple[float, float]]) -> list[float]:
        """How much numbers grow in both transforms, from how much they do along an axis."""
        return [math.prod(both) for both in zip(*(along[axis] for axis in self), strict=True)]


# An axis left as it is, those for so many taps, and the forms with tiles of 4x4 and 2x2 for 3x3.
WHOLE = Axis(1, 1)
AXES = (Axis(4, 3), Axis(4, 5), Axis(2, 7))
LARGE_TILES, SMALL_TILES = (Form(axis, axis) for axis in (Axis(4, 3), Axis(2, 3)))
MOST_TAPS = AXES[-1].taps

# How much numbers grow along an axis, at most: images or weights while they are transformed, and
# what becomes of a product. These are the largest sums of magnitudes in a row of B^T, or of G
# before its divisor; and in rows of B^T, G and A^T, multiplied.
GROWTH = {
    WHOLE: (1, 1),
    Axis(2, 3): (3, 2 * 3 / 2 * 3),
    Axis(4, 3): (7, 7 * 28 / 15 * 89 / 8),
    Axis(4, 5): (31, 15 * 62 / 45 * 77 / 4),
    Axis(2, 7): (127, 15 * 14 / 9 * 8),
}
# The same for the gradient of weights, where m results of dout take the place of the taps.
GRADIENT_GROWTH = {
    WHOLE: (1, 1),
    Axis(4, 3): (15, 7 * 2 * 29 / 4),
    Axis(4, 5): (15, 15 * 4 / 3 * 281 / 8),
    Axis(2, 7): (15, 15 * 16 / 15 * 4193 / 32),
}


def form_of(taps: tuple[int, ...]) -> Form:
    """The form for so many taps along the axes: the least that will do, the others are zeros."""
    axis = next(axis for axis in AXES if axis.taps >= max(taps))
    row, column = (axis if some > 1 else WHOLE for some in taps)
    return Form(row, column)


def of_planes(g: Geometry) -> Geometry:
    """The same convolution of planes; cells of an axis with one tap have no dilation."""
    if g.rank == 1:
        g = g._replace(
            in_shape=(1, *g.in_shape),
            kernel_size=(1, *g.kernel_size),
            out_shape=(1, *g.out_shape),
            stride=(1, *g.stride),
            dilation=(1, *g.dilation),
            pad=((0, 0), *g.pad),
        )
    steps = zip(g.kernel_size, g.dilation, strict=True)
    return g._replace(dilation=tuple(step if taps > 1 else 1 for taps, step in steps))


def as_planes(array: Array) -> Array:
    """View images or kernels of one axis as planes of one row."""
    return array[:, :, np.newaxis] if array.ndim == 3 else array
