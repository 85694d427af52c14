"""The gradients of a convolution, said as convolutions.

The recipes "convolve dout with the flipped kernel" and "convolve x with dout" are usually given for
stride 1 and a kernel that tiles the image. They hold for every stride, dilation and edge, once dout
has been given back the zeros that the stride left out, and the edge its remainder.
"""

import math

import numpy as np

from fastconv._geometry import Geometry, conv_geometry, window_geometry
from fastconv._validation import Array, ArrayLike, IntOrPerAxis, Pad, Pairs, as_int, as_shape
from fastconv.reference._shared import check_dout, of_one_type
from fastconv.reference.strided import conv_forward_strided


def conv_dx_rotated(
    dout: ArrayLike,
    w: ArrayLike,
    x_shape: tuple[int, ...],
    *,
    stride: IntOrPerAxis = 1,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    group: int = 1,
) -> Array:
    """Compute dx as a convolution of dout with the rotated kernel.

    ``dx = conv(frame(dilate(dout)), rotate(w), stride=1, dilation=dilation, group=group)``, where

    - `dilate` puts ``stride - 1`` zeros between neighbours: ``stride*(O - 1) + 1`` cells;
    - `frame` puts ``E - 1 - before`` zeros before and ``E - 1 - after + r`` after them, and crops
      where that is negative; ``E = dilation*(K - 1) + 1`` is the kernel's extent, `before` and
      `after` are the pads, and ``r = (S + before + after - E) % stride`` cells of the padded image
      lie behind its last window;
    - `rotate` turns the kernel by 180 degrees and swaps its channels and filters.

    Parameters
    ----------
    dout : array_like, (N, F, *O)
        The gradient of the loss with respect to the result.
    w : array_like, (F, C/group, *K)
        The filters.
    x_shape : tuple of int
        (N, C, *S).
    stride, pad, dilation, group
        As in the forward call.

    Returns
    -------
    dx : ndarray, (N, C, *S)
        The gradient with respect to x.

    Notes
    -----
    The relations are those of Dumoulin and Visin, "A guide to convolution arithmetic for deep
    learning" (2016), chapter 4, extended to dilation and uneven pads.

    Examples
    --------
    The forward pass reads cells 0 and 1, then 3 and 4, and never cell 2 or the last (r is 1):

    >>> from fastconv.reference import conv_dx_rotated
    >>> conv_dx_rotated([[[1, 10]]], [[[2, 5]]], (1, 1, 6), stride=3)
    array([[[ 2,  5,  0, 20, 50,  0]]])
    """
    shape = as_shape("x_shape", x_shape)
    dout, w = of_one_type(dout, w)
    geometry = conv_geometry(shape, w.shape, stride=stride, pad=pad, dilation=dilation, group=group)
    check_dout(dout, geometry.result_shape)
    if math.prod(shape) == 0:
        return np.zeros(shape, dout.dtype)  # there is nothing to convolve to
    framed = _frame(_dilate(dout, geometry.stride), _frame_widths(geometry))
    rotated = _rotate(w, geometry.group)
    return conv_forward_strided(framed, rotated, dilation=geometry.dilation, group=geometry.group)


def conv_dw_conv(
    x: ArrayLike,
    dout: ArrayLike,
    kernel_size: IntOrPerAxis,
    *,
    stride: IntOrPerAxis = 1,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    group: int = 1,
) -> Array:
    """Compute dw as a convolution of x with dout, stride and dilation exchanged.

    ``dw[f, c, k...] = sum(x[n, c, k*dilation - pad + o*stride] * dout[n, f, o...])`` over n and o
    is a convolution again: k is now the output position and o the kernel index; the samples are
    what is summed over, so they stand where channels do. Where the stride leaves a remainder at the
    edge, the result may run past the kernel's size, and is cut.

    Parameters
    ----------
    x : array_like, (N, C, *S)
        The images.
    dout : array_like, (N, F, *O)
        The gradient of the loss with respect to the result.
    kernel_size : int or one an axis
        K.
    stride, pad, dilation, group
        As in the forward call.

    Returns
    -------
    dw : ndarray, (F, C/group, *K)
        The gradient with respect to w.

    Examples
    --------
    >>> from fastconv.reference import conv_dw_conv
    >>> conv_dw_conv([[[1, 2, 3, 4, 5, 6]]], [[[1, 10]]], 2, stride=3)
    array([[[41, 52]]])
    """
    x, dout = of_one_type(x, dout)
    window = window_geometry(x.shape, kernel_size, stride=stride, pad=pad, dilation=dilation)
    groups = as_int("group", group, 1)
    w_shape = (*dout.shape[1:2], window.channels // groups, *window.kernel_size)
    geometry = conv_geometry(
        x.shape, w_shape, stride=stride, pad=pad, dilation=dilation, group=groups
    )
    check_dout(dout, geometry.result_shape)
    if geometry.batch == 0:
        return np.zeros(w_shape, x.dtype)  # there is nothing to sum over
    dw = conv_forward_strided(
        _samples_as_channels(x, groups),
        dout.swapaxes(0, 1),
        stride=geometry.dilation,
        pad=geometry.pad,
        dilation=geometry.stride,
        group=groups,
    )
    return dw.swapaxes(0, 1)[:, :, *map(slice, geometry.kernel_size)]


def _dilate(x: Array, stride: tuple[int, ...]) -> Array:
    """Put ``stride - 1`` zeros between neighbours."""
    sizes = (s * (size - 1) + 1 for s, size in zip(stride, x.shape[2:], strict=True))
    dilated = np.zeros((*x.shape[:2], *sizes), x.dtype)
    dilated[:, :, *(slice(None, None, s) for s in stride)] = x
    return dilated


def _frame_widths(geometry: Geometry) -> Pairs:
    """Return the zeros to put before and after the dilated dout, negative to crop."""
    widths = []
    for size, kernel, stride, (before, after), dilation in zip(
        geometry.in_shape,
        geometry.kernel_size,
        geometry.stride,
        geometry.pad,
        geometry.dilation,
        strict=True,
    ):
        extent = dilation * (kernel - 1) + 1
        remainder = (size + before + after - extent) % stride
        widths.append((extent - 1 - before, extent - 1 - after + remainder))
    return tuple(widths)


def _frame(x: Array, widths: Pairs) -> Array:
    """Pad x with zeros where a width is positive, then crop where one is negative."""
    added = [(max(before, 0), max(after, 0)) for before, after in widths]
    framed = np.pad(x, [(0, 0), (0, 0), *added])
    kept = (
        slice(max(-before, 0), size - max(-after, 0))
        for size, (before, after) in zip(framed.shape[2:], widths, strict=True)
    )
    return framed[:, :, *kept]


def _rotate(w: Array, group: int) -> Array:
    """Turn w (F, C/group, *K) by 180 degrees into (C, F/group, *K)."""
    filters, channels, *kernel = w.shape
    turned = np.flip(w, axis=tuple(range(2, w.ndim)))
    split = turned.reshape(group, filters // group, channels, *kernel)
    return split.swapaxes(1, 2).reshape(group * channels, filters // group, *kernel)


def _samples_as_channels(x: Array, group: int) -> Array:
    """Bring x (N, C, *S) to (C/group, group * N, *S): what is summed over is the samples."""
    batch, channels, *size = x.shape
    split = x.reshape(batch, group, channels // group, *size)
    return np.moveaxis(split, (2, 1, 0), (0, 1, 2)).reshape(channels // group, group * batch, *size)
