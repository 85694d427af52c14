"""Maximum and average pools of any rank, forward and backward."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, overload

import numpy as np

from fastconv import _pooling
from fastconv._geometry import Geometry, pool_geometry
from fastconv._layout import channels_first, check_layout, x_shape_in
from fastconv._memory import Target, allocate, as_target
from fastconv._validation import (
    DILATION,
    PAD,
    Array,
    ArrayLike,
    IntOrPerAxis,
    Pad,
    as_flag,
    as_floating,
    as_pool_params,
    check_shape,
    common_dtype,
)

# Cells that a maximum pool's window may have: its kernels number them with a C int.
MAX_CELLS = 2**31 - 1

Window: TypeAlias = IntOrPerAxis | Mapping[str, Any]


class MaxPoolCache(NamedTuple):
    """What `max_pool_forward` hands to `max_pool_backward`; its contents are not for callers.

    `taps` holds the number of each maximum's cell in its window, in a byte for windows of up to 256
    cells, else in four; x is not read again.
    """

    dtype: np.dtype[Any]
    geometry: Geometry
    layout: str
    taps: Array


class AvgPoolCache(NamedTuple):
    """What `avg_pool_forward` hands to `avg_pool_backward`; its contents are not for callers."""

    dtype: np.dtype[Any]
    geometry: Geometry
    layout: str
    count_include_pad: bool


Cache = TypeVar("Cache", MaxPoolCache, AvgPoolCache)
FORWARD = {MaxPoolCache: "max_pool_forward", AvgPoolCache: "avg_pool_forward"}


@overload
def max_pool_forward(
    x: ArrayLike,
    kernel_size: Window | None = ...,
    pool_param: Mapping[str, Any] | None = ...,
    *,
    stride: IntOrPerAxis | None = ...,
    pad: Pad = ...,
    dilation: IntOrPerAxis = ...,
    ceil_mode: bool = ...,
    layout: str = ...,
    return_indices: Literal[False] = ...,
    out: Array | None = ...,
) -> tuple[Array, MaxPoolCache]: ...
@overload
def max_pool_forward(
    x: ArrayLike,
    kernel_size: Window | None = ...,
    pool_param: Mapping[str, Any] | None = ...,
    *,
    stride: IntOrPerAxis | None = ...,
    pad: Pad = ...,
    dilation: IntOrPerAxis = ...,
    ceil_mode: bool = ...,
    layout: str = ...,
    return_indices: Literal[True],
    out: Array | None = ...,
) -> tuple[Array, MaxPoolCache, Array]: ...
def max_pool_forward(
    x: ArrayLike,
    kernel_size: Window | None = None,
    pool_param: Mapping[str, Any] | None = None,
    *,
    stride: IntOrPerAxis | None = None,
    pad: Pad = PAD,
    dilation: IntOrPerAxis = DILATION,
    ceil_mode: bool = False,
    layout: str = "NCHW",
    return_indices: bool = False,
    out: Array | None = None,
) -> tuple[Array, MaxPoolCache] | tuple[Array, MaxPoolCache, Array]:
    """Take the maximum of each window of each channel.

    ``out[n, c, o...] = max(x[n, c, o*stride - pad + k*dilation])`` over the kernel indices k whose
    cell lies in the image: padding is never the maximum. The rank, any from 1 up, is x's.

    Parameters
    ----------
    x : array_like, (N, C, *S), or (N, *S, C) if the layout is NHWC
        The images, float32 or float64. N may be 0.
    kernel_size : int, one an axis, or a dict
        The window; in its place also CS231n's dict.
    pool_param : dict, optional
        That dict by name: `pool_height` and `pool_width`, and any of `stride`, `pad`, `dilation`
        that are not also given as keywords.
    stride : int or one an axis, optional
        Cells from one window to the next; by default the kernel's size.
    pad : int, one an axis, (before, after) an axis, "same" or "valid"
        Cells around the image that windows may reach. "same" pads for an output of
        ``ceil(S / stride)``, the odd cell at the end; "valid" is 0.
    dilation : int or one an axis
        Cells from one of a window's elements to the next.
    ceil_mode : bool
        Whether the output size is rounded up, so that the last window may hang over the padded
        image, as Caffe pools. A window that would start behind the image is dropped.
    layout : {"NCHW", "NHWC"}
        The order of axes of x, out and the indices (for any rank).
    return_indices : bool
        Whether to return, too, where the maxima are.
    out : ndarray, optional
        Where to write the result; it may overlap x.

    Returns
    -------
    out : ndarray, (N, C, *O), or (N, *O, C)
        ``O = (S + pad before + pad after - dilation*(K - 1) - 1) / stride + 1``, rounded down, or
        up in `ceil_mode`. A window with a NaN gives NaN.
    cache : object
        For `max_pool_backward`.
    indices : ndarray of int64, the shape of out
        Only with `return_indices`: the index of each maximum in its channel's plane, in row-major
        order over S. The first of equal values counts, or the first NaN.

    Raises
    ------
    TypeError
        An array that is not float32 or float64 (nothing is cast silently) or is masked; a parameter
        that is not an integer; no kernel size or two.
    ValueError
        Shapes or parameters that do not fit, a kernel larger than the padded input, padding that
        leaves a window without a cell of the image, sizes that are too large.
    MemoryError
        No room for the result.

    Notes
    -----
    Sizes and the dropped window are those of Caffe's PoolingLayer (src/caffe/layers/
    pooling_layer.cpp) and PyTorch's `max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> out, cache, indices = fastconv.max_pool_forward(x, 2, return_indices=True)
    >>> out[0, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    >>> indices[0, 0]
    array([[ 5,  7],
           [13, 15]])
    """
    images, geometry = _begin(x, kernel_size, pool_param, stride, pad, dilation, ceil_mode, layout)
    cells = math.prod(geometry.kernel_size)
    if cells > MAX_CELLS:
        raise ValueError(f"kernel_size is too large: {cells} cells a window (limit 2**31 - 1)")
    wanted = as_flag("return_indices", return_indices)
    shape = x_shape_in(layout, geometry.result_shape)
    dtype = common_dtype(images)
    target = as_target("out", out, shape, dtype, (images,))
    taps = channels_first(allocate("taps", shape, _pooling.taps_dtype(geometry)), layout)
    indices = allocate("indices", shape if wanted else (0,), np.dtype(np.int64))
    _pooling.max_forward(geometry, images, channels_first(target.work, layout), taps)
    result, cache = target.finish(), MaxPoolCache(dtype, geometry, layout, taps)
    if not wanted:
        return result, cache
    _pooling.max_indices(geometry, taps, channels_first(indices, layout))
    return result, cache, indices


def max_pool(
    x: ArrayLike,
    kernel_size: Window | None = None,
    pool_param: Mapping[str, Any] | None = None,
    *,
    stride: IntOrPerAxis | None = None,
    pad: Pad = PAD,
    dilation: IntOrPerAxis = DILATION,
    ceil_mode: bool = False,
    layout: str = "NCHW",
    out: Array | None = None,
) -> Array:
    """Take the maximum of each window of each channel: `max_pool_forward` without the cache.

    It does not look for the places of the maxima, and takes some two thirds of the time.

    Parameters, shapes and errors are those of `max_pool_forward`.

    Returns
    -------
    out : ndarray, (N, C, *O), or (N, *O, C)
        The result.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.max_pool(np.array([[[1.0, 3, 2, 5]]]), 2)
    array([[[3., 5.]]])
    """
    images, geometry = _begin(x, kernel_size, pool_param, stride, pad, dilation, ceil_mode, layout)
    shape = x_shape_in(layout, geometry.result_shape)
    target = as_target("out", out, shape, common_dtype(images), (images,))
    _pooling.max_forward(geometry, images, channels_first(target.work, layout), None)
    return target.finish()


def max_pool_backward(dout: ArrayLike, cache: MaxPoolCache, *, dx: Array | None = None) -> Array:
    """Compute the gradient of a maximum pool: each element of dout goes to its window's maximum.

    Parameters
    ----------
    dout : array_like, (N, C, *O), or (N, *O, C) if the forward call's layout was NHWC
        The gradient of the loss with respect to the forward result.
    cache : object
        What `max_pool_forward` returned with that result.
    dx : ndarray, optional
        An array of x's shape to overwrite with the gradient.

    Returns
    -------
    dx : ndarray
        Of x's shape and the larger type of x and dout. Of several equal maxima the first gets the
        gradient; one that several windows share gets the sum.

    Raises
    ------
    TypeError
        dout or dx of the wrong type, or a cache that is none.
    ValueError
        A shape other than the forward call's, a read-only dx, a cache of another operation.
    MemoryError
        No room for the gradient.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> out, cache = fastconv.max_pool_forward(np.array([[[1.0, 3, 2, 2]]]), 2)
    >>> fastconv.max_pool_backward(np.array([[[10.0, 20]]]), cache)
    array([[[ 0., 10., 20.,  0.]]])
    """
    forward, gradient, target = _begin_backward(MaxPoolCache, dout, cache, dx)
    work = channels_first(target.work, forward.layout)
    _pooling.max_backward(forward.geometry, forward.taps, gradient, work)
    return target.finish()


def avg_pool_forward(
    x: ArrayLike,
    kernel_size: Window | None = None,
    pool_param: Mapping[str, Any] | None = None,
    *,
    stride: IntOrPerAxis | None = None,
    pad: Pad = PAD,
    dilation: IntOrPerAxis = DILATION,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    layout: str = "NCHW",
    out: Array | None = None,
) -> tuple[Array, AvgPoolCache]:
    """Take the average of each window of each channel.

    ``out[n, c, o...] = sum(x[n, c, o*stride - pad + k*dilation]) / divisor`` over the kernel
    indices k whose cell lies in the image. The divisor is the number of these cells, or with
    `count_include_pad` of all cells of the window that lie in the padded image: cells that hang
    over it in `ceil_mode` never count.

    Parameters
    ----------
    x, kernel_size, pool_param, stride, pad, dilation, ceil_mode, layout, out
        As in `max_pool_forward`.
    count_include_pad : bool
        Whether padding counts in the divisor. PyTorch's default is True, ONNX's False; Caffe counts
        it.

    Returns
    -------
    out : ndarray, (N, C, *O), or (N, *O, C)
        Its size is that of `max_pool_forward`.
    cache : object
        For `avg_pool_backward`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `max_pool_forward`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([[[6.0, 12, 18]]])
    >>> fastconv.avg_pool_forward(x, 3, stride=1, pad=1)[0]
    array([[[ 9., 12., 15.]]])
    >>> fastconv.avg_pool_forward(x, 3, stride=1, pad=1, count_include_pad=True)[0]
    array([[[ 6., 12., 10.]]])
    """
    images, geometry = _begin(x, kernel_size, pool_param, stride, pad, dilation, ceil_mode, layout)
    padding = as_flag("count_include_pad", count_include_pad)
    dtype = common_dtype(images)
    shape = x_shape_in(layout, geometry.result_shape)
    target = as_target("out", out, shape, dtype, (images,))
    work = channels_first(target.work, layout)
    _pooling.average_forward(geometry, images, work, padding)
    return target.finish(), AvgPoolCache(dtype, geometry, layout, padding)


def avg_pool(
    x: ArrayLike,
    kernel_size: Window | None = None,
    pool_param: Mapping[str, Any] | None = None,
    *,
    stride: IntOrPerAxis | None = None,
    pad: Pad = PAD,
    dilation: IntOrPerAxis = DILATION,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    layout: str = "NCHW",
    out: Array | None = None,
) -> Array:
    """Take the average of each window of each channel: `avg_pool_forward` without the cache.

    Parameters, shapes and errors are those of `avg_pool_forward`.

    Returns
    -------
    out : ndarray, (N, C, *O), or (N, *O, C)
        The result.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.avg_pool(np.array([[[1.0, 3, 2, 5]]]), 2)
    array([[[2. , 3.5]]])
    """
    result, _ = avg_pool_forward(
        x,
        kernel_size,
        pool_param,
        stride=stride,
        pad=pad,
        dilation=dilation,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        layout=layout,
        out=out,
    )
    return result


def avg_pool_backward(dout: ArrayLike, cache: AvgPoolCache, *, dx: Array | None = None) -> Array:
    """Compute the gradient of an average pool: each element of dout is shared by its window.

    Parameters
    ----------
    dout, dx
        As in `max_pool_backward`.
    cache : object
        What `avg_pool_forward` returned.

    Returns
    -------
    dx : ndarray
        Of x's shape and the larger type of x and dout.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `max_pool_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> out, cache = fastconv.avg_pool_forward(np.ones((1, 1, 4)), 2)
    >>> fastconv.avg_pool_backward(np.array([[[10.0, 20]]]), cache)
    array([[[ 5.,  5., 10., 10.]]])
    """
    forward, gradient, target = _begin_backward(AvgPoolCache, dout, cache, dx)
    work = channels_first(target.work, forward.layout)
    _pooling.average_backward(forward.geometry, gradient, work, forward.count_include_pad)
    return target.finish()


def _begin(
    x: object,
    kernel_size: object,
    pool_param: object,
    stride: object,
    pad: object,
    dilation: object,
    ceil_mode: object,
    layout: object,
) -> tuple[Array, Geometry]:
    """Check the arguments of a forward call: x channels first, and the geometry."""
    kernel, params = as_pool_params(
        kernel_size, pool_param, stride=stride, pad=pad, dilation=dilation
    )
    check_layout(layout)
    images = channels_first(as_floating("x", x), str(layout))
    geometry = pool_geometry(images.shape, kernel, ceil_mode=ceil_mode, **params)
    return images, geometry


def _begin_backward(
    kind: type[Cache], dout: object, cache: object, dx: Array | None
) -> tuple[Cache, Array, Target]:
    """Check the arguments of a backward call: the cache, dout channels first, and dx's target."""
    if not isinstance(cache, kind):
        if isinstance(cache, MaxPoolCache | AvgPoolCache):
            raise ValueError(f"cache: it comes from {FORWARD[type(cache)]}, not {FORWARD[kind]}")
        raise TypeError(
            f"cache: expected what {FORWARD[kind]} returned, got {type(cache).__name__}"
        )
    gradient = as_floating("dout", dout)
    expected = x_shape_in(cache.layout, cache.geometry.result_shape)
    check_shape("dout", gradient, expected, "that of the forward result")
    dtype = np.result_type(common_dtype(gradient), cache.dtype)
    shape = x_shape_in(cache.layout, cache.geometry.x_shape)
    target = as_target("dx", dx, shape, dtype, (gradient,))
    return cache, channels_first(gradient, cache.layout), target
