"""A view of all windows, then one matrix product.

A window is a place where the kernel lies. Their array has two axes more for each spatial one, but
nothing need be computed to index it: ``x[n, c, o*stride + k*dilation]`` is linear in o and k, so it
is the (padded) image itself under other strides. ::

    axis      n   c   k...              o...
    bytes     sn  sc  dilation*s...     stride*s...        where s are the image's own

The product wants a matrix, so the view is copied into one: that copy is im2col.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from fastconv._geometry import Geometry, conv_geometry
from fastconv._validation import Array, ArrayLike, IntOrPerAxis, Pad
from fastconv.reference._shared import (
    backward_arguments,
    bias_gradient,
    check_dout,
    cropped,
    filters_in,
    forward_arguments,
    images_in,
    kernel_offsets,
    padded,
    with_bias,
)


def conv_forward_strided(
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
    """Convolve a batch with filters as one matrix product over a strided view.

    ``out[n] = b + w @ cols[n]`` for w (F, C * prod(K)) and cols[n] (C * prod(K), prod(O)), group by
    group.

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
    After `conv_forward_strides` of CS231n, "Convolutional neural networks for visual recognition".

    Examples
    --------
    >>> from fastconv.reference import conv_forward_strided
    >>> conv_forward_strided([[[1, 2, 3, 4, 5]]], [[[1, 10, 100]]], stride=2)
    array([[[321, 543]]])
    """
    x, w, b = forward_arguments(layout, x, w, b)
    geometry = conv_geometry(
        x.shape, w.shape, stride=stride, pad=pad, dilation=dilation, group=group
    )
    out = _weight_matrix(geometry, w) @ _columns(geometry, x)
    return images_in(layout, with_bias(out.reshape(geometry.result_shape), b))


def conv_backward_strided(
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
    """Compute the gradients of a convolution, each as one matrix product.

    ``dw = sum(dout[n] @ cols[n].T)`` over n, and ``dcols[n] = w.T @ dout[n]``, of which every row
    is then added to dx where the windows had taken it from.

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
    rows = dout.reshape(
        geometry.batch, geometry.group, geometry.filters // geometry.group, geometry.positions
    )
    dcols = _weight_matrix(geometry, w).mT @ rows
    dw = (rows @ _columns(geometry, x).mT).sum(axis=0, dtype=x.dtype).reshape(w.shape)
    dx = _add_columns(geometry, dcols)
    return images_in(layout, dx), filters_in(layout, dw), bias_gradient(dout)


def _windows(geometry: Geometry, x: Array) -> Array:
    """View the windows (N, C, *K, *O) of a padded image; many of its elements share a cell."""
    sample, channel, *steps = x.strides
    return as_strided(
        x,
        (geometry.batch, geometry.channels, *geometry.kernel_size, *geometry.out_shape),
        (
            sample,
            channel,
            *(d * step for d, step in zip(geometry.dilation, steps, strict=True)),
            *(s * step for s, step in zip(geometry.stride, steps, strict=True)),
        ),
        writeable=False,
    )


def _columns(geometry: Geometry, x: Array) -> Array:
    """Return the column matrices (N, group, C/group * prod(K), prod(O)) of x (N, C, *S)."""
    return _windows(geometry, padded(geometry, x)).reshape(
        geometry.batch, geometry.group, geometry.taps // geometry.group, geometry.positions
    )


def _add_columns(geometry: Geometry, dcols: Array) -> Array:
    """Return dx (N, C, *S), the sum over all windows: the adjoint of `_columns`."""
    N, C = geometry.batch, geometry.channels
    windows = dcols.reshape(N, C, *geometry.kernel_size, *geometry.out_shape)
    dx = np.zeros((N, C, *geometry.padded_shape), dcols.dtype)
    for k, window in kernel_offsets(geometry):
        dx[:, :, *window] += windows[:, :, *k]
    return cropped(geometry, dx)


def _weight_matrix(geometry: Geometry, w: Array) -> Array:
    """Return the weights (group, F/group, C/group * prod(K))."""
    return w.reshape(
        geometry.group, geometry.filters // geometry.group, math.prod(geometry.w_shape[1:])
    )
