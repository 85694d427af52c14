"""Any engine, with images extended by their own cells instead of zeros.

A convolution that pads by "reflect", "edge" or "wrap" is one without padding on a larger image::

    x        a b c d                 index of the cell that each of the larger image repeats:
    reflect  c b | a b c d | c b      2 1 | 0 1 2 3 | 2 1
    edge     a a | a b c d | d d      0 0 | 0 1 2 3 | 3 3
    wrap     c d | a b c d | a b      2 3 | 0 1 2 3 | 0 1

On the way back the gradient of every repeated cell is added to that of the cell itself. The words
and the cells are those of `np.pad`.
"""

import math
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np

from fastconv._geometry import Geometry
from fastconv._memory import Kept, allocate, unread
from fastconv._validation import Array


class Extended(NamedTuple):
    """An engine that extends images by `pad_mode`, and has another one compute."""

    engine: ModuleType
    pad_mode: str

    def workspace(
        self, geometry: Geometry, x: Array, out: Array, workers: int | None, *, keeps: bool = False
    ) -> int:
        """As every engine; it takes a copy of x with its padding."""
        inner = geometry.without_pad()
        images = unread(inner.x_shape, out.dtype)
        needed: int = self.engine.workspace(inner, images, out, workers, keeps=keeps)
        return images.nbytes + needed

    def forward(
        self,
        geometry: Geometry,
        x: Array,
        w: Array,
        b: Array | None,
        out: Array,
        workers: int | None,
        kept: Kept | None = None,
    ) -> None:
        """As every engine; it takes a copy of x with its padding."""
        images = _extended(geometry, x, self.pad_mode)
        self.engine.forward(geometry.without_pad(), images, w, b, out, workers, kept)

    def backward_x(
        self,
        geometry: Geometry,
        dout: Array,
        w: Array,
        b: Array | None,
        dx: Array,
        workers: int | None,
    ) -> None:
        """As every engine; it takes room for dx with its padding."""
        inner = geometry.without_pad()
        room = allocate("the gradient of the padded image", inner.x_shape, dx.dtype)
        self.engine.backward_x(inner, dout, w, None, room, workers)
        with np.errstate(all="ignore"):
            np.copyto(dx, _folded(geometry, room, self.pad_mode))
            if b is not None:
                dx += b.reshape(-1, *(1,) * geometry.rank)

    def backward_w(
        self,
        geometry: Geometry,
        x: Array,
        dout: Array,
        dw: Array,
        workers: int | None,
        db: Array | None = None,
    ) -> None:
        """As every engine; it takes a copy of x with its padding."""
        images = _extended(geometry, x, self.pad_mode)
        self.engine.backward_w(geometry.without_pad(), images, dout, dw, workers, db)

    def backward_b(self, dout: Array, db: Array, workers: int | None) -> None:
        """As every engine."""
        self.engine.backward_b(dout, db, workers)


def check_extends(geometry: Geometry, pad_mode: str) -> None:
    """Raise ValueError if an axis is to be padded that has no cell to repeat."""
    for axis, (size, pads) in enumerate(zip(geometry.in_shape, geometry.pad, strict=True)):
        if size == 0 and any(pads):
            raise ValueError(
                f"pad_mode: {pad_mode!r} needs a cell to repeat, "
                f"but spatial axis {axis} has size 0 (input {geometry.in_shape})"
            )


def _extended(geometry: Geometry, x: Array, pad_mode: str) -> Array:
    """Copy x (N, C, *S) into its padding."""
    try:
        images: Array = np.pad(x, ((0, 0), (0, 0), *geometry.pad), pad_mode)  # type: ignore[call-overload]
    except MemoryError:
        size = math.prod(geometry.without_pad().x_shape) * x.itemsize
        raise MemoryError(f"the padded image: no memory for {size} bytes") from None
    return images


def _folded(geometry: Geometry, room: Array, pad_mode: str) -> Array:
    """Add the padding of `room` to the cells that it repeats, in place; view these cells."""
    for axis, (before, _) in enumerate(geometry.pad):
        size = geometry.in_shape[axis]
        cells = np.moveaxis(room, 2 + axis, 0)
        image = cells[before : before + size]
        for part, step, first in _runs(geometry, axis, pad_mode):
            run = cells[part]
            if step == 0:
                image[first] += run.sum(axis=0)
            elif step == 1:
                image[first : first + len(run)] += run
            else:
                image[first - len(run) + 1 : first + 1] += run[::-1]
    return room[:, :, *geometry.inside]


def _runs(geometry: Geometry, axis: int, pad_mode: str) -> Iterator[tuple[slice, int, int]]:
    """Cut the padding of an axis into runs that repeat cells at a step of 1, -1 or 0.

    Yields where in the padded axis a run is, its step, and the cell that its first one repeats.
    """
    size, (before, after) = geometry.in_shape[axis], geometry.pad[axis]
    period = size - (pad_mode == "reflect")  # cells from one turn, or one copy, to the next
    for begin, end in ((-before, 0), (size, size + after)):
        if begin == end:
            continue
        if pad_mode == "edge" or size == 1:
            yield slice(begin + before, end + before), 0, 0 if begin < 0 else size - 1
            continue
        while begin < end:
            turns, place = divmod(begin, period)
            stop = min(end, (turns + 1) * period)
            part = slice(begin + before, stop + before)
            if pad_mode == "reflect" and turns % 2:
                yield part, -1, period - place
            else:
                yield part, 1, place
            begin = stop
