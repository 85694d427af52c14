"""The engine `depthwise`: each channel with filters of its own, and single images.

There is nothing to gain from a product of matrices here: a result has few terms, and what takes
time is memory and what surrounds a unit. So planes are copied one after the other, in boxes that
stay in cache, and a filter slides over each with its sums in registers: see
`_kernels/depthwise.pyx`, and `planes.py` for the boxes.

dx is the same computation on dout, its cells taken by phase, modulo the stride, each phase with the
taps that reach it. Every sum is taken in an order that follows from the layer alone.
"""

import functools
import math
from typing import Any

import numpy as np

from fastconv._engines import caffe, fused
from fastconv._engines.planes import AXES, Plan, image_plan, weight_plan
from fastconv._geometry import Geometry
from fastconv._kernels import depthwise as kernel
from fastconv._memory import Kept, allocate, as_contiguous, as_native, parts, scratches
from fastconv._validation import Array
from fastconv._workers import as_workers, spread

NAME = "depthwise"

# What the kernels are made for; beyond, the engine `fused` is about as fast, or faster.
LARGEST_STRIDE = 4
LARGEST_MULTIPLIER = 4
# Terms that one register adds up: more would break the bound of rounding.
LARGEST_SUM = 2**8
# Cells that a kernel covers: the scratch has as many for one result.
LARGEST_EXTENT = 2**12
# With fewer multiply-adds (0.1 ms) the caller is done before a thread has woken.
THREAD_WORK = 2**22
# Plans to remember: 8 kB each at most.
PLANS = 256


def unsupported_reason(geometry: Geometry, dtype: np.dtype[Any]) -> str | None:
    """Return why this engine does not serve a geometry, or None if it does."""
    g = geometry
    if g.group != g.channels:
        return f"group must be C, got group {g.group} and C {g.channels}"
    if g.rank > AXES:
        return f"at most {AXES} spatial axes, got {g.rank}"
    if max(g.stride) > LARGEST_STRIDE:
        return f"stride must be at most {LARGEST_STRIDE}, got {g.stride}"
    if g.filters > LARGEST_MULTIPLIER * g.channels:
        return f"at most {LARGEST_MULTIPLIER} filters a channel, got {g.filters // g.channels}"
    if (terms := g.filters // g.channels * math.prod(g.kernel_size)) > LARGEST_SUM:
        return f"a channel must have at most {LARGEST_SUM} weights, got {terms}"
    extents = [d * (k - 1) + 1 for d, k in zip(g.dilation, g.kernel_size, strict=True)]
    if math.prod(extents) > LARGEST_EXTENT:
        return f"a kernel must cover at most {LARGEST_EXTENT} cells, got an extent of {extents}"
    return None


# --- the engine -------------------------------------------------------------------------------


def workspace(
    geometry: Geometry, x: Array, out: Array, workers: int | None, *, keeps: bool = False
) -> int:
    """Bytes that `forward` allocates."""
    plan = _threaded_plan(geometry, False, x, out, workers)
    return out.itemsize * plan.workers * plan.room


def forward(
    geometry: Geometry,
    x: Array,
    w: Array,
    b: Array | None,
    out: Array,
    workers: int | None,
    kept: Kept | None = None,
) -> None:
    """``out (N, F, *O)`` = the convolution of x (N, C, *S) with w (F, 1, *K), plus b (F,).

    Weights are read as they are: there is nothing to keep.
    """
    if out.size:
        _convolve(geometry, False, x, as_contiguous(w, out.dtype), b, out, workers)


def backward_x(
    geometry: Geometry, dout: Array, w: Array, b: Array | None, dx: Array, workers: int | None
) -> None:
    """``dx (N, C, *S)`` = the gradient from dout (N, F, *O), plus b (C,).

    The bias is that of a transposed convolution, whose forward pass this is.
    """
    if not dx.size:
        return
    weights = as_contiguous(w, dx.dtype)
    if kernel.all_finite(weights):
        _convolve(geometry, True, dout, weights, b, dx, workers)
    else:  # a tap beyond the edge of dout would give Inf * 0, where there is no such product
        caffe.backward_x(geometry, dout, w, b, dx, 1)


def backward_w(
    geometry: Geometry,
    x: Array,
    dout: Array,
    dw: Array,
    workers: int | None,
    db: Array | None = None,
) -> None:
    """``dw (F, 1, *K)`` += the gradient from x (N, C, *S) and dout (N, F, *O).

    ``db (F,)``, if given, += the sum of dout.
    """
    if not dout.size:
        return
    dtype = dw.dtype
    images, gradients = as_native(x, dtype), as_native(dout, dtype)
    by_channels = _is_by_channels(images) or _is_by_channels(gradients)
    plan = _gradient_plan(geometry, dtype.itemsize, 1, by_channels)
    if plan.work >= THREAD_WORK and (threads := as_workers(workers)) > 1:
        plan = _gradient_plan(geometry, dtype.itemsize, threads, by_channels)
    spaces = scratches(plan.workers, plan.room, dtype)
    sums = dw
    if not dw.flags.c_contiguous:
        sums = allocate("the sums of the weights' gradient", dw.shape, dtype)
        np.copyto(sums, dw)
    for part in parts(plan.passes, plan.pass_chunk):

        def step(space: Array, begin: int, end: int, part: slice = part) -> None:
            passes = part.start, part.stop
            kernel.weight_gradient(plan.sizes, images, gradients, sums, space, *passes, begin, end)

        spread(step, spaces, plan.units, plan.chunk)
    if sums is not dw:
        np.copyto(dw, sums)
    if db is not None:
        backward_b(dout, db, workers)


backward_b = fused.backward_b

_plan = functools.lru_cache(PLANS)(image_plan)
_gradient_plan = functools.lru_cache(PLANS)(weight_plan)


def _convolve(
    geometry: Geometry,
    transposed: bool,
    x: Array,
    weights: Array,
    b: Array | None,
    out: Array,
    workers: int | None,
) -> None:
    dtype = out.dtype
    images = as_native(x, dtype)
    bias = None if b is None else as_contiguous(b, dtype)
    plan = _threaded_plan(geometry, transposed, images, out, workers)
    if plan.workers == 1 and plan.units <= plan.chunk:
        (space,) = scratches(1, plan.room, dtype)
        kernel.convolve(plan.sizes, images, weights, bias, out, space, 0, plan.units)
        return
    spaces = scratches(plan.workers, plan.room, dtype)

    def step(space: Array, begin: int, end: int) -> None:
        kernel.convolve(plan.sizes, images, weights, bias, out, space, begin, end)

    spread(step, spaces, plan.units, plan.chunk)


def _threaded_plan(
    geometry: Geometry, transposed: bool, images: Array, out: Array, workers: int | None
) -> Plan:
    """The plan for some arrays, for more than one thread if there is enough to do."""
    by_channels = _is_by_channels(images) or _is_by_channels(out)
    plan = _plan(geometry, transposed, out.itemsize, 1, by_channels)
    if plan.work >= THREAD_WORK and (threads := as_workers(workers)) > 1:
        plan = _plan(geometry, transposed, out.itemsize, threads, by_channels)
    return plan


def _is_by_channels(images: Array) -> bool:
    """Whether channels are the neighbours, more than one, and cells are not."""
    return (
        not images.flags.c_contiguous
        and images.strides[1] == images.itemsize
        and images.shape[1] > 1
        and images.strides[-1] != images.itemsize
    )
