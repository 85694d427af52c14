"""The engines, most special first, and the choice among them.

An engine is a module with `NAME`, `unsupported_reason(geometry, dtype) -> str | None` and

- `forward(geometry, x, w, b, out, workers)`: overwrites out;
- `backward_x(geometry, dout, w, b, dx, workers)`: overwrites dx;
- `backward_w(geometry, x, dout, dw, workers)`: adds to dw;
- `backward_b(dout, db, workers)`: adds to db.

Inputs may be of any layout, byte order and floating type; what is written is native, without
overlaps, of the dtype that the call computes in.
"""

from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from fastconv._engines import caffe, depthwise, fused, winograd
from fastconv._engines.extended import Extended, check_extends
from fastconv._geometry import Geometry
from fastconv._validation import show

Engine: TypeAlias = ModuleType | Extended

ENGINES: tuple[ModuleType, ...] = (depthwise, winograd, fused, caffe)
PAD_MODES = ("constant", "reflect", "edge", "wrap")


def engines() -> tuple[str, ...]:
    """Name the engines on this machine, in the order in which ``engine="auto"`` asks them.

    Returns
    -------
    tuple of str
        Each is a value for the parameter `engine`; the last one serves every call.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.engines()
    ('depthwise', 'winograd', 'fused', 'caffe')
    """
    return tuple(engine.NAME for engine in ENGINES)


def select_engine(
    name: object, geometry: Geometry, dtype: np.dtype[Any], pad_mode: object = "constant"
) -> Engine:
    """The engine of that name, or for "auto" the first that serves.

    Raises
    ------
    ValueError
        If there is none of that name, or it cannot serve this call; it then gives its reason.
    """
    if not isinstance(name, str) or name not in ("auto", *engines()):
        raise ValueError(f"engine: expected 'auto' or one of {engines()}, got {show(name)}")
    if not isinstance(pad_mode, str) or pad_mode not in PAD_MODES:
        raise ValueError(f"pad_mode: expected one of {PAD_MODES}, got {show(pad_mode)}")
    if pad_mode != "constant":
        check_extends(geometry, pad_mode)
        return Extended(_select(name, geometry.without_pad(), dtype), pad_mode)
    return _select(name, geometry, dtype)


def _select(name: str, geometry: Geometry, dtype: np.dtype[Any]) -> ModuleType:
    if name == "auto":
        return next(
            engine
            for engine in ENGINES
            if not engine.unsupported_reason(geometry, dtype)
            and (engine is not winograd or winograd.pays(geometry, dtype))
        )
    chosen = next(engine for engine in ENGINES if name == engine.NAME)
    reason = chosen.unsupported_reason(geometry, dtype)
    if reason:
        raise ValueError(f"engine {name!r} cannot serve this call: {reason}")
    return chosen
