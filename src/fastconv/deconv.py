"""Transposed convolution of any rank: a convolution read backwards.

Its forward pass is a convolution's input gradient, its input gradient a convolution, its weight
gradient the same with the two images exchanged.
"""

from fastconv._calls import Cache, begin_backward, begin_forward
from fastconv._validation import (
    DILATION,
    GROUP,
    OUTPUT_PAD,
    PAD,
    STRIDE,
    Array,
    ArrayLike,
    ConvParam,
    IntOrPerAxis,
    Pad,
)


def deconv_forward(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    conv_param: ConvParam | None = None,
    *,
    stride: IntOrPerAxis = STRIDE,
    pad: Pad = PAD,
    dilation: IntOrPerAxis = DILATION,
    group: int = GROUP,
    output_pad: IntOrPerAxis = OUTPUT_PAD,
    pad_mode: str = "constant",
    layout: str = "NCHW",
    engine: str = "auto",
    out: Array | None = None,
    workers: int | None = None,
) -> tuple[Array, Cache]:
    """Convolve transposed (deconvolve) a batch and keep what the backward pass needs.

    Every input cell adds ``x[n, c, i...] * w[c, f, k...]`` to
    ``out[n, f, i*stride - pad + k*dilation]``; what falls outside is dropped. This is the adjoint
    of `conv` with the same parameters, and its input gradient.

    Parameters
    ----------
    x : array_like, (N, C, *S), or (N, *S, C) if the layout is NHWC
        The images, float32 or float64. N may be 0.
    w : array_like, (C, F/group, *K), or (*K, F/group, C) if the layout is NHWC
        The filters.
    b : array_like, (F,), optional
        The bias.
    stride : int or one an axis
        Output cells from one input cell's contribution to the next one's, at least 1.
    pad : int, one an axis, (before, after) an axis, "same" or "valid"
        Cells cut off around the result, at least 0. "same" cuts, or leaves room, for an output of
        ``stride * S``; "valid" cuts none.
    output_pad : int or one an axis
        Cells added after the last, less than the stride or the dilation: it chooses among the
        sizes that a convolution would have brought to S.
    pad_mode : {"constant", "reflect", "edge", "wrap"}
        Where what falls on the cells that `pad` cuts off goes: nowhere, or to the cells that a
        convolution with this `pad_mode` would read in their place. The result is its adjoint.
    conv_param, dilation, group, layout, engine, out, workers
        As in `conv_forward`; `conv_param` may have `output_pad` too.

    Returns
    -------
    out : ndarray, (N, F, *O), or (N, *O, F)
        ``O = stride*(S - 1) + dilation*(K - 1) + 1 - pad before - pad after + output_pad``; of the
        larger of the arrays' types.
    cache : object
        For `deconv_backward`. It refers to x, w and b, which must not be changed until then.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `conv_forward`, and ValueError for an `output_pad` out of range or an empty result.

    Notes
    -----
    After Caffe's DeconvolutionLayer; Zeiler et al., "Deconvolutional networks" (2010).

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([[[[1.0, 2.0]]]])
    >>> out, cache = fastconv.deconv_forward(x, np.ones((1, 1, 1, 3)), stride=2)
    >>> out
    array([[[[1., 1., 3., 2., 2.]]]])
    """
    given = (stride, pad, dilation, group, output_pad, pad_mode, layout, engine)
    call = begin_forward("deconv", x, w, b, conv_param, given, out, workers)
    plan = call.plan
    plan.serving.backward_x(plan.geometry, call.x, call.w, call.b, call.work, call.workers)
    return call.finish(), call.cache()


def deconv(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    conv_param: ConvParam | None = None,
    *,
    stride: IntOrPerAxis = STRIDE,
    pad: Pad = PAD,
    dilation: IntOrPerAxis = DILATION,
    group: int = GROUP,
    output_pad: IntOrPerAxis = OUTPUT_PAD,
    pad_mode: str = "constant",
    layout: str = "NCHW",
    engine: str = "auto",
    out: Array | None = None,
    workers: int | None = None,
) -> Array:
    """Convolve transposed (deconvolve) a batch: `deconv_forward` without the cache.

    Parameters, shapes and errors are those of `deconv_forward`.

    Returns
    -------
    out : ndarray, (N, F, *O), or (N, *O, F)
        The result.
    """
    given = (stride, pad, dilation, group, output_pad, pad_mode, layout, engine)
    call = begin_forward("deconv", x, w, b, conv_param, given, out, workers)
    plan = call.plan
    plan.serving.backward_x(plan.geometry, call.x, call.w, call.b, call.work, call.workers)
    return call.finish()


def deconv_backward(
    dout: ArrayLike,
    cache: Cache,
    *,
    propagate_down: tuple[bool, bool, bool] = (True, True, True),
    dx: Array | None = None,
    dw: Array | None = None,
    db: Array | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    """Compute the gradients of a transposed convolution.

    Parameters, results and errors are those of `conv_backward`, with the cache of `deconv_forward`
    and ``dw (C, F/group, *K)``.
    """
    forward, call = begin_backward("deconv", dout, cache, propagate_down, dx, dw, db)
    geometry, workers = forward.geometry, forward.workers
    if call.dx_work is not None:
        call.engine.forward(geometry, call.dout, forward.w, None, call.dx_work, workers)
    if call.dw_work is not None:
        call.engine.backward_w(geometry, call.dout, forward.x, call.dw_work, workers)
    if call.db is not None:
        call.engine.backward_b(call.dout, call.db.work, workers)
    return call.finish()
