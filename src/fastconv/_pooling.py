"""Pools over a batch: Python that drives the pooling kernels."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastconv._columns import size_table
from fastconv._geometry import Geometry
from fastconv._kernels import pool
from fastconv._memory import allocate, is_native, parts, staged
from fastconv._validation import Array

# Images that one call of a kernel handles, so that dx stays in cache between its zeroing and the
# sums into it.
CALL_BYTES = 2**19
# Columns of positions, along the last axis, that it handles: the lines that it works on stay in
# first-level cache.
CALL_COLUMNS = 2**10
# Cells of windows that it visits: some 20 ms, after which Python hears Ctrl-C.
CALL_CELLS = 2**24


# First row of positions and last, first column and last.
Part: TypeAlias = tuple[int, int, int, int]

# What is read may be of any byte order and layout, what is written is native and without overlaps:
# x and dx (N, C, *S), out, taps and dout (N, C, *O).


def taps_dtype(geometry: Geometry) -> np.dtype[Any]:
    """The type that numbers the cells of a window."""
    return np.dtype(np.uint8 if math.prod(geometry.kernel_size) <= 256 else np.intc)


def max_forward(geometry: Geometry, x: Array, out: Array, taps: Array | None) -> None:
    """Overwrite out with the maxima of the windows of x, and taps with the numbers of their cells.

    A cell's number counts the window's cells in row-major order, padding too.
    """
    _check_fit(geometry, x, out, written=out)
    call = _Call.of(geometry, out.dtype)
    scratch = (call.room, call.rows, call.taps)
    for images, where, part in call.walk(x, out.dtype):
        kept = None if taps is None else taps[where]
        pool.max_forward(images, out[where], kept, call.sizes, part, *scratch)


def max_indices(geometry: Geometry, taps: Array, indices: Array) -> None:
    """Overwrite indices (int64) with where in its plane of x the cell of each tap lies."""
    for sample, place in zip(taps, indices, strict=True):
        place.fill(0)
        for axis, k in enumerate(np.unravel_index(sample, geometry.kernel_size)):
            start = np.arange(geometry.out_shape[axis]) * geometry.stride[axis]
            start -= geometry.pad[axis][0]
            start = start.reshape(-1, *(1,) * (geometry.rank - 1 - axis))
            place *= geometry.in_shape[axis]
            place += start + k * geometry.dilation[axis]


def max_backward(geometry: Geometry, taps: Array, dout: Array, dx: Array) -> None:
    """Overwrite dx: each element of dout goes to the cell of its tap.

    Raises
    ------
    ValueError
        If a tap is none of a cell inside x. Then nothing is written.
    """
    _check_fit(geometry, dx, dout, written=dx)
    _check_fit(geometry, dx, taps, written=dx)
    if not is_native(taps, taps_dtype(geometry)):
        raise ValueError(f"taps {taps.dtype} do not fit {geometry}")
    call = _Call.of(geometry, dx.dtype)
    for kept, _, part in call.walk(taps, taps.dtype):
        if not pool.max_fits(kept, call.sizes, part):
            raise ValueError("cache: its taps are no cells of the windows of x")
    for gradients, where, part in call.walk(dout, dx.dtype, dx=dx):
        pool.max_backward(taps[where], gradients, dx[where], call.sizes, part, call.rows, call.taps)


def average_forward(geometry: Geometry, x: Array, out: Array, count_include_pad: bool) -> None:
    """Overwrite out with the averages of the windows of x."""
    _check_fit(geometry, x, out, written=out)
    call = _Call.of(geometry, out.dtype)
    scratch = (call.room, call.rows, _counted(geometry, count_include_pad))
    for images, where, part in call.walk(x, out.dtype):
        pool.average_forward(images, out[where], call.sizes, part, *scratch)


def average_backward(geometry: Geometry, dout: Array, dx: Array, count_include_pad: bool) -> None:
    """Overwrite dx: each element of dout is divided among the cells of its window."""
    _check_fit(geometry, dx, dout, written=dx)
    call = _Call.of(geometry, dx.dtype)
    scratch = (call.room, call.rows, _counted(geometry, count_include_pad))
    for gradients, where, part in call.walk(dout, dx.dtype, dx=dx):
        pool.average_backward(gradients, dx[where], call.sizes, part, *scratch)


def _counted(geometry: Geometry, count_include_pad: bool) -> Array:
    """Where the cells that a divisor counts begin and end: rows of one an axis."""
    counted = allocate("the ends of images", (2, geometry.rank), np.dtype(np.intp))
    for axis, (size, pads) in enumerate(zip(geometry.in_shape, geometry.pad, strict=True)):
        before, after = pads if count_include_pad else (0, 0)
        counted[:, axis] = -before, size + after
    return counted


class _Call(NamedTuple):
    """How a batch is cut into calls of a kernel, and the scratch of one.

    Attributes
    ----------
    samples, channels, columns : int
        The most samples, channels and columns of positions (the last axis) of a call. The columns
        follow from the geometry alone, since sums into dx are made in their order.
    sizes : ndarray
        The sizes as kernels take them.
    room, rows, taps : ndarray
        What they work in.
    """

    geometry: Geometry
    samples: int
    channels: int
    columns: int
    sizes: Array
    room: Array
    rows: Array
    taps: Array

    @classmethod
    def of(cls, g: Geometry, dtype: np.dtype[Any]) -> "_Call":
        cells = math.prod(g.kernel_size)
        plane = max(1, math.prod(g.in_shape) * dtype.itemsize)
        planes = max(1, min(CALL_BYTES // plane, CALL_CELLS // (g.positions * cells)))
        columns = min(g.out_shape[-1], CALL_COLUMNS, max(16, CALL_CELLS // cells))
        width = columns
        if g.stride[-1] <= 2 and g.dilation[-1] == 1:  # computed in whole vectors
            width = -(-columns // 16) * 16
        line = (width - 1) * g.stride[-1] + g.dilation[-1] * (g.kernel_size[-1] - 1) + 1
        rows = max(2 * math.prod(g.kernel_size[:-1]), cells)
        return cls(
            geometry=g,
            samples=max(1, planes // g.channels),
            channels=min(planes, g.channels),
            columns=columns,
            sizes=size_table(g),
            room=allocate("the lines of a pool", (2 * line + 2 * width,), dtype),
            rows=allocate("the cells of a window", (rows,), np.dtype(np.intp)),
            taps=allocate("the maxima of a row", (width,), np.dtype(np.intc)),
        )

    def walk(
        self, read: Array, dtype: np.dtype[Any], *, dx: Array | None = None
    ) -> Iterator[tuple[Array, tuple[slice, slice], Part]]:
        """Yield what is read, where in the batch it is, and the positions, call after call.

        If dx is given, what is there of it is zeroed before the first of its calls.
        """
        source = staged(read, dtype, self.samples)
        for batch in parts(self.geometry.batch, self.samples):
            loaded = source[batch]
            for planes in self._planes(loaded if dx is None else dx[batch]):
                if dx is not None:
                    dx[batch, planes].fill(0)
                for part in self._positions(len(loaded) * (planes.stop - planes.start)):
                    yield loaded[:, planes], (batch, planes), part

    def _planes(self, images: Array) -> Iterator[slice]:
        """Cut the channels, unless they lie together in memory: then rows are cut instead."""
        together = images.strides[1] == images.itemsize != images.strides[-1]
        return parts(self.geometry.channels, self.geometry.channels if together else self.channels)

    def _positions(self, planes: int) -> Iterator[Part]:
        """Cut the positions of so many planes, the columns outermost."""
        cells = planes * math.prod(self.geometry.kernel_size)
        *outer, last = self.geometry.out_shape
        for across in parts(last, self.columns):
            step = max(1, CALL_CELLS // (cells * (across.stop - across.start)))
            for rows in parts(math.prod(outer), step):
                yield rows.start, rows.stop, across.start, across.stop


def _check_fit(geometry: Geometry, x: Array, y: Array, *, written: Array) -> None:
    """Refuse arrays that a kernel would overrun; no public call comes here with any."""
    if (
        x.shape != geometry.x_shape
        or y.shape != geometry.result_shape
        or not is_native(written, written.dtype)
    ):
        raise ValueError(f"x {x.shape} and y {y.shape} do not fit {geometry}")
