"""The gradient of weights of the engine `winograd`, by tiles of dout.

Of a tile of 4x4 and the 6x6 cells of x that it meets by a 3x3 kernel, 36 products a channel and
filter are left of 144; by a 5x5 kernel, 64 of 400. They are added up over the tiles of a piece of
one sample, and then brought back to the taps and added to dw. Pieces follow from the layer alone,
and come in order: so dw has the same bits with any number of workers, and if its batch comes in
several calls. Kernels that are smaller than their form, and strides, are left to `fused`.

With a dilation, tiles of neighbouring phases follow one another, and are cut from the same cells.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastconv._engines import fused
from fastconv._engines.forms import (
    AXES,
    GRADIENT_GROWTH,
    LARGE_TILES,
    WHOLE,
    Axis,
    Form,
    as_planes,
    form_of,
    of_planes,
)
from fastconv._engines.limits import Limits
from fastconv._engines.plans import CALL_WORK, VECTOR_TIMES, odd_lines
from fastconv._geometry import Geometry
from fastconv._kernels import winograd as look
from fastconv._kernels import winograd_gradient as kernel
from fastconv._memory import allocate, as_native, parts, scratches
from fastconv._validation import Array
from fastconv._workers import as_workers, spread

# That of 7x7 kernels would save next to nothing.
FORMS = (
    LARGE_TILES,
    Form(Axis(4, 5), Axis(4, 5)),
    *(Form(*axes) for axis in AXES for axes in ((WHOLE, axis), (axis, WHOLE))),
)
# Points of the tiles of a piece: the more there are, the fewer sums are brought back to taps.
TILE_POINTS = 48 * LARGE_TILES.points
# What a unit works on stays in second-level cache: 2 MiB where this was measured.
UNIT_BYTES = 1_400_000
# And what it may take where cells that a tile reads lie far apart.
ROOM_BYTES = 2**22
# Blocks of filters whose products are made together.
TOGETHER = 4
# Channels or filters of a unit, at most, and steps in which their number is chosen.
MOST = 192
STEP = 16
# Multiply-adds of a call that is shared out to threads: see `fused.py`.
THREAD_WORK = 2**23
# A tile of a channel takes as long to be transformed as to be multiplied with so many filters, one
# of a filter as with so many channels; sums are brought back in the time of so many more tiles.
CHANNEL_WORK = 10
FILTER_WORK = 7
PIECE_TILES = 8
# Multiply-adds of `fused.backward_w` that one here must save; and least channels times filters.
# On 7x7 images it has 0.7 to 0.85 of this one's time, on 11x11 as much, on 14x14 1.2 to 1.7 times.
GAIN = 1.22
LEAST_PAIRS = 2**9
# To add up dw beside it costs as much a number as to look at so many of x and dout beforehand.
COPY_WORK = 4
# Plans to remember.
PLANS = 256


def backward_w(
    geometry: Geometry,
    x: Array,
    dout: Array,
    dw: Array,
    workers: int | None,
    db: Array | None = None,
) -> None:
    """``dw (F, C/group, *K)`` += the gradient from x (N, C, H, W) and dout (N, F, OH, OW).

    ``db (F,)``, if given, += the sum of dout.
    """
    if not dout.size:
        return
    dtype = dw.dtype
    sample = of_planes(geometry)._replace(batch=1)
    plan = _plan(sample, dtype, 1) if _serves(sample) else None
    if plan is None or not plan.pays:
        fused.backward_w(geometry, x, dout, dw, workers, db)
        return
    if plan.work * len(x) >= THREAD_WORK and (threads := as_workers(workers)) > 1:
        plan = _plan(sample, dtype, threads)
    images, gradients = as_native(x, dtype), as_native(dout, dtype)
    peaks = allocate("magnitudes", (plan.workers, len(x), 2), dtype, zero=True)
    spaces = list(zip(scratches(plan.workers, plan.room, dtype), peaks, strict=True))

    failed: set[int] = set()
    looked = _looks_first(images, gradients, dw)
    if looked:
        _look(images, gradients, peaks[0])
        failed = _failed(plan.limits, peaks)
    target = dw
    if not looked or failed or not dw.flags.c_contiguous:
        target = allocate("weight gradients", dw.shape, dtype)
        target[...] = dw
    if not looked:
        _add(plan, images, gradients, target, spaces)
        failed = _failed(plan.limits, peaks)
        if failed:
            target[...] = dw
    if looked or failed:
        for by_fused, part in _runs(len(x), failed):
            if by_fused:
                some = geometry._replace(batch=part.stop - part.start)
                fused.backward_w(some, images[part], gradients[part], target, workers)
            else:
                _add(plan, images[part], gradients[part], target, spaces)
    if target is not dw:
        dw[...] = target
    if db is not None:
        fused.backward_b(dout, db, workers)


# --- the parts --------------------------------------------------------------------------------

Space: TypeAlias = tuple[Array, Array]


def _serves(g: Geometry) -> bool:
    """Whether there is a form for the kernel, as it is."""
    if max(g.stride) > 1:
        return False
    form = form_of(g.kernel_size)
    return form in FORMS and form.taps == g.kernel_size


def _add(plan: "Plan", images: Array, gradients: Array, target: Array, spaces: list[Space]) -> None:
    """Add a batch's gradient; each space's magnitudes grow to those of the samples."""
    arrays = as_planes(images), as_planes(gradients), as_planes(target)
    for part in parts(len(images) * plan.pieces, plan.pass_pieces):

        def step(space: Space, begin: int, end: int, part: slice = part) -> None:
            room, found = space
            pieces = part.start, part.stop
            kernel.weight_gradient(plan.sizes, *arrays, found, room, *pieces, begin, end)

        spread(step, spaces, plan.units, 1)


def _looks_first(images: Array, gradients: Array, dw: Array) -> bool:
    """Whether magnitudes are looked at beforehand, rather than dw added up beside it."""
    contiguous = images.flags.c_contiguous and gradients.flags.c_contiguous
    return contiguous and images.size + gradients.size <= COPY_WORK * dw.size


def _look(images: Array, gradients: Array, peaks: Array) -> None:
    """Find the largest magnitudes of each sample."""
    for n, arrays in enumerate(zip(images, gradients, strict=True)):
        peaks[n] = [look.largest(array) for array in arrays]


@np.errstate(all="ignore")
def _failed(limits: Limits, peaks: Array) -> set[int]:
    """The samples for which tiles will not do, from what each worker found."""
    most = peaks.max(axis=0).tolist()
    return {n for n, pair in enumerate(most) if not limits.allow(*pair)}


def _runs(batch: int, failed: set[int]) -> Iterator[tuple[bool, slice]]:
    """Samples that follow one another and are all among the failed, or none is."""
    for by_fused, numbers in itertools.groupby(range(batch), failed.__contains__):
        first, *others = numbers
        yield by_fused, slice(first, first + len(others) + 1)


# --- plans ------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """How the samples of a layer are computed.

    Attributes
    ----------
    pays : bool
        Whether that is faster than by the engine `fused`, which does it if not.
    sizes : ndarray of intp
        What the kernel is told: `Sizes` there.
    units : int
        Units of work, each a call of the kernel.
    pieces, pass_pieces : int
        Pieces of a sample, and how many of the batch one call adds up.
    room : int
        Numbers in a worker's space.
    workers : int
        No more than have something to do.
    work : int
        Multiply-adds of a sample.
    limits : Limits
        What the result is valid for.
    """

    pays: bool
    sizes: Array
    units: int
    pieces: int
    pass_pieces: int
    room: int
    workers: int
    work: int
    limits: Limits


class Pieces(NamedTuple):
    """How the tiles of a sample are cut: as few pieces as there may be, of whole rows if possible.

    Attributes
    ----------
    down, across : int
        Rows and columns of tiles.
    bands, stretches : int
        Pieces that these are cut into.
    tiles : int
        Those of the largest piece.
    x_cells, cells : int
        Cells of x and of dout that it may be cut from.
    """

    down: int
    across: int
    bands: int
    stretches: int
    tiles: int
    x_cells: int
    cells: int

    @classmethod
    def of(cls, g: Geometry, form: Form) -> "Pieces":
        """Cut a sample of a layer."""
        most = max(1, TILE_POINTS // form.points)
        down, across = map(_tile_count, g.out_shape, form.m, g.dilation)
        stretches = -(-across // most)
        wide = -(-across // stretches)
        bands = -(-down // min(down, most // wide))
        high = -(-down // bands)
        x_cells, cells = (
            math.prod(map(min, shape, map(_extent, (high, wide), form.m, g.dilation, sizes)))
            for sizes, shape in ((form.cells, g.in_shape), (form.m, g.out_shape))
        )
        return cls(down, across, bands, stretches, high * wide, x_cells, cells)


def _tile_count(size: int, m: int, step: int) -> int:
    """Tiles of m along an axis, of cells `step` apart."""
    periods, rest = divmod(size, m * step)
    return periods * step + min(rest, step)


def _extent(tiles: int, m: int, step: int, size: int) -> int:
    """The most cells from the first to the last one that so many tiles read, `size` each."""
    periods, more = divmod(tiles - 1, step)
    starts = periods * m * step + (more + (m - 1) * step if more else 0)
    return starts + (size - 1) * step + 1


class Cut(NamedTuple):
    """What a unit is.

    Attributes
    ----------
    channels, filters : int
        The most that it has, whole vectors of them but in a group's last one.
    channel_parts, filter_parts : int
        Parts that those of a group are cut into.
    """

    channels: int
    filters: int
    channel_parts: int
    filter_parts: int

    @classmethod
    def all_of(cls, g: Geometry, lanes: int) -> "set[Cut]":
        """Those to choose from."""
        channels, filters = (
            {_in_parts(size, some, lanes) for some in range(STEP, min(MOST, size + STEP) + 1, STEP)}
            for size in (g.channels // g.group, g.filters // g.group)
        )
        return {
            cls(some, others, some_parts, other_parts)
            for (some, some_parts), (others, other_parts) in itertools.product(channels, filters)
        }

    def numbers(self, form: Form, pieces: Pieces, lanes: int) -> int:
        """What a unit works on."""
        return (
            form.points * pieces.tiles * (self.channels + self.filters)
            + form.points * TOGETHER * kernel.ROWS * kernel.VECTORS * lanes
            + math.prod(form.taps) * self.channels * self.filters
            + max(pieces.x_cells * self.channels, pieces.cells * self.filters)
        )

    def time(self, form: Form, pieces: Pieces, lanes: int) -> float:
        """An estimate of a piece's time in a unit, in multiply-adds."""
        vectors = -(-self.channels // lanes)
        panels = -(-vectors // kernel.VECTORS)
        products = VECTOR_TIMES[vectors // panels] * self.channels * self.filters
        transforms = CHANNEL_WORK * self.channels + FILTER_WORK * self.filters
        some = (pieces.tiles + PIECE_TILES) * products + pieces.tiles * transforms
        return form.points * some


def _in_parts(size: int, some: int, lanes: int) -> tuple[int, int]:
    """The size of nearly equal parts, of about `some` each, and their number."""
    parts = -(-size // some)
    vectors = -(-size // lanes)
    return min(size, -(-vectors // parts) * lanes), parts


@functools.lru_cache(PLANS)
def _plan(g: Geometry, dtype: np.dtype[Any], workers: int) -> Plan:
    itemsize = dtype.itemsize
    lanes = kernel.lanes(itemsize)
    form = form_of(g.kernel_size)
    pieces = Pieces.of(g, form)

    def units_of(cut: Cut) -> int:
        return g.group * cut.channel_parts * cut.filter_parts

    def time(cut: Cut) -> tuple[float, Cut]:
        over = max(1.0, cut.numbers(form, pieces, lanes) * itemsize / UNIT_BYTES)
        turns = -(-units_of(cut) // workers)
        return turns * cut.time(form, pieces, lanes) * over**2, cut

    _, cut = min(map(time, Cut.all_of(g, lanes)))
    units = units_of(cut)
    threads = min(workers, units)
    count = pieces.bands * pieces.stretches
    sizes, room = _sizes(g, form, pieces, cut, itemsize)
    piece_work = cut.time(form, pieces, lanes)
    direct = math.prod(g.kernel_size) * g.positions * g.channels * g.filters // g.group
    return Plan(
        pays=room * itemsize <= ROOM_BYTES
        and g.channels * g.filters >= LEAST_PAIRS * g.group**2
        and direct >= GAIN * count * units * piece_work,
        sizes=sizes,
        units=units,
        pieces=count,
        pass_pieces=max(1, int(CALL_WORK / piece_work)),
        room=room,
        workers=threads,
        work=direct,
        limits=_limits(form, pieces, dtype),
    )


def _sizes(g: Geometry, form: Form, pieces: Pieces, cut: Cut, itemsize: int) -> tuple[Array, int]:
    """What the kernel is told, and numbers in a worker's space."""
    lanes = kernel.lanes(itemsize)
    channels, filters = (-(-size // lanes) * lanes for size in cut[:2])
    together = min(TOGETHER, -(-cut.filters // kernel.ROWS))
    inputs_step = odd_lines(pieces.tiles * channels, itemsize)
    gradients_step = odd_lines(pieces.tiles * filters, itemsize)
    products_step = odd_lines(form.points * kernel.VECTORS * lanes, itemsize)
    rooms = [
        odd_lines(max((pieces.x_cells + 1) * channels, (pieces.cells + 1) * filters), itemsize),
        form.points * inputs_step,
        form.points * gradients_step,
        together * kernel.ROWS * products_step,
    ]
    sizes = [
        form.key,
        *form.m,
        *form.cells,
        g.channels // g.group,
        g.filters // g.group,
        *g.in_shape,
        *g.out_shape,
        *(before for before, _ in g.pad),
        *g.dilation,
        *pieces[:4],
        *cut[2:],
        together,
        inputs_step,
        gradients_step,
        products_step,
        *rooms,
    ]
    room = sum(rooms) + math.prod(form.taps) * channels * cut.filters + kernel.ALIGNED // itemsize
    return np.array(sizes, np.intp), room


def _limits(form: Form, pieces: Pieces, dtype: np.dtype[Any]) -> Limits:
    """Which magnitudes of x and dout tiles will do for."""
    growth, product_growth = form.growth(GRADIENT_GROWTH)
    return Limits.of(dtype, growth, product_growth * pieces.down * pieces.across)
