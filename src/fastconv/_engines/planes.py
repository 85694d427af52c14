"""How the engine `depthwise` cuts a layer into boxes of planes. Sizes only, no data.

An axis, of a convolution or of its gradient, is a `Side`: cells of a result in turns of so many
phases, each phase with taps of its own, and the cells of an image that they read::

    convolution          one phase: tap k of turn o reads cell o * stride + k * dilation - pad
    its gradient, dx     a phase p for each cell o * stride + p of dx, up to the stride:
                         a tap k that reaches it reads cell o + (p + pad - k * dilation) / stride

Cuts along positions do not touch a sum of an image; those of the weights' gradient follow from the
layer alone.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastconv._engines.taps import Axis, Segments
from fastconv._geometry import Geometry
from fastconv._kernels import depthwise as kernel
from fastconv._validation import Array

# Of every image in the kernels (as there).
AXES = 3
# Heights of a column that there are tiles for, with steps of 1; with steps of 2, from 3 on.
HEIGHTS = (2, 3, 4, 5, 6, 7, 11)
# Cells of the scratch of a plane: in second-level cache, with few of them read twice.
BOX_CELLS = 2**16
# The scratch of several planes together.
SCRATCH_BYTES = 2**21
# Cells of a unit of several planes.
UNIT_CELLS = 2**16
# Multiply-adds after which Python hears Ctrl-C; a cell that is copied takes as long as so many.
CALL_WORK = 2**27
CELL_WORK = 16
# Units for each worker, so that one that is late has little left to do.
SHARES = 4
# Vectors of sums that wait for their lanes to be added up (as PENDING in the kernel).
PENDING = 128


class Plan(NamedTuple):
    """How a layer is computed.

    Attributes
    ----------
    sizes : ndarray of intp
        What the kernel is told: `Sizes` there.
    units, chunk : int
        Units of work, and how many of them one call of the kernel does.
    room : int
        Numbers in a worker's space.
    workers : int
        No more than have something to do.
    work : int
        Multiply-adds.
    passes, pass_chunk : int
        Boxes of samples that a gradient is summed over, and how many in one call.
    """

    sizes: Array
    units: int
    chunk: int
    room: int
    workers: int
    work: int
    passes: int = 1
    pass_chunk: int = 1


def image_plan(
    g: Geometry, transposed: bool, itemsize: int, workers: int, by_channels: bool
) -> Plan:
    """Plan a convolution, or its gradient with respect to the image."""
    layer = _Layer.of(g, itemsize, by_channels, transposed=transposed)
    limit = min(BOX_CELLS, SCRATCH_BYTES // itemsize // layer.together) // layer.sources
    box = layer.box(limit)
    frame, table = _tables(g, layer.sides, box, layer.sources, layer.lanes)
    boxes, plane = layer.boxes(box), frame[-2]
    block = layer.together
    wanted = SHARES * workers if workers > 1 else 1
    if boxes == 1:  # small planes make one unit
        share = min(UNIT_CELLS // (layer.sources * plane), g.batch * g.channels // wanted)
        block = min(g.channels, max(1, share // block) * block)
    units = g.batch * -(-g.channels // block) * boxes
    work = layer.work // units + CELL_WORK * block * layer.sources * plane
    return layer.finish(
        Plan(
            sizes=layer.sizes(box, block, frame, [0] * len(frame), table),
            units=units,
            chunk=max(1, min(CALL_WORK // work, units if workers == 1 else 1 + units // wanted)),
            room=layer.together * len(layer.sides[2].taps) * kernel.ROWS * layer.lanes,
            workers=min(workers, units),
            work=layer.work,
        )
    )


def weight_plan(g: Geometry, itemsize: int, workers: int, by_channels: bool) -> Plan:
    """Plan the gradient with respect to the weights.

    Boxes are the same for any batch, layout and number of workers, and taken in order.
    """
    layer = _Layer.of(g, itemsize, by_channels, transposed=False)
    box = layer.box(BOX_CELLS // 2)
    frame, table = _tables(g, layer.sides, box, 1, layer.lanes)
    turns = math.prod(box)
    other = [
        *(side.size for side in layer.sides), 1, 1, 1, 0, 0, 1, 1, 1,
        box[1], 1, box[2], box[2], turns, len(table),
    ]  # fmt: skip
    passes = g.batch * layer.boxes(box)
    once = layer.work // passes // g.channels + CELL_WORK * (frame[-2] + turns)  # for a group
    block = min(-(-g.channels // (SHARES * workers if workers > 1 else 1)), CALL_WORK // once)
    block = min(g.channels, max(1, block // layer.together) * layer.together)
    units = -(-g.channels // block)
    threads = min(workers, units)
    return layer.finish(
        Plan(
            sizes=layer.sizes(box, block, frame, other, [*table, 0]),
            units=units,
            chunk=max(1, min(units, CALL_WORK // (once * block))) if threads == 1 else 1,
            room=2 * (max(PENDING, layer.taps) + 2 * layer.lanes) * layer.lanes,
            workers=threads,
            work=layer.work,
            passes=passes,
            pass_chunk=max(1, min(passes, CALL_WORK * threads // (once * g.channels))),
        )
    )


# --- the parts --------------------------------------------------------------------------------


class Side(NamedTuple):
    """An axis of a convolution, or of its gradient, as cells of an image and taps by phase.

    Attributes
    ----------
    number : int
        Of the spatial axis; -1 for one that the arrays do not have.
    size, x_size : int
        Cells of the result and of the image that is read.
    step : int
        Cells of the image from one turn to the next.
    taps : list of list of (int, int)
        For each phase the kernel indices that reach it, each with the cell that turn 0 reads; cells
        go up.
    """

    number: int
    size: int
    x_size: int
    step: int
    taps: list[list[tuple[int, int]]]

    @property
    def turns(self) -> int:
        """Cells of the first phase."""
        return -(-self.size // len(self.taps))

    @property
    def cells(self) -> tuple[int, int]:
        """The first and the last cell that turn 0 reads."""
        starts = [start for phase in self.taps for _, start in phase] or [0]
        return min(starts), max(starts)

    def needed(self, box: int) -> int:
        """Cells that a box of turns reads, and those between."""
        first, last = self.cells
        return (box - 1) * self.step + last - first + 1

    def segments(self, box: int) -> Segments:
        """How rows lie in the scratch: without the step."""
        first, last = self.cells
        if self.step == 1:
            return Segments(range(first, first + 1), 1, box + last - first, 1)
        (taps,) = self.taps
        gap = taps[1][1] - taps[0][1] if len(taps) > 1 else 1
        axis = Axis(self.size, self.step, range(first, last + 1, gap), self.x_size)
        return axis.segments(box)


FLAT = Side(-1, 1, 1, 1, [[(0, 0)]])


def _sides(g: Geometry, transposed: bool) -> list[Side]:
    """The three axes, those of the arrays last; an axis of one cell and one tap is none."""
    sides = []
    for index, (size, x_size, stride, dilation, (before, after), kernel_size) in enumerate(
        zip(g.out_shape, g.in_shape, g.stride, g.dilation, g.pad, g.kernel_size, strict=True)
    ):
        if size == x_size == kernel_size == 1 and not before and not after:
            continue
        starts = [k * dilation - before for k in range(kernel_size)]
        if transposed:
            taps = [
                [
                    (k, (p - starts[k]) // stride)
                    for k in reversed(range(kernel_size))
                    if (p - starts[k]) % stride == 0
                ]
                for p in range(min(stride, x_size))
            ]
            sides.append(Side(index, x_size, size, 1, taps))
        else:
            sides.append(Side(index, size, x_size, stride, [list(enumerate(starts))]))
    return [FLAT] * (AXES - len(sides)) + sides


def _tables(
    g: Geometry, sides: Sequence[Side], box: Sequence[int], sources: int, lanes: int
) -> tuple[list[int], list[int]]:
    """How an image lies in the scratch, `Frame`, and what stands after the sizes.

    That is, for all phases, their shapes, the columns' offsets, the places of their weights; then
    the first cells of the segments. Places are counted from there on.
    """
    segments = sides[2].segments(box[2])
    needed = segments.length - box[2] + 1
    segments = segments._replace(length=_whole(segments.length, lanes))  # whole vectors
    pitch = segments.length * len(segments.firsts)
    rows = sides[1].needed(box[1])
    plane = sides[0].needed(box[0]) * rows * pitch
    first = [side.cells[0] for side in sides]
    steps = [math.prod(g.kernel_size[side.number + 1 :]) for side in sides]
    in_line = segments.offsets(len(sides[2].taps[0])) if sides[2].step > 1 else None
    shapes: list[tuple[int, ...]] = []
    offsets: list[int] = []
    places: list[int] = []
    for outer, middle, inner in itertools.product(*(side.taps for side in sides)):
        high = _is_high(middle, sides[1].step)
        before = len(offsets), len(places)
        for q, (k0, start0), (number, (k2, start2)), lines in itertools.product(
            range(sources), outer, enumerate(inner), [middle] if high else [[k] for k in middle]
        ):
            if not lines:
                continue
            along = start2 - first[2] if in_line is None else int(in_line[number])
            row = (start0 - first[0]) * rows + lines[0][1] - first[1]
            offsets.append(q * plane + row * pitch + along)
            tap = q * math.prod(g.kernel_size) + k0 * steps[0] + k2 * steps[2]
            places += [tap + k1 * steps[1] for k1, _ in lines]
        step = sides[1].step
        columns = len(offsets) - before[0]
        shape = (len(middle), step, 1, columns) if high else (1, 1, step, columns)
        shapes.append((*shape, *before))
    ends = list(itertools.accumulate((6 * len(shapes), len(offsets), len(places))))
    frame = [
        *(side.x_size for side in sides),
        *(side.step for side in sides),
        *first[:2],
        sides[0].needed(1),
        sides[1].needed(1),
        needed,
        rows,
        len(segments.firsts),
        segments.length,
        pitch,
        plane,
        ends[2],
    ]
    table = [number for s in shapes for number in (*s[:4], ends[0] + s[4], s[5])]
    return frame, [*table, *offsets, *places, *segments.firsts]


class _Layer(NamedTuple):
    """A layer as the kernels see it."""

    g: Geometry
    sides: list[Side]
    sources: int
    results: int
    together: int
    itemsize: int
    lanes: int

    @classmethod
    def of(cls, g: Geometry, itemsize: int, by_channels: bool, *, transposed: bool) -> "_Layer":
        """A convolution, or its gradient with respect to the image."""
        lanes, multiplier = kernel.lanes(itemsize), g.filters // g.channels
        together = min(lanes, g.channels) if by_channels else 1
        sides = _sides(g, transposed)
        sources, results = (multiplier, 1) if transposed else (1, multiplier)
        return cls(g, sides, sources, results, together, itemsize, lanes)

    @property
    def taps(self) -> int:
        """Those of a filter."""
        return math.prod(self.g.kernel_size)

    @property
    def work(self) -> int:
        """Multiply-adds."""
        return self.g.batch * self.g.filters * self.g.positions * self.taps

    def box(self, limit: int) -> list[int]:
        """The turns of a unit, as many as have no more cells in the scratch than the limit."""
        box = [side.turns for side in self.sides]
        long = 16 * self.lanes
        for axis, least in ((0, 1), (1, kernel.ROWS), (2, long), (1, 1), (2, self.lanes)):
            cells = [side.needed(b) for side, b in zip(self.sides, box, strict=True)]
            cells[2] = _whole(cells[2], self.lanes)
            others = math.prod(cells[:axis] + cells[axis + 1 :])
            side = self.sides[axis]
            fitting = 1 + (limit // others - side.needed(1)) // side.step
            if fitting < box[axis]:
                box[axis] = min(box[axis], max(fitting // least * least, least))
        return box

    def boxes(self, box: Sequence[int]) -> int:
        """Boxes of a plane."""
        return math.prod(-(-side.turns // b) for side, b in zip(self.sides, box, strict=True))

    def sizes(
        self, box: Sequence[int], block: int, frame: list[int], other: list[int], table: list[int]
    ) -> Array:
        """What the kernel is told: `Sizes` there."""
        shapes = math.prod(len(side.taps) for side in self.sides)
        at = 17 + 6 * AXES + 2 * len(frame)
        shapes_end = 6 * shapes
        columns = sum(table[3:shapes_end:6])
        places = sum(table[k] * table[k + 3] for k in range(0, shapes_end, 6))
        for k in range(4, shapes_end, 6):
            table[k] += at
        frame[-1] += at
        other[-1] += at
        sizes = [
            self.g.batch,
            self.g.channels,
            self.sources,
            self.results,
            self.taps,
            self.together,
            block,
            -(-self.g.channels // block),
            self.boxes(box),
            self.sides[1] is FLAT,
            places,
            at + shapes_end + columns,
            at,
            min(0, self.sides[2].cells[0]) % self.lanes if self.sides[2].step == 1 else 0,
            self._room(self.sources * frame[-2]),
            self._room(other[-2]),
            self.together * places,
        ]
        for side, b in zip(self.sides, box, strict=True):
            sizes += [side.number, side.size, len(side.taps), side.turns, b, -(-side.turns // b)]
        return np.array([*sizes, *frame, *other, *table], np.intp)

    def _room(self, cells: int) -> int:
        """Numbers for the planes of a unit, with a vector more on both sides."""
        return _whole(self.together * cells + 2 * self.lanes, kernel.ALIGNED)

    def finish(self, plan: Plan) -> Plan:
        """Add the room that every unit needs to what it needs besides."""
        image, other, weights = (int(number) for number in plan.sizes[14:17])
        room = image + other + weights + plan.room
        return plan._replace(room=room + kernel.ALIGNED // self.itemsize)


def _whole(numbers: int, by: int) -> int:
    """So many numbers or a few more, a multiple of `by`."""
    return -(-numbers // by) * by


def _is_high(taps: Sequence[tuple[int, int]], step: int) -> bool:
    """Whether there are tiles for these taps along axis 1, which share the rows they load."""
    return (
        len(taps) in HEIGHTS
        and taps[-1][1] - taps[0][1] == len(taps) - 1
        and (step == 1 or (step == 2 and len(taps) > 2))
    )
