"""The column matrix for callers: im2col, its adjoint col2im, and im2col in pieces.

(Not named `im2col`, since a module of that name would hide the function.)
"""

from collections.abc import Iterator

from fastconv._columns import fill_columns, sum_columns
from fastconv._geometry import Geometry, window_geometry
from fastconv._memory import allocate, as_target
from fastconv._validation import (
    Array,
    ArrayLike,
    IntOrPerAxis,
    Pad,
    as_floating,
    as_int,
    as_shape,
    check_shape,
    check_size,
    common_dtype,
)


def im2col(
    x: ArrayLike,
    kernel_size: IntOrPerAxis,
    *,
    stride: IntOrPerAxis = 1,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    out: Array | None = None,
) -> Array:
    """Lay out the windows of a batch as columns.

    ``cols[n, (c, k...), (o...)] = x[n, c, o*stride - pad + k*dilation]``, 0 outside x. A
    convolution is then one matrix product a sample: ``w.reshape(F, -1) @ cols[n]``.

    Parameters
    ----------
    x : array_like, (N, C, *S)
        The images, float32 or float64, of any rank from 1 up. N may be 0.
    kernel_size : int or one an axis
        K, at least 1.
    stride, dilation : int or one an axis
        Cells from one window to the next, and from one of a window's elements to the next.
    pad : int, one an axis, (before, after) an axis, "same" or "valid"
        Cells of zeros around the image.
    out : ndarray, optional
        Where to write the columns; it may overlap x.

    Returns
    -------
    cols : ndarray, (N, C * prod(K), prod(O))
        Rows are ordered by channel, then kernel index, last axis fastest; columns are output
        positions in row-major order, with
        ``O = (S + pad before + pad after - dilation*(K - 1) - 1) // stride + 1``.

    Raises
    ------
    TypeError
        An array that is not float32 or float64, or is masked; a parameter that is not an integer.
    ValueError
        Shapes or parameters that do not fit, a kernel larger than the padded input, sizes that are
        too large.
    MemoryError
        No room for the columns: `im2col_blocks` makes them in pieces.

    Notes
    -----
    After Chellapilla, Puri and Simard, "High performance convolutional neural networks for document
    processing" (2006), in the order of Caffe's im2col.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    >>> fastconv.im2col(x, 2)
    array([[[1., 2., 4., 5.],
            [2., 3., 5., 6.],
            [4., 5., 7., 8.],
            [5., 6., 8., 9.]]])
    """
    images = as_floating("x", x)
    geometry = window_geometry(images.shape, kernel_size, stride=stride, pad=pad, dilation=dilation)
    check_size("cols", geometry.cols_shape)
    dtype = common_dtype(images)
    target = as_target("out", out, geometry.cols_shape, dtype, (images,), contiguous=True)
    fill_columns(geometry, images, target.work, slice(0, geometry.positions))
    return target.finish()


def col2im(
    cols: ArrayLike,
    x_shape: tuple[int, ...],
    kernel_size: IntOrPerAxis,
    *,
    stride: IntOrPerAxis = 1,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    out: Array | None = None,
) -> Array:
    """Add columns up to images: the adjoint of `im2col`.

    Starting from zeros, ``x[n, c, o*stride - pad + k*dilation] += cols[n, (c, k...), (o...)]``;
    what falls outside x is dropped. An element of x is summed in ascending order of k, whatever the
    rank, so that results are equal to the bit.

    Parameters
    ----------
    cols : array_like, (N, C * prod(K), prod(O))
        Columns as `im2col` gives them, float32 or float64.
    x_shape : tuple of int, (N, C, *S)
        The shape of the images.
    kernel_size, stride, pad, dilation
        As in `im2col`.
    out : ndarray, optional
        Where to write the images (overwritten, not added to); it may overlap cols.

    Returns
    -------
    x : ndarray, (N, C, *S)
        The images.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `im2col`; ValueError also for cols of another shape than `im2col` gives for `x_shape`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> cols = fastconv.im2col(np.ones((1, 1, 3, 3)), 2)
    >>> fastconv.col2im(cols, (1, 1, 3, 3), 2)
    array([[[[1., 2., 1.],
             [2., 4., 2.],
             [1., 2., 1.]]]])
    """
    columns = as_floating("cols", cols)
    shape = as_shape("x_shape", x_shape)
    geometry = window_geometry(shape, kernel_size, stride=stride, pad=pad, dilation=dilation)
    check_shape("cols", columns, geometry.cols_shape, f"im2col of x {shape}")
    dtype = common_dtype(columns)
    target = as_target("out", out, shape, dtype, (columns,))
    sum_columns(geometry, columns, target.work, slice(0, geometry.positions))
    return target.finish()


def im2col_blocks(
    x: ArrayLike,
    kernel_size: IntOrPerAxis,
    *,
    stride: IntOrPerAxis = 1,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    max_bytes: int = 2**24,
) -> Iterator[tuple[slice, slice, Array]]:
    """Yield the columns of `im2col` in pieces that fit a memory budget.

    Parameters
    ----------
    x, kernel_size, stride, pad, dilation
        As in `im2col`.
    max_bytes : int
        The size that a piece may have, at least that of one column, ``C * prod(K)`` elements. (An x
        that is misaligned or of foreign byte order is copied besides, a few samples at a time.)

    Yields
    ------
    samples, positions : slice
        Which part of the column matrices this is.
    cols : ndarray, (n, C * prod(K), p)
        ``im2col(x, ...)[samples, :, positions]``: several whole samples where they fit, else part
        of one. Every piece is written to the same memory: use it before asking for the next.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `im2col`, from the call itself; ValueError also for a `max_bytes` below one column.

    Examples
    --------
    A convolution that never holds more than 256 bytes of columns:

    >>> import numpy as np
    >>> import fastconv
    >>> x, w = np.ones((2, 1, 5, 5)), np.ones((3, 1, 2, 2))
    >>> out = np.empty((2, 3, 16))
    >>> for samples, positions, cols in fastconv.im2col_blocks(x, 2, max_bytes=256):
    ...     out[samples, :, positions] = w.reshape(3, 4) @ cols
    >>> bool((out.reshape(2, 3, 4, 4) == fastconv.conv(x, w)).all())
    True
    """
    images = as_floating("x", x)
    geometry = window_geometry(images.shape, kernel_size, stride=stride, pad=pad, dilation=dilation)
    dtype = common_dtype(images)
    budget = as_int("max_bytes", max_bytes, 1)
    columns = budget // (geometry.taps * dtype.itemsize)
    if columns < 1:
        raise ValueError(
            f"max_bytes must be at least one column, {geometry.taps * dtype.itemsize} bytes "
            f"({geometry.taps} taps of {dtype}), got {max_bytes!r}"
        )
    samples = min(max(columns // geometry.positions, 1), max(geometry.batch, 1))
    positions = min(columns, geometry.positions)
    buffer = allocate("the block of columns", (samples * geometry.taps * positions,), dtype)
    return _blocks(geometry, images, buffer, samples, positions)


def _blocks(
    geometry: Geometry, images: Array, buffer: Array, samples: int, positions: int
) -> Iterator[tuple[slice, slice, Array]]:
    for first in range(0, geometry.batch, samples):
        part = slice(first, min(first + samples, geometry.batch))
        for start in range(0, geometry.positions, positions):
            where = slice(start, min(start + positions, geometry.positions))
            shape = (part.stop - part.start, geometry.taps, where.stop - where.start)
            cols = buffer[: shape[0] * shape[1] * shape[2]].reshape(shape)
            fill_columns(geometry, images[part], cols, where)
            yield part, where, cols
