"""Deformable convolution, versions 1 and 2: a convolution whose taps are moved by offsets."""

from dataclasses import dataclass

from fastconv._calls import Cache, Wish, as_cache, as_dout, gradient_targets, wish_for_db
from fastconv._engines import caffe
from fastconv._geometry import Geometry, conv_geometry
from fastconv._memory import as_target
from fastconv._sampling import Samples, Targets, backward_samples, backward_w, forward
from fastconv._validation import (
    Array,
    ArrayLike,
    IntOrPerAxis,
    Pad,
    as_bias,
    as_flags,
    as_floating,
    as_int,
    check_shape,
    common_dtype,
)
from fastconv._workers import as_workers


@dataclass(frozen=True, slots=True)
class DeformCache(Cache):
    """What `deform_conv_forward` hands to `deform_conv_backward`: references, no copies."""

    offset: Array
    mask: Array | None
    offset_group: int

    @property
    def samples(self) -> Samples:
        """What the columns are made of."""
        return Samples(self.x, self.offset, self.mask, self.offset_group)


def deform_conv_forward(
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
    out: Array | None = None,
    workers: int | None = None,
) -> tuple[Array, Cache]:
    """Convolve images with filters whose taps are moved, and keep what the backward pass needs.

    ``out[n, f, oh, ow] = b[f] + sum(m * value(x[n, c], ih + dy, iw + dx) * w[f, c, kh, kw])`` over
    the channels c of f's group and the kernel indices, where ``ih = oh*stride - pad + kh*dilation``
    and iw are as in `conv_forward`, and every position, tap and offset group has a move (dy, dx)
    and a factor m of its own.

    Parameters
    ----------
    x : array_like, (N, C, H, W)
        The images, float32 or float64. N may be 0.
    offset : array_like, (N, 2*offset_group*KH*KW, OH, OW)
        The moves in cells: channel ``2*(og*KH*KW + kh*KW + kw)`` has dy of offset group og, the
        next one dx.
    w : array_like, (F, C/group, KH, KW)
        The filters.
    b : array_like, (F,), optional
        The bias.
    mask : array_like, (N, offset_group*KH*KW, OH, OW), optional
        The factors, of version 2; without them all are 1, which is version 1.
    stride, pad, dilation, group
        As in `conv_forward`.
    offset_group : int
        Groups that C is split into, each with moves and factors of its own.
    out : ndarray, optional
        Where to write the result; it may overlap the inputs.
    workers : int, optional
        Threads to use; by default `config()["workers"]`. Sampling uses one, and the matrix product
        those of NumPy's BLAS.

    Returns
    -------
    out : ndarray, (N, F, OH, OW)
        Of the size that `conv_forward` gives and the larger of the arrays' types.
    cache : object
        For `deform_conv_backward`. It refers to the arrays, which must not be changed until then.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `conv_forward`, and ValueError for images that are not of rank 2, for an offset or a mask
        of another shape, and for C that does not divide by `offset_group`.

    Notes
    -----
    The value at a point is bilinear: the sum of the four pixels around it, each times
    ``(1 - |its row - y|) * (1 - |its column - x|)``. Pixels outside the image count as 0, so that
    values fade out within one cell of it and are 0 from there on, infinite offsets included; a
    pixel whose weight is 0 does not count, not even if it is infinite. A NaN in an offset makes the
    value NaN. Offsets of 0 give what `conv_forward` gives with the engine "caffe".

    After Dai et al., "Deformable convolutional networks" (2017), and Zhu et al., "Deformable
    ConvNets v2: more deformable, better results" (2019).

    Examples
    --------
    A 1x1 kernel moved half a cell to the right takes the mean of two neighbours:

    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([[[[1.0, 3, 7]]]])
    >>> offset = np.zeros((1, 2, 1, 3))
    >>> offset[:, 1] = 0.5
    >>> out, cache = fastconv.deform_conv_forward(x, offset, np.ones((1, 1, 1, 1)))
    >>> out
    array([[[[2. , 5. , 3.5]]]])
    """
    images, moves, weights = as_floating("x", x), as_floating("offset", offset), as_floating("w", w)
    if images.ndim != 4 or weights.ndim != 4:
        raise ValueError(
            f"x and w must have 4 axes (deformable convolution is of rank 2), "
            f"got {images.ndim} (shape {images.shape}) and {weights.ndim} (shape {weights.shape})"
        )
    geometry = conv_geometry(
        images.shape, weights.shape, stride=stride, pad=pad, dilation=dilation, group=group
    )
    groups = as_int("offset_group", offset_group, 1)
    factors = None if mask is None else as_floating("mask", mask)
    _check_offsets(geometry, groups, moves, factors)
    bias = as_bias(b, geometry.filters)
    inputs = (images, moves, factors, weights, bias)
    dtype = common_dtype(*inputs)
    threads = as_workers(workers)
    target = as_target("out", out, geometry.result_shape, dtype, inputs)
    cache = DeformCache(
        operation="deform_conv",
        x=images,
        w=weights,
        b=bias,
        geometry=geometry,
        pad_mode="constant",
        layout="NCHW",
        engine=caffe.NAME,
        workers=threads,
        offset=moves,
        mask=factors,
        offset_group=groups,
    )
    forward(geometry, cache.samples, weights, bias, target.work)
    return target.finish(), cache


def deform_conv_backward(
    dout: ArrayLike,
    cache: Cache,
    *,
    propagate_down: tuple[bool, bool, bool, bool, bool] = (True, True, True, True, True),
    dx: Array | None = None,
    doffset: Array | None = None,
    dmask: Array | None = None,
    dw: Array | None = None,
    db: Array | None = None,
) -> tuple[Array | None, Array | None, Array | None, Array | None, Array | None]:
    """Compute the gradients of a deformable convolution.

    Parameters
    ----------
    dout : array_like, (N, F, OH, OW)
        The gradient of the loss with respect to the forward result.
    cache : object
        What `deform_conv_forward` returned with that result.
    propagate_down : (bool, bool, bool, bool, bool)
        Whether dx, doffset, dmask, dw and db are wanted. One that is not comes back as None.
    dx, doffset, dmask : ndarray, optional
        Arrays of the shapes of x, offset and mask to overwrite with the gradients.
    dw, db : ndarray, optional
        Arrays of w's and b's shape to add the gradients to, as Caffe does; zero them to start.
        The arrays that are handed in must not overlap each other.

    Returns
    -------
    dx, doffset, dmask, dw, db : ndarray or None
        Of the shapes of x, offset, mask, w and b and the largest type among those and dout. None
        for what was not asked for, and for dmask and db where the forward call had no mask or bias.

    Raises
    ------
    TypeError
        dout or a given array of the wrong type, or a cache that is none.
    ValueError
        A shape other than the forward call's, a read-only target, a cache of another operation.
    MemoryError
        No room for a gradient or the column matrix of one sample.

    Notes
    -----
    Where a coordinate is whole, values have a kink: its gradient is then the one towards the next
    pixel. Points outside the image, which have no value, give no gradient. Where an offset is NaN,
    doffset and dmask are NaN, and dx gets nothing.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([[[[1.0, 3, 7]]]])
    >>> offset = np.zeros((1, 2, 1, 3))
    >>> offset[:, 1] = 0.5
    >>> out, cache = fastconv.deform_conv_forward(x, offset, np.ones((1, 1, 1, 1)))
    >>> dx, doffset, dmask, dw, db = fastconv.deform_conv_backward(np.ones_like(out), cache)
    >>> dx
    array([[[[0.5, 1. , 1. ]]]])
    >>> doffset[0, 1]
    array([[ 2.,  4., -7.]])
    """
    saved = as_cache("deform_conv", cache, DeformCache)
    wanted = as_flags("propagate_down", propagate_down, 5)
    images = as_dout(dout, saved)
    if saved.mask is None and dmask is not None:
        raise ValueError("dmask: given, but the forward call had no mask")
    mask_shape = () if saved.mask is None else saved.mask.shape
    dtype = common_dtype(images, saved.x, saved.offset, saved.mask, saved.w, saved.b)
    targets = gradient_targets(
        [
            Wish("dx", dx, saved.x.shape, wanted[0]),
            Wish("doffset", doffset, saved.offset.shape, wanted[1]),
            Wish("dmask", dmask, mask_shape, wanted[2] and saved.mask is not None),
            Wish("dw", dw, saved.w.shape, wanted[3], adds=True),
            wish_for_db(db, saved, wanted[4]),
        ],
        dtype,
        (images, saved.x, saved.offset, saved.mask, saved.w),
    )
    works = [None if target is None else target.work for target in targets]
    if any(work is not None for work in works[:3]):
        backward_samples(saved.geometry, saved.samples, images, saved.w, Targets(*works[:3]), dtype)
    if works[3] is not None:
        backward_w(saved.geometry, saved.samples, images, works[3])
    if works[4] is not None:
        caffe.backward_b(images, works[4], saved.workers)
    dx, doffset, dmask, dw, db = (None if target is None else target.finish() for target in targets)
    return dx, doffset, dmask, dw, db


def _check_offsets(
    geometry: Geometry, offset_group: int, offset: Array, mask: Array | None
) -> None:
    if geometry.channels % offset_group:
        raise ValueError(
            f"C must be divisible by offset_group, got C={geometry.channels}, "
            f"offset_group={offset_group}, x of shape {geometry.x_shape}"
        )
    points = offset_group * (geometry.taps // geometry.channels)
    rest = geometry.out_shape
    shape = (geometry.batch, 2 * points, *rest)
    check_shape("offset", offset, shape, "N, 2*offset_group*KH*KW, OH, OW")
    if mask is not None:
        shape = (geometry.batch, points, *rest)
        check_shape("mask", mask, shape, "N, offset_group*KH*KW, OH, OW")
