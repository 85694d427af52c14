"""Overlap and save: results of the engine `fft`, in tiles.

A tile's cells of x, `cells` along each axis, are transformed, multiplied with the transformed
weights, added up over channels and transformed back. What wraps around is left out::

    cells   |<---------------- cells ---------------->|
    results |<----- step ----->|<---- extent - 1 ---->|

All sizes follow from the layer alone and no tile meets another, so a result has the same bits in
any batch and with any number of workers.

Source: Oppenheim and Schafer, "Discrete-Time Signal Processing", on block convolution.
"""

import functools
import importlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastconv._engines.limits import Limits
from fastconv._engines.plans import chunk_of
from fastconv._geometry import Geometry
from fastconv._kernels import importing
from fastconv._memory import allocate
from fastconv._validation import Array
from fastconv._workers import as_workers, spread

# Of the magnitudes that are noted.
PEAK = np.dtype(np.float64)


class Costs(NamedTuple):
    """Nanoseconds that a cell of a tile takes, on one core of a Sapphire Rapids class Xeon.

    Attributes
    ----------
    gather, scatter : float
        To be gathered and transformed; to be transformed back and put in its place.
    product : float
        To be multiplied and added up, for one channel and filter.
    """

    gather: float
    scatter: float
    product: float


# By the size of a number in bytes.
COSTS = {4: Costs(3.5, 3.9, 0.4), 8: Costs(5.8, 6.5, 0.7)}
# Nanoseconds that calls from Python add: of SciPy, to copy cells of a tile, to multiply and add.
TRANSFORM_CALL, COPY_CALL, PRODUCT_CALL = 9_000, 3_500, 1_000
# Cells of a tile that second-level cache keeps; n times as many take n**FAR times as long each.
NEAR_CELLS, FAR = 2**15, 0.1
# SciPy's vectors: lines that are too few to fill one take so many times as long. A third axis, too,
# takes longer, roughly.
VECTOR_BYTES, ALONE, DEEP = 16, 1.5, 1.35
# The most cells of a tile, if each axis then has twice its kernel's extent; cells that are
# transformed by one call, or one larger tile; and bytes of the sums that a unit adds up.
MOST_CELLS = 160_000
UNIT_CELLS = 2**15
SUM_BYTES = 3 * 2**19
# Lengths of transforms to choose from are apart by this part of each, times the number of axes.
LENGTH_STEP = 0.1
# Nanoseconds of a unit, if tiles can be as small, of one step, after which Python hears Ctrl-C, and
# of a call shared out to threads.
UNIT_TIME = 100_000_000
STEP_TIME = 50_000_000
THREAD_TIME = 1_000_000
# Plans to remember.
PLANS = 256


@functools.cache
def _scipy() -> Any:
    """SciPy's transforms, imported by the first call that needs them: that takes 0.1 s."""
    with importing:
        return importlib.import_module("scipy.fft")


# --- plans ------------------------------------------------------------------------------------


class Layer(NamedTuple):
    """A convolution of stride 1; `channels` and `filters` are those of one group.

    Attributes
    ----------
    dtype : dtype
        Of images, weights, results and all between them: float32 or float64.
    x_shape, shape : tuple of int
        Sizes of the images and of the results.
    before : tuple of int
        Zeros before each axis; less than 0 where cells are left out.
    """

    dtype: np.dtype[Any]
    groups: int
    channels: int
    filters: int
    x_shape: tuple[int, ...]
    shape: tuple[int, ...]
    before: tuple[int, ...]
    kernel_size: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def forward(cls, g: Geometry, dtype: np.dtype[Any]) -> "Layer":
        """The convolution itself."""
        before = tuple(pad for pad, _ in g.pad)
        counts = g.group, g.channels // g.group, g.filters // g.group
        shapes = g.in_shape, g.out_shape, before, g.kernel_size, g.dilation
        return cls(dtype, *counts, *shapes)

    @classmethod
    def backward(cls, g: Geometry, dtype: np.dtype[Any]) -> "Layer":
        """The gradient of its images, from that of its results."""
        sizes = zip(g.dilation, g.kernel_size, g.pad, strict=True)
        before = tuple(d * (k - 1) - pad for d, k, (pad, _) in sizes)
        counts = g.group, g.filters // g.group, g.channels // g.group
        shapes = g.out_shape, g.in_shape, before, g.kernel_size, g.dilation
        return cls(dtype, *counts, *shapes)

    @property
    def extent(self) -> tuple[int, ...]:
        """Cells that a kernel covers, along each axis."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True))

    @property
    def costs(self) -> Costs:
        """Those of such numbers."""
        return COSTS[self.dtype.itemsize]


class Tile(NamedTuple):
    """Some results.

    Attributes
    ----------
    cells : tuple of slice
        Where they are in the result.
    x_cells, inside : tuple of slice
        The cells of the image that they read, and where those are in the tile.
    """

    cells: tuple[slice, ...]
    x_cells: tuple[slice, ...]
    inside: tuple[slice, ...]

    @classmethod
    def of(cls, layer: Layer, plan: "Plan", number: int) -> "Tile":
        """That tile, counted along the axes."""
        axes = []
        for axis, place in enumerate(map(int, np.unravel_index(number, plan.tiles))):
            begin = place * plan.step[axis]
            results = min(plan.step[axis], layer.shape[axis] - begin)
            start = begin - layer.before[axis]
            low, high = _inside(layer.x_shape[axis], start, results + plan.extent[axis] - 1)
            x_cells, inside = slice(start + low, start + high), slice(low, high)
            axes.append((slice(begin, begin + results), x_cells, inside))
        return cls(*zip(*axes, strict=True))


class Plan(NamedTuple):
    """How a layer is computed.

    Attributes
    ----------
    dtype : dtype
        That of the layer.
    cells, step : tuple of int
        Along each axis, the length of transforms, and results of a tile.
    extent, tiles : tuple of int
        Along each axis, cells that a kernel covers, and tiles.
    spectrum : tuple of int
        The shape of a transformed tile.
    weights : tuple of int
        That of the transformed weights: (group, C/group, F/group, *spectrum).
    parts : tuple of int
        What a unit computes: filters of a group, groups, tiles.
    units : tuple of int
        Units of a sample: blocks of filters, of groups, of tiles.
    unit_time, pack_time, time : float
        Nanoseconds, estimated: of a unit, of transforming the weights, of that and one sample.
    """

    dtype: np.dtype[Any]
    cells: tuple[int, ...]
    step: tuple[int, ...]
    extent: tuple[int, ...]
    tiles: tuple[int, ...]
    spectrum: tuple[int, ...]
    weights: tuple[int, ...]
    parts: tuple[int, int, int]
    units: tuple[int, int, int]
    unit_time: float
    pack_time: float
    time: float

    @classmethod
    def of(cls, layer: Layer, lengths: "tuple[tuple[int, int], ...]") -> "Plan":
        """The plan with such tiles: length of the transform and results, along each axis."""
        cells, step = (tuple(axis) for axis in zip(*lengths, strict=True))
        tiles = tuple(-(-size // each) for size, each in zip(layer.shape, step, strict=True))
        count, tile_count = math.prod(cells), math.prod(tiles)
        spectrum = (*cells[:-1], cells[-1] // 2 + 1)
        channels, pairs, costs = layer.channels, layer.channels * layer.filters, layer.costs

        blocks = -(-layer.filters // max(1, SUM_BYTES // (count * layer.dtype.itemsize)))
        filters = -(-layer.filters // blocks)
        together = max(1, UNIT_CELLS // (count * filters))
        groups = min(layer.groups, together)
        some = min(tile_count, together // groups)
        units = blocks, -(-layer.groups // groups), -(-tile_count // some)

        scale = count * max(1, count / NEAR_CELLS) ** FAR * DEEP ** max(0, len(cells) - 2)
        lines = groups * some * filters * count // cells[-1]
        if lines < VECTOR_BYTES // layer.dtype.itemsize:
            scale *= ALONE
        calls = (channels + 1) * (TRANSFORM_CALL + some * COPY_CALL)
        calls += channels * filters * PRODUCT_CALL
        work = channels * costs.gather + filters * (costs.scatter + channels * costs.product)
        unit_time = groups * some * scale * work + calls
        work = (
            blocks * channels * costs.gather + layer.filters * costs.scatter + pairs * costs.product
        )
        pack_time = layer.groups * pairs * (scale * costs.gather + TRANSFORM_CALL / together)
        return cls(
            dtype=layer.dtype,
            cells=cells,
            step=step,
            extent=layer.extent,
            tiles=tiles,
            spectrum=spectrum,
            weights=(layer.groups, channels, layer.filters, *spectrum),
            parts=(filters, groups, some),
            units=units,
            unit_time=unit_time,
            pack_time=pack_time,
            time=layer.groups * tile_count * scale * work + math.prod(units) * calls + pack_time,
        )

    @property
    def complex_dtype(self) -> np.dtype[Any]:
        """That of spectra."""
        return np.result_type(self.dtype, np.complex64)

    @property
    def weight_bytes(self) -> int:
        """Those of the transformed weights."""
        return math.prod(self.weights) * self.complex_dtype.itemsize

    def transform(self, tiles: Array) -> Array:
        """Transform tiles (..., *cells)."""
        return _scipy().rfftn(tiles, axes=self._axes, workers=1)  # type: ignore[no-any-return]

    def transform_back(self, spectra: Array) -> Array:
        """Make tiles of spectra (..., *spectrum), which are lost."""
        scipy, axes = _scipy(), self._axes
        return scipy.irfftn(spectra, self.cells, axes, overwrite_x=True, workers=1)  # type: ignore[no-any-return]

    @property
    def _axes(self) -> range:
        return range(-len(self.cells), 0)


def least_time(g: Geometry, dtype: np.dtype[Any]) -> float:
    """Nanoseconds of a sample if no tile overlapped, without SciPy."""
    costs, pairs = COSTS[dtype.itemsize], g.channels * g.filters // g.group
    work = g.channels * costs.gather + g.filters * costs.scatter + pairs * costs.product
    return work * g.positions


@functools.lru_cache(PLANS)
def plan_of(layer: Layer) -> Plan:
    """The plan that takes the least time by estimate, in units that are not too long."""
    sizes = zip(layer.x_shape, layer.shape, layer.before, layer.extent, strict=True)
    axes = [list(_lengths(len(layer.shape), *axis)) for axis in sizes]
    most = max(MOST_CELLS, math.prod(min(2 * axis[0][0], axis[-1][0]) for axis in axes))
    choices = [
        lengths
        for lengths in itertools.product(*axes)
        if math.prod(length for length, _ in lengths) <= most
    ]
    plans = (Plan.of(layer, lengths) for lengths in choices)
    return min(plans, key=lambda plan: (max(plan.unit_time, UNIT_TIME), plan.time))


def _lengths(
    rank: int, x_size: int, size: int, before: int, extent: int
) -> Iterator[tuple[int, int]]:
    """Lengths of transforms for an axis, and results of each: from one up to all of them."""
    factor = 1 + LENGTH_STEP * rank
    step = 1
    while True:
        tiles = -(-size // step)
        results = -(-size // tiles)
        length = results + extent - 1
        if tiles == 1:
            # zeros on both sides may be the same ones: cells end before them, and begin after
            begin, end = _inside(x_size, -before, length)
            length = max(size, extent, end, length - begin)
        length = _scipy().next_fast_len(length, real=True)
        yield length, results
        if tiles == 1 or length > max(MOST_CELLS, 2 * extent):
            return
        step = max(step + 1, int(factor * (step + extent - 1)) - extent + 1)


def _inside(x_size: int, start: int, length: int) -> tuple[int, int]:
    """Which of `length` cells from `start` on are inside an image, counted from `start`."""
    begin = min(max(-start, 0), length)
    return begin, max(begin, min(x_size - start, length))


def limits_of(layer: Layer, cells: int) -> Limits:
    """Which magnitudes of images and weights transforms will do for.

    Numbers grow at most by the number of cells in a transform, there and back, and by the number of
    terms in a sum.
    """
    terms = layer.channels * math.prod(layer.kernel_size)
    return Limits.of(layer.dtype, cells, cells**2 * terms)


# --- the parts --------------------------------------------------------------------------------


def _threads(time: float, units: int, workers: int | None) -> int:
    """Threads for so many nanoseconds of work."""
    return min(units, as_workers(workers)) if time >= THREAD_TIME else 1


@np.errstate(all="ignore")
def _peak(array: Array) -> Any:
    """The largest magnitude; NaN if any is."""
    return np.maximum(array.max(), -array.min())


class Packing(NamedTuple):
    """How weights are transformed: kernels of a unit, units, threads."""

    together: int
    units: int
    threads: int


def _packing(layer: Layer, plan: Plan, workers: int | None) -> Packing:
    kernels = math.prod(plan.weights[:3])
    together = max(1, min(kernels, UNIT_CELLS // math.prod(plan.cells)))
    units = -(-kernels // together)
    return Packing(together, units, _threads(plan.pack_time, units, workers))


class Packed(NamedTuple):
    """Transformed weights.

    Attributes
    ----------
    cells : tuple of int
        Along each axis, the length of transforms.
    numbers : ndarray, (group, C/group, F/group, *spectrum)
        Conjugate; none if w is not finite.
    peak : float
        The largest magnitude in w; NaN or Inf if it is not finite.
    """

    cells: tuple[int, ...]
    numbers: Array
    peak: float


def pack(layer: Layer, w: Array, workers: int | None) -> Packed:
    """Transform w (group, C/group, F/group, *K)."""
    plan = plan_of(layer)
    peak = float(_peak(w))
    if not math.isfinite(peak):
        return Packed(plan.cells, allocate("no weights", (0,), plan.complex_dtype), peak)
    kernels = w.reshape(-1, *layer.kernel_size)
    together, units, threads = _packing(layer, plan, workers)
    packed = allocate("the transformed weights", plan.weights, plan.complex_dtype)
    shape = together, *plan.cells
    rooms = [allocate("kernels", shape, plan.dtype, zero=True) for _ in range(threads)]
    taps = tuple(map(slice, [0] * len(plan.cells), plan.extent, layer.dilation))
    spectra = packed.reshape(-1, *plan.spectrum)

    @np.errstate(all="ignore")
    def step(room: Array, begin: int, end: int) -> None:
        for first in range(begin * together, end * together, together):
            given = kernels[first : first + together]
            room[: len(given), *taps] = given
            spectrum = plan.transform(room[: len(given)])
            np.conjugate(spectrum, out=spectra[first : first + together])

    spread(step, rooms, units, chunk_of(units, threads, int(STEP_TIME * units / plan.pack_time)))
    return Packed(plan.cells, packed, peak)


def convolve(
    layer: Layer,
    images: Array,
    packed: Packed,
    bias: Array | None,
    out: Array,
    workers: int | None,
) -> Sequence[int]:
    """Compute out from native arrays and finite weights; return the samples it is not valid for."""
    plan, batch = plan_of(layer), len(out)
    grid = batch, *plan.units
    units = math.prod(grid)
    threads = _threads(units * plan.unit_time, units, workers)
    peaks = allocate("magnitudes", (threads, batch), PEAK, zero=True)
    spaces = [(Space.of(plan), found) for found in peaks]
    grouped = [
        array.reshape(batch, layer.groups, array.shape[1] // layer.groups, *array.shape[2:])
        for array in (images, out)
    ]
    biases = None if bias is None else bias.reshape(layer.groups, -1, *(1,) * len(plan.cells))
    ends = layer.filters, layer.groups, math.prod(plan.tiles)

    @np.errstate(all="ignore")
    def step(space: tuple[Space, Array], begin: int, end: int) -> None:
        room, found = space
        for unit in range(begin, end):
            n, *place = map(int, np.unravel_index(unit, grid))
            filters, groups, numbers = map(_part, place, plan.parts, ends)
            tiles = [Tile.of(layer, plan, number) for number in range(ends[2])[numbers]]
            x, results = (array[n, groups] for array in grouped)
            largest = room.add_up(plan, tiles, x, packed.numbers[groups, :, filters])
            added = None if biases is None else biases[groups, filters]
            room.put(plan, tiles, added, results[:, filters])
            found[n] = np.maximum(found[n], largest)

    try:
        spread(step, spaces, units, chunk_of(units, threads, int(STEP_TIME / plan.unit_time)))
    except MemoryError:  # SciPy's own, when part of the result is written
        return range(batch)
    limits = limits_of(layer, math.prod(plan.cells))
    found, *others = peaks
    for other in others:
        np.maximum(found, other, out=found)
    return [n for n, largest in enumerate(found.tolist()) if not limits.allow(largest, packed.peak)]


def workspace(layer: Layer, batch: int, workers: int | None) -> int:
    """Bytes that `pack` and `convolve` allocate, SciPy's temporaries among them."""
    plan = plan_of(layer)
    filters, groups, tiles = plan.parts
    cells = math.prod(plan.cells) * plan.dtype.itemsize
    spectrum = math.prod(plan.spectrum) * plan.complex_dtype.itemsize
    packing = _packing(layer, plan, workers)
    packing_bytes = packing.threads * packing.together * (cells + 2 * spectrum)
    if min(layer.channels, layer.filters) > 1:  # w with its channels first
        taps = math.prod(plan.weights[:3]) * math.prod(layer.kernel_size)
        packing_bytes += taps * plan.dtype.itemsize
    # cells of tiles, a product, sums; then the spectra of two turns, or SciPy's copy and results
    more = max(2 * spectrum, filters * (spectrum + cells))
    unit = tiles * groups * (cells + spectrum + filters * spectrum + more)
    units = batch * math.prod(plan.units)
    threads = _threads(units * plan.unit_time, units, workers)
    return plan.weight_bytes + max(packing_bytes, threads * (unit + batch * PEAK.itemsize))


def _part(part: int, size: int, end: int) -> slice:
    """Of range(end), cut into parts of `size`, that part."""
    return slice(part * size, min((part + 1) * size, end))


class Space(NamedTuple):
    """What a worker needs.

    Attributes
    ----------
    room : ndarray, (tiles, groups, *cells)
        Cells of one channel.
    sums, product : ndarray, (filters, tiles, groups, *spectrum), (tiles, groups, *spectrum)
        Sums over channels, and what is added to them.
    """

    room: Array
    sums: Array
    product: Array

    @classmethod
    def of(cls, plan: Plan) -> "Space":
        """Allocate what a plan needs."""
        filters, groups, tiles = plan.parts
        room = allocate("tiles", (tiles, groups, *plan.cells), plan.dtype)
        sums = allocate("sums", (filters, tiles, groups, *plan.spectrum), plan.complex_dtype)
        return cls(room, sums, allocate("products", sums.shape[1:], plan.complex_dtype))

    def add_up(self, plan: Plan, tiles: list[Tile], images: Array, packed: Array) -> Any:
        """Transform tiles of images (groups, C, *S), multiply; return the largest magnitude."""
        some, largest = (slice(len(tiles)), slice(len(images))), 0.0
        room, product = self.room[some], self.product[some]
        for c in range(images.shape[1]):
            for tile, cells in zip(tiles, room, strict=True):
                inside = cells[(slice(None), *tile.inside)]
                if c == 0 and inside.shape != cells.shape:
                    cells.fill(0)
                inside[...] = images[:, c][(slice(None), *tile.x_cells)]
            largest = np.maximum(largest, _peak(room))
            spectra = plan.transform(room)
            for f in range(packed.shape[2]):
                total = self.sums[f][some]
                np.multiply(spectra, packed[:, c, f], out=product if c else total)
                if c:
                    np.add(total, product, out=total)
        return largest

    def put(self, plan: Plan, tiles: list[Tile], bias: Array | None, out: Array) -> None:
        """Transform sums back, to results (groups, F, *O)."""
        results = plan.transform_back(self.sums[: out.shape[1], : len(tiles), : len(out)])
        for t, tile in enumerate(tiles):
            target = out[(slice(None), slice(None), *tile.cells)]
            inside = (slice(None), slice(None), *map(slice, target.shape[2:]))
            part = results[:, t][inside].swapaxes(0, 1)
            if bias is not None:
                part += bias
            target[...] = part
