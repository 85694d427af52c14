"""The engine `fft`: convolution of stride 1 by large kernels, through SciPy's Fourier transform.

Results are computed in tiles (`overlap.py`). dx is the same with the weights turned by half a turn
and padding ``extent - 1 - pad``.

Everything is computed in the type of the result. An error is at most ``log2(cells) * u * |x| |w|``,
with the norms of a tile of x and of the kernels (and the roundoff u): on numbers of like size less
than that of as many direct sums, but beside a bright part of an image a dark one takes its error.

Samples that have numbers which are not finite, or would not remain so on the way, are computed
again by the engine `fused`; all of them where SciPy finds no memory when a part of the result is
written.
"""

import functools
import math
from types import ModuleType
from typing import Any

import numpy as np

from fastconv._engines import fused
from fastconv._geometry import Geometry
from fastconv._kernels import fused as kernel
from fastconv._kernels import importing
from fastconv._memory import Kept, as_native_call
from fastconv._validation import Array

NAME = "fft"

# Multiply-adds of `fused` in a nanosecond, for each number that a vector holds: of one filter in a
# group this many twice, of four or more five times.
DIRECT = 0.85
DIRECT_FILTERS = 4
# Below so many nanoseconds of direct convolution in a sample there is nothing to gain. The number
# of samples must not count, or a result would depend on it.
LEAST_TIME = 1_000_000
# Transformed weights, in bytes, beyond which `auto` leaves a layer to others.
WEIGHT_BYTES = 2**26


@functools.cache
def is_installed() -> bool:
    """Whether SciPy is there."""
    from importlib.util import find_spec

    return find_spec("scipy") is not None


def _overlap() -> ModuleType:
    """What computes: imported when there is something for it, as it takes 2 ms."""
    with importing:
        from fastconv._engines import overlap

    return overlap


def unsupported_reason(geometry: Geometry, dtype: np.dtype[Any]) -> str | None:
    """Say what keeps this engine from a call; None if nothing does."""
    if any(step != 1 for step in geometry.stride):
        return f"it takes stride 1, got {geometry.stride}"
    if not is_installed():
        return "SciPy is not installed"
    return None


def unprofitable_reason(geometry: Geometry, dtype: np.dtype[Any], keeps: bool) -> str | None:
    """Say why a call that this engine can serve is faster by `fused`; None if it is not."""
    filters = min(geometry.filters // geometry.group, DIRECT_FILTERS)
    rate = DIRECT * kernel.lanes(dtype.itemsize) * (1 + filters)
    work = geometry.filters * geometry.taps // geometry.group * geometry.positions
    direct = work / rate
    if direct < LEAST_TIME:
        return f"it pays from {LEAST_TIME * rate:.0f} multiply-adds a sample on, got {work}"
    overlap = _overlap()
    time = overlap.least_time(geometry, dtype)
    if time < direct:  # SciPy is imported only then
        plan = overlap.plan_of(overlap.Layer.forward(geometry, dtype))
        if plan.weight_bytes > WEIGHT_BYTES:
            limit = f"at most {WEIGHT_BYTES} bytes"
            return f"transformed weights may have {limit}, got {plan.weight_bytes}"
        time = plan.time - keeps * plan.pack_time
    if time < direct:
        return None
    return f"it takes {time / direct:.1f} times as long as 'fused', by estimate"


def workspace(
    geometry: Geometry, x: Array, out: Array, workers: int | None, *, keeps: bool = False
) -> int:
    """Bytes that `forward` allocates."""
    alone = fused.workspace(geometry._replace(batch=1), x[:1], out[:1], 1)
    overlap = _overlap()
    layer = overlap.Layer.forward(geometry, out.dtype)
    own: int = overlap.workspace(layer, geometry.batch, workers)
    return alone + own


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
    """``out (N, F, *O)`` = the convolution of x (N, C, *S) with w (F, C/group, *K), plus b (F,).

    Of transformed weights, which depend on the size of images, the last ones are kept.
    """
    if not out.size:
        return
    images, weights, bias = as_native_call(x, w, b, out.dtype)
    overlap = _overlap()
    layer = overlap.Layer.forward(geometry, out.dtype)
    again = fused.by_samples(  # allocates before anything is written
        geometry, fused.forward, fused.forward_room, images, weights, bias, out
    )
    key = NAME, out.dtype
    packed = None if kept is None else kept.get(key)
    if packed is None or packed.cells != overlap.plan_of(layer).cells:
        packed = overlap.pack(layer, _in_groups(geometry, weights), workers)
        if kept is not None:
            kept[key] = packed
    if not math.isfinite(packed.peak):
        fused.forward(geometry, images, weights, bias, out, workers, kept)
        return
    for n in overlap.convolve(layer, images, packed, bias, out, workers):
        again(n)


def backward_x(
    geometry: Geometry, dout: Array, w: Array, b: Array | None, dx: Array, workers: int | None
) -> None:
    """``dx (N, C, *S)`` = the gradient from dout (N, F, *O), plus b (C,).

    The bias is that of a transposed convolution, whose forward pass this is.
    """
    if not dx.size:
        return
    images, weights, bias = as_native_call(dout, w, b, dx.dtype)
    again = fused.by_samples(  # allocates before anything is written
        geometry, fused.backward_x, fused.backward_x_room, images, weights, bias, dx
    )
    overlap = _overlap()
    layer = overlap.Layer.backward(geometry, dx.dtype)
    backwards: tuple[Any, ...] = (..., *(slice(None, None, -1),) * geometry.rank)
    turned = _in_groups(geometry, weights).swapaxes(1, 2)[backwards]
    packed = overlap.pack(layer, turned, workers)
    if not math.isfinite(packed.peak):
        fused.backward_x(geometry, images, weights, bias, dx, workers)
        return
    for n in overlap.convolve(layer, images, packed, bias, dx, workers):
        again(n)


backward_w = fused.backward_w
backward_b = fused.backward_b


def _in_groups(geometry: Geometry, w: Array) -> Array:
    """View w (F, C/group, *K) as (group, C/group, F/group, *K)."""
    return w.reshape(geometry.group, -1, *w.shape[1:]).swapaxes(1, 2)
