"""Convolution with weights that are checked, copied and packed once."""

import functools
from collections.abc import Callable
from typing import Any

from fastconv._calls import Plan, lay_out, prepare
from fastconv._layout import filters_as_in, filters_first
from fastconv._memory import Kept, as_constant
from fastconv._validation import (
    DILATION,
    GROUP,
    PAD,
    STRIDE,
    Array,
    ArrayLike,
    IntOrPerAxis,
    Pad,
    Pairs,
    as_floating,
)
from fastconv._workers import given_workers

NAMES = ("stride", "pad", "dilation", "group", "pad_mode", "layout", "engine")


class PreparedConv:
    """A convolution that is called many times with the same weights.

    Weights are checked and copied when it is made, and brought to the order that an engine reads
    them in, or transformed, by the first call that needs them so. A call gives the same result as
    `conv`, to the bit where the same engine computes it, without that work: it is most worth it
    where there are many weights and few positions.

    Parameters
    ----------
    w : array_like, (F, C/group, *K), or (*K, C/group, F) if the layout is NHWC
        The filters, float32 or float64. They are copied: later changes of w change no result.
    b : array_like, (F,), optional
        The bias, copied likewise.
    stride, pad, dilation, group, pad_mode, layout
        As for `conv_forward`.
    engine : str
        As for `conv_forward`. "auto" takes "winograd" for smaller layers than it does in `conv`,
        since there are no weights to transform; so the last bits may differ from those of `conv`.

    Attributes
    ----------
    w, b : ndarray, read-only
        The copies; b may be None.
    stride, dilation : tuple of int
    pad : tuple of (int, int), or "same" or "valid"
    group : int
    pad_mode, layout, engine : str

    Raises
    ------
    TypeError, ValueError
        As `conv_forward` does, for all that does not depend on the images.
    MemoryError
        No room for the copies.

    Notes
    -----
    It cannot be changed, may be called from many threads at once, and can be pickled (which keeps
    the weights and parameters; what was packed is packed again). Besides the copy of w it keeps a
    packed one for each engine and type that calls have taken: as large as w for "fused", up to 4
    times for "winograd" and 3x3 kernels, up to 8 times for others.

    Neither here nor in `conv` does "auto" look at the batch, so that a result's bits do not depend
    on it. For single images of some 7x7 cells "fused" is up to twice as fast as "winograd", which
    for eight of them is up to twice as fast as it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> w = np.ones((1, 1, 3, 3), np.float32)
    >>> blur = fastconv.PreparedConv(w / 9, pad=1, pad_mode="edge")
    >>> blur(np.eye(4, dtype=np.float32)[None, None])[0, 0].round(2)
    array([[0.56, 0.33, 0.11, 0.  ],
           [0.33, 0.33, 0.22, 0.11],
           [0.11, 0.22, 0.33, 0.33],
           [0.  , 0.11, 0.33, 0.56]], dtype=float32)
    """

    __slots__ = ("__weakref__", "_kept", "_recall_plan", "b", "w", *NAMES)

    w: Array
    b: Array | None
    stride: tuple[int, ...]
    pad: Pairs | str
    dilation: tuple[int, ...]
    group: int
    pad_mode: str
    layout: str
    engine: str
    _recall_plan: Callable[[tuple[int, ...], str], Plan]
    _kept: Kept

    def __init__(
        self,
        w: ArrayLike,
        b: ArrayLike | None = None,
        *,
        stride: IntOrPerAxis = STRIDE,
        pad: Pad = PAD,
        dilation: IntOrPerAxis = DILATION,
        group: int = GROUP,
        pad_mode: str = "constant",
        layout: str = "NCHW",
        engine: str = "auto",
    ) -> None:
        weights = as_floating("w", w)
        bias = None if b is None else as_floating("b", b)
        given = (stride, pad, dilation, group, pad_mode, layout, engine)
        prepared = prepare(weights, bias, given)
        order = prepared.given[-2]
        values: dict[str, Any] = {
            "w": filters_as_in(order, as_constant(filters_first(weights, order))),
            "b": None if bias is None else as_constant(bias),
            **dict(zip(NAMES, prepared.given, strict=True)),
            "_recall_plan": prepared.recall_plan,
            "_kept": {},
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __call__(
        self, x: ArrayLike, *, out: Array | None = None, workers: int | None = None
    ) -> Array:
        """Convolve a batch.

        Parameters
        ----------
        x : array_like, (N, C, *S), or (N, *S, C) if the layout is NHWC
            The images, float32 or float64. N may be 0.
        out : ndarray, optional
            Where to write the result; it may overlap x.
        workers : int, optional
            Threads to use, as for `conv_forward`.

        Returns
        -------
        out : ndarray, (N, F, *O), or (N, *O, F)
            Of the larger of the arrays' types.

        Raises
        ------
        TypeError, ValueError, MemoryError
            As `conv_forward` does.
        """
        images = as_floating("x", x)
        plan = self._recall_plan(images.shape, images.dtype.char)
        threads = given_workers(workers)
        call = lay_out(plan, images, self.w, self.b, out, threads, self._kept)
        call.convolve()
        return call.finish()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a PreparedConv cannot be changed, got a value for {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a PreparedConv cannot be changed, got a deletion of {name!r}")

    def __repr__(self) -> str:
        parameters = ", ".join(f"{name}={getattr(self, name)!r}" for name in NAMES)
        bias = "" if self.b is None else " with bias"
        return f"PreparedConv(w {self.w.shape} {self.w.dtype}{bias}, {parameters})"

    def __reduce__(self) -> tuple[Any, ...]:
        parameters = {name: getattr(self, name) for name in NAMES}
        return functools.partial(type(self), **parameters), (self.w, self.b)
