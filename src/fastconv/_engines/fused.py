"""The engine `fused`: the product is formed from panels of columns that are never stored.

Work is cut into units that write disjoint parts of the result, each with a scratch that stays in
second-level cache: see `taps.py` for the tables, `_kernels/fused.pyx` for what a unit does. Every
sum is taken in one order, whatever the units, so a result has the same bits in any batch and with
any number of workers.

Inputs are read in place where they are native, in any layout; w is packed once a call.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fastconv._engines import caffe
from fastconv._engines.lanes import lanes_plan, prefers_lanes, serves_lanes
from fastconv._engines.plans import (
    CALL_WORK,
    Plan,
    chunk_of,
    convolution_plan,
    gradient_plan,
    piece_of,
)
from fastconv._engines.taps import Phase, Table, forward_table, gradient_tables, kernel_offsets
from fastconv._geometry import Geometry
from fastconv._kernels import fused as kernel
from fastconv._memory import Kept, allocate, as_native, as_native_call, parts, scratches
from fastconv._validation import Array
from fastconv._workers import as_workers, spread

NAME = "fused"

# With fewer multiply-adds (0.15 ms) another thread gains nothing, though it be awake.
THREAD_WORK = 3 * 2**22
# A number that is added up takes as long as so many multiply-adds: it comes from memory.
SUM_WORK = 16
# Plans to remember, of layers whose kernels have no more indices than this: 8 kB each.
PLANS = 256
KERNEL_SIZE = 2**10


def unsupported_reason(geometry: Geometry, dtype: np.dtype[Any]) -> str | None:
    """Return None: this engine serves every geometry."""
    return None


# --- the engine -------------------------------------------------------------------------------


class Room(NamedTuple):
    """What a pass needs besides its arrays.

    Attributes
    ----------
    plans : list of (list of Phase, Plan)
        One of the forward pass; of dx one for all phases, or one for each.
    packed : list of ndarray
        Room for the packed weights of each; none where a plan is one piece.
    spaces : list of ndarray
        A scratch for each worker.
    """

    plans: Sequence[tuple[list[Phase], Plan]]
    packed: list[Array]
    spaces: list[Array]


def forward_room(
    geometry: Geometry,
    images: Array,
    dtype: np.dtype[Any],
    workers: int | None,
    kept: Kept | None = None,
) -> Room:
    """Allocate what `forward` needs for native images."""
    plan = _threaded_plan(geometry, images, dtype, workers)
    if plan.is_one_piece and kept is None:
        return Room([([], plan)], [], scratches(1, plan.room + plan.weights, dtype))
    packed = None if kept is None else kept.get((NAME, dtype))
    if packed is None:
        packed = allocate("the packed weights", (plan.weights,), dtype)
    return Room([([], plan)], [packed], scratches(plan.workers, plan.room, dtype))


def workspace(
    geometry: Geometry, x: Array, out: Array, workers: int | None, *, keeps: bool = False
) -> int:
    """Bytes that `forward` allocates."""
    plan = _threaded_plan(geometry, x, out.dtype, workers)
    return out.itemsize * (plan.weights + plan.workers * plan.room)


def forward(
    geometry: Geometry,
    x: Array,
    w: Array,
    b: Array | None,
    out: Array,
    workers: int | None,
    kept: Kept | None = None,
    room: Room | None = None,
) -> None:
    """``out (N, F, *O)`` = the convolution of x (N, C, *S) with w (F, C/group, *K), plus b (F,).

    With native arguments and a room, nothing is allocated.
    """
    if not out.size:
        return
    dtype = out.dtype
    images, weights, bias = as_native_call(x, w, b, dtype)
    room = room or forward_room(geometry, images, dtype, workers, kept)
    ((_, plan),) = room.plans
    ready = None if kept is None else kept.get((NAME, dtype))
    if ready is not None and ready is room.packed[0]:
        _convolve(plan, images, ready, bias, out, room.spaces)
        return
    offsets = _offsets(geometry, weights.strides[2:], dtype.itemsize)
    if not room.packed:
        kernel.convolve_at_once(
            plan.sizes,
            images,
            weights,
            offsets,
            bias,
            out,
            room.spaces[0],
            plan.blocks,
            plan.units,
            plan.weights,
        )
        return
    (packed,) = room.packed
    _pack(plan, weights, offsets, packed, plan.sizes)
    if kept is not None:
        kept[NAME, dtype] = packed
    _convolve(plan, images, packed, bias, out, room.spaces)


def backward_x_room(
    geometry: Geometry, images: Array, dtype: np.dtype[Any], workers: int | None
) -> Room:
    """Allocate what `backward_x` needs for native images, dout."""
    plain = _is_plain(images)
    plans = _phase_plans(geometry, dtype.itemsize, 1, plain)
    work = sum(plan.work for _, plan in plans)
    if work >= THREAD_WORK and (threads := as_workers(workers)) > 1:
        plans = _phase_plans(geometry, dtype.itemsize, threads, plain)
    packed = [allocate("the packed weights", (plan.weights,), dtype) for _, plan in plans]
    threads = max((plan.workers for _, plan in plans), default=0)
    size = max((plan.room for _, plan in plans), default=0)
    return Room(plans, packed, scratches(threads, size, dtype))


def backward_x(
    geometry: Geometry,
    dout: Array,
    w: Array,
    b: Array | None,
    dx: Array,
    workers: int | None,
    room: Room | None = None,
) -> None:
    """``dx (N, C, *S)`` = the gradient from dout (N, F, *O), plus b (C,).

    The bias is that of a transposed convolution, whose forward pass this is. With native arguments,
    finite w and a room, nothing is allocated.
    """
    if not dx.size:
        return
    dtype = dx.dtype
    images, weights, bias = as_native_call(dout, w, b, dtype)
    room = room or backward_x_room(geometry, images, dtype, workers)
    for (phases, plan), where in zip(room.plans, room.packed, strict=True):
        place = where
        for phase, sizes in zip(phases, plan.phases, strict=True):
            offsets = _offsets(geometry, weights.strides[2:], dtype.itemsize, phase.taps)
            if not _pack(plan, weights, offsets, place, sizes, transposed=True):
                # A tap beyond the edge of dout would give Inf * 0, where there is no such product.
                caffe.backward_x(geometry, dout, w, b, dx, 1)
                return
            place = place[math.prod(w.shape[:2]) * phase.kernel :]
    if sum(phase.positions for phases, _ in room.plans for phase in phases) < dx[0, 0].size:
        dx[...] = 0 if bias is None else bias.reshape(-1, *(1,) * geometry.rank)
    for (_, plan), where in zip(room.plans, room.packed, strict=True):
        _convolve(plan, images, where, bias, dx, room.spaces)


def by_samples(
    geometry: Geometry,
    step: Callable[..., None],
    room_of: Callable[..., Room],
    images: Array,
    weights: Array,
    bias: Array | None,
    result: Array,
) -> Callable[[int], None]:
    """Allocate what computing single samples again needs, by `forward` or `backward_x`.

    All arguments are native. Calls of what is returned, with a sample's number, allocate nothing.
    """
    alone = geometry._replace(batch=1)
    room = room_of(alone, images[:1], result.dtype, 1)

    def compute(n: int) -> None:
        step(alone, images[n : n + 1], weights, bias, result[n : n + 1], 1, room=room)

    return compute


def backward_w(
    geometry: Geometry,
    x: Array,
    dout: Array,
    dw: Array,
    workers: int | None,
    db: Array | None = None,
) -> None:
    """``dw (F, C/group, *K)`` += the gradient from x (N, C, *S) and dout (N, F, *O).

    ``db (F,)``, if given, += the sum of dout, on the way where that saves reading it once more.
    """
    if not dout.size:
        return
    dtype = dw.dtype
    images, gradients = as_native(x, dtype), as_native(dout, dtype)
    rows = [step for step, size in zip(gradients.strides, gradients.shape, strict=True) if size > 1]
    in_place = not rows or rows[-1] == dtype.itemsize
    plan = _gradient_plan(geometry, dtype.itemsize, 1, in_place)
    if plan.work >= THREAD_WORK and (threads := as_workers(workers)) > 1:
        plan = _gradient_plan(geometry, dtype.itemsize, threads, in_place)
    target = _contiguous("weight gradients", dw)
    sums = None if db is None or not plan.adds_bias else _contiguous("bias gradients", db)
    spaces = scratches(plan.workers, plan.room, dtype)
    for part in parts(plan.passes, plan.pass_chunk):

        def step(space: Array, begin: int, end: int, part: slice = part) -> None:
            blocks = part.start, part.stop
            kernel.weight_gradient(
                plan.sizes, plan.dots, images, gradients, target, sums, space, *blocks, begin, end
            )

        spread(step, spaces, plan.units, plan.chunk)
    if target is not dw:
        dw[...] = target
    if db is not None and sums is None:
        backward_b(dout, db, workers)
    elif db is not None and sums is not db:
        db[...] = sums


def backward_b(dout: Array, db: Array, workers: int | None) -> None:
    """``db (F,)`` += the sum of dout (N, F, *O) over samples and positions."""
    if not dout.size:
        return
    gradients = as_native(dout, db.dtype)
    target = _contiguous("bias gradients", db)
    units = -(-db.size // kernel.SUM_UNIT)
    threads = 1
    if SUM_WORK * dout.size >= THREAD_WORK:
        threads = min(units, as_workers(workers))
    sample = SUM_WORK * dout[0].size
    chunk = chunk_of(units, threads, CALL_WORK // max(1, sample // units))
    piece = piece_of(dout[0, 0].size)
    for part in parts(len(dout), max(1, CALL_WORK * threads // sample)):

        def step(_: None, begin: int, end: int, part: slice = part) -> None:
            kernel.bias_gradient(gradients, target, piece, part.start, part.stop, begin, end)

        spread(step, [None] * threads, units, chunk)
    if target is not db:
        db[...] = target


# --- plans, remembered --------------------------------------------------------------------------

Result = TypeVar("Result")


def _remembered(function: Callable[..., Result]) -> Callable[..., Result]:
    """Remember results for geometries whose kernels are not so large as to fill memory."""

    @functools.lru_cache(PLANS)
    def recall(geometry: Geometry, *others: Any) -> Result | None:
        return (
            None if math.prod(geometry.kernel_size) > KERNEL_SIZE else function(geometry, *others)
        )

    @functools.wraps(function)
    def call(*arguments: Any) -> Result:
        result = recall(*arguments)
        return function(*arguments) if result is None else result

    call.cache_clear = recall.cache_clear  # type: ignore[attr-defined]
    return call


@_remembered
def _forward_plan(geometry: Geometry, itemsize: int, workers: int, plain: bool) -> Plan:
    return _table_plan(forward_table(geometry), itemsize, workers, plain)


@_remembered
def _phase_plans(
    geometry: Geometry, itemsize: int, workers: int, plain: bool
) -> list[tuple[list[Phase], Plan]]:
    return [
        (table.phases, _table_plan(table, itemsize, workers, plain))
        for table in gradient_tables(geometry)
    ]


def _table_plan(table: Table, itemsize: int, workers: int, plain: bool) -> Plan:
    if serves_lanes(table, itemsize) and prefers_lanes(table, itemsize):
        return lanes_plan(table, itemsize, workers)
    in_place = plain and all(axis.is_plain for axis in table.axes)
    return convolution_plan(table, itemsize, workers, in_place=in_place)


@_remembered
def _gradient_plan(geometry: Geometry, itemsize: int, workers: int, in_place: bool) -> Plan:
    return gradient_plan(forward_table(geometry), itemsize, workers, in_place=in_place)


@_remembered
def _offsets(
    geometry: Geometry,
    strides: tuple[int, ...],
    itemsize: int,
    taps: tuple[range, ...] | None = None,
) -> Array:
    """Where kernel indices, all or some, lie in weights of these strides, in elements."""
    steps = [step // itemsize for step in strides]
    return kernel_offsets(steps, taps or tuple(map(range, geometry.kernel_size)))


# --- the parts --------------------------------------------------------------------------------


def _threaded_plan(
    geometry: Geometry, images: Array, dtype: np.dtype[Any], workers: int | None
) -> Plan:
    """The plan of the forward pass, for more than one thread if there is enough to do."""
    plain = _is_plain(images)
    plan = _forward_plan(geometry, dtype.itemsize, 1, plain)
    if plan.work >= THREAD_WORK and (threads := as_workers(workers)) > 1:
        plan = _forward_plan(geometry, dtype.itemsize, threads, plain)
    return plan


def _contiguous(what: str, sums: Array) -> Array:
    """Sums that a kernel can add to: these, or a copy, to go on from what they hold."""
    if sums.flags.c_contiguous:
        return sums
    copied = allocate(what, sums.shape, sums.dtype)
    copied[...] = sums
    return copied


def _is_plain(images: Array) -> bool:
    """Whether each channel's cells are neighbours, in order."""
    return images.flags.c_contiguous or images[0, 0].flags.c_contiguous


def _pack(
    plan: Plan,
    weights: Array,
    offsets: Array,
    packed: Array,
    sizes: Array,
    *,
    transposed: bool = False,
) -> bool:
    """Bring w to the order of the tiles; return whether all of it is finite."""
    finite = True

    def step(_: None, begin: int, end: int) -> None:
        nonlocal finite
        if not kernel.pack(sizes, weights, offsets, packed, transposed, begin, end):
            finite = False

    spread(step, [None] * plan.workers, plan.blocks, plan.block_chunk)
    return finite


def _convolve(
    plan: Plan, images: Array, packed: Array, bias: Array | None, out: Array, spaces: list[Array]
) -> None:
    if plan.workers == 1 and plan.units <= plan.chunk:
        kernel.convolve(plan.sizes, images, packed, bias, out, spaces[0], 0, plan.units)
        return

    def step(space: Array, begin: int, end: int) -> None:
        kernel.convolve(plan.sizes, images, packed, bias, out, space, begin, end)

    spread(step, spaces[: plan.workers], plan.units, plan.chunk)
