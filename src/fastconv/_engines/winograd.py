"""The engine `winograd`: convolution by small kernels with fewer multiplications.

Results are computed in tiles, m of them along an axis. Where a kernel has so many taps, a tile
takes m + taps - 1 multiplications a channel and filter in place of m * taps: 1.5 times fewer for 3
taps and m = 2, 2 times for m = 4, 2.5 times for 5 taps and m = 4, 1.75 times for 7 taps and m = 2;
with two axes, the square of that. Kernels of other sizes are filled up with zeros.
`_kernels/winograd.h` has the transforms, `_kernels/winograd.pyx` says what a unit of work does.

With a stride, its phases are channels: 11x11 taps over 3 channels, 4 apart, are 3x3 taps over 48.
Where these are too few, so are the rows of the kernel: 7x7 taps over 3 channels, 2 apart, are 1x4
taps over 42. With a dilation, results that far apart are a convolution of their own, of cells as
far apart. The gradient of weights has a file of its own, `winograd_gradient.py`; that of images
with a stride is `fused`'s.

Every sum is taken in an order that follows from the layer alone, and no tile meets another, so a
result has the same bits in any batch and with any number of workers. Its errors are relative to the
largest numbers of a tile, not to each result's own: in float32 about 5e-7 of a layer's largest
result for 3x3 taps and m = 2, 3e-6 for m = 4 and for kernels of one axis, 1e-5 for 5x5 and 7x7.
Samples that have numbers which are not finite, or would not remain so on the way, are computed
again by the engine `fused`.

Sources: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015); the points 0,
1, -1, 1/2, -2, which lose half as much accuracy as 0, 1, -1, 2, -2: Barabasz et al., "Error
Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks" (2020).
"""

import functools
import itertools
import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastconv._engines import fused, winograd_gradient
from fastconv._engines.forms import (
    GROWTH,
    LARGE_TILES,
    MOST_TAPS,
    SMALL_TILES,
    Form,
    as_planes,
    form_of,
    of_planes,
)
from fastconv._engines.limits import Limits
from fastconv._engines.plans import CALL_WORK, SHARES, UNIT_WORK, VECTOR_TIMES, chunk_of, odd_lines
from fastconv._geometry import Geometry
from fastconv._kernels import winograd as kernel
from fastconv._memory import Kept, allocate, as_contiguous, as_native_call, scratches
from fastconv._validation import Array
from fastconv._workers import as_workers, spread

NAME = "winograd"

# Fewer channels or filters in a group do not pay for the transforms, nor do fewer multiply-adds of
# direct convolution in a sample, nor fewer taps along the longer axis. Where packed weights are
# kept, half of these multiply-adds are enough.
LEAST_CHANNELS = 16
LEAST_WORK = 2**23
LEAST_KEPT_WORK = 2**22
LEAST_TAPS = 3
# Nor a smaller gain: by how much direct convolution takes longer for so many samples, as estimated.
# By measurement it then takes 1.1 to 4 times as long for eight samples, 0.6 to 2.5 for one. The
# number of samples itself must not count, or a result would depend on it.
LEAST_GAIN = 1.25
GAIN_BATCH = 8
# Where there are fewer channels, the rows of a kernel become channels, if there are so many then,
# and so many taps along a row; and this gain is enough.
LEAST_FOLDED_CHANNELS = 10
LEAST_ROW_TAPS = 4
LEAST_FOLDED_GAIN = 1.1
# The gain from which on the gradient of images is not left to `fused`: with many filters, which are
# what it transforms, it has less of it than the convolution itself.
LEAST_GRADIENT_GAIN = 1.0
# With a dilation, results that far apart are computed together, and these must fill vectors of
# tiles too: with a quarter as many it takes 1 to 3 times as long as `fused`.
LEAST_POSITIONS = 2**8
# Channels of a block, in bytes.
DEPTH_BYTES = 256
# Transformed images of a unit, one block of channels, which second-level cache keeps; and its sums.
INPUT_BYTES = 500_000
SUM_BYTES = 4 * 2**20
# Blocks of filters whose transformed weights are used together.
TOGETHER = 4
# Units, each with all tiles that it has room for, from which on weights are transformed only once:
# by measurement that takes 0.78 to 0.93 of the time. Where they are more bytes, which the system
# gives and clears anew for each call (glibc: from 32 MiB on), twice as many units: with three it
# takes 1.02 to 1.18 times as long, with five 0.92 to 1.16.
PACKED_UNITS = 3
PACKED_BYTES = 2**25
# Multiply-adds of a call that is shared out to threads: see `fused.py`.
THREAD_WORK = 2**23
# A channel of the images takes as long to be transformed as to be multiplied with so many filters,
# and twice as long if cells are picked by the stride.
IMAGE_WORK = 64
# The same where rows of the kernel are channels, which share rows of the images.
FOLDED_WORK = 36
# A result's filter takes as long to be transformed as to be multiplied with so many channels.
RESULT_WORK = 16
# A weight as long to be transformed as to be multiplied with so many tiles; and if its kernel has
# other taps than the form.
WEIGHT_WORK = 14
GATHERED_WORK = 30
# The part of a unit by which one worker is late.
LATE = 0.25
# Weights that are packed in one call.
PACK_SIZE = 2**20
# Plans to remember.
PLANS = 256


def unsupported_reason(geometry: Geometry, dtype: np.dtype[Any]) -> str | None:
    """Say what keeps this engine from a call; None if nothing does."""
    g = geometry
    if g.rank > 2:
        return f"it takes images of one or two axes, got {g.rank}"
    if max(g.stride) > 1 and max(g.dilation) > 1:
        return f"it takes a stride or a dilation, got {g.stride} and {g.dilation}"
    kernel_taps = Layer.forward(g).channel_taps
    if not 1 < max(kernel_taps) <= MOST_TAPS:
        of_phase = "" if max(g.stride) == 1 else ", in each phase of the stride"
        return (
            f"it takes kernels of 2 to {MOST_TAPS} taps along an axis{of_phase}, "
            f"got {kernel_taps[-g.rank :]}"
        )
    return None


def unprofitable_reason(geometry: Geometry, dtype: np.dtype[Any], keeps: bool) -> str | None:
    """Say why a call that this engine can serve is faster by `fused`; None if it is not."""
    g = geometry
    layer = Layer.forward(g)
    folds_rows = layer.folds != layer.stride
    if not folds_rows and min(layer.channels, layer.filters) < LEAST_CHANNELS:
        return (
            f"it pays from {LEAST_CHANNELS} channels and filters a group on, "
            f"got C {g.channels}, F {g.filters}, group {g.group}"
        )
    if max(layer.channel_taps) < LEAST_TAPS:
        return f"it pays from {LEAST_TAPS} taps along an axis on, got {max(layer.channel_taps)}"
    positions = math.prod(size // step for size, step in zip(g.out_shape, g.dilation, strict=True))
    if positions < LEAST_POSITIONS and max(g.dilation) > 1:
        return (
            f"it pays from {LEAST_POSITIONS} results a sample and step of the dilation on, "
            f"got {positions}"
        )
    work = g.filters * g.taps // g.group * positions
    least = LEAST_KEPT_WORK if keeps else LEAST_WORK
    if work < least:
        return f"it pays from {least} multiply-adds a sample (and step) on, got {work}"
    gain = _gain(layer, keeps=keeps)
    least_gain = LEAST_FOLDED_GAIN if folds_rows else LEAST_GAIN
    if gain < least_gain:
        return f"it pays from {least_gain} times fewer operations on, got {gain:.2f}"
    return None


def _gain(layer: "Layer", *, keeps: bool) -> float:
    """Estimate by how much direct convolution takes longer."""
    filters, channels, form = layer.filters, layer.channels, layer.form
    direct = channels // math.prod(layer.folds) * filters * math.prod(layer.kernel)
    transforms = channels * layer.image_work + filters * RESULT_WORK
    tile = channels * filters + transforms / 2  # in a row of tiles; units cut short take longer
    weights = 0 if keeps else layer.weight_work * channels * filters
    tiles = GAIN_BATCH * layer.tiles(form)
    return GAIN_BATCH * math.prod(layer.shape) * direct / (form.points * (tiles * tile + weights))


def workspace(
    geometry: Geometry, x: Array, out: Array, workers: int | None, *, keeps: bool = False
) -> int:
    """Bytes that `forward` allocates."""
    dtype = out.dtype
    plans = _plans(Layer.forward(geometry).phases(), dtype, workers, keeps)
    threads, room = max(plan.workers for plan in plans), max(plan.room for plan in plans)
    packed = sum({plan.form: plan.weights for plan in plans}.values())
    alone = fused.workspace(geometry._replace(batch=1), x[:1], out[:1], 1)
    return alone + dtype.itemsize * (threads * (room + geometry.batch + 1) + packed)


# --- the engine -------------------------------------------------------------------------------


def forward(
    geometry: Geometry,
    x: Array,
    w: Array,
    b: Array | None,
    out: Array,
    workers: int | None,
    kept: Kept | None = None,
) -> None:
    """``out (N, F, *O)`` = the convolution of x (N, C, *S) with w (F, C/group, *K), plus b (F,)."""
    if not out.size:
        return
    images, weights, bias = as_native_call(x, w, b, out.dtype)
    again = fused.by_samples(  # allocates before anything is written
        geometry, fused.forward, fused.forward_room, images, weights, bias, out
    )
    groups = _in_groups(geometry, weights)
    planes = as_planes(images), groups, bias, as_planes(out)
    for n in _by_phases(Layer.forward(geometry), *planes, workers, kept):
        again(n)


def backward_x(
    geometry: Geometry, dout: Array, w: Array, b: Array | None, dx: Array, workers: int | None
) -> None:
    """``dx (N, C, *S)`` = the gradient from dout (N, F, *O), plus b (C,).

    With stride 1 it is a convolution of dout with the filters turned by half a turn. The bias is
    that of a transposed convolution, whose forward pass this is.
    """
    if not dx.size:
        return
    images, weights, bias = as_native_call(dout, w, b, dx.dtype)
    layer = Layer.backward(geometry)
    if (
        max(geometry.stride) > 1
        or _gain(layer, keeps=False) < LEAST_GRADIENT_GAIN
        or not math.isfinite(kernel.largest(as_contiguous(weights, dx.dtype)))
    ):
        fused.backward_x(geometry, images, weights, bias, dx, workers)
        return
    again = fused.by_samples(  # allocates before anything is written
        geometry, fused.backward_x, fused.backward_x_room, images, weights, bias, dx
    )
    turned = _in_groups(geometry, weights).swapaxes(1, 2)[..., ::-1, ::-1]
    planes = as_planes(images), turned, bias, as_planes(dx)
    for n in _by_phases(layer, *planes, workers):
        again(n)


backward_w = winograd_gradient.backward_w
backward_b = fused.backward_b


# --- plans ------------------------------------------------------------------------------------


class Layer(NamedTuple):
    """A convolution, of cells `dilation` apart, with results `stride` apart.

    Images of one axis are planes of one row.

    Attributes
    ----------
    channels, filters : int
        Those of one group.
    kernel, stride : tuple of int
        Taps along the axes, and cells from one result's to the next one's.
    folds : tuple of int
        Channels that one of x gives along each axis: as many as the stride, for its phases, or as
        the kernel has rows, for each of these.
    x_shape, shape : tuple of int
        Height and width of the images and of the results.
    before : tuple of int
        Zeros before each axis; less than 0 where cells are left out.
    """

    batch: int
    groups: int
    channels: int
    filters: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    folds: tuple[int, ...]
    x_shape: tuple[int, ...]
    shape: tuple[int, ...]
    before: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def forward(cls, geometry: Geometry) -> "Layer":
        """The convolution itself."""
        g = of_planes(geometry)
        before = tuple(pad for pad, _ in g.pad)
        folds = _folds(g)
        channels, filters = g.channels // g.group * math.prod(folds), g.filters // g.group
        axes = g.kernel_size, g.stride, folds, g.in_shape, g.out_shape, before, g.dilation
        return cls(g.batch, g.group, channels, filters, *axes)

    @classmethod
    def backward(cls, geometry: Geometry) -> "Layer":
        """The gradient of its images, from that of its results; the stride is 1."""
        g = of_planes(geometry)
        before = tuple(
            step * (taps - 1) - pad
            for taps, step, (pad, _) in zip(g.kernel_size, g.dilation, g.pad, strict=True)
        )
        channels, filters = g.filters // g.group, g.channels // g.group
        axes = g.kernel_size, g.stride, g.stride, g.out_shape, g.in_shape, before, g.dilation
        return cls(g.batch, g.group, channels, filters, *axes)

    @property
    def channel_taps(self) -> tuple[int, ...]:
        """The most taps that a channel has along each axis."""
        return tuple(-(-taps // step) for taps, step in zip(self.kernel, self.folds, strict=True))

    @property
    def image_work(self) -> int:
        """What it takes to transform a channel of x."""
        if self.folds == self.stride:
            return IMAGE_WORK if max(self.folds) == 1 else 2 * IMAGE_WORK
        return FOLDED_WORK

    @property
    def weight_work(self) -> int:
        """What it takes to transform a weight."""
        return WEIGHT_WORK if self.has_exact_taps else GATHERED_WORK

    @property
    def transformed(self) -> int:
        """Numbers in its transformed weights."""
        return self.groups * self.filters * self.channels * self.form.points

    @property
    def has_exact_taps(self) -> bool:
        """Whether its kernel has the taps of the form."""
        return self.kernel == self.form.taps

    @property
    def form(self) -> Form:
        """What suits its kernel: the least taps that will do, the others are zeros.

        For 3x3 taps tiles of 2x2 results are taken where those of 4x4 would be wasted. They have
        36/16 of the multiplications, and need as many fewer transformed weights; by measurement
        the large ones pay from a quarter fewer on, if there are more tiles than one.
        """
        large = form_of(self.channel_taps)
        if large != LARGE_TILES:
            return large
        few, many = self.tiles(LARGE_TILES), self.tiles(SMALL_TILES)
        return LARGE_TILES if few > 1 and 3 * few <= many else SMALL_TILES

    def phases(self) -> "list[Phase]":
        """The convolutions of neighbouring cells that this is, and their cells of x and results.

        Results that are `dilation` apart read cells that are.
        """
        if self.dilation == (1, 1):
            return [(self, EVERY, EVERY)]
        along = [
            _axis_phases(*axis)
            for axis in zip(self.x_shape, self.shape, self.before, self.dilation, strict=True)
        ]
        phases = []
        for axes in itertools.product(*along):
            x_shape, shape, before, x_cells, cells = zip(*axes, strict=True)
            layer = self._replace(x_shape=x_shape, shape=shape, before=before, dilation=(1, 1))
            phases.append((layer, x_cells, cells))
        return phases

    def tiles(self, form: Form) -> int:
        """Tiles of a sample."""
        return math.prod(-(-size // axis.m) for size, axis in zip(self.shape, form, strict=True))


def _folds(g: Geometry) -> tuple[int, ...]:
    """Along each axis of planes, how many channels one of x gives: see `Layer`."""
    channels, filters = g.channels // g.group, g.filters // g.group
    rows, step = g.kernel_size[0], g.stride[1]
    if (
        channels * math.prod(g.stride) < LEAST_CHANNELS <= filters
        and LEAST_ROW_TAPS <= -(-g.kernel_size[1] // step) <= MOST_TAPS
        and channels * rows * step >= LEAST_FOLDED_CHANNELS
    ):
        return rows, step
    return g.stride


Cells: TypeAlias = tuple[slice, ...]
Phase: TypeAlias = tuple[Layer, Cells, Cells]
EVERY: Cells = (slice(None), slice(None))


def _axis_phases(
    x_size: int, size: int, before: int, dilation: int
) -> list[tuple[int, int, int, slice, slice]]:
    """Of each phase of an axis: cells of x and results, zeros before, and which cells they are."""
    phases = []
    for p in range(min(size, dilation)):
        turn, first = divmod(p - before, dilation)
        x_cells, cells = slice(first, None, dilation), slice(p, None, dilation)
        x_count, count = len(range(x_size)[x_cells]), len(range(size)[cells])
        phases.append((x_count, count, -turn, x_cells, cells))
    return phases


def _limits(layer: Layer, dtype: np.dtype[Any]) -> Limits:
    """Which magnitudes of images and weights tiles will do for."""
    growth, product_growth = layer.form.growth(GROWTH)
    return Limits.of(dtype, growth, product_growth * layer.channels)


class Plan(NamedTuple):
    """How a layer is computed.

    Attributes
    ----------
    form : Form
        That of its tiles.
    sizes : ndarray of intp
        What the kernel is told: `Sizes` there.
    units, chunk : int
        Units of work, and how many of them one call of the kernel does.
    columns : int
        Units that the tiles of the batch are cut into.
    room : int
        Numbers in a worker's space.
    workers : int
        No more than have something to do.
    work : int
        Multiply-adds.
    weights : int
        Numbers in the packed weights; 0 where each unit transforms its own.
    packs, pack_chunk : int
        Units that these are packed in, and how many in one call of the kernel.
    limits : Limits
        What the result is valid for.
    """

    form: Form
    sizes: Array
    units: int
    chunk: int
    columns: int
    room: int
    workers: int
    work: int
    weights: int
    packs: int
    pack_chunk: int
    limits: Limits


class Cut(NamedTuple):
    """What a layer is cut into.

    Attributes
    ----------
    depths : int
        Blocks of channels, which sums are added up over: they follow from the layer and type alone.
    blocks, together, turns : int
        Blocks of filters, each the rows of a tile of the product; how many are taken together; and
        how often.
    parts : int
        Parts of those turns, for units of their own.
    tiles, columns : int
        Tiles of a unit, in whole vectors, and units that those of the batch are cut into.
    panel : int
        Tiles that are multiplied together, in whole vectors.
    """

    depths: int
    blocks: int
    together: int
    turns: int
    parts: int
    tiles: int
    columns: int
    panel: int

    @classmethod
    def of(cls, layer: Layer, itemsize: int, workers: int) -> "Cut":
        """Cut a layer into units for so many workers."""
        lanes = kernel.lanes(itemsize)
        vectors = -(-layer.batch * layer.tiles(layer.form) // lanes)
        depth = -(-layer.channels // -(-layer.channels * itemsize // DEPTH_BYTES))
        room = INPUT_BYTES // (depth * layer.form.points * itemsize * lanes)
        most = max(1, min(room, kernel.TILES // lanes) // kernel.VECTORS) * kernel.VECTORS
        if workers > 1:
            most_parts = min(SHARES * workers, -(-layer.filters // kernel.ROWS))
            cuts = [
                cls.with_units(layer, itemsize, wide, parts)
                for wide in {-(-vectors // -(-vectors // some)) for some in range(1, most + 1)}
                for parts in range(1, most_parts + 1)
            ]
            return min(cuts, key=lambda cut: (cut.time(layer, lanes, workers), cut))
        # as many panels as there is room for, in units that are nearly alike
        wide = -(-vectors // -(-vectors // most))
        if vectors > most:
            wide = -(-wide // kernel.VECTORS) * kernel.VECTORS
        return cls.with_units(layer, itemsize, wide, 1)

    @classmethod
    def with_units(cls, layer: Layer, itemsize: int, wide: int, parts: int) -> "Cut":
        """Units of so many vectors of tiles; parts of the filters may have to be more."""
        points, lanes = layer.form.points, kernel.lanes(itemsize)
        depths = -(-layer.channels * itemsize // DEPTH_BYTES)
        blocks = -(-layer.filters // kernel.ROWS)
        together = min(TOGETHER, blocks)
        turns = -(-blocks // together)
        panels = -(-wide // kernel.VECTORS)
        tiles, panel = wide * lanes, -(-wide // panels) * lanes
        columns = -(-layer.batch * layer.tiles(layer.form) // tiles)
        work = points * layer.channels * layer.filters * tiles
        sums = panels * points * turns * together * odd_lines(kernel.ROWS * panel, itemsize)
        least = max(-(-work // UNIT_WORK), -(-sums * itemsize // SUM_BYTES) if depths > 1 else 1)
        parts = min(turns, max(parts, least))
        return cls(depths, blocks, together, turns, parts, tiles, columns, panel)

    def time(self, layer: Layer, lanes: int, workers: int) -> float:
        """An estimate for so many workers, in multiply-adds of a point: that of the busiest one.

        Each part of the filters transforms the images again, each unit its weights, or brings them
        from memory. One worker is late by a quarter of a unit.
        """
        filters = layer.filters / self.parts
        weights = layer.weight_work * layer.channels * filters
        products = layer.channels * VECTOR_TIMES[self.panel // lanes] + RESULT_WORK
        tile = layer.channels * layer.image_work + products * filters
        units = layer.groups * self.parts * self.columns
        return (-(-units // workers) + LATE) * (self.tiles * tile + weights)


def _plans(
    phases: list[Phase], dtype: np.dtype[Any], workers: int | None, packs: bool
) -> list[Plan]:
    """Plan the phases of a layer.

    Weights are packed where that is asked for, or there are many units that use them.
    """
    plans = [_plan(phase, dtype, 1, packs) for phase, _, _ in phases]
    size = max(phase.transformed for phase, _, _ in phases) * dtype.itemsize
    least = PACKED_UNITS if size < PACKED_BYTES else 2 * PACKED_UNITS
    packs = packs or sum(plan.columns for plan in plans) >= least
    threads = 1
    if sum(plan.work for plan in plans) >= THREAD_WORK:
        threads = as_workers(workers)
    if packs or threads > 1:
        plans = [_plan(phase, dtype, threads, packs) for phase, _, _ in phases]
    return plans


@functools.lru_cache(PLANS)
def _plan(layer: Layer, dtype: np.dtype[Any], workers: int, packs: bool) -> Plan:
    itemsize, form = dtype.itemsize, layer.form
    row, column, points = *form, form.points
    cut = Cut.of(layer, itemsize, workers)
    lanes = kernel.lanes(itemsize)
    depth = -(-layer.channels // cut.depths)
    panels = -(-cut.tiles // cut.panel)
    part_turns = -(-cut.turns // cut.parts)
    turn_rows = cut.together * kernel.ROWS

    across = min(cut.tiles, -(-layer.shape[1] // column.m))
    more = column.points - column.m
    line = odd_lines(cut.tiles * column.m + 2 * lanes + more, itemsize)
    lines = -(-column.points // column.m) * row.points * line
    scratch = odd_lines(row.points * (across * column.m + more + lanes) + lanes, itemsize)
    inputs_step = odd_lines(depth * cut.panel, itemsize)
    sums_step = odd_lines(kernel.ROWS * cut.panel, itemsize)
    weights_step = odd_lines(turn_rows * depth, itemsize)
    exact = layer.has_exact_taps
    # lines: of neighbouring channels, or those that the kernel keeps where rows are channels
    slots = lanes if layer.folds == layer.stride else max(lanes, math.prod(layer.stride) + 1)
    channel_taps = (
        0 if exact else odd_lines(math.prod(layer.kernel) * kernel.ROWS + lanes, itemsize)
    )
    turn_sums = points * panels * cut.together * sums_step
    rooms = [
        odd_lines(
            max(slots * (scratch + lines), max(kernel.ROWS, lanes) * cut.tiles * row.m * column.m),
            itemsize,
        ),
        panels * points * inputs_step,
        turn_sums * (part_turns if cut.depths > 1 else 1),
        odd_lines(row.taps * column.taps * depth * kernel.ROWS + lanes, itemsize),
        channel_taps,
        0 if packs else points * weights_step,
    ]
    tile = [form.key, *form.m, *form.cells]
    shapes = [*layer.x_shape, *layer.shape, *layer.before]
    steps = [line, inputs_step, sums_step, weights_step]
    sizes = [*tile, *layer.kernel, *layer.stride, *layer.folds, *layer[:4], *shapes, *cut, *steps]
    units = layer.groups * cut.parts * cut.columns
    threads = min(workers, units)
    blocks = layer.groups * cut.depths * cut.turns
    weights = blocks * points * weights_step
    filters = min(layer.filters, part_turns * turn_rows)
    unit_work = (layer.channels + RESULT_WORK) * (filters + layer.image_work) * cut.tiles * points
    return Plan(
        form=form,
        sizes=np.array([*sizes, scratch, lines, *rooms], np.intp),
        units=units,
        chunk=chunk_of(units, threads, CALL_WORK // unit_work),
        columns=cut.columns,
        room=sum(rooms) + kernel.ALIGNED // itemsize,
        workers=threads,
        work=math.prod(layer[:4]) * points * layer.tiles(form),
        weights=weights if packs else 0,
        packs=blocks,
        pack_chunk=chunk_of(blocks, threads, PACK_SIZE * blocks // weights),
        limits=_limits(layer, dtype),
    )


# --- the parts --------------------------------------------------------------------------------


def _in_groups(geometry: Geometry, w: Array) -> Array:
    """View w (F, C/group, *K) as (group, F/group, C/group, KH, KW)."""
    planes = as_planes(w)
    return planes.reshape(geometry.group, -1, *planes.shape[1:])


class Packed(NamedTuple):
    """Transformed weights, and the largest magnitude in w; NaN if there is one."""

    numbers: Array
    largest: float


def _by_phases(
    layer: Layer,
    images: Array,
    w: Array,
    bias: Array | None,
    out: Array,
    workers: int | None,
    kept: Kept | None = None,
) -> list[int]:
    """Compute out from native arrays; return the samples for which it is not valid.

    All that is allocated is so before anything is written.
    """
    dtype = out.dtype
    phases = layer.phases()
    plans = _plans(phases, dtype, workers, kept is not None)
    threads, room = max(plan.workers for plan in plans), max(plan.room for plan in plans)
    peaks = allocate("magnitudes", (threads, layer.batch + 1), dtype, zero=True)
    spaces = list(zip(scratches(threads, room, dtype), peaks, strict=True))
    packed: dict[Form, Packed] = {}
    for plan in plans:
        if plan.weights and plan.form not in packed:
            packed[plan.form] = _packed(plan, w, spaces, kept)
    failed: set[int] = set()
    for plan, (_, x_part, part) in zip(plans, phases, strict=True):
        weights = packed.get(plan.form)
        _convolve(plan, images[:, :, *x_part], w, weights, bias, out[:, :, *part], spaces)
        failed.update(_failed(plan.limits, peaks, weights))
        peaks.fill(0)
    return sorted(failed)


Spaces: TypeAlias = list[tuple[Array, Array]]


def _packed(plan: Plan, w: Array, spaces: Spaces, kept: Kept | None) -> Packed:
    """Transform w, or take it from what is kept."""
    key = NAME, w.dtype, plan.form
    packed: Packed | None = None if kept is None else kept.get(key)
    if packed is not None:
        return packed
    numbers = allocate("the transformed weights", (plan.weights,), w.dtype)

    def step(space: tuple[Array, Array], begin: int, end: int) -> None:
        room, peaks = space
        kernel.pack(plan.sizes, w, numbers, peaks, room, begin, end)

    spread(step, spaces[: plan.workers], plan.packs, plan.pack_chunk)
    with np.errstate(all="ignore"):
        packed = Packed(numbers, float(np.max([peaks[-1] for _, peaks in spaces])))
    if kept is not None:
        kept[key] = packed
    return packed


def _convolve(
    plan: Plan,
    images: Array,
    w: Array,
    packed: Packed | None,
    bias: Array | None,
    out: Array,
    spaces: Spaces,
) -> None:
    numbers = None if packed is None else packed.numbers

    def step(space: tuple[Array, Array], begin: int, end: int) -> None:
        room, peaks = space
        kernel.convolve(plan.sizes, images, w, numbers, bias, out, peaks, room, begin, end)

    spread(step, spaces[: plan.workers], plan.units, plan.chunk)


@np.errstate(all="ignore")
def _failed(limits: Limits, peaks: Array, packed: Packed | None) -> list[int]:
    """The samples for which tiles will not do, from the largest magnitudes in each and in w.

    If it is w for which they will not, that is all of them.
    """
    found, *others = peaks
    for other in others:
        np.maximum(found, other, out=found)
    *images, largest = found.tolist()
    weights = packed.largest if packed else largest
    return [n for n, peak in enumerate(images) if not limits.allow(peak, weights)]
