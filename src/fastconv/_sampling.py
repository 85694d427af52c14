"""Deformable columns: Python that drives the sampling kernels, and the engine's loops over them.

The columns of a sample depend on its image, its offsets and its mask. From there on everything is
as in the engine `caffe`, and cut alike, so that offsets of 0 give what it gives, to the bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastconv._columns import size_table
from fastconv._engines import caffe
from fastconv._geometry import Geometry
from fastconv._kernels import deform
from fastconv._memory import Staged, is_native, parts, staged
from fastconv._validation import Array

# Columns that one call of a kernel handles: at most 0.2 s, after which Python hears Ctrl-C. The
# least is one channel of one sample.
CALL_BYTES = 2**24


class Samples(NamedTuple):
    """x (n, C, H, W), offset (n, 2*offset_group*KH*KW, OH, OW), mask (n, offset_group*KH*KW, ...).

    They may lie in memory in any way, except where kernels read them: see `_Staged`.
    """

    x: Array
    offset: Array
    mask: Array | None
    offset_group: int


@dataclass(frozen=True, slots=True)
class _Staged:
    """Samples that are read a few at a time, as kernels can read them."""

    x: Staged
    offset: Staged
    mask: Staged | None
    offset_group: int

    @classmethod
    def of(cls, samples: Samples, dtype: np.dtype[Any], step: int) -> "_Staged":
        x, offset, mask = (
            None if array is None else staged(array, dtype, step, contiguous=True)
            for array in (samples.x, samples.offset, samples.mask)
        )
        assert x is not None
        assert offset is not None
        return cls(x, offset, mask, samples.offset_group)

    def __getitem__(self, part: slice) -> Samples:
        mask = None if self.mask is None else self.mask[part]
        return Samples(self.x[part], self.offset[part], mask, self.offset_group)


class Targets(NamedTuple):
    """Where the gradients of x, offset and mask go; None for one that is not asked for."""

    dx: Array | None
    doffset: Array | None
    dmask: Array | None


# --- the engine's loops -----------------------------------------------------------------------


def forward(g: Geometry, samples: Samples, w: Array, b: Array | None, out: Array) -> None:
    """``out (N, F, OH, OW)`` = the product of w (F, C/group, KH, KW) and the columns, plus b."""
    plan = caffe.Plan.of(g, out.dtype, lowered=True)
    batch = _Staged.of(samples, out.dtype, plan.samples)
    caffe.run_forward(g, plan, _forward_gemm, batch, w, b, out)


def backward_samples(
    g: Geometry, samples: Samples, dout: Array, w: Array, targets: Targets, dtype: np.dtype[Any]
) -> None:
    """Overwrite the targets with the gradients from dout (N, F, OH, OW)."""
    plan = caffe.Plan.of(g, dtype, lowered=True)
    batch = _Staged.of(samples, dtype, plan.samples)
    walk = _written(batch, targets, g.batch, plan.samples)
    caffe.run_backward_x(g, plan, _backward_gemm, dout, w, walk)


def backward_w(g: Geometry, samples: Samples, dout: Array, dw: Array) -> None:
    """``dw (F, C/group, KH, KW)`` += the gradient from the columns and dout (N, F, OH, OW)."""
    plan = caffe.Plan.of(g, dw.dtype, lowered=True).with_products(dw)
    batch = _Staged.of(samples, dw.dtype, plan.samples)
    caffe.run_backward_w(g, plan, _weight_gemm, batch, dout, dw)


def _forward_gemm(
    g: Geometry, samples: Samples, w: Array, out: Array, cols: Array, positions: slice
) -> None:
    sample_columns(g, samples, cols, positions)
    caffe.forward_gemm(g, samples.x, w, out, cols, positions, skip_im2col=True)


def _backward_gemm(
    g: Geometry,
    dout: Array,
    w: Array,
    work: tuple[Samples, Targets],
    cols: Array,
    positions: slice,
) -> None:
    caffe.column_gradients(g, dout, w, cols, positions)
    scatter_columns(g, cols, *work, positions, add=positions.start > 0)


def _weight_gemm(
    g: Geometry,
    samples: Samples,
    dout: Array,
    dw: Array,
    cols: Array,
    room: Array,
    positions: slice,
) -> None:
    sample_columns(g, samples, cols, positions)
    caffe.weight_gemm(g, samples.x, dout, dw, cols, room, positions, skip_im2col=True)


def _written(
    batch: _Staged, targets: Targets, size: int, step: int
) -> Iterator[tuple[slice, tuple[Samples, Targets]]]:
    """Walk over some samples at a time, with contiguous memory for their gradients."""

    def walk(target: Array | None) -> Iterator[tuple[slice, Array | None]]:
        if target is None:
            yield from ((part, None) for part in parts(size, step))
        else:
            yield from caffe.written(target, step)

    # strict also resumes every walk after the last part, which it then brings to its target.
    for (part, dx), (_, doffset), (_, dmask) in zip(
        walk(targets.dx), walk(targets.doffset), walk(targets.dmask), strict=True
    ):
        yield part, (batch[part], Targets(dx, doffset, dmask))


# --- one step ---------------------------------------------------------------------------------


def sample_columns(g: Geometry, samples: Samples, cols: Array, positions: slice) -> None:
    """Write the columns of samples at those positions into cols (n, taps, positions)."""
    nothing = Targets(None, None, None)
    _check_fit(g, samples, cols, nothing, positions)
    sizes = size_table(g)
    for piece in _pieces(g, samples.offset_group, cols):
        deform.sample(
            samples.x[:, piece.channels],
            samples.offset[:, piece.moves],
            None if samples.mask is None else samples.mask[:, piece.points],
            cols[:, piece.taps],
            sizes,
            positions.start,
            positions.stop,
            piece.groups,
        )


def scatter_columns(
    g: Geometry,
    cols: Array,
    samples: Samples,
    targets: Targets,
    positions: slice,
    *,
    add: bool = False,
) -> None:
    """Overwrite the targets with the gradients from those of the columns.

    With `add` dx, to which other positions give too, is added to.
    """
    _check_fit(g, samples, cols, targets, positions)
    sizes = size_table(g)
    if targets.dx is not None and not add:
        _fill_zeros(targets.dx)
    for target in (targets.doffset, targets.dmask):
        if target is not None:
            _fill_zeros(target.reshape(*target.shape[:2], -1)[..., positions])
    for piece in _pieces(g, samples.offset_group, cols):
        deform.scatter(
            cols[:, piece.taps],
            samples.x[:, piece.channels],
            samples.offset[:, piece.moves],
            None if samples.mask is None else samples.mask[:, piece.points],
            None if targets.dx is None else targets.dx[:, piece.channels],
            None if targets.doffset is None else targets.doffset[:, piece.moves],
            None if targets.dmask is None else targets.dmask[:, piece.points],
            sizes,
            positions.start,
            positions.stop,
            piece.groups,
        )


def _fill_zeros(array: Array) -> None:
    """Zero (n, rows, ...) in pieces: in memory that is new, that may take seconds."""
    step = max(1, CALL_BYTES * array.shape[1] // array.nbytes) if array.size else 1
    for part in parts(array.shape[1], step):
        array[:, part].fill(0)


class _Piece(NamedTuple):
    """Channels that one call of a kernel handles, of so many offset groups, and what is theirs."""

    channels: slice
    taps: slice  # rows of the column matrix
    moves: slice  # channels of the offset
    points: slice  # channels of the mask
    groups: int


def _pieces(g: Geometry, offset_group: int, cols: Array) -> Iterator[_Piece]:
    """Cut the channels of samples that are large, within offset groups."""
    kernel = g.taps // g.channels
    if cols.nbytes <= CALL_BYTES:
        every = slice(None)
        yield _Piece(every, every, every, every, offset_group)
        return
    channels = g.channels // offset_group
    step = max(1, CALL_BYTES // (cols.nbytes // g.channels))
    for group in range(offset_group):
        points = slice(group * kernel, (group + 1) * kernel)
        moves = slice(2 * points.start, 2 * points.stop)
        for part in parts(channels, step):
            start, stop = group * channels + part.start, group * channels + part.stop
            taps = slice(start * kernel, stop * kernel)
            yield _Piece(slice(start, stop), taps, moves, points, 1)


def _check_fit(
    g: Geometry, samples: Samples, cols: Array, targets: Targets, positions: slice
) -> None:
    """Refuse arrays that a kernel would overrun; no public call comes here with any."""
    count, points = len(cols), samples.offset_group * (g.taps // g.channels)
    images = (count, *g.x_shape[1:])
    moves, masks = (count, 2 * points, *g.out_shape), (count, points, *g.out_shape)
    expected = (
        (cols, (count, g.taps, positions.stop - positions.start)),
        (samples.x, images),
        (samples.offset, moves),
        (samples.mask, masks),
        (targets.dx, images),
        (targets.doffset, moves),
        (targets.dmask, masks),
    )
    for array, shape in expected:
        if array is not None and (
            array.shape != shape
            or array.dtype != cols.dtype
            or not is_native(array, cols.dtype)
            or not array[:1].flags.c_contiguous
        ):
            raise ValueError(f"an array {array.shape} {array.dtype} does not fit {shape}")
    if (
        cols.dtype.char not in "fd"
        or not 0 <= positions.start < positions.stop <= g.positions
        or g.rank != 2
        or g.channels % samples.offset_group
    ):
        raise ValueError(f"cols {cols.shape} {cols.dtype} at {positions} do not fit {g}")
