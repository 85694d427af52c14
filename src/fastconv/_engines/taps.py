"""Convolutions as tables of taps, which the engine `fused` runs on. Sizes only, no data.

A tap is a row of the column matrix. Along an axis, tap k of output position o reads cell
``o * step + starts[k]`` of the image; so a convolution of any rank is, for each axis, a step and a
list of starts::

    convolution         step = stride    starts[k] = k * dilation - pad
    its gradient, dx    step = 1         for each phase p of dx's cells p, p + stride, ...:
                                         starts[k] = (p + pad - k * dilation) / stride,
                                         of those k for which that is whole

The gradient is therefore the same computation, run on dout once for each phase, and so is a
transposed convolution. Nothing is scattered. Phases that read about the same cells are one table.

Cells are copied to a scratch in which each tap is one offset, whatever the position. Per axis the
scratch is made of segments, each a list of cells that are `step` apart::

    step 2, starts -1 0 1:    segment 0:  cells -1  1  3  5 ..     taps 0 and 2 (a cell later)
                              segment 1:  cells  0  2  4  6 ..     tap 1
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastconv._geometry import Geometry
from fastconv._memory import allocate
from fastconv._validation import Array

# Phases of an axis that are computed together, at most: their sums wait for each other.
MOST_WOVEN = 64


class Segments(NamedTuple):
    """How an axis lies in the scratch.

    Attributes
    ----------
    firsts : range
        The cell of the image that each segment begins with, for output position 0.
    shift : int
        How many cells further into its segment a tap begins than the one before it there: tap k is
        the ``k // len(firsts)``-th in segment ``k % len(firsts)``. Less than 0 if taps go down.
    length : int
        Cells of a segment.
    step : int
        Cells of the image from one cell of a segment to the next.
    """

    firsts: range
    shift: int
    length: int
    step: int

    @property
    def cells(self) -> int:
        """Cells of all segments."""
        return len(self.firsts) * self.length

    def offsets(self, taps: int) -> Array:
        """The cell, among those of all segments, that each tap begins with."""
        turn, segment = np.divmod(np.arange(taps), len(self.firsts))
        offsets: Array = segment * self.length + turn * self.shift
        return offsets - min(0, (taps - 1) * self.shift)


class Axis(NamedTuple):
    """An axis of a table: position o of `size` reads cells ``o * step + starts[k]`` of `x_size`."""

    size: int
    step: int
    starts: range
    x_size: int

    @property
    def is_plain(self) -> bool:
        """Whether positions are the cells themselves."""
        return self.starts == range(1) and self.step == 1 and self.x_size == self.size

    def segments(self, box: int) -> Segments:
        """The smaller scratch for `box` positions: segments that taps share, or one for each."""
        taps = len(self.starts)
        phases = self.step // math.gcd(self.step, self.starts.step)
        if phases < taps:
            shift = phases * self.starts.step // self.step
            length = box + (taps - 1) // phases * abs(shift)
            if phases * length <= taps * box:
                # taps go down only where the step is 1, and there is one segment then
                firsts = self.starts[:phases] if shift > 0 else self.starts[-1:]
                return Segments(firsts, shift, length, self.step)
        return Segments(self.starts, 0, box, self.step)

    def one_segment(self, box: int) -> Segments:
        """All cells that `box` positions read, and those between."""
        first, last = sorted((self.starts[0], self.starts[-1]))
        length = (box - 1) * self.step + last - first + 1
        return Segments(range(first, first + 1), self.starts.step, length, 1)


class Phase(NamedTuple):
    """A part of dx: cells that are a stride apart, which the same kernel indices reach.

    Attributes
    ----------
    first : tuple of int
        The first of the cells, per axis.
    taps : tuple of range
        Per axis the kernel indices that reach them.
    axes : tuple of Axis
        How these read dout.
    """

    first: tuple[int, ...]
    taps: tuple[range, ...]
    axes: tuple[Axis, ...]

    @property
    def kernel(self) -> int:
        """Taps of a channel."""
        return math.prod(map(len, self.taps))

    @property
    def positions(self) -> int:
        """Cells of a channel."""
        return math.prod(axis.size for axis in self.axes)


class Table(NamedTuple):
    """A convolution as taps; `channels` and `filters` are those of one group.

    Attributes
    ----------
    axes : tuple of Axis
        What all phases together read.
    strides : tuple of int
        Results from one position to the next, per axis.
    phases : list of Phase
        In the order of their first cells.
    """

    batch: int
    groups: int
    channels: int
    filters: int
    axes: tuple[Axis, ...]
    strides: tuple[int, ...]
    phases: list[Phase]

    @property
    def kernel(self) -> int:
        """Taps of a channel, of all phases."""
        return sum(phase.kernel for phase in self.phases)

    @property
    def work(self) -> int:
        """Multiply-adds."""
        each = sum(phase.kernel * phase.positions for phase in self.phases)
        return self.batch * self.groups * self.filters * self.channels * each

    def count(self, boxes: Sequence[int]) -> int:
        """Boxes of a sample, each of so many positions an axis."""
        return math.prod(-(-axis.size // box) for axis, box in zip(self.axes, boxes, strict=True))

    @property
    def woven(self) -> int:
        """Phases that results along the last axis belong to in turn; 1 if some are of none."""
        along = {phase.first[-1] for phase in self.phases}
        return len(along) if len(along) == self.strides[-1] else 1

    @property
    def ragged(self) -> int:
        """Those of them that reach the last position."""
        ends = [phase.axes[-1].size == self.axes[-1].size for phase in self.phases]
        return sum(ends[: self.woven])


def forward_table(g: Geometry) -> Table:
    """The table of a convolution."""
    axes = tuple(
        Axis(size, stride, range(-before, kernel * dilation - before, dilation), x_size)
        for size, stride, dilation, (before, _), kernel, x_size in zip(
            g.out_shape, g.stride, g.dilation, g.pad, g.kernel_size, g.in_shape, strict=True
        )
    )
    whole = Phase((0,) * g.rank, tuple(map(range, g.kernel_size)), axes)
    ones = (1,) * g.rank
    return Table(g.batch, g.group, g.channels // g.group, g.filters // g.group, axes, ones, [whole])


def gradient_tables(g: Geometry) -> list[Table]:
    """The tables of dx: one of all phases, or one of each where they read cells far apart."""
    along: list[list[tuple[int, range, Axis]]] = []
    for size, stride, dilation, (before, _), kernel, out_size in zip(
        g.in_shape, g.stride, g.dilation, g.pad, g.kernel_size, g.out_shape, strict=True
    ):
        parts = []
        every = stride // math.gcd(stride, dilation)  # taps from one of a phase to the next
        for k in range(min(kernel, every)):
            p = (k * dilation - before) % stride
            if p < size:
                taps = range(k, kernel, every)
                start, step = (p + before - k * dilation) // stride, every * dilation // stride
                starts = range(start, start - len(taps) * step, -step)
                parts.append((p, taps, Axis(-(-(size - p) // stride), 1, starts, out_size)))
        along.append(sorted(parts, key=lambda part: part[0]))
    phases = []
    for along_each in itertools.product(*along):
        first, kernels, axes = zip(*along_each, strict=True)
        phases.append(Phase(first, kernels, axes))
    joined = [_joined([axis for _, _, axis in parts]) for parts in along if parts]
    together = len(phases) > 1 and all(
        len(axis.starts) <= axis.size + 1 and stride <= MOST_WOVEN
        for axis, stride in zip(joined, g.stride, strict=True)
    )
    table = functools.partial(Table, g.batch, g.group, g.filters // g.group, g.channels // g.group)
    if together:
        return [table(tuple(joined), g.stride, phases)]
    return [table(phase.axes, g.stride, [phase]) for phase in phases]


def _joined(axes: Sequence[Axis]) -> Axis:
    """An axis that reads what all of these do, and the cells between."""
    starts = [start for axis in axes for start in (axis.starts[0], axis.starts[-1])]
    size = max(axis.size for axis in axes)
    return Axis(size, 1, range(min(starts), max(starts) + 1), axes[0].x_size)


def kernel_offsets(strides: Sequence[int], taps: Sequence[range]) -> Array:
    """Where these kernel indices of w (F, C/group, *K) lie, for the strides of K."""
    return _outer_sum(
        [
            step * np.arange(axis.start, axis.stop, axis.step)
            for step, axis in zip(strides, taps, strict=True)
        ]
    )


def layout_tables(table: Table, boxes: Sequence[int], layouts: Sequence[Segments]) -> list[Array]:
    """What a kernel is told of the axes: their sizes, the taps' offsets, the segments' firsts.

    Then, of the phases: taps, and those before, the axes that they are shorter along; the results
    that they begin with.
    """
    allocate("the table of taps", (table.kernel,), np.dtype(np.intp))  # or an error that names it
    sizes: list[int] = []
    firsts: list[Array] = []
    pitches: list[int] = []
    before = 0
    pitch = math.prod(layout.cells for layout in layouts)
    for axis, box, layout, stride in zip(table.axes, boxes, layouts, table.strides, strict=True):
        pitch //= layout.cells
        sizes += [axis.size, box, -(-axis.size // box), layout.step, axis.x_size]
        sizes += [len(layout.firsts), layout.length, pitch, before, stride]
        before += len(layout.firsts)
        firsts.append(np.array(layout.firsts, np.intp))
        pitches.append(pitch)
    offsets = []
    phases = []
    taps = 0
    for phase in table.phases:
        shorter = 0
        places = []
        for number, (axis, layout, pitch) in enumerate(
            zip(table.axes, layouts, pitches, strict=True)
        ):
            own = phase.axes[number]
            which = (np.array(own.starts) - axis.starts.start) // axis.starts.step
            places.append(layout.offsets(len(axis.starts))[which] * pitch)
            shorter |= (own.size < axis.size) << (number + 1) % len(table.axes)
        offsets.append(_outer_sum(places))
        phases += [phase.kernel, taps, shorter]
        taps += phase.kernel
    results = [phase.first for phase in table.phases]
    rest = [np.array(phases, np.intp), np.array(results, np.intp).ravel()]
    return [np.array(sizes, np.intp), np.concatenate(offsets), *firsts, *rest]


def _outer_sum(steps: Sequence[Array]) -> Array:
    """All sums of one number from each array, the last one's fastest."""
    total: Array = np.zeros((), np.intp)
    for step in steps:
        total = np.add.outer(total, step)
    return total.ravel()
