"""The column matrix of samples: Python that drives the lowering kernels."""

import functools
from collections.abc import Iterator

import numpy as np

from fastconv import _im2col
from fastconv._geometry import Geometry
from fastconv._memory import is_native, parts, staged
from fastconv._validation import Array

# Columns that one call of a kernel handles: some 20 ms, after which Python hears Ctrl-C. The least
# is one channel of one sample.
CALL_BYTES = 2**26


@functools.lru_cache(maxsize=256)
def size_table(geometry: Geometry) -> Array:
    """The sizes as rows: in_shape, kernel_size, stride, pad (before), dilation, out_shape."""
    before = [pair[0] for pair in geometry.pad]
    table = np.array(
        [
            geometry.in_shape,
            geometry.kernel_size,
            geometry.stride,
            before,
            geometry.dilation,
            geometry.out_shape,
        ],
        dtype=np.intp,
    )
    table.flags.writeable = False
    return table


def fill_columns(
    geometry: Geometry, x: Array, cols: Array, positions: slice, *, force_nd: bool = False
) -> None:
    """Write the columns of samples x (n, C, *S) at those positions into cols (n, taps, positions).

    x may be of any byte order and layout; cols is native and C-contiguous.
    """
    _check_fit(geometry, x, cols, positions, written=cols)
    sizes, step = size_table(geometry), _samples_a_call(cols)
    source = staged(x, cols.dtype, step)
    for part in parts(len(x), step):
        samples, columns = source[part], cols[part]
        for channels, taps in _channels_a_call(geometry, columns):
            _im2col.im2col(
                samples[:, channels],
                columns[:, taps],
                sizes,
                positions.start,
                positions.stop,
                force_nd,
            )


def sum_columns(
    geometry: Geometry,
    cols: Array,
    x: Array,
    positions: slice,
    *,
    add: bool = False,
    force_nd: bool = False,
) -> None:
    """Overwrite samples x (n, C, *S) with the sums of their columns at those positions, or add.

    cols (n, taps, positions) may be of any byte order and layout; x is native, and no two of its
    elements overlap.
    """
    _check_fit(geometry, x, cols, positions, written=x)
    sizes, step = size_table(geometry), _samples_a_call(cols)
    source = staged(cols, x.dtype, step, contiguous=True)
    for part in parts(len(x), step):
        columns, samples = source[part], x[part]
        for channels, taps in _channels_a_call(geometry, columns):
            image = samples[:, channels]
            if not add:
                image.fill(0)
            _im2col.col2im(
                columns[:, taps], image, sizes, positions.start, positions.stop, force_nd
            )


def _samples_a_call(cols: Array) -> int:
    return max(1, CALL_BYTES // max(cols[:1].nbytes, 1))


def _channels_a_call(geometry: Geometry, cols: Array) -> Iterator[tuple[slice, slice]]:
    """Cut the channels of a sample that is large, each slice with its rows of the column matrix."""
    step = geometry.channels
    if cols.nbytes > CALL_BYTES:  # then it is one sample, whose rows lie together
        step = max(1, CALL_BYTES // (cols.nbytes // step))
    taps = geometry.taps // geometry.channels
    for part in parts(geometry.channels, step):
        yield part, slice(part.start * taps, part.stop * taps)


def _check_fit(
    geometry: Geometry, x: Array, cols: Array, positions: slice, *, written: Array
) -> None:
    """Refuse arrays that a kernel would overrun; no public call comes here with any."""
    if (
        x.shape[1:] != geometry.x_shape[1:]
        or cols.shape != (len(x), geometry.taps, positions.stop - positions.start)
        or not 0 <= positions.start < positions.stop <= geometry.positions
        or written.dtype.char not in "fd"
        or not is_native(written, written.dtype)
        or not (written is x or cols.flags.c_contiguous)
    ):
        raise ValueError(
            f"x {x.shape} {x.dtype} and cols {cols.shape} {cols.dtype} at {positions} do not fit"
        )
