"""The engines, most special first, and the choice among them.

An engine is a module with `NAME`, `unsupported_reason(geometry, dtype) -> str | None` and

- `forward(geometry, x, w, b, out, workers, kept=None)`: overwrites out; packed weights are taken
  from `kept`, and left in it for later calls with the same w, where that is not None;
- `backward_x(geometry, dout, w, b, dx, workers)`: overwrites dx;
- `backward_w(geometry, x, dout, dw, workers, db=None)`: adds to dw, and to db where that is not
  None, with the bits of `backward_b`;
- `backward_b(dout, db, workers)`: adds to db;
- `workspace(geometry, x, out, workers, *, keeps)`: bytes that `forward` allocates if its arguments
  are native and w is C-contiguous; of x and out, only how they lie in memory counts.

One that serves more calls than it is good for also has `unprofitable_reason(geometry, dtype, keeps)
-> str | None`, why "auto" leaves a call to those after it. `keeps` is whether packed weights are
kept from call to call.

Inputs may be of any layout, byte order and floating type; what is written is native, without
overlaps, of the dtype that the call computes in.
"""

import functools
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from fastconv._engines.extended import Extended, check_extends
from fastconv._geometry import Geometry
from fastconv._kernels import importing
from fastconv._validation import show

Engine: TypeAlias = ModuleType | Extended

PAD_MODES = ("constant", "reflect", "edge", "wrap")


@functools.cache
def all_engines() -> tuple[ModuleType, ...]:
    """The engines. The first call imports them, which takes 8 ms; the rest of the package 12."""
    with importing:
        from fastconv._engines import caffe, depthwise, fft, fused, winograd

    return depthwise, winograd, fft, fused, caffe


def engines() -> tuple[str, ...]:
    """Name the engines on this machine, in the order in which ``engine="auto"`` asks them.

    Returns
    -------
    tuple of str
        Each is a value for the parameter `engine`; the last one serves every call. "fft" is among
        them where SciPy is installed.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.engines()
    ('depthwise', 'winograd', 'fft', 'fused', 'caffe')
    """
    available = all_engines()
    from fastconv._engines import fft

    return tuple(e.NAME for e in available if e is not fft or fft.is_installed())


def select_engine(
    name: object,
    geometry: Geometry,
    dtype: np.dtype[Any],
    pad_mode: object = "constant",
    *,
    keeps: bool = False,
) -> Engine:
    """The engine of that name, or for "auto" the first that serves.

    `keeps` says whether packed weights will be kept from call to call.

    Raises
    ------
    ValueError
        If there is none of that name, or it cannot serve this call; it then gives its reason.
    """
    known = ("auto", *(engine.NAME for engine in all_engines()))
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"engine: expected 'auto' or one of {engines()}, got {show(name)}")
    if not isinstance(pad_mode, str) or pad_mode not in PAD_MODES:
        raise ValueError(f"pad_mode: expected one of {PAD_MODES}, got {show(pad_mode)}")
    if pad_mode != "constant":
        check_extends(geometry, pad_mode)
        return Extended(_select(name, geometry.without_pad(), dtype, keeps), pad_mode)
    return _select(name, geometry, dtype, keeps)


def reason_against(
    engine: ModuleType, geometry: Geometry, dtype: np.dtype[Any], *, keeps: bool
) -> str | None:
    """Why "auto" does not take an engine, or None if it does where those before it do not."""
    reason: str | None = engine.unsupported_reason(geometry, dtype)
    if reason is None and hasattr(engine, "unprofitable_reason"):
        reason = engine.unprofitable_reason(geometry, dtype, keeps)
    return reason


def _select(name: str, geometry: Geometry, dtype: np.dtype[Any], keeps: bool) -> ModuleType:
    if name == "auto":
        return next(e for e in all_engines() if not reason_against(e, geometry, dtype, keeps=keeps))
    chosen = next(engine for engine in all_engines() if name == engine.NAME)
    reason = chosen.unsupported_reason(geometry, dtype)
    if reason:
        raise ValueError(f"engine {name!r} cannot serve this call: {reason}")
    return chosen
