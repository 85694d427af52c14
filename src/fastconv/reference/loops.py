"""The definitions, one product at a time: slow, and as plain as they can be."""

from collections.abc import Iterator

import numpy as np

from fastconv._geometry import Geometry, conv_geometry, deconv_geometry, window_geometry
from fastconv._validation import Array, ArrayLike, IntOrPerAxis, Pad, as_shape, check_shape
from fastconv.reference._shared import (
    Index,
    backward_arguments,
    check_dout,
    filters_in,
    forward_arguments,
    images_in,
    with_bias,
)


def im2col_loops(
    x: ArrayLike,
    kernel_size: IntOrPerAxis,
    *,
    stride: IntOrPerAxis = 1,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
) -> Array:
    """Lay out the windows of a batch as columns.

    ``cols[n, (c, k...), (o...)] = x[n, c, o*stride - pad + k*dilation]``, and 0 outside x.

    Parameters
    ----------
    x : array_like, (N, C, *S)
        The images.
    kernel_size, stride, pad, dilation
        As in `fastconv.im2col`.

    Returns
    -------
    cols : ndarray, (N, C * prod(K), prod(O))
        A row is a channel and a kernel index, a column an output position.

    Notes
    -----
    After Chellapilla, Puri and Simard, "High performance convolutional neural networks for document
    processing" (2006), in the order of Caffe's im2col.

    Examples
    --------
    Every column is a window. Under a kernel of 2 the windows of 1 2 3 4 are 1 2, 2 3 and 3 4:

    >>> from fastconv.reference import im2col_loops
    >>> im2col_loops([[[1, 2, 3, 4]]], 2)
    array([[[1, 2, 3],
            [2, 3, 4]]])
    """
    x = np.asarray(x)
    geometry = window_geometry(x.shape, kernel_size, stride=stride, pad=pad, dilation=dilation)
    N, C = x.shape[:2]
    cols = np.zeros((N, C, *geometry.kernel_size, *geometry.out_shape), x.dtype)
    for n, c in np.ndindex(N, C):
        for k, o, i in _meetings(geometry):
            cols[n, c, *k, *o] = x[n, c, *i]
    return cols.reshape(geometry.cols_shape)


def col2im_loops(
    cols: ArrayLike,
    x_shape: tuple[int, ...],
    kernel_size: IntOrPerAxis,
    *,
    stride: IntOrPerAxis = 1,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
) -> Array:
    """Add the columns back to where `im2col_loops` took them from.

    ``x[n, c, o*stride - pad + k*dilation] += cols[n, (c, k...), (o...)]``: the adjoint of im2col,
    not its inverse, since a cell is in many windows or in none. The additions are made in the order
    of the columns' indices, as Caffe makes them.

    Parameters
    ----------
    cols : array_like, (N, C * prod(K), prod(O))
        The columns.
    x_shape : tuple of int
        (N, C, *S).
    kernel_size, stride, pad, dilation
        As in `fastconv.im2col`.

    Returns
    -------
    x : ndarray, (N, C, *S)
        The sums.

    Examples
    --------
    Going there and back multiplies each cell by the number of windows that it is in:

    >>> from fastconv.reference import col2im_loops, im2col_loops
    >>> col2im_loops(im2col_loops([[[1, 1, 1, 1]]], 2), (1, 1, 4), 2)
    array([[[1, 2, 2, 1]]])
    """
    cols = np.asarray(cols)
    shape = as_shape("x_shape", x_shape)
    geometry = window_geometry(shape, kernel_size, stride=stride, pad=pad, dilation=dilation)
    check_shape("cols", cols, geometry.cols_shape, "(N, C * prod(K), prod(O))")
    N, C = shape[:2]
    cols = cols.reshape(N, C, *geometry.kernel_size, *geometry.out_shape)
    x = np.zeros(shape, cols.dtype)
    for n, c in np.ndindex(N, C):
        for k, o, i in _meetings(geometry):
            x[n, c, *i] += cols[n, c, *k, *o]
    return x


def conv_forward_loops(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    stride: IntOrPerAxis = 1,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    group: int = 1,
    layout: str = "NCHW",
) -> Array:
    """Convolve a batch with filters, one product at a time.

    ``out[n, f, o...] = b[f] + sum(x[n, c, o*stride - pad + k*dilation] * w[f, c, k...])`` over c
    and k.

    Parameters
    ----------
    x, w, b, stride, pad, dilation, group, layout
        As in `fastconv.conv_forward`, of any numeric type.

    Returns
    -------
    out : ndarray, (N, F, *O), or (N, *O, F) if the layout is NHWC
        The result, of the largest type among the arrays.

    Notes
    -----
    After the naive layers of CS231n, "Convolutional neural networks for visual recognition".

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv.reference import conv_forward_loops
    >>> x = np.arange(36).reshape(1, 1, 6, 6)
    >>> w = np.arange(9).reshape(1, 1, 3, 3)
    >>> conv_forward_loops(x, w)
    array([[[[ 366,  402,  438,  474],
             [ 582,  618,  654,  690],
             [ 798,  834,  870,  906],
             [1014, 1050, 1086, 1122]]]])
    """
    x, w, b = forward_arguments(layout, x, w, b)
    geometry = conv_geometry(
        x.shape, w.shape, stride=stride, pad=pad, dilation=dilation, group=group
    )
    out = np.zeros(geometry.result_shape, x.dtype)
    for at_out, at_x, at_w in _products(geometry):
        out[at_out] += x[at_x] * w[at_w]
    return images_in(layout, with_bias(out, b))


def conv_backward_loops(
    dout: ArrayLike,
    x: ArrayLike,
    w: ArrayLike,
    *,
    stride: IntOrPerAxis = 1,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    group: int = 1,
    layout: str = "NCHW",
) -> tuple[Array, Array, Array]:
    """Compute the gradients of a convolution, one product at a time.

    Where the convolution adds ``x[...] * w[...]`` to ``out[...]``, dx gains ``dout[...] * w[...]``
    and dw gains ``dout[...] * x[...]``; db is the sum of dout over all but the filters.

    Parameters
    ----------
    dout : array_like, of the forward result's shape
        The gradient of the loss with respect to the result.
    x, w, stride, pad, dilation, group, layout
        As in the forward call.

    Returns
    -------
    dx, dw, db : ndarray
        Of the shapes of x, w and (F,).
    """
    dout, x, w = backward_arguments(layout, dout, x, w)
    geometry = conv_geometry(
        x.shape, w.shape, stride=stride, pad=pad, dilation=dilation, group=group
    )
    check_dout(dout, geometry.result_shape)
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    for at_out, at_x, at_w in _products(geometry):
        dx[at_x] += dout[at_out] * w[at_w]
        dw[at_w] += dout[at_out] * x[at_x]
    return images_in(layout, dx), filters_in(layout, dw), _bias_gradient(dout)


def deconv_forward_loops(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    stride: IntOrPerAxis = 1,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    group: int = 1,
    output_pad: IntOrPerAxis = 0,
    layout: str = "NCHW",
) -> Array:
    """Convolve a batch transposed, one product at a time.

    ``out[n, f, i*stride - pad + k*dilation] += x[n, c, i...] * w[c, f, k...]``, from ``b[f]``; what
    falls outside is dropped. It is a convolution's input gradient: x stands for dout, out for dx.

    Parameters
    ----------
    x, w, b, stride, pad, dilation, group, output_pad, layout
        As in `fastconv.deconv_forward`, of any numeric type.

    Returns
    -------
    out : ndarray, (N, F, *O), or (N, *O, F) if the layout is NHWC
        The result, of the largest type among the arrays.

    Notes
    -----
    The name is that of Caffe's layer; Dumoulin and Visin, "A guide to convolution arithmetic for
    deep learning" (2016), chapter 4, draws it.

    Examples
    --------
    Each cell of the input leaves its multiple of the kernel, a stride apart; overlaps add up:

    >>> from fastconv.reference import deconv_forward_loops
    >>> deconv_forward_loops([[[1, 10, 100]]], [[[1, 2, 3]]], stride=2)
    array([[[  1,   2,  13,  20, 130, 200, 300]]])
    """
    x, w, b = forward_arguments(layout, x, w, b)
    geometry = deconv_geometry(
        x.shape,
        w.shape,
        stride=stride,
        pad=pad,
        dilation=dilation,
        group=group,
        output_pad=output_pad,
    )
    out = np.zeros(geometry.x_shape, x.dtype)
    for at_x, at_out, at_w in _products(geometry):
        out[at_out] += x[at_x] * w[at_w]
    return images_in(layout, with_bias(out, b))


def deconv_backward_loops(
    dout: ArrayLike,
    x: ArrayLike,
    w: ArrayLike,
    *,
    stride: IntOrPerAxis = 1,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    group: int = 1,
    output_pad: IntOrPerAxis = 0,
    layout: str = "NCHW",
) -> tuple[Array, Array, Array]:
    """Compute the gradients of a transposed convolution, one product at a time.

    Where it adds ``x[...] * w[...]`` to ``out[...]``, dx gains ``dout[...] * w[...]`` and dw gains
    ``dout[...] * x[...]``; db is the sum of dout over all but the filters.

    Parameters
    ----------
    dout : array_like, of the forward result's shape
        The gradient of the loss with respect to the result.
    x, w, stride, pad, dilation, group, output_pad, layout
        As in the forward call.

    Returns
    -------
    dx, dw, db : ndarray
        Of the shapes of x, w and (F,).
    """
    dout, x, w = backward_arguments(layout, dout, x, w)
    geometry = deconv_geometry(
        x.shape,
        w.shape,
        stride=stride,
        pad=pad,
        dilation=dilation,
        group=group,
        output_pad=output_pad,
    )
    check_dout(dout, geometry.x_shape)
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    for at_x, at_out, at_w in _products(geometry):
        dx[at_x] += dout[at_out] * w[at_w]
        dw[at_w] += dout[at_out] * x[at_x]
    return images_in(layout, dx), filters_in(layout, dw), _bias_gradient(dout)


def _meetings(geometry: Geometry) -> Iterator[tuple[Index, Index, Index]]:
    """Yield every kernel index k, output position o and cell i of the image that meet there."""
    axes = list(zip(geometry.stride, geometry.dilation, geometry.pad, strict=True))
    for k in np.ndindex(geometry.kernel_size):
        for o in np.ndindex(geometry.out_shape):
            i = tuple(
                position * stride - before + index * dilation
                for position, index, (stride, dilation, (before, _)) in zip(o, k, axes, strict=True)
            )
            if all(0 <= cell < size for cell, size in zip(i, geometry.in_shape, strict=True)):
                yield k, o, i


def _products(geometry: Geometry) -> Iterator[tuple[Index, Index, Index]]:
    """Yield, for every product of a convolution, its indices into out, x and w."""
    meetings = list(_meetings(geometry))
    channels, filters = geometry.channels // geometry.group, geometry.filters // geometry.group
    for n, f, row in np.ndindex(geometry.batch, geometry.filters, channels):
        c = f // filters * channels + row
        for k, o, i in meetings:
            yield (n, f, *o), (n, c, *i), (f, row, *k)


def _bias_gradient(dout: Array) -> Array:
    """Return db (F,): ``db[f] += dout[n, f, o...]``."""
    db = np.zeros(dout.shape[1], dout.dtype)
    for n, f, *o in np.ndindex(dout.shape):
        db[f] += dout[n, f, *o]
    return db
