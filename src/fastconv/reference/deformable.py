"""Deformable convolution from its definition: a loop over the points that are sampled."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastconv._geometry import Geometry, conv_geometry
from fastconv._validation import Array, ArrayLike, IntOrPerAxis, Pad, check_shape
from fastconv.reference._shared import Index, bias_gradient, check_dout, of_one_type, with_bias


def deform_conv_forward_loops(
    x: ArrayLike,
    offset: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    stride: IntOrPerAxis = 1,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    group: int = 1,
    offset_group: int = 1,
) -> Array:
    """Convolve images with filters whose taps are moved.

    ``out[n, f, oh, ow] = b[f] + sum(m * value * w[f, c, kh, kw])`` over c, kh and kw, where `value`
    is that of x[n, c] at the point that the tap is moved to, bilinear between pixels, and m is the
    mask's factor.

    Parameters
    ----------
    x, offset, w, b, mask, stride, pad, dilation, group, offset_group
        As in `fastconv.deform_conv_forward`, of any numeric type: in integers moves are whole.

    Returns
    -------
    out : ndarray, (N, F, OH, OW)
        The result, of the largest type among the arrays.

    Notes
    -----
    After Dai et al., "Deformable convolutional networks" (2017), equations 2 to 4, and Zhu et al.,
    "Deformable ConvNets v2: more deformable, better results" (2019), equation 1.

    Examples
    --------
    A row of pixels, each moved by one cell to the right:

    >>> from fastconv.reference import deform_conv_forward_loops
    >>> offset = [[[[0, 0, 0]], [[1, 1, 1]]]]
    >>> deform_conv_forward_loops([[[[1, 3, 7]]]], offset, [[[[1]]]])
    array([[[[3, 7, 0]]]])
    """
    arrays = of_one_type(x, offset, w, *(array for array in (mask, b) if array is not None))
    images, moves, weights = arrays[:3]
    geometry = conv_geometry(
        images.shape, weights.shape, stride=stride, pad=pad, dilation=dilation, group=group
    )
    factors = None if mask is None else arrays[3]
    points = list(_points(geometry, moves, factors, offset_group))
    cols = _columns(geometry, images, points)
    out = np.zeros(geometry.result_shape, images.dtype)
    for f, c, at_w, k in _taps(geometry):
        out[:, f] += weights[at_w] * cols[:, c, *k]
    return with_bias(out, None if b is None else arrays[-1])


def deform_conv_backward_loops(
    dout: ArrayLike,
    x: ArrayLike,
    offset: ArrayLike,
    w: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    stride: IntOrPerAxis = 1,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    group: int = 1,
    offset_group: int = 1,
) -> tuple[Array, Array, Array, Array, Array]:
    """Compute the gradients of a deformable convolution.

    A column is ``m * sum(weight * pixel)`` over the pixels around a point. With its gradient d,
    each pixel gains ``d * m * weight``, the factor gains ``d * sum(weight * pixel)``, and each
    coordinate ``d * m * sum(slope * pixel)``, the slope being the derivative of the weight.

    Parameters
    ----------
    dout : array_like, (N, F, OH, OW)
        The gradient of the loss with respect to the result.
    x, offset, w, mask, stride, pad, dilation, group, offset_group
        As in the forward call.

    Returns
    -------
    dx, doffset, dmask, dw, db : ndarray
        Of the shapes of x, offset, the mask (one of ones if there is none), w and (F,).
    """
    arrays = of_one_type(dout, x, offset, w, *([] if mask is None else [mask]))
    gradient, images, moves, weights = arrays[:4]
    geometry = conv_geometry(
        images.shape, weights.shape, stride=stride, pad=pad, dilation=dilation, group=group
    )
    check_dout(gradient, geometry.result_shape)
    factors = None if mask is None else arrays[4]
    points = list(_points(geometry, moves, factors, offset_group))
    cols = _columns(geometry, images, points)
    dcols, dw = np.zeros_like(cols), np.zeros_like(weights)
    for f, c, at_w, k in _taps(geometry):
        dcols[:, c, *k] += weights[at_w] * gradient[:, f]
        dw[at_w] += (gradient[:, f] * cols[:, c, *k]).sum()
    dx, doffset = np.zeros_like(images), np.zeros_like(moves)
    dmask = np.zeros((geometry.batch, moves.shape[1] // 2, *geometry.out_shape), moves.dtype)
    for point in points:
        n, tap, o, d = point.n, point.tap, point.o, dcols[point.at_cols]
        dmask[n, tap, *o] = (d * _value(point, images)).sum()
        for channel, by_y in ((2 * tap, True), (2 * tap + 1, False)):
            slope = _slope(point, images, by_y=by_y)
            doffset[n, channel, *o] = (d * point.factor * slope).sum()
        for at, weight in _pixels(point):
            dx[at] += d * point.factor * weight
    return dx, doffset, dmask, dw, bias_gradient(gradient)


class _Point(NamedTuple):
    """Where one tap of an offset group samples the image of one sample for one position o."""

    n: int
    channels: slice  # of the group
    tap: int  # counted over the offset groups
    o: Index
    at_cols: Index
    factor: Any
    missing: bool  # an offset is NaN
    rows: list[tuple[int, Any, int]]  # (cell, weight, its derivative), of cells inside the image
    columns: list[tuple[int, Any, int]]


def _points(g: Geometry, offset: Array, mask: Array | None, offset_group: int) -> Iterator[_Point]:
    """Yield all points of a batch."""
    KH, KW = g.kernel_size
    taps, size = offset_group * KH * KW, g.channels // offset_group
    check_shape("offset", offset, (g.batch, 2 * taps, *g.out_shape), "two a tap and position")
    if mask is None:
        mask = np.ones((g.batch, taps, *g.out_shape), offset.dtype)
    check_shape("mask", mask, (g.batch, taps, *g.out_shape), "one a tap and position")
    for n, og, kh, kw, *o in np.ndindex(g.batch, offset_group, KH, KW, *g.out_shape):
        tap = (og * KH + kh) * KW + kw
        channels = slice(og * size, (og + 1) * size)
        starts = (
            o[axis] * g.stride[axis] - g.pad[axis][0] + k * g.dilation[axis]
            for axis, k in enumerate((kh, kw))
        )
        moves = offset[n, 2 * tap : 2 * tap + 2, *o]
        rows, columns = (
            _cells(start, move, size)
            for start, move, size in zip(starts, moves, g.in_shape, strict=True)
        )
        yield _Point(
            n=n,
            channels=channels,
            tap=tap,
            o=tuple(o),
            at_cols=(n, channels, kh, kw, *o),
            factor=mask[n, tap, *o],
            missing=bool(np.isnan(moves).any()),
            rows=rows,
            columns=columns,
        )


def _cells(start: int, move: Any, size: int) -> list[tuple[int, Any, int]]:
    """List the cells of an axis next to ``start + move``, with weights and their derivatives."""
    if not np.isfinite(move):
        return []
    whole = int(np.floor(move))
    first = start + whole
    if not -1 <= first < size or (first == -1 and move == whole):
        return []
    both = ((first, whole + 1 - move, -1), (first + 1, move - whole, 1))
    return [(cell, weight, slope) for cell, weight, slope in both if 0 <= cell < size]


def _pixels(point: _Point) -> Iterator[tuple[Index, Any]]:
    """Yield the pixels that have a weight, in all channels of the group, and the weight."""
    for row, by_row, _ in point.rows:
        for column, by_column, _ in point.columns:
            if by_row * by_column != 0:
                yield (point.n, point.channels, row, column), by_row * by_column


def _value(point: _Point, x: Array) -> Any:
    """Return the value of each channel at the point."""
    if point.missing:
        return np.nan
    return sum((weight * x[at] for at, weight in _pixels(point)), start=x.dtype.type(0))


def _slope(point: _Point, x: Array, *, by_y: bool) -> Any:
    """Return the derivative of each channel's value by a coordinate of the point."""
    if point.missing:
        return np.nan
    slope = x.dtype.type(0)
    for row, weight_y, slope_y in point.rows:
        for column, weight_x, slope_x in point.columns:
            factor = slope_y * weight_x if by_y else weight_y * slope_x
            if factor != 0:
                slope = slope + factor * x[point.n, point.channels, row, column]
    return slope


def _columns(g: Geometry, x: Array, points: list[_Point]) -> Array:
    """Return the sampled columns (N, C, KH, KW, OH, OW)."""
    cols = np.zeros((*g.x_shape[:2], *g.kernel_size, *g.out_shape), x.dtype)
    for point in points:
        cols[point.at_cols] = point.factor * _value(point, x)
    return cols


def _taps(g: Geometry) -> Iterator[tuple[int, int, Index, Index]]:
    """Yield each filter f, channel c of its group, index into w and kernel index k."""
    channels, filters = g.channels // g.group, g.filters // g.group
    for f, row, *k in np.ndindex(g.filters, channels, *g.kernel_size):
        yield f, f // filters * channels + row, (f, row, *k), tuple(k)
