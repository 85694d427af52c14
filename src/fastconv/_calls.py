"""What the forward and backward calls of convolutions of all kinds share."""

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fastconv._engines import Engine, select_engine
from fastconv._geometry import Geometry
from fastconv._layout import channels_first, filters_first, w_shape_in, x_shape_in
from fastconv._memory import Target, as_target
from fastconv._validation import (
    Array,
    as_flags,
    as_floating,
    check_shape,
    check_target,
    common_dtype,
)


@dataclass(frozen=True, slots=True)
class Cache:
    """What a forward call hands to its backward call: references, no copies.

    Its contents are not for callers. The arrays that went into the forward call are read again by
    the backward call, so they must not be changed between the two.
    """

    operation: str
    x: Array
    w: Array
    b: Array | None
    geometry: Geometry
    pad_mode: str
    layout: str
    engine: str
    workers: int

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of the forward result, channels first."""
        if self.operation == "deconv":
            return self.geometry.x_shape
        return self.geometry.result_shape


CacheKind = TypeVar("CacheKind", bound=Cache)


class Gradients(NamedTuple):
    """A backward call once its arguments are checked.

    Attributes
    ----------
    dout : ndarray
        Channels first.
    engine : Engine
        The engine that serves the call.
    dx, dw, db : Target or None
        Where the gradients go, in the caller's layout; None for one that is not asked for.
    layout : str
        The caller's.
    """

    dout: Array
    engine: Engine
    dx: Target | None
    dw: Target | None
    db: Target | None
    layout: str

    @property
    def dx_work(self) -> Array | None:
        """Where an engine writes dx (N, C, *S)."""
        return None if self.dx is None else channels_first(self.dx.work, self.layout)

    @property
    def dw_work(self) -> Array | None:
        """Where an engine adds dw (F, C/group, *K)."""
        return None if self.dw is None else filters_first(self.dw.work, self.layout)

    def finish(self) -> tuple[Array | None, Array | None, Array | None]:
        """Return dx, dw and db as the caller gets them."""
        dx, dw, db = (
            None if target is None else target.finish() for target in (self.dx, self.dw, self.db)
        )
        return dx, dw, db


def begin_backward(
    operation: str,
    dout: object,
    cache: object,
    propagate_down: object,
    dx: Array | None,
    dw: Array | None,
    db: Array | None,
) -> tuple[Cache, Gradients]:
    """Check the arguments of a backward call and lay out the targets of its gradients."""
    forward = as_cache(operation, cache, Cache)
    wanted = as_flags("propagate_down", propagate_down, 3)
    images = as_dout(dout, forward)
    dtype = common_dtype(images, forward.x, forward.w, forward.b)
    engine = select_engine(forward.engine, forward.geometry, dtype, forward.pad_mode)
    dx_target, dw_target, db_target = gradient_targets(
        [
            Wish("dx", dx, x_shape_in(forward.layout, forward.x.shape), wanted[0]),
            Wish("dw", dw, w_shape_in(forward.layout, forward.w.shape), wanted[1], adds=True),
            wish_for_db(db, forward, wanted[2]),
        ],
        dtype,
        (images, forward.x, forward.w),
    )
    return forward, Gradients(
        dout=channels_first(images, forward.layout),
        engine=engine,
        dx=dx_target,
        dw=dw_target,
        db=db_target,
        layout=forward.layout,
    )


# --- the parts --------------------------------------------------------------------------------


def as_cache(operation: str, cache: object, kind: type[CacheKind]) -> CacheKind:
    """The cache of a forward call of that operation."""
    if not isinstance(cache, Cache):
        raise TypeError(
            f"cache: expected what {operation}_forward returned, got {type(cache).__name__}"
        )
    if cache.operation != operation or not isinstance(cache, kind):
        raise ValueError(f"cache: it comes from {cache.operation}_forward, not {operation}_forward")
    return cache


def as_dout(dout: object, cache: Cache) -> Array:
    """The gradient of the forward result, in the caller's layout."""
    images = as_floating("dout", dout)
    expected = x_shape_in(cache.layout, cache.result_shape)
    check_shape("dout", images, expected, "that of the forward result")
    return images


class Wish(NamedTuple):
    """A gradient, whether it is asked for, and the array that was handed in for it."""

    name: str
    given: Array | None
    shape: tuple[int, ...]
    asked: bool
    adds: bool = False


def wish_for_db(db: Array | None, cache: Cache, asked: bool) -> Wish:
    """The gradient of the bias, which is not asked for where there was none."""
    if cache.b is None:
        if db is not None:
            raise ValueError("db: given, but the forward call had no bias")
        return Wish("db", None, (), asked=False)
    return Wish("db", db, cache.b.shape, asked, adds=True)


def gradient_targets(
    wishes: list[Wish], dtype: np.dtype[Any], inputs: tuple[Array | None, ...]
) -> list[Target | None]:
    """Check every array that was handed in for a gradient, then lay out the targets."""
    for name, given, shape, asked, _ in wishes:
        if asked and given is not None:
            check_target(name, given, shape, dtype)
    return [
        as_target(name, given, shape, dtype, inputs, accumulate=adds) if asked else None
        for name, given, shape, asked, adds in wishes
    ]
