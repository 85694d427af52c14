"""What the forward and backward calls of convolutions of all kinds share.

A call's plan, which is what follows from its arguments but for what the arrays hold, is remembered:
it takes 26 microseconds to make, more than a small convolution, and half a microsecond to recall.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from fastconv import _engines
from fastconv._engines import Engine, select_engine
from fastconv._geometry import Geometry, conv_geometry, deconv_geometry, least_image
from fastconv._layout import (
    channels_first,
    check_layout,
    filters_first,
    w_shape_from,
    w_shape_in,
    x_shape_from,
    x_shape_in,
)
from fastconv._memory import Kept, Target, allocate, as_target
from fastconv._validation import (
    Array,
    Default,
    as_conv_params,
    as_flags,
    as_floating,
    as_pads,
    check_bias_shape,
    check_shape,
    check_target,
)
from fastconv._workers import given_workers

Engines: TypeAlias = tuple[ModuleType, ...]
Shape: TypeAlias = tuple[int, ...]

PARAMETERS = ("stride", "pad", "dilation", "group", "output_pad")
GEOMETRIES: dict[str, Callable[..., Geometry]] = {"conv": conv_geometry, "deconv": deconv_geometry}
# Plans to remember: more than a large network has layers.
PLANS = 256
# Kinds of parameters that a plan is remembered by: where two of them are equal, they mean the same.
# Of others that does not hold (True == 1 == 1.0), or they have no hash, or may refer to an array.
PLAIN = frozenset((int, Default, str))


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
    workers: int | None

    @property
    def result_shape(self) -> Shape:
        """The shape of the forward result, channels first."""
        return _result_shape(self.operation, self.geometry)


CacheKind = TypeVar("CacheKind", bound=Cache)


def _result_shape(operation: str, geometry: Geometry) -> Shape:
    return geometry.x_shape if operation == "deconv" else geometry.result_shape


# --- forward ----------------------------------------------------------------------------------


class Plan(NamedTuple):
    """A forward call without its arrays, once the arguments are checked.

    Attributes
    ----------
    operation : str
        "conv" or "deconv".
    geometry : Geometry
    dtype : dtype
        What the call computes in.
    serving : Engine
        The engine that serves the call.
    result_shape : tuple of int
        In the caller's layout.
    pad_mode, layout, engine : str
        As the caller gave them.
    """

    operation: str
    geometry: Geometry
    dtype: np.dtype[Any]
    serving: Engine
    result_shape: Shape
    pad_mode: str
    layout: str
    engine: str


def make_plan(
    _available: Engines,  # all_engines(): a plan must not be recalled for others
    operation: str,
    x_shape: Shape,
    x_type: str,
    w_shape: Shape,
    w_type: str,
    b_shape: Shape | None,
    b_type: str | None,
    given: tuple[Any, ...],
    keeps: bool,
) -> Plan:
    """Check all that a forward call was given but its arrays' contents and what it writes to."""
    *parameters, pad_mode, layout, engine = given
    check_layout(layout)
    geometry = GEOMETRIES[operation](
        x_shape_from(layout, x_shape),
        w_shape_from(layout, w_shape),
        **dict(zip(PARAMETERS, parameters, strict=False)),
    )
    shape = _result_shape(operation, geometry)
    if b_shape is not None:
        check_bias_shape(b_shape, shape[1])
    dtype = np.result_type(x_type, w_type, b_type or w_type)
    serving = select_engine(engine, geometry, dtype, pad_mode, keeps=keeps)
    words = map(str.__str__, (pad_mode, layout, engine))  # those of subclasses made plain
    return Plan(operation, geometry, dtype, serving, x_shape_in(layout, shape), *words)


recall_plan = functools.lru_cache(maxsize=PLANS)(make_plan)


def is_plain(values: tuple[Any, ...], depth: int = 2) -> bool:
    """Whether all are of the kinds PLAIN, or tuples of such, nested at most so deep."""
    for value in values:
        kind = type(value)
        if kind not in PLAIN and not (depth and kind is tuple and is_plain(value, depth - 1)):
            return False
    return True


class Forward(NamedTuple):
    """A forward call once its arguments are checked.

    Attributes
    ----------
    plan : Plan
    x, w : ndarray
        Channels first.
    b : ndarray or None
    work : ndarray
        Where an engine writes the result, channels first.
    target : Target or None
        Where the result goes; None for a new array.
    result : ndarray
        That new array, in the caller's layout.
    workers : int or None
    kept : dict or None
        Packed weights, where they stay from call to call.
    """

    plan: Plan
    x: Array
    w: Array
    b: Array | None
    work: Array
    target: Target | None
    result: Array
    workers: int | None
    kept: Kept | None

    def convolve(self) -> None:
        """Have the plan's engine compute a convolution."""
        plan = self.plan
        plan.serving.forward(
            plan.geometry, self.x, self.w, self.b, self.work, self.workers, self.kept
        )

    def finish(self) -> Array:
        """Return the result as the caller gets it."""
        return self.result if self.target is None else self.target.finish()

    def cache(self) -> Cache:
        """What the backward call needs."""
        plan = self.plan
        return Cache(
            plan.operation,
            self.x,
            self.w,
            self.b,
            plan.geometry,
            plan.pad_mode,
            plan.layout,
            plan.engine,
            self.workers,
        )


def begin_forward(
    operation: str,
    x: object,
    w: object,
    b: object,
    conv_param: object,
    given: tuple[object, ...],
    out: Array | None,
    workers: object,
) -> Forward:
    """Check the arguments of a forward call and lay out the target of its result.

    `given` are the values of PARAMETERS (output_pad for a "deconv" alone), pad_mode, layout and
    engine.
    """
    if conv_param is not None:
        names = PARAMETERS[: len(given) - 3]
        params = as_conv_params(conv_param, **dict(zip(names, given, strict=False)))
        given = (*params.values(), *given[-3:])
    images, weights = as_floating("x", x), as_floating("w", w)
    bias = None if b is None else as_floating("b", b)
    plan = (recall_plan if is_plain(given) else make_plan)(
        _engines.all_engines(),
        operation,
        images.shape,
        images.dtype.char,
        weights.shape,
        weights.dtype.char,
        None if bias is None else bias.shape,
        None if bias is None else bias.dtype.char,
        given,
        False,
    )
    return lay_out(plan, images, weights, bias, out, given_workers(workers))


def lay_out(
    plan: Plan,
    images: Array,
    weights: Array,
    bias: Array | None,
    out: Array | None,
    workers: int | None,
    kept: Kept | None = None,
) -> Forward:
    """Lay out the target of a planned call's result.

    `kept` is where packed weights stay from call to call, if they do.
    """
    target = None
    if out is None:
        work = result = allocate("out", plan.result_shape, plan.dtype)
    else:
        target = as_target("out", out, plan.result_shape, plan.dtype, (images, weights, bias))
        work = result = target.work
    if plan.layout == "NHWC":
        images, weights = channels_first(images, "NHWC"), filters_first(weights, "NHWC")
        work = channels_first(work, "NHWC")
    return Forward(plan, images, weights, bias, work, target, result, workers, kept)


class Prepared(NamedTuple):
    """Arguments of calls whose images are not there yet.

    Attributes
    ----------
    given : tuple
        What follows w and b in `begin_forward`, as tuples and plain words.
    recall_plan : callable
        The plan for images of a shape and type, which it remembers.
    """

    given: tuple[Any, ...]
    recall_plan: Callable[[Shape, str], Plan]


def prepare(w: Array, b: Array | None, given: tuple[Any, ...]) -> Prepared:
    """Check all of a convolution's arguments but its images."""
    _, pad, dilation, group, _, layout, _ = given
    check_layout(layout)
    w_shape, w_type = w.shape, w.dtype.char
    b_shape, b_type = (None, None) if b is None else (b.shape, b.dtype.char)

    def plan(x_shape: Shape, x_type: str) -> Plan:
        available = _engines.all_engines()
        return make_plan(
            available, "conv", x_shape, x_type, w_shape, w_type, b_shape, b_type, given, True
        )

    image = least_image(w_shape_from(layout, w_shape), dilation=dilation, group=group)
    least = plan(x_shape_in(layout, image), w_type)
    g = least.geometry
    words = least.pad_mode, least.layout, least.engine
    given = (g.stride, as_pads(pad, g.rank), g.dilation, g.group, *words)
    return Prepared(given, functools.lru_cache(PLANS)(plan))


# --- backward ---------------------------------------------------------------------------------


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
        dx, dw, db = self.dx, self.dw, self.db
        return (
            None if dx is None else dx.finish(),
            None if dw is None else dw.finish(),
            None if db is None else db.finish(),
        )


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
    dtype, engine = recall_engine(
        _engines.all_engines(),
        forward.engine,
        forward.geometry,
        forward.pad_mode,
        images.dtype.char,
        forward.x.dtype.char,
        forward.w.dtype.char,
        (forward.w if forward.b is None else forward.b).dtype.char,
    )
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


@functools.lru_cache(maxsize=PLANS)
def recall_engine(
    _available: Engines,
    engine: str,
    geometry: Geometry,
    pad_mode: str,
    *types: str,
) -> tuple[np.dtype[Any], Engine]:
    """What a backward call computes in, and the engine that serves it."""
    dtype = np.result_type(*types)
    return dtype, select_engine(engine, geometry, dtype, pad_mode)


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
    for wish in wishes:
        if wish.asked and wish.given is not None:
            check_target(wish.name, wish.given, wish.shape, dtype)
    return [
        as_target(wish.name, wish.given, wish.shape, dtype, inputs, accumulate=wish.adds)
        if wish.asked
        else None
        for wish in wishes
    ]
