"""CS231n's convolution and pooling under the course's own names: change the import, no more.

In `cs231n/layers.py`, `fast_layers.py` and the notebook, write ::

    from fastconv.cs231n import *

for ``from cs231n.fast_layers import *``, and ``from fastconv.cs231n import col2im_cython,
im2col_cython`` for ``from .im2col_cython import col2im_cython, im2col_cython``. Nothing needs
compiling, and the signatures are the course's::

    out, cache = conv_forward_*(x, w, b, conv_param)  conv_param: stride, pad
    dx, dw, db = conv_backward_*(dout, cache)
    out, cache = max_pool_forward_*(x, pool_param)    pool_param: pool_height, pool_width, stride
    dx         = max_pool_backward_*(dout, cache)

with x (N, C, H, W), w (F, C, HH, WW), b (F,), out (N, F, OH, OW) or (N, C, OH, OW). The forms
compute the same thing, and a backward pass takes the cache of its own form:

==========  ============================================  ========================================
form        how                                           cache
==========  ============================================  ========================================
`_naive`    one product, one window at a time             (x, w, b, conv_param); (x, pool_param)
`_im2col`   the matrix of all windows of the batch        (x, w, b, conv_param, x_cols);
                                                          (x, x_cols, x_cols_argmax, pool_param)
`_strides`  a view of all windows, a product a sample     (x, w, b, conv_param)
`_reshape`  pools only: the image cut into its windows    (x, x_reshaped, out)
`_fast`     `fastconv.conv_forward`, `max_pool_forward`   theirs, not for callers
==========  ============================================  ========================================

Unlike the course's code, this one is right for kernels that are not square and for float32, takes
arrays of any layout, and where a stride leaves cells over at the edge it leaves them out instead of
failing an assertion. What it refuses, it refuses with ValueError or TypeError. As in the course,
`max_pool_backward_reshape` splits a gradient among equal maxima; all other forms give it to the
first, `max_pool_backward_fast` too, which in the course splits where it can reshape.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastconv import reference
from fastconv._calls import Cache
from fastconv._geometry import Geometry, conv_geometry, pool_geometry, window_geometry
from fastconv._memory import as_contiguous
from fastconv._validation import (
    PAD,
    STRIDE,
    Array,
    ArrayLike,
    ConvParam,
    as_conv_params,
    as_floating,
    as_int,
    as_pool_params,
    as_shape,
    check_shape,
    check_size,
    common_dtype,
    show,
)
from fastconv.conv import conv_backward, conv_forward
from fastconv.lowering import col2im, im2col
from fastconv.pool import MaxPoolCache, max_pool_backward, max_pool_forward

__all__ = [
    "col2im_6d_cython",
    "col2im_cython",
    "col2im_indices",
    "conv_backward_fast",
    "conv_backward_im2col",
    "conv_backward_naive",
    "conv_backward_strides",
    "conv_forward_fast",
    "conv_forward_im2col",
    "conv_forward_naive",
    "conv_forward_strides",
    "get_im2col_indices",
    "im2col_cython",
    "im2col_indices",
    "max_pool_backward_fast",
    "max_pool_backward_im2col",
    "max_pool_backward_naive",
    "max_pool_backward_reshape",
    "max_pool_forward_fast",
    "max_pool_forward_im2col",
    "max_pool_forward_naive",
    "max_pool_forward_reshape",
]


# --- columns ----------------------------------------------------------------------------------


def im2col_cython(
    x: ArrayLike, field_height: int, field_width: int, padding: int, stride: int
) -> Array:
    """Lay out the windows of a whole batch as the columns of one matrix.

    Parameters
    ----------
    x : array_like, (N, C, H, W)
        The images, float32 or float64.
    field_height, field_width : int
        HH and WW, the window's size.
    padding, stride : int
        Cells of zeros around the image, and from one window to the next.

    Returns
    -------
    cols : ndarray, (C * HH * WW, OH * OW * N)
        ``cols[(c*HH + hh)*WW + ww, (oh*OW + ow)*N + n]`` is
        ``x[n, c, oh*stride - padding + hh, ow*stride - padding + ww]``, 0 outside x.

    Examples
    --------
    Two images, whose windows alternate:

    >>> import numpy as np
    >>> from fastconv.cs231n import im2col_cython
    >>> x = np.arange(8.0).reshape(2, 1, 2, 2)
    >>> im2col_cython(x, 1, 2, padding=0, stride=1)
    array([[0., 4., 2., 6.],
           [1., 5., 3., 7.]])
    """
    images = as_floating("x", x)
    _check_axes("x", images.shape, "(N, C, H, W)")
    g = _window_geometry(images.shape, field_height, field_width, padding, stride)
    cols = im2col(images, g.kernel_size, stride=g.stride, pad=g.pad)  # (N, C*HH*WW, OH*OW)
    return cols.transpose(1, 2, 0).reshape(g.taps, g.positions * g.batch)


def col2im_cython(
    cols: ArrayLike,
    N: int,
    C: int,
    H: int,
    W: int,
    field_height: int,
    field_width: int,
    padding: int,
    stride: int,
) -> Array:
    """Add the columns of `im2col_cython` up to images: its adjoint.

    Parameters
    ----------
    cols : array_like, (C * HH * WW, OH * OW * N)
        Columns in the order of `im2col_cython`.
    N, C, H, W : int
        The shape of the images.
    field_height, field_width, padding, stride : int
        As in `im2col_cython`.

    Returns
    -------
    x : ndarray, (N, C, H, W)
        Each cell is the sum over the windows that it is in.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv.cs231n import col2im_cython
    >>> col2im_cython(np.ones((2, 4)), 1, 1, 2, 3, 1, 2, padding=0, stride=1)
    array([[[[1., 2., 1.],
             [1., 2., 1.]]]])
    """
    columns = as_floating("cols", cols)
    g = _window_geometry(_shape(N, C, H, W), field_height, field_width, padding, stride)
    shape = (g.taps, g.positions * g.batch)
    check_shape("cols", columns, shape, f"C*HH*WW rows, OH*OW*N columns for x {g.x_shape}")
    columns = columns.reshape(g.taps, g.positions, g.batch).transpose(2, 0, 1)
    return col2im(columns, g.x_shape, g.kernel_size, stride=g.stride, pad=g.pad)


def col2im_6d_cython(
    cols: ArrayLike,
    N: int,
    C: int,
    H: int,
    W: int,
    HH: int,
    WW: int,
    pad: int,
    stride: int,
) -> Array:
    """Add windows, given as an array of six axes, up to images.

    Parameters
    ----------
    cols : array_like, (C, HH, WW, N, OH, OW)
        What each window holds for each of its cells.
    N, C, H, W : int
        The shape of the images.
    HH, WW, pad, stride : int
        The window's size, its padding and its stride.

    Returns
    -------
    x : ndarray, (N, C, H, W)
        Each cell is the sum over the windows that it is in.
    """
    columns = as_floating("cols", cols)
    g = _window_geometry(_shape(N, C, H, W), HH, WW, pad, stride, ("HH", "WW", "pad"))
    shape = (g.channels, *g.kernel_size, g.batch, *g.out_shape)
    check_shape("cols", columns, shape, f"(C, HH, WW, N, OH, OW) for x {g.x_shape}")
    columns = columns.transpose(3, 0, 1, 2, 4, 5).reshape(g.cols_shape)
    return col2im(columns, g.x_shape, g.kernel_size, stride=g.stride, pad=g.pad)


def im2col_indices(
    x: ArrayLike, field_height: int, field_width: int, padding: int = 1, stride: int = 1
) -> Array:
    """Lay out windows as columns: `im2col_cython` with the defaults of the course's `im2col.py`.

    Returns
    -------
    cols : ndarray, (C * HH * WW, OH * OW * N)
        As `im2col_cython`.
    """
    return im2col_cython(x, field_height, field_width, padding, stride)


def col2im_indices(
    cols: ArrayLike,
    x_shape: tuple[int, ...],
    field_height: int = 3,
    field_width: int = 3,
    padding: int = 1,
    stride: int = 1,
) -> Array:
    """Add columns up to images: `col2im_cython` as the course's `im2col.py` has it.

    Returns
    -------
    x : ndarray, (N, C, H, W)
        As `col2im_cython`.
    """
    shape = as_shape("x_shape", x_shape)
    _check_axes("x_shape", shape, "(N, C, H, W)")
    N, C, H, W = shape
    return col2im_cython(cols, N, C, H, W, field_height, field_width, padding, stride)


def get_im2col_indices(
    x_shape: tuple[int, ...],
    field_height: int,
    field_width: int,
    padding: int = 1,
    stride: int = 1,
) -> tuple[Array, Array, Array]:
    """Give the indices of every window's cells: ``x_padded[:, k, i, j]`` are the columns.

    Parameters
    ----------
    x_shape : tuple of int
        (N, C, H, W), of the image without its padding.
    field_height, field_width, padding, stride : int
        As in `im2col_indices`.

    Returns
    -------
    k : ndarray, (C * HH * WW, 1)
        The channels.
    i, j : ndarray, (C * HH * WW, OH * OW)
        The rows and columns of the padded image.

    Examples
    --------
    >>> from fastconv.cs231n import get_im2col_indices
    >>> k, i, j = get_im2col_indices((1, 1, 2, 3), 1, 2, padding=0)
    >>> j
    array([[0, 1, 0, 1],
           [1, 2, 1, 2]])
    """
    shape = as_shape("x_shape", x_shape)
    _check_axes("x_shape", shape, "(N, C, H, W)")
    g = _window_geometry(shape, field_height, field_width, padding, stride)
    check_size("i", g.cols_shape[1:])
    k, hh, ww = np.indices((g.channels, *g.kernel_size)).reshape(3, g.taps, 1)
    oh, ow = np.indices(g.out_shape).reshape(2, 1, g.positions)
    return k, g.stride[0] * oh + hh, g.stride[1] * ow + ww


# --- convolution ------------------------------------------------------------------------------


def conv_forward_naive(
    x: ArrayLike, w: ArrayLike, b: ArrayLike, conv_param: ConvParam
) -> tuple[Array, tuple[Any, ...]]:
    """Convolve a batch with filters, one product at a time.

    Parameters
    ----------
    x : array_like, (N, C, H, W)
        The images, float32 or float64.
    w : array_like, (F, C, HH, WW)
        The filters.
    b : array_like, (F,)
        The bias; integers, which the course's notebook has here, count as float64.
    conv_param : dict
        `stride` and `pad`, ints; 1 and 0 where they are not in it.

    Returns
    -------
    out : ndarray, (N, F, OH, OW)
        ``OH = (H + 2*pad - HH) // stride + 1``, and OW likewise.
    cache : tuple
        (x, w, b, conv_param), for `conv_backward_naive`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv.cs231n import conv_forward_naive
    >>> x, w, b = np.ones((1, 1, 3, 3)), np.ones((1, 1, 3, 3)), np.array([0.5])
    >>> out, cache = conv_forward_naive(x, w, b, {"stride": 2, "pad": 1})
    >>> out
    array([[[[4.5, 4.5],
             [4.5, 4.5]]]])
    """
    images, weights, bias, g = _conv_arguments(x, w, b, conv_param)
    arrays = _plain(images, weights, bias)
    out = reference.conv_forward_loops(*arrays, stride=g.stride, pad=g.pad)
    return out, (x, w, b, conv_param)


def conv_backward_naive(dout: ArrayLike, cache: tuple[Any, ...]) -> tuple[Array, Array, Array]:
    """Compute the gradients of `conv_forward_naive`, one product at a time.

    Parameters
    ----------
    dout : array_like, (N, F, OH, OW)
        The gradient of the loss with respect to the result.
    cache : tuple
        What the forward call returned with that result.

    Returns
    -------
    dx, dw, db : ndarray
        Of the shapes of x, w and b and the largest type among those and dout.
    """
    gradient, images, weights, g = _conv_gradient_arguments(
        dout, _opened(cache, "conv_forward_naive", 4)
    )
    return reference.conv_backward_loops(gradient, images, weights, stride=g.stride, pad=g.pad)


def conv_forward_im2col(
    x: ArrayLike, w: ArrayLike, b: ArrayLike, conv_param: ConvParam
) -> tuple[Array, tuple[Any, ...]]:
    """Convolve a batch with filters as one product of matrices.

    ``(F, C*HH*WW) @ (C*HH*WW, OH*OW*N)``: a filter is a row, a window a column. The result is
    (F, OH*OW*N), of which the last axis becomes the first.

    Parameters and result as in `conv_forward_naive`; the cache holds x_cols (C*HH*WW, OH*OW*N) too.
    """
    images, weights, bias, g = _conv_arguments(x, w, b, conv_param)
    images, weights, bias = _plain(images, weights, bias)
    HH, WW = g.kernel_size
    x_cols = im2col_cython(images, HH, WW, g.pad[0][0], g.stride[0])
    rows = weights.reshape(g.filters, g.taps) @ x_cols + bias.reshape(g.filters, 1)
    out = rows.reshape(g.filters, *g.out_shape, g.batch).transpose(3, 0, 1, 2)
    return out, (x, w, b, conv_param, x_cols)


def conv_backward_im2col(dout: ArrayLike, cache: tuple[Any, ...]) -> tuple[Array, Array, Array]:
    """Compute the gradients of `conv_forward_im2col`, each as one product of matrices.

    With dout as rows (F, OH*OW*N), in the order of the columns: ``dw = rows @ x_cols.T``, and
    ``w.T @ rows`` (C*HH*WW, OH*OW*N) holds what each window adds to dx.

    Parameters and results as in `conv_backward_naive`.
    """
    *forward, x_cols = _opened(cache, "conv_forward_im2col", 5)
    gradient, _, weights, g = _conv_gradient_arguments(dout, forward)
    cols = as_floating("x_cols", x_cols)
    shape = (g.taps, g.positions * g.batch)
    check_shape("x_cols", cols, shape, "(C*HH*WW, OH*OW*N), as the forward call made them")
    rows = gradient.transpose(1, 2, 3, 0).reshape(g.filters, g.positions * g.batch)
    dw = rows @ as_contiguous(cols, gradient.dtype).T
    dx_cols = weights.reshape(g.filters, g.taps).T @ rows
    (N, C, H, W), (HH, WW) = g.x_shape, g.kernel_size
    dx = col2im_cython(dx_cols, N, C, H, W, HH, WW, g.pad[0][0], g.stride[0])
    return dx, dw.reshape(g.w_shape), gradient.sum(axis=(0, 2, 3))


def conv_forward_strides(
    x: ArrayLike, w: ArrayLike, b: ArrayLike, conv_param: ConvParam
) -> tuple[Array, tuple[Any, ...]]:
    """Convolve a batch with filters over a strided view of all windows.

    The view has six axes, (N, C, HH, WW, OH, OW), and costs nothing; it is
    `fastconv.reference.strided` that explains and takes it.

    Parameters, result and cache as in `conv_forward_naive`.
    """
    images, weights, bias, g = _conv_arguments(x, w, b, conv_param)
    arrays = _plain(images, weights, bias)
    out = reference.conv_forward_strided(*arrays, stride=g.stride, pad=g.pad)
    return out, (x, w, b, conv_param)


def conv_backward_strides(dout: ArrayLike, cache: tuple[Any, ...]) -> tuple[Array, Array, Array]:
    """Compute the gradients of `conv_forward_strides`.

    Parameters and results as in `conv_backward_naive`.
    """
    gradient, images, weights, g = _conv_gradient_arguments(
        dout, _opened(cache, "conv_forward_strides", 4)
    )
    return reference.conv_backward_strided(gradient, images, weights, stride=g.stride, pad=g.pad)


def conv_forward_fast(
    x: ArrayLike, w: ArrayLike, b: ArrayLike, conv_param: ConvParam
) -> tuple[Array, Cache]:
    """Convolve a batch with filters: `fastconv.conv_forward` under the course's name.

    Parameters and result as in `conv_forward_naive`; the cache, for `conv_backward_fast`, refers to
    x, w and b, which must not be changed until then.
    """
    images, weights, bias, g = _conv_arguments(x, w, b, conv_param)
    return conv_forward(images, weights, bias, stride=g.stride, pad=g.pad)


def conv_backward_fast(
    dout: ArrayLike, cache: Cache
) -> tuple[Array | None, Array | None, Array | None]:
    """Compute the gradients of `conv_forward_fast`: `fastconv.conv_backward`.

    Parameters and results as in `conv_backward_naive`.
    """
    return conv_backward(dout, cache)


# --- pooling ----------------------------------------------------------------------------------


def max_pool_forward_naive(
    x: ArrayLike, pool_param: Mapping[str, Any]
) -> tuple[Array, tuple[Any, ...]]:
    """Take the maximum of every window, one window at a time.

    Parameters
    ----------
    x : array_like, (N, C, H, W)
        The images, float32 or float64.
    pool_param : dict
        `pool_height`, `pool_width` and `stride`, ints.

    Returns
    -------
    out : ndarray, (N, C, OH, OW)
        ``OH = (H - pool_height) // stride + 1``, and OW likewise.
    cache : tuple
        (x, pool_param), for `max_pool_backward_naive`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv.cs231n import max_pool_forward_naive
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> out, cache = max_pool_forward_naive(x, {"pool_height": 2, "pool_width": 3, "stride": 1})
    >>> out
    array([[[[ 6.,  7.],
             [10., 11.],
             [14., 15.]]]])
    """
    images, g = _pool_arguments(x, pool_param)
    out, _ = reference.max_pool_forward_loops(images, g.kernel_size, stride=g.stride)
    return out, (x, pool_param)


def max_pool_backward_naive(dout: ArrayLike, cache: tuple[Any, ...]) -> Array:
    """Compute the gradient of `max_pool_forward_naive`, one window at a time.

    Parameters
    ----------
    dout : array_like, (N, C, OH, OW)
        The gradient of the loss with respect to the result.
    cache : tuple
        What the forward call returned with that result.

    Returns
    -------
    dx : ndarray, (N, C, H, W)
        Of the larger type of x and dout. Of equal maxima in a window the first has its gradient.
    """
    images, g = _pool_arguments(*_opened(cache, "max_pool_forward_naive", 2))
    gradient = _as_dout(dout, g)
    return reference.max_pool_backward_loops(gradient, images, g.kernel_size, stride=g.stride)


def max_pool_forward_im2col(
    x: ArrayLike, pool_param: Mapping[str, Any]
) -> tuple[Array, tuple[Any, ...]]:
    """Take the maximum of every window as that of a column.

    Every channel counts as an image of its own, so that a window is a column of `im2col_cython`:
    x_cols is (pool_height * pool_width, OH * OW * N*C).

    Parameters and result as in `max_pool_forward_naive`; the cache is (x, x_cols, x_cols_argmax,
    pool_param).
    """
    images, g = _pool_arguments(x, pool_param)
    channels = images.reshape(g.batch * g.channels, 1, *g.in_shape)
    height, width = g.kernel_size
    x_cols = im2col_cython(channels, height, width, padding=0, stride=g.stride[0])
    x_cols_argmax = x_cols.argmax(axis=0)
    maxima = x_cols[x_cols_argmax, np.arange(x_cols.shape[1])]
    out = maxima.reshape(*g.out_shape, g.batch, g.channels).transpose(2, 3, 0, 1)
    return out, (x, x_cols, x_cols_argmax, pool_param)


def max_pool_backward_im2col(dout: ArrayLike, cache: tuple[Any, ...]) -> Array:
    """Compute the gradient of `max_pool_forward_im2col`.

    A column of zeros but for dout in the row of its maximum, for each window; then `col2im_cython`.

    Parameters and result as in `max_pool_backward_naive`.
    """
    x, _, x_cols_argmax, pool_param = _opened(cache, "max_pool_forward_im2col", 4)
    images, g = _pool_arguments(x, pool_param)
    gradient = _as_dout(dout, g)
    columns = g.positions * g.batch * g.channels
    rows = g.taps // g.channels
    argmax = _as_argmax(x_cols_argmax, rows, columns)
    dx_cols = np.zeros((rows, columns), common_dtype(images, gradient))
    dx_cols[argmax, np.arange(columns)] = gradient.transpose(2, 3, 0, 1).reshape(columns)
    (N, C, H, W), (height, width) = g.x_shape, g.kernel_size
    dx = col2im_cython(dx_cols, N * C, 1, H, W, height, width, padding=0, stride=g.stride[0])
    return dx.reshape(g.x_shape)


def max_pool_forward_reshape(
    x: ArrayLike, pool_param: Mapping[str, Any]
) -> tuple[Array, tuple[Any, ...]]:
    """Take the maximum of square windows that tile the image, cut apart by reshaping it.

    Row ``oh*p + hh`` of an image becomes row hh of window row oh: (N, C, H, W) is x_reshaped
    (N, C, OH, p, OW, p), for windows of p x p.

    Parameters and result as in `max_pool_forward_naive`; the cache is (x, x_reshaped, out).

    Raises
    ------
    ValueError
        Also where `pool_height`, `pool_width` and `stride` are not one number that divides H and W.
    """
    images, g = _pool_arguments(x, pool_param)
    size = g.stride[0]
    if g.kernel_size != g.stride or any(cells % size for cells in g.in_shape):
        raise ValueError(
            "pool_param: to reshape, pool_height, pool_width and stride must be one number that "
            f"divides H and W, got {show(pool_param)} for x of shape {g.x_shape}"
        )
    N, C, OH, OW = g.result_shape
    (images,) = _plain(images)
    x_reshaped = images.reshape(N, C, OH, size, OW, size)
    out = x_reshaped.max(axis=3).max(axis=4)  # twice as fast as both axes at once
    return out, (x, x_reshaped, out)


def max_pool_backward_reshape(dout: ArrayLike, cache: tuple[Any, ...]) -> Array:
    """Compute the gradient of `max_pool_forward_reshape`.

    Equal maxima of a window have equal parts of its gradient, as in the course; so have several
    NaNs.

    Parameters and result as in `max_pool_backward_naive`.
    """
    x, x_reshaped, _ = _opened(cache, "max_pool_forward_reshape", 3)
    images, windows = as_floating("x", x), as_floating("x_reshaped", x_reshaped)
    _check_axes("x_reshaped", windows.shape, "(N, C, OH, p, OW, p)")
    N, C, OH, height, OW, width = windows.shape
    check_shape("x", images, (N, C, OH * height, OW * width), "that of x_reshaped, put together")
    gradient = as_floating("dout", dout)
    check_shape("dout", gradient, (N, C, OH, OW), "that of the forward result")
    dtype = common_dtype(images, gradient)
    # Not the cache's out, which an in-place ReLU may have changed since.
    maxima = windows.max(axis=3, keepdims=True).max(axis=5, keepdims=True)
    is_maximum = (windows == maxima) | (np.isnan(windows) & np.isnan(maxima))
    count = is_maximum.sum(axis=(3, 5), keepdims=True).astype(dtype)
    share = gradient[:, :, :, None, :, None] / count
    dx: Array = np.where(is_maximum, share, dtype.type(0)).reshape(images.shape)
    return dx


def max_pool_forward_fast(
    x: ArrayLike, pool_param: Mapping[str, Any]
) -> tuple[Array, MaxPoolCache]:
    """Take the maximum of every window: `fastconv.max_pool_forward` under the course's name.

    Parameters and result as in `max_pool_forward_naive`; the cache is for `max_pool_backward_fast`.
    """
    images, g = _pool_arguments(x, pool_param)
    return max_pool_forward(images, g.kernel_size, stride=g.stride)


def max_pool_backward_fast(dout: ArrayLike, cache: MaxPoolCache) -> Array:
    """Compute the gradient of `max_pool_forward_fast`: `fastconv.max_pool_backward`.

    Parameters and result as in `max_pool_backward_naive`.
    """
    return max_pool_backward(dout, cache)


# --- the parts --------------------------------------------------------------------------------


def _check_axes(name: str, shape: tuple[int, ...], axes: str) -> None:
    """Raise ValueError unless the shape has as many axes as `axes` names."""
    count = axes.count(",") + 1
    if len(shape) != count:
        raise ValueError(f"{name}: expected {count} axes {axes}, got {len(shape)}, shape {shape}")


def _shape(*sizes: int) -> tuple[int, ...]:
    """Return the shape (N, C, H, W) from four parameters of these names."""
    return tuple(as_int(name, size, 0) for name, size in zip("NCHW", sizes, strict=True))


def _window_geometry(
    x_shape: tuple[int, ...],
    height: int,
    width: int,
    pad: int,
    stride: int,
    names: tuple[str, str, str] = ("field_height", "field_width", "padding"),
) -> Geometry:
    """Check a window's parameters, under their names in the course, and give all sizes."""
    kernel = as_int(names[0], height, 1), as_int(names[1], width, 1)
    pads, step = as_int(names[2], pad, 0), as_int("stride", stride, 1)
    return window_geometry(x_shape, kernel, stride=step, pad=pads, dilation=1)


def _conv_arguments(
    x: ArrayLike, w: ArrayLike, b: ArrayLike, conv_param: ConvParam
) -> tuple[Array, Array, Array, Geometry]:
    """Return x, w and b as arrays, and the sizes of the convolution."""
    params = as_conv_params(conv_param, stride=STRIDE, pad=PAD)
    stride, pad = as_int("stride", params["stride"], 1), as_int("pad", params["pad"], 0)
    images, weights = as_floating("x", x), as_floating("w", w)
    _check_axes("x", images.shape, "(N, C, H, W)")
    _check_axes("w", weights.shape, "(F, C, HH, WW)")
    g = conv_geometry(images.shape, weights.shape, stride=stride, pad=pad, dilation=1, group=1)
    # The notebook's image filters have the bias np.array([0, 128]).
    if isinstance(b, np.ndarray) and b.dtype.kind in "iu":
        b = b.astype(np.float64)
    bias = as_floating("b", b)
    check_shape("b", bias, (g.filters,), "one value a filter")
    return images, weights, bias, g


def _conv_gradient_arguments(
    dout: ArrayLike, forward: Sequence[Any]
) -> tuple[Array, Array, Array, Geometry]:
    """Return dout, x and w as plain arrays, and the sizes of the convolution."""
    x, w, b, conv_param = forward
    images, weights, bias, g = _conv_arguments(x, w, b, conv_param)
    gradient = as_floating("dout", dout)
    check_shape("dout", gradient, g.result_shape, "that of the forward result")
    gradient, images, weights, _ = _plain(gradient, images, weights, bias)
    return gradient, images, weights, g


def _pool_arguments(x: ArrayLike, pool_param: Mapping[str, Any]) -> tuple[Array, Geometry]:
    """Return x as an array, and the sizes of the pool."""
    _, params = as_pool_params(None, pool_param, stride=None)
    images = as_floating("x", x)
    _check_axes("x", images.shape, "(N, C, H, W)")
    kernel = tuple(as_int(name, pool_param[name], 1) for name in ("pool_height", "pool_width"))
    stride = as_int("stride", params["stride"], 1)
    return images, pool_geometry(
        images.shape, kernel, stride=stride, pad=0, dilation=1, ceil_mode=False
    )


def _as_dout(dout: ArrayLike, g: Geometry) -> Array:
    """Return dout as an array of the forward result's shape."""
    gradient = as_floating("dout", dout)
    check_shape("dout", gradient, g.result_shape, "that of the forward result")
    return gradient


def _plain(*arrays: Array) -> list[Array]:
    """Return the arrays C-contiguous and of their largest type.

    Products of matrices may round otherwise where memory lies otherwise.
    """
    dtype = common_dtype(*arrays)
    return [as_contiguous(array, dtype) for array in arrays]


def _opened(cache: object, forward: str, count: int) -> Sequence[Any]:
    """Return what a cache holds, checked for being a tuple of so many items."""
    if not isinstance(cache, tuple | list):
        raise TypeError(
            f"cache: expected the tuple that {forward} returned, got {type(cache).__name__}"
        )
    if len(cache) != count:
        raise ValueError(
            f"cache: expected the {count} items that {forward} returned, got {len(cache)}"
        )
    return cache


def _as_argmax(argmax: object, rows: int, columns: int) -> Array:
    """Return the row of each column's maximum, checked for being one."""
    array = np.asarray(argmax)
    if array.dtype.kind != "i":
        raise TypeError(f"x_cols_argmax: expected integers, got {array.dtype}")
    check_shape("x_cols_argmax", array, (columns,), "one row a column of x_cols")
    if array.size and not 0 <= array.min() <= array.max() < rows:
        raise ValueError(
            f"x_cols_argmax: expected rows of x_cols, 0 to {rows - 1}, "
            f"got {array.min()} to {array.max()}"
        )
    return array
