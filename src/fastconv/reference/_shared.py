"""What the forms share: arguments and results, padding, the walk over kernel offsets and groups.

Inside, images are (N, C, *S) and filters (F, C/group, *K), whatever the caller's layout.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from fastconv._geometry import Geometry
from fastconv._layout import channels_first, check_layout, filters_first
from fastconv._validation import Array, ArrayLike, check_shape, common_dtype

# A type checker takes no ints beside slices in ``x[:, *k]``: hence Any.
Index: TypeAlias = tuple[Any, ...]

# --- arguments and results --------------------------------------------------------------------


def forward_arguments(
    layout: str, x: ArrayLike, w: ArrayLike, b: ArrayLike | None
) -> tuple[Array, Array, Array | None]:
    """Return x and w channels first and b, all of one type."""
    check_layout(layout)
    images, weights, *bias = of_one_type(x, w, *([] if b is None else [b]))
    return (
        channels_first(images, layout),
        filters_first(weights, layout),
        bias[0] if bias else None,
    )


def backward_arguments(
    layout: str, dout: ArrayLike, x: ArrayLike, w: ArrayLike
) -> tuple[Array, Array, Array]:
    """Return dout, x and w channels first, all of one type."""
    check_layout(layout)
    gradient, images, weights = of_one_type(dout, x, w)
    return (
        channels_first(gradient, layout),
        channels_first(images, layout),
        filters_first(weights, layout),
    )


def of_one_type(*arrays: ArrayLike) -> list[Array]:
    """Return the arrays in the largest type among them; no copy of one that has it."""
    given = [np.asarray(array) for array in arrays]
    dtype = common_dtype(*given)
    return [array.astype(dtype, copy=False) for array in given]


def check_dout(dout: Array, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless dout has the shape of the forward result."""
    check_shape("dout", dout, shape, "that of the forward result, channels first")


def with_bias(out: Array, b: Array | None) -> Array:
    """Return out (N, F, *O) with b (F,) added."""
    if b is None:
        return out
    check_shape("b", b, out.shape[1:2], "one value a filter")
    return out + b.reshape(-1, *(1,) * (out.ndim - 2))


def bias_gradient(dout: Array) -> Array:
    """Return db (F,), the sum of dout (N, F, *O) over all but the filters."""
    db: Array = dout.sum(axis=(0, *range(2, dout.ndim)), dtype=dout.dtype)
    return db


def images_in(layout: str, x: Array) -> Array:
    """View x (N, C, *S) in the caller's layout."""
    return np.moveaxis(x, 1, -1) if layout == "NHWC" else x


def filters_in(layout: str, w: Array) -> Array:
    """View w (F, C/group, *K) in the caller's layout."""
    return np.moveaxis(w, (0, 1), (-1, -2)) if layout == "NHWC" else w


# --- padding and walking ----------------------------------------------------------------------


def padded(geometry: Geometry, x: Array) -> Array:
    """Copy x (N, C, *S) into its frame of zeros."""
    return np.pad(x, ((0, 0), (0, 0), *geometry.pad))


def cropped(geometry: Geometry, x: Array) -> Array:
    """View the image inside the padded x: what `padded` added is cut off."""
    return x[:, :, *geometry.inside]


def kernel_offsets(geometry: Geometry) -> Iterator[tuple[Index, tuple[slice, ...]]]:
    """Yield each kernel index k and the cells of a padded image that it meets, one an output."""
    axes = list(zip(geometry.stride, geometry.dilation, geometry.out_shape, strict=True))
    for k in np.ndindex(geometry.kernel_size):
        yield (
            k,
            tuple(
                slice(index * step, index * step + stride * (size - 1) + 1, stride)
                for index, (stride, step, size) in zip(k, axes, strict=True)
            ),
        )


def groups(geometry: Geometry) -> Iterator[tuple[slice, slice]]:
    """Yield the channels and the filters of each group."""
    C, F = geometry.channels // geometry.group, geometry.filters // geometry.group
    for g in range(geometry.group):
        yield slice(g * C, (g + 1) * C), slice(g * F, (g + 1) * F)
