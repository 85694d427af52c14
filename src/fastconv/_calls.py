"""What the forward and backward calls of convolution and deconvolution share."""

from dataclasses import dataclass
from types import ModuleType

from fastconv._engines import select_engine
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
    layout: str
    engine: str
    workers: int

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of the forward result, channels first."""
        if self.operation == "conv":
            return self.geometry.result_shape
        return self.geometry.x_shape


@dataclass(frozen=True, slots=True)
class Gradients:
    """A backward call once its arguments are checked.

    Attributes
    ----------
    dout : ndarray
        Channels first.
    engine : module
        The engine that serves the call.
    dx, dw, db : Target or None
        Where the gradients go, in the caller's layout; None for one that is not asked for.
    layout : str
        The caller's.
    """

    dout: Array
    engine: ModuleType
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
    if not isinstance(cache, Cache):
        raise TypeError(
            f"cache: expected what {operation}_forward returned, got {type(cache).__name__}"
        )
    if cache.operation != operation:
        raise ValueError(f"cache: it comes from {cache.operation}_forward, not {operation}_forward")
    wanted = as_flags("propagate_down", propagate_down, 3)
    images = as_floating("dout", dout)
    expected = x_shape_in(cache.layout, cache.result_shape)
    check_shape("dout", images, expected, "that of the forward result")
    if cache.b is None and db is not None:
        raise ValueError("db: given, but the forward call had no bias")
    dtype = common_dtype(images, cache.x, cache.w, cache.b)
    engine = select_engine(cache.engine, cache.geometry, dtype)
    inputs = (images, cache.x, cache.w)
    x_shape = x_shape_in(cache.layout, cache.x.shape)
    w_shape = w_shape_in(cache.layout, cache.w.shape)
    b_shape = () if cache.b is None else cache.b.shape
    for name, given, shape, asked in (
        ("dx", dx, x_shape, wanted[0]),
        ("dw", dw, w_shape, wanted[1]),
        ("db", db, b_shape, wanted[2]),
    ):
        if asked and given is not None:  # all of them, before any is made
            check_target(name, given, shape, dtype)
    return cache, Gradients(
        dout=channels_first(images, cache.layout),
        engine=engine,
        dx=as_target("dx", dx, x_shape, dtype, inputs) if wanted[0] else None,
        dw=as_target("dw", dw, w_shape, dtype, inputs, accumulate=True) if wanted[1] else None,
        db=(
            as_target("db", db, b_shape, dtype, inputs, accumulate=True)
            if wanted[2] and cache.b is not None
            else None
        ),
        layout=cache.layout,
    )
