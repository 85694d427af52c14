"""The convolution layers as Caffe has them: five steps over one sample, two layers made of them.

A layer walks over its bottoms and their samples and takes, for each sample, a few of these steps::

                     convolution                          deconvolution
    forward          forward_gemm(x, w, out)              backward_gemm(x, w, out)
                     forward_bias(out, b)                 forward_bias(out, b)
    backward         backward_bias(db, dout)              backward_bias(db, dout)
                     weight_gemm(x, dout, dw)             weight_gemm(dout, x, dw)
                     backward_gemm(dout, w, dx)           forward_gemm(dout, w, dx), im2col skipped

The column buffer holds one sample. Gradients of parameters are added to, those of bottoms
overwritten.

Source: src/caffe/layers/base_conv_layer.cpp, conv_layer.cpp and deconv_layer.cpp of Caffe
(Jia et al., 2014).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv._engines import caffe as steps
from fastconv._geometry import Geometry, conv_geometry, deconv_geometry
from fastconv._memory import Target, allocate, as_contiguous, as_target, is_native
from fastconv._validation import (
    MAX_PARAMETER,
    Array,
    ArrayLike,
    IntOrPerAxis,
    Pad,
    as_dtype,
    as_flag,
    as_flags,
    as_floating,
    as_int,
    as_per_axis,
    as_shape,
    check_ndarray,
    check_shape,
    check_size,
    check_target,
    common_dtype,
    is_several,
)

# --- the five steps, for callers --------------------------------------------------------------


@np.errstate(all="ignore")
def forward_gemm(
    x: ArrayLike,
    w: ArrayLike,
    out: Array,
    *,
    stride: IntOrPerAxis = 1,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    group: int = 1,
    col_buffer: Array | None = None,
    skip_im2col: bool = False,
) -> None:
    """Overwrite out with ``out_g = w_g . cols_g`` for every group g, where cols = im2col(x).

    Parameters
    ----------
    x : array_like, (C, *S)
        One sample, float32 or float64.
    w : array_like, (F, C/group, *K)
        The filters.
    out : ndarray, (F, *O)
        Overwritten.
    stride, pad, dilation, group
        As in `fastconv.conv_forward`.
    col_buffer : ndarray, (C * prod(K), prod(O)), optional
        Where to make the columns, C-contiguous. A 1x1 layer (kernel 1, stride 1, pad 0) leaves it
        alone, since its columns are x.
    skip_im2col : bool
        Take the columns as the buffer holds them, from a call before this one.

    Raises
    ------
    TypeError, ValueError
        As `fastconv.conv_forward`; ValueError also for skip_im2col without a buffer and for a
        buffer that overlaps another of the arrays.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import caffe
    >>> out = np.empty((1, 2, 2))
    >>> caffe.forward_gemm(np.ones((1, 3, 3)), np.ones((1, 1, 2, 2)), out)
    >>> caffe.forward_bias(out, np.array([0.5]))
    >>> out
    array([[[4.5, 4.5],
            [4.5, 4.5]]])
    """
    sample, weights = as_floating("x", x), as_floating("w", w)
    dtype = common_dtype(sample, weights)
    skip = as_flag("skip_im2col", skip_im2col)
    geometry = _step_geometry(
        "x", sample, "w", weights, stride=stride, pad=pad, dilation=dilation, group=group
    )
    check_target("out", out, geometry.result_shape[1:], dtype)
    if skip and col_buffer is None:
        raise ValueError("skip_im2col: needs a col_buffer that holds the columns")
    cols = _as_col_buffer(col_buffer, geometry, dtype, (sample, weights, out))
    target = _as_step_target("out", out, geometry.result_shape[1:], dtype, (sample, weights))
    steps.forward_gemm(
        geometry,
        as_contiguous(sample, dtype)[None],
        as_contiguous(weights, dtype),
        target.work[None],
        cols,
        slice(0, geometry.positions),
        skip_im2col=skip,
    )
    target.finish()


@np.errstate(all="ignore")
def forward_bias(out: Array, b: ArrayLike) -> None:
    """Add ``b . ones`` to out: the bias of a filter to each of its positions.

    Parameters
    ----------
    out : ndarray, (F, *O)
        Added to.
    b : array_like, (F,)
        The bias.

    Raises
    ------
    TypeError, ValueError
        Arrays of the wrong type or shape.
    """
    check_ndarray("out", out)
    images, bias = as_floating("out", out), as_floating("b", b)
    _check_result("out", images)
    check_shape("b", bias, images.shape[:1], f"one for each of out's {images.shape}")
    dtype = common_dtype(images, bias)
    target = _as_step_target("out", out, images.shape, dtype, (bias,), add=True)
    bias = as_contiguous(bias, target.work.dtype)
    steps.forward_bias(target.work[None], bias, slice(None))
    target.finish()


@np.errstate(all="ignore")
def backward_gemm(
    dout: ArrayLike,
    w: ArrayLike,
    dx: Array,
    *,
    stride: IntOrPerAxis = 1,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    group: int = 1,
    col_buffer: Array | None = None,
) -> None:
    """Overwrite dx with col2im of ``cols_g = w_g^T . dout_g``, taken over every group g.

    Parameters
    ----------
    dout : array_like, (F, *O)
        The gradient of one sample's result.
    w : array_like, (F, C/group, *K)
        The filters.
    dx : ndarray, (C, *S)
        Overwritten; its shape gives S.
    stride, pad, dilation, group, col_buffer
        As in `forward_gemm`; the buffer holds the gradient of the columns afterwards.

    Raises
    ------
    TypeError, ValueError
        As `forward_gemm`.
    """
    gradient, weights = as_floating("dout", dout), as_floating("w", w)
    dtype = common_dtype(gradient, weights)
    check_ndarray("dx", dx)
    geometry = _step_geometry(
        "dx", dx, "w", weights, stride=stride, pad=pad, dilation=dilation, group=group
    )
    check_shape("dout", gradient, geometry.result_shape[1:], "that of the forward result")
    check_target("dx", dx, geometry.x_shape[1:], dtype)
    cols = _as_col_buffer(col_buffer, geometry, dtype, (gradient, weights, dx))
    target = _as_step_target("dx", dx, geometry.x_shape[1:], dtype, (gradient, weights))
    steps.backward_gemm(
        geometry,
        as_contiguous(gradient, dtype)[None],
        as_contiguous(weights, dtype),
        target.work[None],
        cols,
        slice(0, geometry.positions),
    )
    target.finish()


@np.errstate(all="ignore")
def weight_gemm(
    x: ArrayLike,
    dout: ArrayLike,
    dw: Array,
    *,
    stride: IntOrPerAxis = 1,
    pad: Pad = 0,
    dilation: IntOrPerAxis = 1,
    group: int = 1,
    col_buffer: Array | None = None,
) -> None:
    """Add ``dout_g . cols_g^T`` to dw_g for every group g, where cols = im2col(x).

    Parameters
    ----------
    x : array_like, (C, *S)
        One sample.
    dout : array_like, (F, *O)
        The gradient of its result.
    dw : ndarray, (F, C/group, *K)
        Added to; its shape gives K.
    stride, pad, dilation, group, col_buffer
        As in `forward_gemm`; the buffer holds the columns of x afterwards.

    Raises
    ------
    TypeError, ValueError
        As `forward_gemm`.
    """
    sample, gradient = as_floating("x", x), as_floating("dout", dout)
    dtype = common_dtype(sample, gradient)
    check_ndarray("dw", dw)
    geometry = _step_geometry(
        "x", sample, "dw", dw, stride=stride, pad=pad, dilation=dilation, group=group
    )
    check_shape("dout", gradient, geometry.result_shape[1:], "that of the forward result")
    check_target("dw", dw, geometry.w_shape, dtype)
    inputs = (sample, gradient)
    cols = _as_col_buffer(col_buffer, geometry, dtype, (*inputs, dw))
    target = _as_step_target("dw", dw, geometry.w_shape, dtype, inputs, add=True)
    steps.weight_gemm(
        geometry,
        as_contiguous(sample, dtype)[None],
        as_contiguous(gradient, dtype)[None],
        target.work,
        cols,
        allocate("the weight gradient", (1, *geometry.w_shape), dtype),
        slice(0, geometry.positions),
    )
    target.finish()


@np.errstate(all="ignore")
def backward_bias(db: Array, dout: ArrayLike) -> None:
    """Add ``dout . ones`` to db: the sum of each filter's gradient over its positions.

    Parameters
    ----------
    db : ndarray, (F,)
        Added to.
    dout : array_like, (F, *O)
        The gradient of one sample's result.

    Raises
    ------
    TypeError, ValueError
        Arrays of the wrong type or shape.
    """
    gradient = as_floating("dout", dout)
    _check_result("dout", gradient)
    dtype = common_dtype(gradient)
    target = _as_step_target("db", db, gradient.shape[:1], dtype, (gradient,), add=True)
    multiplier = steps.bias_multiplier(gradient[0].size, dtype)
    product = allocate("the bias gradient", (1, *target.work.shape), dtype)
    steps.backward_bias(target.work, as_contiguous(gradient, dtype)[None], multiplier, product)
    target.finish()


def _check_result(name: str, array: Array) -> None:
    """Check what has the shape of one sample's result."""
    if array.ndim < 2 or not array.size:
        raise ValueError(f"{name}: expected (F, *O), none of them 0, got shape {array.shape}")


def _step_geometry(
    name: str,
    sample: Array,
    w_name: str,
    w: Array,
    *,
    stride: IntOrPerAxis,
    pad: Pad,
    dilation: IntOrPerAxis,
    group: int,
) -> Geometry:
    """The sizes for one sample (C, *S) and weights (F, C/group, *K)."""
    if w.ndim >= 3 and sample.ndim != w.ndim - 1:
        raise ValueError(
            f"{name}: expected {w.ndim - 1} axes, one less than {w_name}, "
            f"got {sample.ndim} (shape {sample.shape} with {w_name} of shape {w.shape})"
        )
    return conv_geometry(
        (1, *sample.shape), w.shape, stride=stride, pad=pad, dilation=dilation, group=group
    )


def _as_step_target(
    name: str,
    given: Array,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    inputs: tuple[Array, ...],
    *,
    add: bool = False,
) -> Target:
    check_target(name, given, shape, dtype)
    return as_target(name, given, shape, dtype, inputs, accumulate=add, contiguous=True)


def _as_col_buffer(
    given: Array | None, geometry: Geometry, dtype: np.dtype[Any], others: tuple[Array, ...]
) -> Array | None:
    """The caller's column buffer, or a new one, as that of one sample; None for a 1x1 layer."""
    if given is None or geometry.is_1x1:
        return _column_buffer(geometry, dtype)
    check_target("col_buffer", given, geometry.cols_shape[1:], dtype)
    if not given.flags.c_contiguous or not is_native(given, dtype):
        raise ValueError("col_buffer: must be C-contiguous, aligned and of native byte order")
    if any(np.may_share_memory(given, other) for other in others):
        raise ValueError("col_buffer: must not overlap another array of the call")
    return np.asarray(given)[np.newaxis]


def _column_buffer(geometry: Geometry, dtype: np.dtype[Any]) -> Array | None:
    """Make room for the columns of one sample, as (1, C*K, S); None for a 1x1 layer.

    A batch without samples needs none.
    """
    if geometry.is_1x1:
        return None
    shape = (min(1, geometry.batch), *geometry.cols_shape[1:])
    return allocate("the column buffer", shape, dtype)


# --- the layers -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """A parameter of a layer as it was asked for, until the number of axes is known."""

    name: str
    values: IntOrPerAxis | None
    prefix: str
    h: int | None
    w: int | None
    default: int | None
    minimum: int

    def resolve(self, rank: int) -> tuple[int, ...]:
        """One value an axis, from either form or the default."""
        pair = f"{self.prefix}_h and {self.prefix}_w"
        if self.h is None and self.w is None:
            values = self.default if self.values is None else self.values
            if values is None:
                raise ValueError(f"{self.name}: expected an int or {rank} ints, or {pair}")
            if is_several(values) and len(values) == 1:
                values = values[0]
            return as_per_axis(self.name, values, rank, self.minimum)
        if self.values is not None:
            raise ValueError(f"{self.name}: given beside {pair}; give one of the two forms")
        if rank != 2:
            raise ValueError(f"{pair}: only for two spatial axes, here there are {rank}")
        h_w = tuple(0 if value is None else value for value in (self.h, self.w))  # as Caffe does
        return as_per_axis(pair, h_w, rank, self.minimum)


class Blob:
    """Numbers and their gradient, of one shape, as layers pass them on.

    Parameters
    ----------
    data : array_like, optional
        The numbers, float32 or float64; held without a copy where C-contiguous. None makes an empty
        blob for a layer to shape.

    Attributes
    ----------
    data, diff : ndarray
        The numbers and their gradient (zeros at first, made when first asked for). Assign to
        elements, ``blob.data[...] = values``.
    shape : tuple of int
        The shape of both.
    """

    def __init__(self, data: ArrayLike | None = None) -> None:
        if data is None:
            self._data = allocate("data", (0,), np.dtype(np.float32))
        else:
            array = as_floating("data", data)
            self._data = as_contiguous(array, common_dtype(array))
        self._diff: Array | None = None

    @property
    def data(self) -> Array:
        """The numbers."""
        return self._data

    @property
    def diff(self) -> Array:
        """The gradient of the loss with respect to the numbers."""
        if self._diff is None:
            self._diff = allocate("diff", self.shape, self._data.dtype, zero=True)
        return self._diff

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of data and diff."""
        return self._data.shape

    def reshape(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Take another shape and type; what the blob held is lost unless they are the same."""
        sizes, kind = as_shape("shape", shape), as_dtype("dtype", dtype)
        check_size("shape", sizes)
        if self.shape != sizes or self._data.dtype != kind:
            self._data = allocate("data", sizes, kind, zero=True)
            self._diff = None


def _check_are_blobs(name: str, blobs: object) -> None:
    if not isinstance(blobs, Sequence):
        raise TypeError(f"{name}: expected a list of blobs, got {type(blobs).__name__}")
    for blob in blobs:
        if not isinstance(blob, Blob):
            raise TypeError(f"{name}: expected a list of blobs, got one of {type(blob).__name__}")


class BaseConvolutionLayer:
    """What both layers share: parameters, blobs, shapes and the five steps.

    Parameters
    ----------
    num_output : int
        F, the number of filters.
    kernel_size : int or one an axis
        K. In two dimensions `kernel_h` and `kernel_w` may stand in its place.
    stride, pad, dilation : int or one an axis, optional
        By default 1, 0 and 1. In two dimensions `stride_h`, `stride_w`, `pad_h` and `pad_w` may
        stand in the place of the first two.
    group : int
        Groups that channels and filters are split into.
    bias_term : bool
        Whether there is a bias.
    axis : int
        The channel axis; those before it are the batch, those after it spatial. May be negative.
    force_nd_im2col : bool
        Lower with the loop for any rank also in one and two dimensions; the results are the same.
    dtype : dtype
        float32 or float64, the type of all blobs.

    Attributes
    ----------
    blobs : list of Blob
        The weight and, with bias_term, the bias; made as zeros by `setup` unless they are there
        already. Layers may share them.
    param_propagate_down : list of bool
        For each blob, whether `backward` adds to its gradient.

    Notes
    -----
    The steps are those of this module, with the layer's parameters and its own column buffer.
    """

    def __init__(
        self,
        num_output: int,
        kernel_size: IntOrPerAxis | None = None,
        *,
        stride: IntOrPerAxis | None = None,
        pad: IntOrPerAxis | None = None,
        dilation: IntOrPerAxis | None = None,
        kernel_h: int | None = None,
        kernel_w: int | None = None,
        stride_h: int | None = None,
        stride_w: int | None = None,
        pad_h: int | None = None,
        pad_w: int | None = None,
        group: int = 1,
        bias_term: bool = True,
        axis: int = 1,
        force_nd_im2col: bool = False,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        self.num_output = as_int("num_output", num_output, 1)
        self.group = as_int("group", group, 1)
        if self.num_output % self.group:
            raise ValueError(f"num_output must be divisible by group, got {num_output}, {group}")
        self.bias_term = as_flag("bias_term", bias_term)
        self.force_nd_im2col = as_flag("force_nd_im2col", force_nd_im2col)
        self.axis = as_int("axis", axis, -MAX_PARAMETER)
        self.dtype = as_dtype("dtype", dtype)
        self._asked = (
            _Asked("kernel_size", kernel_size, "kernel", kernel_h, kernel_w, None, 1),
            _Asked("stride", stride, "stride", stride_h, stride_w, 1, 1),
            _Asked("pad", pad, "pad", pad_h, pad_w, 0, 0),
            _Asked("dilation", dilation, "dilation", None, None, 1, 1),
        )
        self.blobs: list[Blob] = []
        self.param_propagate_down: list[bool] = []
        self._geometry: Geometry | None = None

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Make the blobs for the bottoms' channels, unless they are there already, and `reshape`.

        Raises
        ------
        TypeError, ValueError
            As `reshape`.
        """
        if not self.blobs:
            geometry = self._geometry_of(bottom)
            self._check_tops(bottom, top)
            shapes = self._blob_shapes(geometry)
            check_size("w", shapes[0])
            self.blobs = [Blob(allocate("blobs", shape, self.dtype, zero=True)) for shape in shapes]
        self.param_propagate_down = [True] * len(self.blobs)
        self.reshape(bottom, top)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Fit the sizes, the column buffer and the tops to the bottoms.

        Raises
        ------
        TypeError, ValueError
            Bottoms of several shapes or of another type than the layer's; parameters, channels or
            blobs that do not fit them; another number of tops than of bottoms.
        """
        geometry = self._geometry_of(bottom)
        self._check_blobs("blobs", self.blobs, self._blob_shapes(geometry))
        self._check_tops(bottom, top)
        if geometry != self._geometry:
            self._geometry = None  # until all that belongs to it is there
            self._col_buffer = _column_buffer(geometry, self.dtype)
            self._weight_buffer = allocate(
                "the weight gradient", (1, *geometry.w_shape), self.dtype
            )
            self._bias_multiplier = steps.bias_multiplier(
                min(1, geometry.batch) * math.prod(self._top_shape(geometry)[2:]), self.dtype
            )
            self._geometry = geometry
        for blob in top:
            blob.reshape(self._with_batch_axes(bottom, self._top_shape(geometry)), self.dtype)

    @np.errstate(all="ignore")
    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Fill the data of each top from the bottom in the same place.

        Raises
        ------
        TypeError, ValueError
            As `reshape`.
        """
        self.reshape(bottom, top)
        inputs = tuple(blob.data for blob in (*bottom, *self.blobs))
        targets = [
            as_target("top", blob.data, blob.shape, self.dtype, inputs, contiguous=True)
            for blob in top
        ]
        for source, target in zip(bottom, targets, strict=True):
            for x, out in zip(self._samples(source.data), self._samples(target.work), strict=True):
                self._forward_sample(x, out)
                if self.bias_term:
                    steps.forward_bias(out, self.blobs[1].data, slice(None))
        for target in targets:
            target.finish()

    @np.errstate(all="ignore")
    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Add to the blobs' diff and overwrite the bottoms' diff, from the tops' diff.

        Parameters
        ----------
        top, bottom : sequence of Blob
            Those of the `forward` call.
        propagate_down : sequence of bool
            For each bottom, whether its diff is wanted.

        Raises
        ------
        TypeError, ValueError
            As `reshape`; ValueError also for bottoms or tops of other shapes than in `forward`.
        """
        geometry = self._geometry_of(bottom)
        if geometry != self._geometry:
            raise ValueError("bottom: shapes other than in the forward call")
        shapes = [self._with_batch_axes(bottom, self._top_shape(geometry))] * len(bottom)
        self._check_blobs("top", top, shapes)
        self._check_blobs("blobs", self.blobs, self._blob_shapes(geometry))
        wanted = as_flags("propagate_down", propagate_down, len(bottom))
        params = as_flags("param_propagate_down", self.param_propagate_down, len(self.blobs))
        # All the memory first: a call that finds none has then changed nothing.
        dw = self.blobs[0].diff if params[0] else None
        db = self.blobs[1].diff if self.bias_term and params[1] else None
        dxs = [blob.diff if flag else None for blob, flag in zip(bottom, wanted, strict=True)]
        douts = [blob.diff for blob in top]
        product = allocate("the bias gradient of a sample", (1, self.num_output), self.dtype)
        for source, dout_batch, dx_batch in zip(bottom, douts, dxs, strict=True):
            gradients = self._samples(dout_batch)
            if db is not None:
                for dout in gradients:
                    steps.backward_bias(db, dout, self._bias_multiplier, product)
            if dw is not None or dx_batch is not None:
                samples = self._samples(source.data)
                dx_samples: Sequence[Array | None] = (
                    [None] * len(samples) if dx_batch is None else self._samples(dx_batch)
                )
                for x, dout, dx in zip(samples, gradients, dx_samples, strict=True):
                    self._backward_sample(x, dout, dx, dw)

    # What the two layers do differently.

    def _compute_geometry(self, batch: int, channels: int, in_shape: tuple[int, ...]) -> Geometry:
        raise NotImplementedError

    def _top_shape(self, geometry: Geometry) -> tuple[int, ...]:
        raise NotImplementedError

    def _forward_sample(self, x: Array, out: Array) -> None:
        raise NotImplementedError

    def _backward_sample(self, x: Array, dout: Array, dx: Array | None, dw: Array | None) -> None:
        raise NotImplementedError

    # The steps, with the layer's sizes and column buffer.

    def _forward_gemm(self, x: Array, w: Array, out: Array, *, skip_im2col: bool = False) -> None:
        steps.forward_gemm(
            self._sizes,
            x,
            w,
            out,
            self._col_buffer,
            slice(0, self._sizes.positions),
            skip_im2col=skip_im2col,
            force_nd=self.force_nd_im2col,
        )

    def _backward_gemm(self, dout: Array, w: Array, dx: Array) -> None:
        steps.backward_gemm(
            self._sizes,
            dout,
            w,
            dx,
            self._col_buffer,
            slice(0, self._sizes.positions),
            force_nd=self.force_nd_im2col,
        )

    def _weight_gemm(self, x: Array, dout: Array, dw: Array) -> None:
        steps.weight_gemm(
            self._sizes,
            x,
            dout,
            dw,
            self._col_buffer,
            self._weight_buffer,
            slice(0, self._sizes.positions),
            force_nd=self.force_nd_im2col,
        )

    # Sizes.

    @property
    def _sizes(self) -> Geometry:
        if self._geometry is None:
            raise ValueError("the layer is not set up: call setup(bottom, top) first")
        return self._geometry

    def _geometry_of(self, bottom: Sequence[Blob]) -> Geometry:
        """The sizes for these bottoms, which must all have one shape."""
        _check_are_blobs("bottom", bottom)
        if not bottom:
            raise ValueError("bottom: expected at least one blob")
        self._check_blobs("bottom", bottom, [bottom[0].shape] * len(bottom))
        shape, axis = bottom[0].shape, self._channel_axis(bottom)
        rank = len(shape) - axis - 1
        if rank < 1:
            raise ValueError(
                f"bottom: expected spatial axes after axis {self.axis}, got shape {shape}"
            )
        self._parameters = {asked.name: asked.resolve(rank) for asked in self._asked}
        return self._compute_geometry(math.prod(shape[:axis]), shape[axis], shape[axis + 1 :])

    def _channel_axis(self, bottom: Sequence[Blob]) -> int:
        axes = len(bottom[0].shape)
        if not -axes <= self.axis < axes:
            raise ValueError(f"axis: {self.axis} is out of range for shape {bottom[0].shape}")
        return self.axis % axes

    def _with_batch_axes(self, bottom: Sequence[Blob], shape: tuple[int, ...]) -> tuple[int, ...]:
        """(N, ...) with N as the axes that the bottoms have before the channels."""
        return (*bottom[0].shape[: self._channel_axis(bottom)], *shape[1:])

    def _blob_shapes(self, geometry: Geometry) -> list[tuple[int, ...]]:
        return [geometry.w_shape, (self.num_output,)][: 1 + self.bias_term]

    def _samples(self, array: Array) -> list[Array]:
        """View a blob's data or diff as samples (1, channels, *spatial)."""
        axis = self.axis % array.ndim
        batch = array.reshape(math.prod(array.shape[:axis]), *array.shape[axis:])
        return [batch[n : n + 1] for n in range(len(batch))]

    def _check_tops(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        _check_are_blobs("top", top)
        if len(top) != len(bottom):
            raise ValueError(f"top: expected {len(bottom)} blobs, one a bottom, got {len(top)}")

    def _check_blobs(
        self, name: str, blobs: Sequence[Blob], shapes: Sequence[tuple[int, ...]]
    ) -> None:
        _check_are_blobs(name, blobs)
        if [blob.shape for blob in blobs] != list(shapes):
            given = [blob.shape for blob in blobs]
            raise ValueError(f"{name}: expected shapes {list(shapes)}, got {given}")
        for blob in blobs:
            if blob.data.dtype != self.dtype:
                raise TypeError(f"{name}: expected {self.dtype}, got {blob.data.dtype}")


class ConvolutionLayer(BaseConvolutionLayer):
    """Caffe's convolution layer; weight (F, C/group, *K), parameters as in the base class.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv.caffe import Blob, ConvolutionLayer
    >>> layer = ConvolutionLayer(num_output=2, kernel_size=3, stride=2)
    >>> bottom, top = [Blob(np.ones((1, 3, 6, 4), np.float32))], [Blob()]
    >>> layer.setup(bottom, top)
    >>> [blob.shape for blob in layer.blobs]
    [(2, 3, 3, 3), (2,)]
    >>> layer.blobs[0].data[...] = 1
    >>> layer.forward(bottom, top)
    >>> top[0].data[0, 0]
    array([[27.],
           [27.]], dtype=float32)
    >>> top[0].diff[...] = 1
    >>> layer.backward(top, [True], bottom)
    >>> layer.blobs[1].diff
    array([2., 2.], dtype=float32)
    """

    def _compute_geometry(self, batch: int, channels: int, in_shape: tuple[int, ...]) -> Geometry:
        kernel_size = self._parameters["kernel_size"]
        return conv_geometry(
            (batch, channels, *in_shape),
            (self.num_output, channels // self.group, *kernel_size),
            stride=self._parameters["stride"],
            pad=self._parameters["pad"],
            dilation=self._parameters["dilation"],
            group=self.group,
        )

    def _top_shape(self, geometry: Geometry) -> tuple[int, ...]:
        return geometry.result_shape

    def _forward_sample(self, x: Array, out: Array) -> None:
        self._forward_gemm(x, self.blobs[0].data, out)

    def _backward_sample(self, x: Array, dout: Array, dx: Array | None, dw: Array | None) -> None:
        if dw is not None:
            self._weight_gemm(x, dout, dw)
        if dx is not None:
            self._backward_gemm(dout, self.blobs[0].data, dx)


class DeconvolutionLayer(BaseConvolutionLayer):
    """Caffe's deconvolution layer; weight (C, F/group, *K), parameters as in the base class.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv.caffe import Blob, DeconvolutionLayer
    >>> layer = DeconvolutionLayer(num_output=1, kernel_size=2, stride=2, bias_term=False)
    >>> bottom, top = [Blob(np.ones((1, 3, 2, 2), np.float32))], [Blob()]
    >>> layer.setup(bottom, top)
    >>> top[0].shape
    (1, 1, 4, 4)
    """

    def _compute_geometry(self, batch: int, channels: int, in_shape: tuple[int, ...]) -> Geometry:
        kernel_size = self._parameters["kernel_size"]
        return deconv_geometry(
            (batch, channels, *in_shape),
            (channels, self.num_output // self.group, *kernel_size),
            stride=self._parameters["stride"],
            pad=self._parameters["pad"],
            dilation=self._parameters["dilation"],
            group=self.group,
            output_pad=0,
        )

    def _top_shape(self, geometry: Geometry) -> tuple[int, ...]:
        return geometry.x_shape

    def _forward_sample(self, x: Array, out: Array) -> None:
        self._backward_gemm(x, self.blobs[0].data, out)

    def _backward_sample(self, x: Array, dout: Array, dx: Array | None, dw: Array | None) -> None:
        if dw is not None:
            self._weight_gemm(dout, x, dw)
        if dx is not None:  # the columns of dout are in the buffer if weight_gemm has just run
            self._forward_gemm(dout, self.blobs[0].data, dx, skip_im2col=dw is not None)
