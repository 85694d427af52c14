"""Sizes: shapes and parameters, checked once and turned into one frozen geometry.

All arithmetic on sizes stands here, in Python integers, which cannot overflow; kernels receive
sizes and never derive them. Per axis, with ``extent = dilation * (kernel_size - 1) + 1``::

    convolution     out = (in + before + after - extent) // stride + 1
    transposed      out = stride * (in - 1) + extent - before - after + output_pad

A geometry always describes a convolution. A transposed convolution is the same thing read
backwards, so its geometry is that of the convolution whose input gradient it is: `in_shape` is then
the shape of its result and `channels` the number of its filters; with `output_pad`, `out_shape` may
be less than the formula gives, so nothing may compute it again. A window operation (im2col,
pooling) is a convolution of each channel by itself: `group == channels == filters`.
"""

import functools
import math
from typing import NamedTuple

from fastconv._validation import (
    Pairs,
    as_flag,
    as_int,
    as_pads,
    as_per_axis,
    check_size,
)


class Geometry(NamedTuple):
    """The sizes of one convolution: x (N, C, *S), w (F, C/group, *K), out (N, F, *O).

    Attributes
    ----------
    batch, channels, filters, group : int
        N, C, F and the number of groups.
    in_shape, kernel_size, out_shape : tuple of int
        S, K and O.
    stride, dilation : tuple of int
        One an axis.
    pad : tuple of (int, int)
        Cells of zeros before and after each axis.
    """

    batch: int
    channels: int
    filters: int
    group: int
    in_shape: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    pad: Pairs
    dilation: tuple[int, ...]
    out_shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.in_shape)

    @property
    def taps(self) -> int:
        """Rows of the column matrix: C * prod(K)."""
        return self.channels * math.prod(self.kernel_size)

    @property
    def positions(self) -> int:
        """Columns of the column matrix: prod(O)."""
        return math.prod(self.out_shape)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """(N, C, *S)."""
        return (self.batch, self.channels, *self.in_shape)

    @property
    def w_shape(self) -> tuple[int, ...]:
        """(F, C/group, *K)."""
        return (self.filters, self.channels // self.group, *self.kernel_size)

    @property
    def result_shape(self) -> tuple[int, ...]:
        """(N, F, *O)."""
        return (self.batch, self.filters, *self.out_shape)

    @property
    def cols_shape(self) -> tuple[int, int, int]:
        """(N, C * prod(K), prod(O))."""
        return (self.batch, self.taps, self.positions)

    @property
    def padded_shape(self) -> tuple[int, ...]:
        """S with the padding."""
        return tuple(
            size + before + after
            for size, (before, after) in zip(self.in_shape, self.pad, strict=True)
        )

    @property
    def inside(self) -> tuple[slice, ...]:
        """Where in the padded image the image is."""
        return tuple(
            slice(before, before + size)
            for size, (before, _) in zip(self.in_shape, self.pad, strict=True)
        )

    def without_pad(self) -> "Geometry":
        """The same convolution of the padded image."""
        return _checked(self._replace(in_shape=self.padded_shape, pad=((0, 0),) * self.rank))

    @property
    def is_1x1(self) -> bool:
        """Whether the column matrix of a sample is the sample itself."""
        return (
            all(size == 1 for size in (*self.kernel_size, *self.stride))
            and not any(map(any, self.pad))
            and self.in_shape == self.out_shape
        )


def conv_geometry(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    *,
    stride: object,
    pad: object,
    dilation: object,
    group: object,
) -> Geometry:
    """Check the shapes x (N, C, *S) and w (F, C/group, *K) and the parameters of a convolution."""
    rank = _check_ranks(x_shape, w_shape)
    strides, dilations, groups = _as_parameters(stride, dilation, group, rank)
    return _conv_geometry(x_shape, w_shape, strides, as_pads(pad, rank), dilations, groups)


# The sizes of layers come again with every batch; their 20 microseconds need not.
@functools.lru_cache(maxsize=256)
def _conv_geometry(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    strides: tuple[int, ...],
    asked: Pairs | str,
    dilations: tuple[int, ...],
    groups: int,
) -> Geometry:
    batch, channels, *in_shape = x_shape
    filters, _, *kernel = w_shape
    _check_groups(channels, filters, groups, x_shape, w_shape, channels // groups, "C/group")
    pads, out_shape = _window_sizes(in_shape, kernel, strides, asked, dilations)
    return _checked(
        Geometry(
            batch=batch,
            channels=channels,
            filters=filters,
            group=groups,
            in_shape=tuple(in_shape),
            kernel_size=tuple(kernel),
            stride=strides,
            pad=pads,
            dilation=dilations,
            out_shape=out_shape,
        )
    )


def deconv_geometry(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    *,
    stride: object,
    pad: object,
    dilation: object,
    group: object,
    output_pad: object,
) -> Geometry:
    """Check x (N, C, *S) and w (C, F/group, *K) of a transposed convolution.

    The geometry is that of the convolution from the result's shape to x's. ``pad="same"`` gives a
    result of ``stride * S + output_pad``.
    """
    rank = _check_ranks(x_shape, w_shape)
    strides, dilations, groups = _as_parameters(stride, dilation, group, rank)
    output_pads = as_per_axis("output_pad", output_pad, rank, 0)
    batch, channels, *in_shape = x_shape
    rows, filters_a_group, *kernel = w_shape
    filters = filters_a_group * groups
    _check_groups(channels, filters, groups, x_shape, w_shape, filters_a_group, "F/group")
    if rows != channels:
        raise ValueError(
            f"w: axis 0 must be C = {channels} for a transposed convolution, "
            f"got w of shape {w_shape} with x of shape {x_shape}"
        )
    limits = tuple(max(s, d) for s, d in zip(strides, dilations, strict=True))
    if any(extra >= limit for extra, limit in zip(output_pads, limits, strict=True)):
        raise ValueError(
            f"output_pad must be >= 0 and less than stride or dilation, "
            f"at most {tuple(limit - 1 for limit in limits)}, got {output_pad!r}"
        )
    _check_kernel(kernel)
    for axis, size in enumerate(in_shape):
        if size == 0:
            raise ValueError(f"x: spatial axis {axis} has size 0, got shape {x_shape}")
    extents = _extents(kernel, dilations)
    sizes = list(zip(in_shape, extents, strides, output_pads, strict=True))
    asked = as_pads(pad, rank)
    if asked == "same":
        pads: Pairs = tuple(_halves(max(e - s, 0)) for _, e, s, _ in sizes)
        out_shape = tuple(s * i + extra for i, _, s, extra in sizes)
    else:
        pads = _no_words(asked, rank)
        out_shape = tuple(
            s * (i - 1) + e - sum(pair) + extra
            for (i, e, s, extra), pair in zip(sizes, pads, strict=True)
        )
    if min(out_shape) < 1:
        raise ValueError(
            f"pad leaves no output: input {tuple(in_shape)}, extent {extents}, pad {pads}, "
            f"stride {strides} give an output of {out_shape}"
        )
    return _checked(
        Geometry(
            batch=batch,
            channels=filters,
            filters=channels,
            group=groups,
            in_shape=out_shape,
            kernel_size=tuple(kernel),
            stride=strides,
            pad=pads,
            dilation=dilations,
            out_shape=tuple(in_shape),
        )
    )


def window_geometry(
    x_shape: tuple[int, ...],
    kernel_size: object,
    *,
    stride: object,
    pad: object,
    dilation: object,
) -> Geometry:
    """Check x (N, C, *S) and the parameters of a window that slides over each channel."""
    rank = _check_window_rank(x_shape)
    kernel = as_per_axis("kernel_size", kernel_size, rank, 1)
    strides, dilations, _ = _as_parameters(stride, dilation, 1, rank)
    pads, out_shape = _window_sizes(x_shape[2:], kernel, strides, as_pads(pad, rank), dilations)
    return _window(x_shape, kernel, strides, pads, dilations, out_shape)


def pool_geometry(
    x_shape: tuple[int, ...],
    kernel_size: object,
    *,
    stride: object,
    pad: object,
    dilation: object,
    ceil_mode: object,
) -> Geometry:
    """Check x (N, C, *S) and the parameters of a pool; a stride of None is the kernel's size.

    With `ceil_mode` a last window may hang over the padded image, unless it would start behind the
    image itself: then it is dropped, as Caffe and PyTorch do. A window without any cell of the
    image is an error.
    """
    rank = _check_window_rank(x_shape)
    kernel = as_per_axis("kernel_size", kernel_size, rank, 1)
    strides, dilations, _ = _as_parameters(kernel if stride is None else stride, dilation, 1, rank)
    rounded_up = as_flag("ceil_mode", ceil_mode)
    return _pool_geometry(x_shape, kernel, strides, as_pads(pad, rank), dilations, rounded_up)


@functools.lru_cache(maxsize=256)
def _pool_geometry(
    x_shape: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    asked: Pairs | str,
    dilations: tuple[int, ...],
    rounded_up: bool,
) -> Geometry:
    in_shape = x_shape[2:]
    pads, out_shape = _window_sizes(in_shape, kernel, strides, asked, dilations)
    if rounded_up:
        sizes = zip(in_shape, pads, _extents(kernel, dilations), strides, strict=True)
        out_shape = tuple(_rounded_up(i, pair, e, s) for i, pair, e, s in sizes)
    geometry = _window(x_shape, kernel, strides, pads, dilations, out_shape)
    for axis in range(geometry.rank):
        _check_windows_meet_image(geometry, axis)
    return geometry


def least_image(w_shape: tuple[int, ...], *, dilation: object, group: object) -> tuple[int, ...]:
    """The shape (1, C, *S) of the smallest image that w (F, C/group, *K) convolves without padding.

    With it all can be checked of calls whose images are not there yet.
    """
    filters, channels, *kernel = _check_w_rank(w_shape)
    _, dilations, groups = _as_parameters(1, dilation, group, len(kernel))
    _check_kernel(kernel)
    if channels == 0:
        raise ValueError(f"w: axis 1 (C/group) must be >= 1, got shape {w_shape}")
    if filters == 0 or filters % groups:
        raise ValueError(
            f"w: F, the number of filters, must be >= 1 and divisible by group, "
            f"got F={filters}, group={groups}, w of shape {w_shape}"
        )
    return (1, channels * groups, *_extents(kernel, dilations))


# --- the parts --------------------------------------------------------------------------------


def _check_w_rank(w_shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(w_shape) < 3:
        raise ValueError(f"w: expected at least 3 axes, got {len(w_shape)}, shape {w_shape}")
    return w_shape


def _check_ranks(x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> int:
    _check_w_rank(w_shape)
    if len(x_shape) != len(w_shape):
        raise ValueError(
            f"x and w must have the same number of axes, "
            f"got {len(x_shape)} (shape {x_shape}) and {len(w_shape)} (shape {w_shape})"
        )
    return len(w_shape) - 2


def _as_parameters(
    stride: object, dilation: object, group: object, rank: int
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    return (
        as_per_axis("stride", stride, rank, 1),
        as_per_axis("dilation", dilation, rank, 1),
        as_int("group", group, 1),
    )


def _check_window_rank(x_shape: tuple[int, ...]) -> int:
    if len(x_shape) < 3:
        raise ValueError(
            f"x: expected at least 3 axes (N, C, *S), got {len(x_shape)}, shape {x_shape}"
        )
    if x_shape[1] == 0:
        raise ValueError(f"x: C (axis 1) must be >= 1, got shape {x_shape}")
    return len(x_shape) - 2


def _rounded_up(size: int, pads: tuple[int, int], extent: int, stride: int) -> int:
    """A pool's output size rounded up, less the last window if that starts behind the image."""
    room = size + sum(pads) - extent
    last = -(-room // stride)
    return last + (last * stride < size + pads[0])


def _check_windows_meet_image(g: Geometry, axis: int) -> None:
    """Raise ValueError if a pool's window along this axis has no cell inside the image."""
    size, stride, dilation = g.in_shape[axis], g.stride[axis], g.dilation[axis]
    last_tap = dilation * (g.kernel_size[axis] - 1)
    starts = range(-g.pad[axis][0], g.out_shape[axis] * stride - g.pad[axis][0], stride)
    # Only windows that start in the padding can miss the image; of those, one meets it with its
    # first tap at or after cell 0, or not at all.
    if size == 0 or starts[-1] >= size or starts[0] + last_tap < 0:
        missing = True
    elif dilation <= size:
        missing = False
    else:
        # their places repeat after so many cells
        end = min(0, starts.stop, starts[0] + math.lcm(stride, dilation))
        missing = any(start % dilation >= size for start in range(starts[0], end, stride))
    if missing:
        raise ValueError(
            f"pad leaves a window wholly in the padding on spatial axis {axis}: "
            f"input {g.in_shape}, pad {g.pad}, kernel_size {g.kernel_size}, "
            f"dilation {g.dilation}, extent {_extents(g.kernel_size, g.dilation)}"
        )


def _window(
    x_shape: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: Pairs,
    dilations: tuple[int, ...],
    out_shape: tuple[int, ...],
) -> Geometry:
    batch, channels, *in_shape = x_shape
    return _checked(
        Geometry(
            batch=batch,
            channels=channels,
            filters=channels,
            group=channels,
            in_shape=tuple(in_shape),
            kernel_size=kernel,
            stride=strides,
            pad=pads,
            dilation=dilations,
            out_shape=out_shape,
        )
    )


def _check_groups(
    channels: int,
    filters: int,
    group: int,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    expected: int,
    quotient: str,
) -> None:
    """Check that C and F are positive and divide by group, and w's second axis."""
    given = f"C={channels}, F={filters}, group={group}, x of shape {x_shape}, w of shape {w_shape}"
    if channels == 0:
        raise ValueError(f"x: C (axis 1) must be >= 1, got {given}")
    if filters == 0:
        raise ValueError(f"w: F, the number of filters, must be >= 1, got {given}")
    for name, count in (("C", channels), ("F", filters)):
        if count % group:
            raise ValueError(f"{name} must be divisible by group, got {given}")
    if w_shape[1] != expected:
        raise ValueError(f"w: axis 1 must be {quotient} = {expected}, got {given}")


def _check_kernel(kernel: list[int] | tuple[int, ...]) -> None:
    if min(kernel) < 1:
        raise ValueError(f"kernel_size must be >= 1, got {tuple(kernel)}")


def _extents(kernel: list[int] | tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))


def _halves(total: int) -> tuple[int, int]:
    return total // 2, total - total // 2


def _no_words(asked: Pairs | str, rank: int) -> Pairs:
    return ((0, 0),) * rank if isinstance(asked, str) else asked


def _window_sizes(
    in_shape: list[int] | tuple[int, ...],
    kernel: list[int] | tuple[int, ...],
    stride: tuple[int, ...],
    asked: Pairs | str,
    dilation: tuple[int, ...],
) -> tuple[Pairs, tuple[int, ...]]:
    """The pads and the output shape of a window that slides."""
    _check_kernel(kernel)
    extents = _extents(kernel, dilation)
    if asked == "same":
        pads: Pairs = tuple(
            _halves(max((-(-i // s) - 1) * s + e - i, 0))
            for i, e, s in zip(in_shape, extents, stride, strict=True)
        )
    else:
        pads = _no_words(asked, len(in_shape))
    room = tuple(
        i + before + after - e
        for i, (before, after), e in zip(in_shape, pads, extents, strict=True)
    )
    out_shape = tuple(r // s + 1 for r, s in zip(room, stride, strict=True))
    if min(room) < 0:
        axis = next(axis for axis, cells in enumerate(room) if cells < 0)
        raise ValueError(
            f"the kernel is larger than the padded input on spatial axis {axis}: "
            f"input {tuple(in_shape)}, pad {pads}, "
            f"kernel_size {tuple(kernel)}, dilation {dilation}, extent {extents} "
            f"give an output of {tuple(max(size, 0) for size in out_shape)}"
        )
    return pads, out_shape


def _checked(geometry: Geometry) -> Geometry:
    """The geometry, once every array it stands for is known to be addressable."""
    check_size("x", geometry.x_shape)
    check_size("the result", geometry.result_shape)
    check_size("the column matrix of a sample", geometry.cols_shape[1:])
    return geometry
