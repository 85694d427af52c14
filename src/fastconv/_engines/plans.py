"""How the engine `fused` cuts a table of taps into units of work. Sizes only, no data.

However a table is cut, each result is the same sum in the same order: cuts along positions, samples
and filters do not touch the sum, and those along the taps are the kernel's own.
"""

import bisect
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fastconv._engines.taps import Segments, Table, layout_tables
from fastconv._kernels import fused as kernel
from fastconv._validation import Array

# The scratch of a unit stays in second-level cache, beside the weights of a block of taps.
SCRATCH_BYTES = 2**20
# Images that are their own scratch, of the samples of a unit: panels of several have fewer lanes to
# spare (0.94 of the time of a 1x1 layer with 14x14 positions on one thread).
SAMPLES_BYTES = 2**22
# The sums of panels that wait for their next block of taps.
SUMS_BYTES = 2**19
# The time of a tile's vector that is not from a panel, and of one that is copied there, in filters.
DIRECT_TIME = 1.07
PANEL_TIME = 4
# The part of x and dout that a weights' gradient is summed over, before the next of dw is.
GRADIENT_BYTES = 2**22
# The same where filters are the lanes, and all of dw's sums wait in second-level cache beside it.
FILTERS_BYTES = 2**20
FILTERS_SUMS = 2**15  # of a kernel index
# From so many kernel indices on, each of which reads all of dout, it is transposed beforehand, as
# where its rows are not contiguous; else tiles take rows that lie apart, in longer pieces (0.7 of
# the time on 64 channels of 1x1).
PACKED_INDICES = 3
# The sums of some tiles of a weights' gradient, which share first-level cache with what they read.
TILE_SUMS_BYTES = 2**14
# The part of the time, as estimated, from which on filters are the lanes, for which more is copied.
FILTERS_GAIN = 0.9
# The time of a number that is transposed, in multiply-adds of vectors.
PACK_TIME = 2.5
# With no more channels, kernel indices make rows of those tiles too.
MERGED_CHANNELS = 48
# Channels of a unit of the weights' gradient: the more there are, the fewer units lay out the same
# part of dout.
GRADIENT_CHANNELS = 256
# Panels whose positions the kernel lists at a time (as MAX_PANELS there).
MAX_PANELS = 16
# Multiply-adds of a unit, and of the units after which Python hears Ctrl-C: 0.05 s at the 80 G/s of
# one AVX-512 core in float32, 0.8 s at the 5 G/s of an old one in float64.
UNIT_WORK = 2**31
CALL_WORK = 2**32
# Fewer filters take as long: what they are multiplied with is loaded for them alone.
LEAST_FILTERS = 4
# A cell that is copied, or a result that is written, takes as long as so many multiply-adds.
CELL_WORK = 128
# Multiply-adds of a layer, and weights, which one call computes in all: 0.1 ms.
SMALL_WORK = 2**22
# Weights that are packed in one call: 0.05 s in memory that is new.
PACK_SIZE = 2**22
# And at least, of several threads: shorter pieces (50 us) would have them wait for each other.
PIECE_WORK = 2**22
PACK_PIECE = 2**17
# Units for each worker, so that one that is late has little left to do.
SHARES = 4
# The time of a vector in tiles of one, two and three or four, which are loaded more than used.
VECTOR_TIMES = (0.0, 1.25, 1.1, 1.0, 1.0)
# That of a vector that is copied to the scratch, with what else a cell costs.
COPY_TIME = 8.0


# Filters of a tile of sums over neighbouring positions (as in the kernel), and sums of a group.
DOT_ROWS = 4
DOT_SUMS = 2**10
# Cycles of a multiply-add of vectors in those tiles and in those of channels, and from one sum to
# the next on the same register.
DOT_CYCLES = 0.8
TILE_CYCLES = 0.6
LATENCY = 4


class Plan(NamedTuple):
    """How a table is computed.

    Attributes
    ----------
    sizes : ndarray of intp
        What the kernel is told: `Sizes` there, or `GradientSizes`.
    dots : bool
        Of a gradient of weights, whether positions are the lanes.
    units, chunk : int
        Units of work, and how many of them one call of the kernel does.
    room : int
        Numbers in a worker's space.
    workers : int
        No more than have something to do.
    work : int
        Multiply-adds.
    phases : list of ndarray of intp
        What the kernel is told of each phase, when its weights are packed.
    weights : int
        Numbers in the packed weights.
    blocks, block_chunk : int
        Blocks of filters that these are packed in, and how many in one call of the kernel.
    passes, pass_chunk : int
        Blocks of samples and positions that a gradient is summed over, and how many in one call.
    adds_bias : bool
        Of a gradient of weights, whether that of the bias can be added up on the way.
    is_one_piece : bool
        Whether there is so little to do that packing and all units are one call.
    """

    sizes: Array
    dots: bool
    units: int
    chunk: int
    room: int
    workers: int
    work: int
    phases: Sequence[Array] = ()
    weights: int = 0
    blocks: int = 0
    block_chunk: int = 1
    passes: int = 1
    pass_chunk: int = 1
    adds_bias: bool = False
    is_one_piece: bool = False


def convolution_plan(table: Table, itemsize: int, workers: int, *, in_place: bool) -> Plan:
    """Plan a table's convolution; `in_place` where the image can serve as its own scratch."""
    lanes = kernel.lanes(itemsize)
    vectors = 4 if table.filters <= kernel.NARROW_ROWS else kernel.VECTORS
    columns = vectors * lanes
    taps = table.channels * table.kernel
    most = (SAMPLES_BYTES if in_place else SCRATCH_BYTES) // itemsize
    cut = _Cut(table, lanes, vectors, SCRATCH_BYTES // itemsize, most)
    wanted = SHARES * workers if workers > 1 else 1
    boxes = cut.boxes(wanted)
    samples = cut.samples(boxes, wanted)
    count = table.count(boxes)
    batches = -(-table.batch // samples)
    positions = samples * math.prod(boxes)

    blocks = -(-table.filters // kernel.ROWS)
    sums = max(1, SUMS_BYTES // (columns * itemsize * table.woven))  # of one panel and phase
    units = table.groups * batches * count
    filter_parts = min(
        blocks,
        max(
            -(-table.filters // sums),
            -(-(table.filters * taps * positions) // UNIT_WORK),
            min(-(-wanted // units), SHARES),
        ),
    )
    filters = min(table.filters, -(-blocks // filter_parts) * kernel.ROWS)
    panels = max(1, min(MAX_PANELS, sums // filters))

    scratch = 0 if in_place else whole_lines(samples * table.channels * cut.cells(boxes) + columns)
    panel = whole_lines((kernel.TAPS + 1) * columns)
    layouts = cut.layouts(boxes)
    tables = layout_tables(table, boxes, layouts)
    sizes = functools.partial(
        convolution_sizes,
        table,
        samples=samples,
        boxes=count,
        parts=filter_parts,
        panels=panels,
        columns=columns,
        copied=not in_place,
        direct=not in_place and _prefers_direct(table, lanes),
        cells=cut.cells(boxes),
        scratch_room=scratch,
        panel_room=panel,
    )
    units *= filter_parts
    threads = min(workers, units)
    cells = samples * table.channels * cut.cells(boxes)
    per_unit = max(filters, LEAST_FILTERS) * taps * positions
    per_unit += CELL_WORK * (cells + filters * positions)
    return Plan(
        sizes=np.concatenate([sizes(table.kernel), *tables]),
        dots=False,
        units=units,
        chunk=unit_chunk(units, threads, per_unit),
        room=scratch
        + panel
        + whole_lines(filters * panels * columns * table.woven)
        + kernel.ALIGNED // itemsize,
        workers=threads,
        work=table.work,
        phases=[sizes(phase.kernel) for phase in table.phases],
        weights=table.groups * table.filters * taps,
        blocks=table.groups * blocks,
        block_chunk=pack_chunk(
            table.groups * blocks, threads, taps * min(table.filters, kernel.ROWS)
        ),
        is_one_piece=table.work <= SMALL_WORK and table.groups * table.filters * taps <= SMALL_WORK,
    )


def gradient_plan(table: Table, itemsize: int, workers: int, *, in_place: bool) -> Plan:
    """Plan the gradient of a table's weights; `in_place` where rows of dout are contiguous.

    Samples and positions are cut in the same way for any number of workers, and added up in order;
    only filters and channels are shared out.
    """
    if _prefers_dots(table, kernel.lanes(itemsize)):
        return _dot_plan(table, itemsize, workers, in_place=in_place)
    last = table.axes[-1]
    lanes = _Lanes.of(table, kernel.lanes(itemsize))
    limit = (FILTERS_BYTES if lanes.by_filters else GRADIENT_BYTES) // itemsize
    boxes = _gradient_boxes(table, lanes, limit)
    layouts = _gradient_layouts(table, boxes)
    cells = math.prod(layout.cells for layout in layouts)
    count = table.count(boxes)
    samples = 1
    positions = math.prod(boxes)
    if count == 1:
        samples = max(
            1, min(table.batch, limit // (cells * lanes.pitch + positions * table.filters))
        )
    passes = -(-table.batch // samples) * count

    filter_blocks = -(-table.filters // lanes.filters)
    filter_parts, other_parts = _gradient_parts(table, lanes, -(-workers // table.groups), passes)
    part_lanes = -(-lanes.blocks // other_parts) * lanes.columns
    tables = layout_tables(table, boxes, layouts)
    if lanes.merged:
        tables[1] = tables[1][:: lanes.merged]
    pitch = lanes.pitch if lanes.merged or lanes.by_filters else part_lanes
    room = whole_lines(samples * cells * pitch + lanes.columns)
    filters = -(-filter_blocks // filter_parts) * lanes.filters
    if not lanes.by_filters:
        filters = min(filters, table.filters)
    gradient = 0
    if lanes.packs or not in_place:
        gradient = whole_lines(filters * positions * samples + lanes.columns)
    tile = lanes.rows * lanes.columns  # of one kernel index
    indices = min(lanes.taps, max(1, SUMS_BYTES // (tile * itemsize)))
    together = min(filter_blocks, max(1, TILE_SUMS_BYTES // (tile * indices * itemsize)))
    sizes = [
        *_head(table, lanes.taps),
        lanes.merged,
        lanes.by_filters,
        samples,
        count,
        filter_parts,
        other_parts,
        lanes.columns,
        lanes.rows,
        lanes.row_blocks,
        last.step // layouts[-1].step,
        kernel.TAPS if lanes.packs else piece_of(positions),
        lanes.packs,
        together,
        indices,
        cells,
        room,
        gradient,
    ]
    return _gradient(
        table,
        np.concatenate([np.array(sizes, np.intp), *tables]),
        dots=False,
        units=table.groups * filter_parts * other_parts,
        workers=workers,
        room=room + gradient + together * indices * tile + kernel.ALIGNED // itemsize,
        passes=passes,
        adds_bias=not gradient and count == 1,
    )


def _dot_plan(table: Table, itemsize: int, workers: int, *, in_place: bool) -> Plan:
    """Plan a gradient with neighbouring positions as lanes, for few filters and channels."""
    lanes = kernel.lanes(itemsize)
    limit = SCRATCH_BYTES // itemsize
    cut = _Cut(table, lanes, kernel.VECTORS, limit, limit)
    boxes = cut.boxes(1)
    samples = cut.samples(boxes, 1)
    count = table.count(boxes)
    positions = samples * math.prod(boxes)
    blocks = -(-table.filters // DOT_ROWS)
    parts = min(blocks, -(-workers // table.groups))
    filters = -(-table.filters // parts)
    scratch = whole_lines(samples * table.channels * cut.cells(boxes) + lanes)
    copies = 0 if in_place else whole_lines(filters * positions)
    tables = layout_tables(table, boxes, cut.layouts(boxes))
    sizes = convolution_sizes(
        table,
        table.kernel,
        samples=samples,
        boxes=count,
        parts=parts,
        cells=cut.cells(boxes),
        scratch_room=scratch,
        panel_room=copies,
    )
    return _gradient(
        table,
        np.concatenate([sizes, *tables]),
        dots=True,
        units=table.groups * parts,
        workers=workers,
        room=scratch + copies + kernel.ALIGNED // itemsize,
        passes=-(-table.batch // samples) * count,
    )


def _gradient(
    table: Table,
    sizes: Array,
    *,
    dots: bool,
    units: int,
    workers: int,
    room: int,
    passes: int,
    adds_bias: bool = False,
) -> Plan:
    """The plan of a gradient, cut into calls of the kernel."""
    threads = min(workers, units)
    written = CELL_WORK * units * room  # each has its scratch filled once
    once = max(1, table.work // passes) + written  # of all units
    return Plan(
        sizes=sizes,
        dots=dots,
        units=units,
        chunk=chunk_of(units, threads, CALL_WORK // max(1, once // units)),
        room=room,
        workers=threads,
        work=table.work,
        passes=passes,
        pass_chunk=max(1, min(passes, CALL_WORK * threads // once)),
        adds_bias=adds_bias,
    )


# --- the parts --------------------------------------------------------------------------------


def _head(table: Table, taps: int) -> list[int]:
    """The sizes that every kernel is told first."""
    return [len(table.axes), table.batch, table.groups, table.channels, table.filters, taps]


def convolution_sizes(
    table: Table,
    taps: int,
    *,
    samples: int,
    boxes: int,
    parts: int,
    cells: int,
    scratch_room: int,
    panel_room: int,
    panels: int = 0,
    columns: int = 0,
    copied: bool = True,
    direct: bool = False,
    hop: int = 0,
    pitch: int = 0,
) -> Array:
    """`Sizes` of fused.pyx, which says what they are, for so many taps of a channel."""
    sizes = [
        *_head(table, taps),
        len(table.phases),
        table.woven,
        table.ragged,
        samples,
        boxes,
        parts,
        panels,
        columns,
        copied,
        direct,
        cells,
        scratch_room,
        panel_room,
        hop,
        pitch,
    ]
    return np.array(sizes, np.intp)


def _prefers_direct(table: Table, lanes: int) -> bool:
    """Whether tiles read the scratch, in whole vectors from each row, rather than a panel."""
    row = table.axes[-1].size
    if table.filters <= kernel.ROWS:  # the panel serves one tile
        return 2 * row >= lanes
    direct = DIRECT_TIME * table.filters * (-(-row // lanes) * lanes)
    return direct < (table.filters + PANEL_TIME) * row


def _prefers_dots(table: Table, lanes: int) -> bool:
    """Whether positions make better lanes than channels do, by the cycles of a position.

    A tile of channels has a row a filter, and at least the latency of a sum for each kernel index.
    """
    tiles = _Lanes.of(table, lanes)
    if tiles.by_filters:
        cycles = TILE_CYCLES * tiles.time(table, lanes)
    else:
        vectors = tiles.blocks * tiles.columns // lanes
        blocks = -(-table.filters // tiles.rows)
        cycles = max(LATENCY, TILE_CYCLES * vectors * table.filters / blocks) * blocks * tiles.taps
    sums = table.filters * table.channels * table.kernel
    return sums <= DOT_SUMS and DOT_CYCLES * sums / lanes < cycles


class _Cut(NamedTuple):
    """A table, cut along samples and positions."""

    table: Table
    lanes: int
    vectors: int
    limit: int  # numbers in the scratch, of a sample
    samples_limit: int  # and of all that a unit has

    def layouts(self, boxes: Sequence[int]) -> list[Segments]:
        return [axis.segments(box) for axis, box in zip(self.table.axes, boxes, strict=True)]

    def cells(self, boxes: Sequence[int]) -> int:
        """Numbers in one channel of the scratch."""
        return math.prod(layout.cells for layout in self.layouts(boxes))

    def boxes(self, wanted: int) -> list[int]:
        """The positions of a unit; if one is wanted, the same for any batch."""
        boxes = [axis.size for axis in self.table.axes]
        alone = self._replace(table=self.table._replace(batch=1))

        def with_box(number: int, box: int) -> list[int]:
            return [*boxes[:number], box, *boxes[number + 1 :]]

        def fits(number: int, box: int) -> bool:
            return not self.too_large(with_box(number, box), wanted)

        def time(number: int, box: int) -> float:
            return alone.time(with_box(number, box), 1)

        for number, axis in enumerate(self.table.axes):
            boxes[number] = largest(axis.size, functools.partial(fits, number))
            pieces = -(-axis.size // boxes[number])
            if pieces > 1:
                finer = sorted({-(-axis.size // (pieces + more)) for more in range(6)})
                boxes[number] = min(finer, key=functools.partial(time, number))
        return boxes

    def samples(self, boxes: Sequence[int], wanted: int) -> int:
        """The samples of a unit."""
        table = self.table
        if self.table.count(boxes) > 1:
            return 1
        most = min(table.batch, self.samples_limit // (self.cells(boxes) * table.channels))
        most = max(1, min(most, table.batch * table.groups // wanted))
        return min(range(most, most // 2, -1), key=functools.partial(self.time, boxes))

    def too_large(self, boxes: Sequence[int], wanted: int) -> bool:
        """Whether a unit of one sample is, or there are too few units to share."""
        table, positions = self.table, math.prod(boxes)
        return (
            self.cells(boxes) * table.channels > self.limit
            or min(table.filters, kernel.ROWS) * table.channels * table.kernel * positions
            > UNIT_WORK
            or (
                table.groups * table.batch * self.table.count(boxes) < wanted
                and positions > 2 * self.vectors * self.lanes
            )
        )

    def time(self, boxes: Sequence[int], samples: int) -> float:
        """An estimate for a batch, in multiply-adds of vectors a filter and tap."""
        table = self.table
        batches, rest = divmod(table.batch, samples)
        copied = COPY_TIME * self.cells(boxes) / (table.kernel * table.filters * self.lanes)
        total = 0.0
        sizes = [
            {box: axis.size // box, axis.size % box: 1}
            for axis, box in zip(table.axes, boxes, strict=True)
        ]
        for sides, counts in _products(sizes):
            for number, times in ((samples, batches), (rest, 1)):
                total += times * counts * (self.vector_time(number * sides) + number * copied)
        return total

    def vector_time(self, positions: int) -> float:
        full, rest = divmod(positions, self.vectors * self.lanes)
        vectors = -(-rest // self.lanes)
        return full * self.vectors + vectors * VECTOR_TIMES[vectors]


def _products(sizes: Sequence[dict[int, int]]) -> list[tuple[int, int]]:
    """All products of one size an axis, and how often each occurs."""
    products = [(1, 1)]
    for along in sizes:
        products = [
            (size * more, count * times)
            for size, count in products
            for more, times in along.items()
            if more
        ]
    return products


class _Lanes(NamedTuple):
    """What lies along the lanes of a gradient's tiles, and what along their rows.

    ::

        lanes                       rows        where
        channels                    filters
        (kernel index, channel)     filters     channels are few
        filters                     channels, or (kernel index, channel)

    Attributes
    ----------
    by_filters : bool
        Whether filters are the lanes.
    merged : int
        Kernel indices of the last axis that go with the channels; 0 if none do.
    taps : int
        Kernel indices that do not, for each of which there is a tile.
    columns : int
        Lanes of a tile, whole vectors.
    blocks : int
        Tiles beside each other; by filters, the kernel indices.
    pitch : int
        Numbers from a cell to the next in the scratch.
    rows : int
        Rows of a tile, at most; by filters, of all tiles of a kernel index,
    row_blocks : int
        which are so many.
    """

    by_filters: bool
    merged: int
    taps: int
    columns: int
    blocks: int
    pitch: int
    rows: int
    row_blocks: int

    @property
    def filters(self) -> int:
        """Filters of a tile."""
        return self.columns if self.by_filters else self.rows

    @property
    def packs(self) -> bool:
        """Whether dout is transposed beforehand in any layout."""
        return self.by_filters or self.taps >= PACKED_INDICES

    @classmethod
    def of(cls, table: Table, width: int) -> "_Lanes":
        """The lanes for a table, with vectors of `width`."""
        channels, filters = cls._by_channels(table, width), cls._by_filters(table, width)
        gains = filters.time(table, width) < FILTERS_GAIN * channels.time(table, width)
        fits = filters.rows * filters.columns <= FILTERS_SUMS
        return filters if gains and fits else channels

    @classmethod
    def _by_channels(cls, table: Table, width: int) -> "_Lanes":
        starts = table.axes[-1].starts
        merged = 0
        together = table.channels * len(starts)
        if table.channels < width and len(starts) > 1 and starts.step == 1:
            # where more of each vector is used
            used = [lanes / (-(-lanes // width) * width) for lanes in (table.channels, together)]
            merged = len(starts) if used[1] > used[0] else 0
        lanes = together if merged else table.channels
        taps = table.kernel // (merged or 1)
        vectors = -(-lanes // width)
        four = vectors == 4 or (vectors % 4 == 0 and taps < PACKED_INDICES)
        most = max(_tile_vectors()) if four else kernel.VECTORS
        rows = kernel.ROWS if most == kernel.VECTORS else kernel.NARROW_ROWS
        columns = -(-vectors // -(-vectors // most)) * width
        pitch = table.channels
        if not merged:
            pitch = -(-min(table.channels, GRADIENT_CHANNELS) // columns) * columns
        blocks = -(-lanes // columns)
        return cls(False, merged, taps, columns, blocks, pitch, rows, 1)

    @classmethod
    def _by_filters(cls, table: Table, width: int) -> "_Lanes":
        starts = table.axes[-1].starts
        merges = len(starts) > 1 and starts.step == 1 and table.channels <= MERGED_CHANNELS
        merged = len(starts) if merges else 0
        taps = table.kernel // (merged or 1)
        vectors = -(-table.filters // width)
        most = min(_tile_vectors(), key=functools.partial(_vectors_time, vectors))
        tile_rows = kernel.ROWS if most == kernel.VECTORS else kernel.NARROW_ROWS
        columns = min(vectors, most) * width
        rows = table.channels * (merged or 1)
        blocks = -(-rows // tile_rows)
        return cls(True, merged, taps, columns, taps, table.channels, rows, blocks)

    def time(self, table: Table, width: int) -> float:
        """Multiply-adds of vectors for one position."""
        across = table.channels * (self.merged or 1)
        lanes, rows = (table.filters, across) if self.by_filters else (across, table.filters)
        time = _vectors_time(-(-lanes // width), self.columns // width) * rows * self.taps
        return time + PACK_TIME * table.filters * self.packs


def _tile_vectors() -> tuple[int, ...]:
    """Vectors of the tiles of a weights' gradient, at most.

    Those of four pay beside three, which builds with 32 registers have: where dout is read in place
    it is read less often then (0.9 to 0.98 of the time on 1x1 layers). With 16 registers they take
    1.4 times as long as those of two.
    """
    return (kernel.VECTORS, 4) if kernel.VECTORS == 3 else (kernel.VECTORS,)


def _vectors_time(vectors: int, most: int) -> float:
    """The time of so many vectors in tiles of no more than `most`."""
    full, rest = divmod(vectors, most)
    return full * most * VECTOR_TIMES[most] + rest * VECTOR_TIMES[rest]


def _gradient_layouts(table: Table, boxes: Sequence[int]) -> list[Segments]:
    """As the forward pass's, but several taps of the last axis are in one segment."""
    *outer, last = table.axes
    along = [axis.segments(box) for axis, box in zip(outer, boxes[:-1], strict=True)]
    one = len(last.starts) == 1
    return [*along, last.segments(boxes[-1]) if one else last.one_segment(boxes[-1])]


def _gradient_boxes(table: Table, lanes: _Lanes, limit: int) -> list[int]:
    """The largest box of positions whose scratch and part of dout stay in the limit."""
    boxes = [axis.size for axis in table.axes]
    filters = table.filters
    if lanes.by_filters:
        filters = -(-filters // lanes.columns) * lanes.columns

    def fits(number: int, box: int) -> bool:
        boxes[number] = box
        cells = math.prod(layout.cells for layout in _gradient_layouts(table, boxes))
        return cells * lanes.pitch + math.prod(boxes) * filters <= limit

    for number, axis in enumerate(table.axes):
        boxes[number] = largest(axis.size, functools.partial(fits, number))
    return boxes


def _gradient_parts(table: Table, lanes: _Lanes, wanted: int, passes: int) -> tuple[int, int]:
    """Parts of the filters and of the other blocks: as many as are wanted.

    More, if a pass over one of them would take too long.
    """
    blocks = -(-table.filters // lanes.filters)
    other_parts = 1
    if not lanes.merged and not lanes.by_filters:
        other_parts = -(-table.channels // max(GRADIENT_CHANNELS, lanes.columns))
    filter_parts = 1
    work = table.work // (table.groups * max(passes, 1))
    while filter_parts * other_parts < max(wanted, work // UNIT_WORK):
        more = filter_parts < blocks
        filters = -(-blocks // filter_parts) * lanes.filters
        others = -(-lanes.blocks // other_parts) * (
            lanes.rows if lanes.by_filters else lanes.columns
        )
        if other_parts < lanes.blocks and not (more and filters >= others):
            other_parts += 1
        elif more:
            filter_parts += 1
        else:
            break
    return filter_parts, other_parts


def largest(size: int, fits: Callable[[int], bool]) -> int:
    """The box of `size` in nearly equal pieces, as few as make it fit; 1 if none does."""
    pieces = 1 + bisect.bisect_left(range(1, size), True, key=lambda n: fits(-(-size // n)))
    return -(-size // pieces)


def piece_of(positions: int) -> int:
    """How many of a sample's positions the gradient of the bias is summed over at a time.

    Equal pieces but for the last, whatever the layout and the build, so that db has the same bits
    where it is added up by itself and beside dw.
    """
    pieces = -(-positions // kernel.PIECE)
    return -(-positions // (pieces * kernel.PIECE_STEP)) * kernel.PIECE_STEP


def whole_lines(numbers: int) -> int:
    """So many numbers or a few more, so that what follows begins a line of the cache."""
    return -(-numbers // kernel.ALIGNED) * kernel.ALIGNED


def chunk_of(units: int, workers: int, limit: int, least: int = 1) -> int:
    """Units of one call of a kernel: `limit` at most, and `least` at least if there are so many."""
    if workers == 1:
        return max(1, min(limit, units))
    shares = min(SHARES, max(1, units // (max(1, least) * workers)))
    return max(1, min(limit, max(least, -(-units // (shares * workers)))))


def unit_chunk(units: int, workers: int, work: int) -> int:
    """Units, of so many multiply-adds each, that one call computes."""
    work = max(1, work)
    return chunk_of(units, workers, CALL_WORK // work, PIECE_WORK // work)


def pack_chunk(blocks: int, workers: int, size: int) -> int:
    """Blocks of weights, of so many numbers each, that one call of the kernel packs."""
    return chunk_of(blocks, workers, PACK_SIZE // size, PACK_PIECE // size)


def odd_lines(numbers: int, itemsize: int) -> int:
    """So many numbers or a few more: an odd number of lines of the cache.

    What lies so far apart, up to 64 times, has places in the cache that do not clash.
    """
    lines = -(-numbers * itemsize // kernel.ALIGNED)
    return (lines | 1) * kernel.ALIGNED // itemsize
