"""Shifted matrix products: one for each kernel offset, and no column matrix.

A kernel of one element is a matrix product over the channels. A larger one is a sum of such
kernels, each of which sees the image shifted by its offset (and thinned by the stride)::

    out = sum(x[:, kh:kh+OH*s:s, kw:kw+OW*s:s, :] @ w[kh, kw] for kh, kw in offsets)

Channels are last, since they are what the product sums over.
"""

import numpy as np

from fastconv._geometry import Geometry, conv_geometry, deconv_geometry
from fastconv._validation import Array, ArrayLike, IntOrPerAxis, Pad
from fastconv.reference._shared import (
    backward_arguments,
    bias_gradient,
    check_dout,
    cropped,
    filters_in,
    forward_arguments,
    groups,
    images_in,
    kernel_offsets,
    padded,
    with_bias,
)


def conv_forward_shifted(
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
    """Convolve a batch with filters as a sum of shifted matrix products.

    ``out = b + sum(x[:, o*stride + k*dilation, :] @ w[k])`` over the kernel indices k, for the
    padded x (N, *S, C), w (*K, C, F) and all output positions o together.

    Parameters
    ----------
    x, w, b, stride, pad, dilation, group, layout
        As in `fastconv.conv_forward`, of any numeric type. NHWC is the layout it works in.

    Returns
    -------
    out : ndarray, (N, F, *O), or (N, *O, F) if the layout is NHWC
        The result, of the largest type among the arrays.

    Notes
    -----
    After Vasudevan, Anderson and Gregg, "Parallel multi channel convolution using general matrix
    multiplication" (2017), who call it kn2row; they shift the products, here the image is shifted.

    Examples
    --------
    A kernel with a single 1 in it shifts the image:

    >>> from fastconv.reference import conv_forward_shifted
    >>> conv_forward_shifted([[[1, 2, 3, 4]]], [[[0, 0, 1]]], pad=1)
    array([[[2, 3, 4, 0]]])
    """
    x, w, b = forward_arguments(layout, x, w, b)
    geometry = conv_geometry(
        x.shape, w.shape, stride=stride, pad=pad, dilation=dilation, group=group
    )
    return images_in(layout, with_bias(_result(geometry, x, w), b))


def conv_backward_shifted(
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
    """Compute the gradients of a convolution as shifted matrix products.

    For each kernel index k, ``dx[:, o*stride + k*dilation, :] += dout @ w[k].T`` and
    ``dw[k] = x[:, o*stride + k*dilation, :].T @ dout``.

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
    dx, dw = _image_gradient(geometry, dout, w), _weight_gradient(geometry, x, dout)
    return images_in(layout, dx), filters_in(layout, dw), bias_gradient(dout)


def deconv_forward_shifted(
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
    """Convolve a batch transposed, as shifted matrix products.

    ``out[:, i*stride + k*dilation, :] += x @ w[k].T`` for each kernel index k and all input
    positions i together, from b; then the padding is cut off.

    Parameters
    ----------
    x, w, b, stride, pad, dilation, group, output_pad, layout
        As in `fastconv.deconv_forward`, of any numeric type.

    Returns
    -------
    out : ndarray, (N, F, *O), or (N, *O, F) if the layout is NHWC
        The result, of the largest type among the arrays.

    Examples
    --------
    With a kernel as long as the stride the copies do not overlap:

    >>> from fastconv.reference import deconv_forward_shifted
    >>> deconv_forward_shifted([[[1, 10, 100]]], [[[1, 2]]], stride=2)
    array([[[  1,   2,  10,  20, 100, 200]]])
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
    return images_in(layout, with_bias(_image_gradient(geometry, x, w), b))


def deconv_backward_shifted(
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
    """Compute the gradients of a transposed convolution as shifted matrix products.

    It is a convolution's input gradient, so dx is that convolution of dout, and dw is that
    convolution's with x and dout in each other's place.

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
    dx, dw = _result(geometry, dout, w), _weight_gradient(geometry, dout, x)
    return images_in(layout, dx), filters_in(layout, dw), bias_gradient(dout)


# --- the three walks, arrays channels first outside and last inside ----------------------------


def _result(geometry: Geometry, x: Array, w: Array) -> Array:
    """Return out (N, F, *O) of x (N, C, *S) and w (F, C/group, *K)."""
    image, kernel = images_in("NHWC", padded(geometry, x)), filters_in("NHWC", w)
    out = np.zeros((geometry.batch, *geometry.out_shape, geometry.filters), x.dtype)
    for k, window in kernel_offsets(geometry):
        for channels, filters in groups(geometry):
            out[..., filters] += image[:, *window, channels] @ kernel[*k, :, filters]
    return np.moveaxis(out, -1, 1)


def _image_gradient(geometry: Geometry, dout: Array, w: Array) -> Array:
    """Return dx (N, C, *S) of dout (N, F, *O) and w (F, C/group, *K)."""
    gradient, kernel = images_in("NHWC", dout), filters_in("NHWC", w)
    dx = np.zeros((geometry.batch, *geometry.padded_shape, geometry.channels), dout.dtype)
    for k, window in kernel_offsets(geometry):
        for channels, filters in groups(geometry):
            dx[:, *window, channels] += gradient[..., filters] @ kernel[*k, :, filters].T
    return cropped(geometry, np.moveaxis(dx, -1, 1))


def _weight_gradient(geometry: Geometry, x: Array, dout: Array) -> Array:
    """Return dw (F, C/group, *K) of x (N, C, *S) and dout (N, F, *O)."""
    image, gradient = images_in("NHWC", padded(geometry, x)), images_in("NHWC", dout)
    dw = np.zeros(geometry.w_shape, x.dtype)
    positions = range(x.ndim - 1)  # the samples, too, are summed over
    for k, window in kernel_offsets(geometry):
        for channels, filters in groups(geometry):
            dw[filters, :, *k] = np.tensordot(
                gradient[..., filters], image[:, *window, channels], (positions, positions)
            )
    return dw
