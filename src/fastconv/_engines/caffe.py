"""The engine `caffe`: im2col and a matrix product for each sample, as Caffe's layers compute.

The five steps take a few samples at once, each with a column matrix of its own, or a range of
output positions of one; the loops below run them over a batch. Samples and groups are stacks of
matrices, multiplied in one call of `np.matmul`, which gives the product of each pair alone::

    w_g (G, F/G, K)  .  cols_g (n, G, K, S)  =  out_g (n, G, F/G, S)

with ``K = C/G * prod(kernel)`` and ``S = prod(O)``, or the number of positions in the range.

What is written, and w, is native and C-contiguous; so are x of a 1x1 layer, whose columns are x
itself (`cols` is None), and dout. Any other x may lie in memory in any way.

The loops also serve columns that are not im2col's: see `_sampling.py`.

Source: BaseConvolutionLayer of Caffe (src/caffe/layers/base_conv_layer.cpp), whose steps bear these
names.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from fastconv._columns import fill_columns, sum_columns
from fastconv._geometry import Geometry
from fastconv._memory import Kept, allocate, apart, as_contiguous, parts, staged
from fastconv._validation import Array

NAME = "caffe"

# A step takes about this many bytes of columns: they stay in second-level cache from the lowering
# to the product.
STEP_BYTES = 2**20
# But no fewer positions, or the product would pass over the weights too often.
STEP_POSITIONS = 2048
# A 1x1 layer has its columns already: many samples go into one call of the product. The limit is
# for inputs that must be copied first.
POINTWISE_BYTES = 2**25
# A product of more multiply-adds is made in pieces, between which Python hears Ctrl-C: 0.1 s at the
# 70 G/s of one AVX-512 core in float32, 1 s at the 9 G/s of an old one in float64.
PRODUCT_SIZE = 2**33


def unsupported_reason(geometry: Geometry, dtype: np.dtype[Any]) -> str | None:
    """Return None: this engine serves every geometry."""
    return None


# --- the five steps ---------------------------------------------------------------------------


def forward_gemm(
    g: Geometry,
    x: Array,
    w: Array,
    out: Array,
    cols: Array | None,
    positions: slice,
    *,
    skip_im2col: bool = False,
    force_nd: bool = False,
) -> None:
    """``out_g = w_g . cols_g`` with cols = im2col(x), or what they hold if that is skipped."""
    if cols is not None and not skip_im2col:
        fill_columns(g, x, cols, positions, force_nd=force_nd)
    columns = _in_groups(g, x)[..., positions] if cols is None else _in_groups(g, cols)
    _multiply(_weights_in_groups(g, w), columns, _in_groups(g, out)[..., positions])


def forward_bias(out: Array, b: Array, positions: slice) -> None:
    """``out += b . ones``, ones being the bias multiplier.

    Caffe stores the ones because BLAS has no broadcast. Here they are the broadcast axis: the same
    products b * 1, in a quarter of the time (64 filters at 224x224: 0.7 against 4.1 ms with stored
    ones, one core of a Sapphire Rapids Xeon, `rows += b[:, np.newaxis] * ones` timed beside it).
    """
    rows = out.reshape(len(out), b.size, -1)[..., positions]
    rows += b[:, np.newaxis]


def backward_gemm(
    g: Geometry,
    dout: Array,
    w: Array,
    dx: Array,
    cols: Array | None,
    positions: slice,
    *,
    force_nd: bool = False,
) -> None:
    """``cols_g = w_g^T . dout_g``, then dx = col2im(cols), or dx += from the second range on.

    A 1x1 layer writes dx directly.
    """
    target = dx.reshape(*dx.shape[:2], -1)[..., positions] if cols is None else cols
    column_gradients(g, dout, w, target, positions)
    if cols is not None:
        sum_columns(g, cols, dx, positions, add=positions.start > 0, force_nd=force_nd)


def column_gradients(g: Geometry, dout: Array, w: Array, cols: Array, positions: slice) -> None:
    """``cols_g = w_g^T . dout_g``."""
    gradient = _in_groups(g, apart(dout, w))[..., positions]
    _multiply(_weights_in_groups(g, w).swapaxes(-1, -2), gradient, _in_groups(g, cols))


def weight_gemm(
    g: Geometry,
    x: Array,
    dout: Array,
    dw: Array,
    cols: Array | None,
    room: Array,
    positions: slice,
    *,
    skip_im2col: bool = False,
    force_nd: bool = False,
) -> None:
    """``dw_g += dout_g . cols_g^T`` with cols = im2col(x), one sample after the other.

    The products (n, F, C/G, *K) are put into `room` first.
    """
    if cols is not None and not skip_im2col:
        fill_columns(g, x, cols, positions, force_nd=force_nd)
    columns = _in_groups(g, apart(x, dout))[..., positions] if cols is None else _in_groups(g, cols)
    products = room[: len(x)].reshape(len(x), g.group, g.filters // g.group, -1)
    _multiply(_in_groups(g, dout)[..., positions], columns.swapaxes(-1, -2), products)
    for product in room[: len(x)]:
        dw += product


def backward_bias(db: Array, dout: Array, multiplier: Array, room: Array) -> None:
    """``db += dout . ones``, ones being the bias multiplier (S,), one sample after the other.

    The products (n, F) are put into `room` first.
    """
    products = room[: len(dout)]
    np.matmul(dout.reshape(len(dout), db.size, -1), multiplier, out=products)
    for product in products:
        db += product


def bias_multiplier(positions: int, dtype: np.dtype[Any]) -> Array:
    """Ones, as many as a sample has output positions."""
    multiplier = allocate("the bias multiplier", (positions,), dtype)
    multiplier.fill(1)
    return multiplier


def _multiply(a: Array, b: Array, out: Array) -> None:
    """``out = a . b`` for stacks of matrices, out (n, G, rows, columns).

    How a product is cut depends on its own size alone, so that it is the same in any batch.
    """
    if a.shape[-1] == 1:  # outer products; BLAS's took mobilenet_dw112 backward from 61 to 93 ms
        np.multiply(a, b, out=out)
        return
    n, G, rows, columns = out.shape
    column = rows * a.shape[-1]
    if n * G * column * columns <= PRODUCT_SIZE:
        np.matmul(a, b, out=out)
        return
    left = np.broadcast_to(a, (n, G, *a.shape[-2:]))
    for pair in np.ndindex(n, G):
        for part in parts(columns, max(1, PRODUCT_SIZE // column)):
            np.matmul(left[pair], b[pair][:, part], out=out[pair][:, part])


def _weights_in_groups(g: Geometry, w: Array) -> Array:
    """View w (F, C/G, *K) as (G, F/G, K)."""
    return w.reshape(g.group, g.filters // g.group, -1)


def _in_groups(g: Geometry, array: Array) -> Array:
    """View columns (n, C*K, S) as (n, G, K, S), outputs (n, F, *O) as (n, G, F/G, S)."""
    samples, rows = array.shape[:2]
    return array.reshape(samples, g.group, rows // g.group, -1)


# --- the engine -------------------------------------------------------------------------------


def workspace(
    geometry: Geometry, x: Array, out: Array, workers: int | None, *, keeps: bool = False
) -> int:
    """Bytes that `forward` allocates."""
    samples, _, columns = _steps(geometry, out.dtype)
    numbers = columns
    if geometry.is_1x1 and not x[:samples].flags.c_contiguous:
        numbers += x[:samples].size
    if not out[:samples].flags.c_contiguous:
        numbers += out[:samples].size
    return out.itemsize * numbers


def forward(
    geometry: Geometry,
    x: Array,
    w: Array,
    b: Array | None,
    out: Array,
    workers: int | None,
    kept: Kept | None = None,
) -> None:
    """``out (N, F, *O)`` = the convolution of x (N, C, *S) with w (F, C/group, *K), plus b (F,).

    Weights are multiplied as they are: there is nothing to keep.
    """
    plan = Plan.of(geometry, out.dtype)
    samples = staged(x, out.dtype, plan.samples, contiguous=geometry.is_1x1)
    run_forward(geometry, plan, forward_gemm, samples, w, b, out)


def backward_x(
    geometry: Geometry, dout: Array, w: Array, b: Array | None, dx: Array, workers: int | None
) -> None:
    """``dx (N, C, *S)`` = the gradient from dout (N, F, *O), plus b (C,).

    The bias is that of a transposed convolution, whose forward pass this is.
    """
    plan = Plan.of(geometry, dx.dtype)
    bias = None if b is None else as_contiguous(b, dx.dtype)
    run_backward_x(geometry, plan, backward_gemm, dout, w, written(dx, plan.samples, bias))


def backward_w(
    geometry: Geometry,
    x: Array,
    dout: Array,
    dw: Array,
    workers: int | None,
    db: Array | None = None,
) -> None:
    """``dw (F, C/group, *K)`` += the gradient from x (N, C, *S) and dout (N, F, *O).

    ``db (F,)``, if given, += the sum of dout.
    """
    plan = Plan.of(geometry, dw.dtype).with_products(dw)
    samples = staged(x, dw.dtype, plan.samples, contiguous=geometry.is_1x1)
    run_backward_w(geometry, plan, weight_gemm, samples, dout, dw)
    if db is not None:
        backward_b(dout, db, workers)


@np.errstate(all="ignore")
def backward_b(dout: Array, db: Array, workers: int | None) -> None:
    """``db (F,)`` += the sum of dout (N, F, *O) over samples and positions."""
    multiplier = bias_multiplier(dout[:1, 0].size, db.dtype)
    step = max(1, STEP_BYTES // max(dout[:1].nbytes, 1))
    gradients = staged(dout, db.dtype, step, contiguous=True)
    room = allocate("bias gradients", (min(step, len(dout)), *db.shape), db.dtype)
    for part in parts(len(dout), step):
        backward_bias(db, gradients[part], multiplier, room)


# --- the loops over a batch -------------------------------------------------------------------


class Plan(NamedTuple):
    """How a batch is cut into steps: some whole samples, or some positions of one.

    It follows from the layer and the type alone, so that a sample's result does not depend on the
    batch it comes in.
    """

    samples: int
    positions: int
    taps: int
    dtype: np.dtype[Any]
    buffer: Array | None  # the columns of one step, whatever its shape; None where x is its own

    @classmethod
    def of(cls, geometry: Geometry, dtype: np.dtype[Any], *, lowered: bool = False) -> "Plan":
        """Plan a call. A 1x1 layer that is `lowered` has columns, cut as those it has without."""
        samples, positions, size = _steps(geometry, dtype, lowered=lowered)
        buffer = allocate("the column buffer", (size,), dtype) if size else None
        return cls(samples, positions, geometry.taps, dtype, buffer)

    def with_products(self, dw: Array) -> "Plan":
        """Take fewer samples at a time where each has a product as large as dw."""
        return self._replace(samples=max(1, min(self.samples, STEP_BYTES // dw.nbytes)))

    def columns(self, samples: int, positions: slice) -> Array | None:
        """The buffer as the columns (samples, C*K, S) of one step."""
        if self.buffer is None:
            return None
        shape = (samples, self.taps, positions.stop - positions.start)
        return self.buffer[: shape[0] * shape[1] * shape[2]].reshape(shape)


def _steps(
    geometry: Geometry, dtype: np.dtype[Any], *, lowered: bool = False
) -> tuple[int, int, int]:
    """Samples and positions of a step, and the numbers in its columns, none if x is its own."""
    column = geometry.taps * dtype.itemsize
    columns = (POINTWISE_BYTES if geometry.is_1x1 else STEP_BYTES) // column
    steps = max(1, geometry.positions // max(columns, STEP_POSITIONS))
    positions = -(-geometry.positions // steps)  # all steps nearly alike, none very small
    row = geometry.out_shape[-1]
    if row < positions:  # whole rows are lowered faster
        positions = -(-positions // row) * row
    needs_columns = lowered or not geometry.is_1x1
    if needs_columns:
        columns = STEP_BYTES // column
    samples = max(1, min(geometry.batch, columns // geometry.positions))
    return samples, positions, samples * geometry.taps * positions if needs_columns else 0


# One of the five steps, or one with other columns in its place.
Step: TypeAlias = Callable[..., None]


class Samples(Protocol):
    """What gives some samples of a batch, in the form in which a step takes them."""

    def __getitem__(self, part: slice, /) -> Any: ...


@np.errstate(all="ignore")
def run_forward(
    geometry: Geometry,
    plan: Plan,
    gemm: Step,
    samples: Samples,
    w: Array,
    b: Array | None,
    out: Array,
) -> None:
    """Walk over a batch with a step like `forward_gemm`, and the bias."""
    weights = as_contiguous(w, out.dtype)
    bias = None if b is None else as_contiguous(b, out.dtype)
    for part, work in written(out, plan.samples):
        sample = samples[part]
        for positions in parts(geometry.positions, plan.positions):
            cols = plan.columns(len(work), positions)
            gemm(geometry, sample, weights, work, cols, positions)
            if bias is not None:
                forward_bias(work, bias, positions)


@np.errstate(all="ignore")
def run_backward_x(
    geometry: Geometry,
    plan: Plan,
    gemm: Step,
    dout: Array,
    w: Array,
    targets: Iterable[tuple[slice, Any]],
) -> None:
    """Walk over targets, each with the samples it is for, with a step like `backward_gemm`."""
    weights = as_contiguous(w, plan.dtype)
    gradients = staged(dout, plan.dtype, plan.samples, contiguous=True)
    for part, work in targets:
        gradient = gradients[part]
        for positions in parts(geometry.positions, plan.positions):
            cols = plan.columns(len(gradient), positions)
            gemm(geometry, gradient, weights, work, cols, positions)


@np.errstate(all="ignore")
def run_backward_w(
    geometry: Geometry,
    plan: Plan,
    gemm: Step,
    samples: Samples,
    dout: Array,
    dw: Array,
) -> None:
    """Walk over a batch with a step like `weight_gemm`."""
    gradients = staged(dout, dw.dtype, plan.samples, contiguous=True)
    room = allocate("weight gradients", (plan.samples, *dw.shape), dw.dtype)
    for part in parts(geometry.batch, plan.samples):
        sample, gradient = samples[part], gradients[part]
        for positions in parts(geometry.positions, plan.positions):
            cols = plan.columns(len(gradient), positions)
            gemm(geometry, sample, gradient, dw, cols, room, positions)


def written(out: Array, step: int, bias: Array | None = None) -> Iterator[tuple[slice, Array]]:
    """Walk over some samples at a time, each part with contiguous memory to write them to.

    That is `out` itself where it is contiguous; else the part is copied there as the walk goes on.
    A bias is added to a part once it is written.
    """
    in_place = out[:step].flags.c_contiguous
    spare = None if in_place else allocate("a sample", out[:step].shape, out.dtype)
    for part in parts(len(out), step):
        work = out[part] if spare is None else spare[: part.stop - part.start]
        yield part, work
        if bias is not None:
            forward_bias(work, bias, slice(None))
        if spare is not None:
            out[part] = work
