"""The two layouts, NCHW and NHWC: views that bring either to channels-first, and shapes back.

::

    NCHW   x (N, C, *S)    w (F, C/group, *K)
    NHWC   x (N, *S, C)    w (*K, C/group, F)
"""

from typing import Any

from fastconv._validation import Array, show


def check_layout(layout: Any) -> None:
    """Raise ValueError unless the layout is one of the two."""
    if not isinstance(layout, str) or layout not in ("NCHW", "NHWC"):
        raise ValueError(f"layout: expected 'NCHW' or 'NHWC', got {show(layout)}")


def channels_first(x: Array, layout: str) -> Array:
    """View x as (N, C, *S); what has too few axes is left for the geometry to refuse."""
    return x.transpose(0, -1, *range(1, x.ndim - 1)) if layout == "NHWC" and x.ndim > 2 else x


def filters_first(w: Array, layout: str) -> Array:
    """View w as (F, C/group, *K)."""
    return w.transpose(-1, -2, *range(w.ndim - 2)) if layout == "NHWC" and w.ndim > 2 else w


def filters_as_in(layout: str, w: Array) -> Array:
    """View w (F, C/group, *K) in a layout."""
    return w.transpose(*range(2, w.ndim), 1, 0) if layout == "NHWC" else w


def x_shape_in(layout: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Bring the shape (N, C, *S) to a layout."""
    return (shape[0], *shape[2:], shape[1]) if layout == "NHWC" else shape


def w_shape_in(layout: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Bring the shape (F, C/group, *K) to a layout."""
    return (*shape[2:], shape[1], shape[0]) if layout == "NHWC" else shape


def x_shape_from(layout: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Bring the shape of x, in a layout, to (N, C, *S), as `channels_first` does x."""
    return (shape[0], shape[-1], *shape[1:-1]) if layout == "NHWC" and len(shape) > 2 else shape


def w_shape_from(layout: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Bring the shape of w, in a layout, to (F, C/group, *K), as `filters_first` does w."""
    return (shape[-1], shape[-2], *shape[:-2]) if layout == "NHWC" and len(shape) > 2 else shape
