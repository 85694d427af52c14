"""Transposed convolution of any rank: a convolution read backwards.

Its forward pass is a convolution's input gradient, its input gradient a convolution, its weight
gradient the same with the two images exchanged.
"""

from fastconv._calls import Cache, begin_backward
from fastconv._engines import select_engine
from fastconv._geometry import deconv_geometry
from fastconv._layout import channels_first, check_layout, filters_first, x_shape_in
from fastconv._memory import as_target
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
    as_bias,
    as_conv_params,
    as_floating,
    common_dtype,
)
from fastconv._workers import as_workers


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
    params = as_conv_params(
        conv_param, stride=stride, pad=pad, dilation=dilation, group=group, output_pad=output_pad
    )
    check_layout(layout)
    images = channels_first(as_floating("x", x), layout)
    weights = filters_first(as_floating("w", w), layout)
    geometry = deconv_geometry(images.shape, weights.shape, **params)
    bias = as_bias(b, geometry.channels)
    dtype = common_dtype(images, weights, bias)
    serving = select_engine(engine, geometry, dtype, pad_mode)
    threads = as_workers(workers)
    shape = x_shape_in(layout, geometry.x_shape)
    target = as_target("out", out, shape, dtype, (images, weights, bias))
    work = channels_first(target.work, layout)
    serving.backward_x(geometry, images, weights, bias, work, threads)
    cache = Cache("deconv", images, weights, bias, geometry, pad_mode, layout, engine, threads)
    return target.finish(), cache


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
    result, _ = deconv_forward(
        x,
        w,
        b,
        conv_param,
        stride=stride,
        pad=pad,
        dilation=dilation,
        group=group,
        output_pad=output_pad,
        pad_mode=pad_mode,
        layout=layout,
        engine=engine,
        out=out,
        workers=workers,
    )
    return result


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
