"""Pooling: the definition, one window at a time, and the same through columns.

A pool looks at each channel by itself. A window is the cells ``i = o*stride - pad + k*dilation`` of
one output position o, those of them that lie inside the image; its maximum is taken over these
alone, and so is the sum of an average. Three rules, on which libraries differ::

    a window over the end  with ceil_mode the last one may hang over the padded image, unless it
                           starts behind the image: then it is dropped
    the divisor            counts the cells inside the image; with count_include_pad those of the
                           padding too, but never what hangs over that
    the maximum            the first of equal cells, in row-major order; the first NaN before all

Arrays of any real type are taken. A maximum keeps it; an average of integers is float64.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastconv._geometry import Geometry, pool_geometry
from fastconv._layout import channels_first, check_layout
from fastconv._validation import Array, ArrayLike, IntOrPerAxis, Pad
from fastconv.reference._shared import (
    Index,
    check_dout,
    cropped,
    images_in,
    kernel_offsets,
    of_one_type,
)

# --- one window at a time ---------------------------------------------------------------------


def max_pool_forward_loops(
    x: ArrayLike,
    kernel_size: IntOrPerAxis,
    *,
    stride: IntOrPerAxis | None = None,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    ceil_mode: bool = False,
    layout: str = "NCHW",
) -> tuple[Array, Array]:
    """Take the maximum of every window, one window at a time.

    Parameters
    ----------
    x, kernel_size, stride, pad, dilation, ceil_mode, layout
        As in `fastconv.max_pool_forward`; x of any real type.

    Returns
    -------
    out : ndarray, (N, C, *O), or (N, *O, C) if the layout is NHWC
        The maxima, of x's type.
    indices : ndarray of int64, of out's shape
        Where each is in its channel: an index into the flattened plane S.

    Notes
    -----
    After the naive layers of CS231n, "Convolutional neural networks for visual recognition".

    Examples
    --------
    >>> from fastconv.reference import max_pool_forward_loops
    >>> out, indices = max_pool_forward_loops([[[3, 1, 4, 1, 5]]], 2, ceil_mode=True)
    >>> out
    array([[[3, 4, 5]]])
    >>> indices
    array([[[0, 2, 4]]])
    """
    geometry, x = _forward_arguments(x, kernel_size, stride, pad, dilation, ceil_mode, layout)
    out = np.zeros(geometry.result_shape, x.dtype)
    indices = np.zeros(geometry.result_shape, np.int64)
    for o, cells, _ in _windows(geometry, count_include_pad=False):
        for n, c in np.ndindex(geometry.batch, geometry.channels):
            best, *others = cells
            for i in others:
                value, largest = x[n, c, *i], x[n, c, *best]
                if value > largest or (np.isnan(value) and not np.isnan(largest)):
                    best = i
            out[n, c, *o] = x[n, c, *best]
            indices[n, c, *o] = np.ravel_multi_index(best, geometry.in_shape)
    return images_in(layout, out), images_in(layout, indices)


def max_pool_backward_loops(
    dout: ArrayLike,
    x: ArrayLike,
    kernel_size: IntOrPerAxis,
    *,
    stride: IntOrPerAxis | None = None,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    ceil_mode: bool = False,
    layout: str = "NCHW",
) -> Array:
    """Compute the gradient of a maximum pool, one window at a time.

    The cell that was a window's maximum gains the window's dout; windows that overlap may share it.

    Parameters
    ----------
    dout : array_like, of the forward result's shape
        The gradient of the loss with respect to the result.
    x, kernel_size, stride, pad, dilation, ceil_mode, layout
        As in the forward call.

    Returns
    -------
    dx : ndarray
        Of the shape of x.
    """
    geometry, dout, x = _backward_arguments(
        dout, x, kernel_size, stride, pad, dilation, ceil_mode, layout
    )
    _, indices = max_pool_forward_loops(
        x, kernel_size, stride=stride, pad=pad, dilation=dilation, ceil_mode=ceil_mode
    )
    dx = np.zeros_like(x)
    for n, c, *o in np.ndindex(geometry.result_shape):
        i = np.unravel_index(indices[n, c, *o], geometry.in_shape)
        dx[n, c, *i] += dout[n, c, *o]
    return images_in(layout, dx)


def avg_pool_forward_loops(
    x: ArrayLike,
    kernel_size: IntOrPerAxis,
    *,
    stride: IntOrPerAxis | None = None,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    layout: str = "NCHW",
) -> Array:
    """Take the average of every window, one window at a time.

    Parameters
    ----------
    x, kernel_size, stride, pad, dilation, ceil_mode, count_include_pad, layout
        As in `fastconv.avg_pool_forward`; x of any real type.

    Returns
    -------
    out : ndarray, (N, C, *O), or (N, *O, C) if the layout is NHWC
        Sum by divisor, of x's type, or float64 where that is an integer's.

    Examples
    --------
    The last window has one cell inside and one in the padding, which counts only if asked to:

    >>> from fastconv.reference import avg_pool_forward_loops
    >>> avg_pool_forward_loops([[[1, 2, 6]]], 2, pad=[(0, 1)])
    array([[[1.5, 6. ]]])
    >>> avg_pool_forward_loops([[[1, 2, 6]]], 2, pad=[(0, 1)], count_include_pad=True)
    array([[[1.5, 3. ]]])
    """
    geometry, x = _forward_arguments(x, kernel_size, stride, pad, dilation, ceil_mode, layout)
    out = np.zeros(geometry.result_shape, _quotient_type(x))
    for o, cells, divisor in _windows(geometry, count_include_pad):
        for n, c in np.ndindex(geometry.batch, geometry.channels):
            for i in cells:
                out[n, c, *o] += x[n, c, *i]
            out[n, c, *o] /= divisor
    return images_in(layout, out)


def avg_pool_backward_loops(
    dout: ArrayLike,
    x: ArrayLike,
    kernel_size: IntOrPerAxis,
    *,
    stride: IntOrPerAxis | None = None,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    layout: str = "NCHW",
) -> Array:
    """Compute the gradient of an average pool, one window at a time.

    Every cell of a window inside the image gains the window's dout by its divisor.

    Parameters
    ----------
    dout : array_like, of the forward result's shape
        The gradient of the loss with respect to the result.
    x, kernel_size, stride, pad, dilation, ceil_mode, count_include_pad, layout
        As in the forward call.

    Returns
    -------
    dx : ndarray
        Of the shape of x, and of float64 where both arrays are of integers.
    """
    geometry, dout, x = _backward_arguments(
        dout, x, kernel_size, stride, pad, dilation, ceil_mode, layout
    )
    dx = np.zeros(x.shape, _quotient_type(x))
    for o, cells, divisor in _windows(geometry, count_include_pad):
        for n, c in np.ndindex(geometry.batch, geometry.channels):
            for i in cells:
                dx[n, c, *i] += dout[n, c, *o] / divisor
    return images_in(layout, dx)


# --- through columns --------------------------------------------------------------------------


def max_pool_forward_im2col(
    x: ArrayLike,
    kernel_size: IntOrPerAxis,
    *,
    stride: IntOrPerAxis | None = None,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    ceil_mode: bool = False,
    layout: str = "NCHW",
) -> tuple[Array, Array]:
    """Take the maximum of every window as that of a column.

    With each channel an image of its own, a column of im2col is a window: a pool is a reduction
    over the rows.

    Parameters
    ----------
    x, kernel_size, stride, pad, dilation, ceil_mode, layout
        As in `fastconv.max_pool_forward`; x of any real type.

    Returns
    -------
    out : ndarray, (N, C, *O), or (N, *O, C) if the layout is NHWC
        The maxima, of x's type.
    indices : ndarray of int64, of out's shape
        Where each is in its channel: an index into the flattened plane S.

    Notes
    -----
    After `max_pool_forward_im2col` of CS231n, "Convolutional neural networks for visual
    recognition".

    Examples
    --------
    >>> from fastconv.reference import max_pool_forward_im2col
    >>> max_pool_forward_im2col([[[3, 1, 4, 1, 5]]], 3, stride=1)[0]
    array([[[4, 4, 5]]])
    """
    geometry, x = _forward_arguments(x, kernel_size, stride, pad, dilation, ceil_mode, layout)
    cols = _columns(geometry, x, _lowest(x.dtype))
    row = _rows_of_maxima(geometry, cols)
    cells = np.broadcast_to(_cells(geometry), cols.shape)
    out, indices = (np.take_along_axis(rows, row[None], 0)[0] for rows in (cols, cells))
    return images_in(layout, out), images_in(layout, indices)


def max_pool_backward_im2col(
    dout: ArrayLike,
    x: ArrayLike,
    kernel_size: IntOrPerAxis,
    *,
    stride: IntOrPerAxis | None = None,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    ceil_mode: bool = False,
    layout: str = "NCHW",
) -> Array:
    """Compute the gradient of a maximum pool through columns.

    A column of zeros but for dout in the row of its maximum, for each window; then col2im.

    Parameters
    ----------
    dout : array_like, of the forward result's shape
        The gradient of the loss with respect to the result.
    x, kernel_size, stride, pad, dilation, ceil_mode, layout
        As in the forward call.

    Returns
    -------
    dx : ndarray
        Of the shape of x.
    """
    geometry, dout, x = _backward_arguments(
        dout, x, kernel_size, stride, pad, dilation, ceil_mode, layout
    )
    cols = _columns(geometry, x, _lowest(x.dtype))
    dcols = np.zeros_like(cols)
    np.put_along_axis(dcols, _rows_of_maxima(geometry, cols)[None], dout[None], 0)
    return images_in(layout, _add_columns(geometry, dcols))


def avg_pool_forward_im2col(
    x: ArrayLike,
    kernel_size: IntOrPerAxis,
    *,
    stride: IntOrPerAxis | None = None,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    layout: str = "NCHW",
) -> Array:
    """Take the average of every window as that of a column.

    Parameters
    ----------
    x, kernel_size, stride, pad, dilation, ceil_mode, count_include_pad, layout
        As in `fastconv.avg_pool_forward`; x of any real type.

    Returns
    -------
    out : ndarray, (N, C, *O), or (N, *O, C) if the layout is NHWC
        Sum by divisor, of x's type, or float64 where that is an integer's.

    Examples
    --------
    >>> from fastconv.reference import avg_pool_forward_im2col
    >>> avg_pool_forward_im2col([[[1, 2, 6]]], 2, stride=1)
    array([[[1.5, 4. ]]])
    """
    geometry, x = _forward_arguments(x, kernel_size, stride, pad, dilation, ceil_mode, layout)
    dtype = _quotient_type(x)
    sums = _columns(geometry, x, 0).sum(axis=0, dtype=dtype)
    return images_in(layout, sums / _divisors(geometry, count_include_pad).astype(dtype))


def avg_pool_backward_im2col(
    dout: ArrayLike,
    x: ArrayLike,
    kernel_size: IntOrPerAxis,
    *,
    stride: IntOrPerAxis | None = None,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    layout: str = "NCHW",
) -> Array:
    """Compute the gradient of an average pool through columns.

    A column of dout by its divisor in every row, for each window; then col2im.

    Parameters
    ----------
    dout : array_like, of the forward result's shape
        The gradient of the loss with respect to the result.
    x, kernel_size, stride, pad, dilation, ceil_mode, count_include_pad, layout
        As in the forward call.

    Returns
    -------
    dx : ndarray
        Of the shape of x, and of float64 where both arrays are of integers.
    """
    geometry, dout, x = _backward_arguments(
        dout, x, kernel_size, stride, pad, dilation, ceil_mode, layout
    )
    dtype = _quotient_type(x)
    share = dout.astype(dtype) / _divisors(geometry, count_include_pad).astype(dtype)
    dcols = np.broadcast_to(share, (math.prod(geometry.kernel_size), *share.shape))
    return images_in(layout, _add_columns(geometry, dcols))


# --- the parts --------------------------------------------------------------------------------


def _forward_arguments(
    x: ArrayLike,
    kernel_size: IntOrPerAxis,
    stride: IntOrPerAxis | None,
    pad: Pad,
    dilation: IntOrPerAxis,
    ceil_mode: bool,
    layout: str,
) -> tuple[Geometry, Array]:
    """Return the sizes of a pool, and x channels first."""
    check_layout(layout)
    (images,) = of_one_type(x)
    images = channels_first(images, layout)
    geometry = pool_geometry(
        images.shape, kernel_size, stride=stride, pad=pad, dilation=dilation, ceil_mode=ceil_mode
    )
    return geometry, images


def _backward_arguments(
    dout: ArrayLike,
    x: ArrayLike,
    kernel_size: IntOrPerAxis,
    stride: IntOrPerAxis | None,
    pad: Pad,
    dilation: IntOrPerAxis,
    ceil_mode: bool,
    layout: str,
) -> tuple[Geometry, Array, Array]:
    """Return the sizes of a pool, and dout and x channels first and of one type."""
    dout, x = of_one_type(dout, x)
    geometry, x = _forward_arguments(x, kernel_size, stride, pad, dilation, ceil_mode, layout)
    dout = channels_first(dout, layout)
    check_dout(dout, geometry.result_shape)
    return geometry, dout, x


def _quotient_type(x: Array) -> np.dtype[Any]:
    """Return the floating type of x by an integer."""
    return np.result_type(x.dtype, 0.0)


def _lowest(dtype: np.dtype[Any]) -> float:
    """Return what is not above any value of the type: the padding of a maximum."""
    return -np.inf if dtype.kind == "f" else int(np.iinfo(dtype).min)


def _windows(
    geometry: Geometry, count_include_pad: bool
) -> Iterator[tuple[Index, list[Index], int]]:
    """Yield each output position, the cells of its window inside the image, and the divisor."""
    sizes = list(
        zip(
            geometry.kernel_size,
            geometry.stride,
            geometry.dilation,
            geometry.pad,
            geometry.in_shape,
            strict=True,
        )
    )
    for o in np.ndindex(geometry.out_shape):
        inside, counted = [], []
        for position, (kernel, stride, dilation, (before, after), size) in zip(
            o, sizes, strict=True
        ):
            taps = [position * stride - before + k * dilation for k in range(kernel)]
            inside.append([i for i in taps if 0 <= i < size])
            counted.append([i for i in taps if -before <= i < size + after])
        divisor = math.prod(map(len, counted if count_include_pad else inside))
        yield o, list(itertools.product(*inside)), divisor


def _columns(geometry: Geometry, x: Array, fill: float) -> Array:
    """Return the columns (prod(K), N, C, *O) of x (N, C, *S), with `fill` outside it."""
    frame = np.pad(x, ((0, 0), (0, 0), *geometry.pad), constant_values=fill)
    return _columns_of_frame(geometry, frame, fill)


def _columns_of_frame(geometry: Geometry, frame: Array, fill: float) -> Array:
    """Return the columns (prod(K), N, C, *O) of a padded image, with `fill` over its end."""
    over = ((0, cells) for cells in _overhang(geometry))
    frame = np.pad(frame, ((0, 0), (0, 0), *over), constant_values=fill)
    return np.stack([frame[:, :, *window] for _, window in kernel_offsets(geometry)])


def _add_columns(geometry: Geometry, dcols: Array) -> Array:
    """Return dx (N, C, *S), the sum over all windows: the adjoint of `_columns`."""
    sizes = zip(geometry.padded_shape, _overhang(geometry), strict=True)
    shape = (geometry.batch, geometry.channels, *(size + over for size, over in sizes))
    dx = np.zeros(shape, dcols.dtype)
    for row, (_, window) in zip(dcols, kernel_offsets(geometry), strict=True):
        dx[:, :, *window] += row
    return cropped(geometry, dx)


def _overhang(geometry: Geometry) -> Iterator[int]:
    """Yield by how many cells the last window hangs over the padded image, on each axis."""
    for kernel, stride, dilation, count, size in zip(
        geometry.kernel_size,
        geometry.stride,
        geometry.dilation,
        geometry.out_shape,
        geometry.padded_shape,
        strict=True,
    ):
        yield max(stride * (count - 1) + dilation * (kernel - 1) + 1 - size, 0)


def _cells(geometry: Geometry) -> Array:
    """Return the columns (prod(K), 1, 1, *O) of the cells' own indices, with -1 outside."""
    plane = np.arange(math.prod(geometry.in_shape)).reshape(1, 1, *geometry.in_shape)
    return _columns(geometry, plane, -1)


def _rows_of_maxima(geometry: Geometry, cols: Array) -> Array:
    """Return the row (N, C, *O) of each column's first NaN, or else of its first maximum.

    The argmax of the columns themselves may be padding, where all of a window is as low.
    """
    found = (cols == cols.max(axis=0)) | np.isnan(cols)
    rows: Array = np.argmax(found & (_cells(geometry) >= 0), axis=0)
    return rows


def _divisors(geometry: Geometry, count_include_pad: bool) -> Array:
    """Return how many cells each average divides by (1, 1, *O)."""
    frame = np.pad(
        np.ones((1, 1, *geometry.in_shape), np.int64),
        ((0, 0), (0, 0), *geometry.pad),
        constant_values=int(count_include_pad),
    )
    divisors: Array = _columns_of_frame(geometry, frame, 0).sum(axis=0)
    return divisors
