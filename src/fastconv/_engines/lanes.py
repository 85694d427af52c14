"""How the engine `fused` cuts a convolution whose filters are the lanes. Sizes only, no data.

The rows of a tile are positions, whose numbers are read from the scratch one by one, so they may
lie a stride apart: no line is split by phase, and no panel is made. Results come as
[position][filter], and are transposed on the way out.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np

from fastconv._engines import plans
from fastconv._engines.plans import (
    Plan,
    convolution_sizes,
    largest,
    odd_lines,
    pack_chunk,
    unit_chunk,
    whole_lines,
)
from fastconv._engines.taps import Segments, Table, layout_tables
from fastconv._kernels import fused as kernel

# With fewer filters the results take too long, and with more lanes, as a part of them, the sums.
LEAST_FILTERS = 32
MOST_LANES = 1.2
# Of packed weights, what fills the lanes that are left.
MOST_PADDING = 2**20
# Where positions are neighbours: sums so long that the results take little beside them, of kernels
# too long for the engine `winograd`.
LONG_SUM = 1000
LONG_KERNEL = 4


def serves_lanes(table: Table, itemsize: int) -> bool:
    """Whether this form can compute it: one phase, more filters than a vector has numbers."""
    return _vectors(table, itemsize) > 1 and len(table.phases) == 1 and set(table.strides) == {1}


def prefers_lanes(table: Table, itemsize: int) -> bool:
    """Whether it is the faster form; never by the size of an image.

    It is where positions are a stride apart, if what lies between is read too, and for long sums
    over neighbours. All cells between the taps are copied to the scratch, so there may be few.
    """
    last = table.axes[-1]
    extent = last.one_segment(1).length
    taps = table.channels * table.kernel
    if last.step == 1:
        gains = taps >= LONG_SUM and len(last.starts) >= LONG_KERNEL
    else:
        gains = last.step <= extent
    lanes = _vectors(table, itemsize) * kernel.lanes(itemsize)
    return (
        gains
        and extent <= 2 * len(last.starts)
        and table.filters >= LEAST_FILTERS
        and lanes <= MOST_LANES * table.filters
        and table.groups * (lanes - table.filters) * taps * itemsize <= MOST_PADDING
    )


def lanes_plan(table: Table, itemsize: int, workers: int) -> Plan:
    """Plan a convolution that this form serves."""
    vectors = _vectors(table, itemsize)
    blocks = -(-vectors // kernel.LANE_VECTORS)
    tile = -(-vectors // blocks) * kernel.lanes(itemsize)
    lanes = vectors * kernel.lanes(itemsize)
    taps = table.channels * table.kernel
    limit = plans.SCRATCH_BYTES // itemsize
    wanted = plans.SHARES * workers if workers > 1 else 1
    boxes = _boxes(table, limit, tile, wanted)
    layouts = _layouts(table, boxes)
    cells = math.prod(layout.cells for layout in layouts)
    count = table.count(boxes)
    samples = 1
    if count == 1:
        most = limit // (table.channels * cells)
        samples = max(1, min(table.batch, most, table.batch * table.groups // wanted))
    positions = samples * math.prod(boxes)
    units = table.groups * -(-table.batch // samples) * count
    filter_parts = min(
        blocks,
        max(
            -(-(lanes * taps * positions) // plans.UNIT_WORK),
            min(-(-wanted // units), plans.SHARES),
        ),
    )
    units *= filter_parts
    threads = min(workers, units)

    band = max(1, min(kernel.BAND, positions, plans.SUMS_BYTES // (tile * itemsize)))
    band = band // boxes[-1] * boxes[-1] or band
    pitch = odd_lines(band, itemsize)
    scratch = whole_lines(samples * table.channels * cells)
    rows = whole_lines(lanes + tile * pitch)
    sizes = convolution_sizes(
        table,
        table.kernel,
        samples=samples,
        boxes=count,
        parts=filter_parts,
        columns=band,
        cells=cells,
        scratch_room=scratch,
        panel_room=rows,
        hop=table.axes[-1].step,
        pitch=pitch,
    )
    per_unit = -(-blocks // filter_parts) * tile * positions * (taps + plans.CELL_WORK)
    per_unit += plans.CELL_WORK * samples * table.channels * cells
    weights = table.groups * lanes * taps
    return Plan(
        sizes=np.concatenate([sizes, *layout_tables(table, boxes, layouts)]),
        dots=False,
        units=units,
        chunk=unit_chunk(units, threads, per_unit),
        room=scratch + rows + tile * band + kernel.ALIGNED // itemsize,
        workers=threads,
        work=table.work,
        phases=[sizes],
        weights=weights + kernel.ALIGNED // itemsize,
        blocks=table.groups * blocks,
        block_chunk=pack_chunk(table.groups * blocks, threads, taps * tile),
        is_one_piece=table.work <= plans.SMALL_WORK and weights <= plans.SMALL_WORK,
    )


def _vectors(table: Table, itemsize: int) -> int:
    """Vectors that the filters of a group fill."""
    return -(-table.filters // kernel.lanes(itemsize))


def _layouts(table: Table, boxes: Sequence[int]) -> list[Segments]:
    """As those of other forms, but all of a line is one segment."""
    *outer, last = table.axes
    along = [axis.segments(box) for axis, box in zip(outer, boxes[:-1], strict=True)]
    return [*along, last.one_segment(boxes[-1])]


def _boxes(table: Table, limit: int, tile: int, wanted: int) -> list[int]:
    """The largest box of positions whose scratch, and a tile's work, stay in the limits.

    It is smaller where there would be too few units to share.
    """
    boxes = [axis.size for axis in table.axes]

    def fits(number: int, box: int) -> bool:
        boxes[number] = box
        cells = math.prod(layout.cells for layout in _layouts(table, boxes))
        positions = math.prod(boxes)
        return (
            table.channels * cells <= limit
            and tile * table.channels * table.kernel * positions <= plans.UNIT_WORK
            and (
                table.groups * table.batch * table.count(boxes) >= wanted
                or positions <= kernel.BAND
            )
        )

    for number, axis in enumerate(table.axes):
        boxes[number] = largest(axis.size, functools.partial(fits, number))
    return boxes
