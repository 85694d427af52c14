"""Small convolutions that cross every hard corner, and integers to run them on.

Sizes are tiny, so that the loops of `fastconv.reference` can serve as the oracle of each.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st

# Engines that serve every call.
GENERAL = ("fused", "caffe")

Integers = npt.NDArray[np.int64]
Case = dict[str, Any]


def integer_array(rng: np.random.Generator, shape: tuple[int, ...], *, high: int = 9) -> Integers:
    """Random integers from -high to high."""
    return rng.integers(-high, high, shape, endpoint=True)


def parameters(case: Case) -> Case:
    """The keywords of a call: a case without its shapes."""
    return {name: value for name, value in case.items() if not name.endswith("_shape")}


def to_nhwc(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Bring (N, C, *S) to (N, *S, C)."""
    return np.moveaxis(x, 1, -1)


def to_khwc(w: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Bring (F, C/group, *K) to (*K, C/group, F)."""
    return np.moveaxis(w, (0, 1), (-1, -2))


def _conv(
    name: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    *,
    stride: Any = 1,
    pad: Any = 0,
    dilation: Any = 1,
    group: int = 1,
) -> Any:
    case = {
        "x_shape": x_shape,
        "w_shape": w_shape,
        "stride": stride,
        "pad": pad,
        "dilation": dilation,
        "group": group,
    }
    return pytest.param(case, id=name)


def _deconv(
    name: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    *,
    output_pad: Any = 0,
    **others: Any,
) -> Any:
    (case,) = _conv(name, x_shape, w_shape, **others).values
    return pytest.param({**case, "output_pad": output_pad}, id=name)


# x (N, C, *S), w (F, C/group, *K). "Loose": the last window ends before the padded image does.
CONV_CASES = [
    _conv("1d", (2, 3, 8), (4, 3, 3)),
    _conv("1d one cell, one weight", (1, 1, 1), (1, 1, 1)),
    _conv("1d stride loose", (2, 2, 10), (3, 2, 3), stride=4),
    _conv("1d stride beyond the kernel", (1, 2, 11), (2, 2, 2), stride=5),
    _conv("1d dilation, uneven pad", (1, 2, 7), (2, 2, 3), pad=[(4, 1)], dilation=3),
    _conv("1d pad beyond the kernel", (1, 2, 3), (2, 2, 2), stride=3, pad=[(5, 4)]),
    _conv("1d window wholly in the padding", (1, 1, 1), (1, 1, 1), stride=10, pad=[(5, 0)]),
    _conv("1d depthwise", (2, 4, 6), (4, 1, 3), pad=1, group=4),
    _conv("1d no cells but padding", (2, 2, 0), (3, 2, 2), pad=2),
    _conv("2d", (2, 3, 5, 6), (4, 3, 3, 2)),
    _conv("2d pad", (2, 2, 5, 4), (3, 2, 3, 3), pad=1),
    _conv("2d kernel of the whole image", (2, 3, 4, 5), (4, 3, 4, 5)),
    _conv("2d larger kernel than image", (1, 2, 2, 3), (2, 2, 4, 5), pad=(1, 2)),
    _conv("2d pointwise", (2, 4, 3, 5), (6, 4, 1, 1)),
    _conv("2d pointwise, stride", (2, 3, 5, 4), (2, 3, 1, 1), stride=(2, 3)),
    _conv("2d pointwise, pad", (1, 3, 3, 2), (2, 3, 1, 1), pad=(1, 2)),
    _conv("2d pointwise, group", (2, 4, 3, 3), (4, 2, 1, 1), group=2),
    _conv("2d row kernel", (1, 3, 4, 8), (2, 3, 1, 7), pad=(0, 3)),
    _conv("2d uneven stride, loose", (2, 3, 7, 8), (4, 3, 3, 2), stride=(2, 3)),
    _conv("2d uneven pad", (1, 2, 5, 6), (3, 2, 3, 3), pad=[(0, 2), (1, 0)]),
    _conv("2d uneven everything", (2, 2, 8, 7), (3, 2, 2, 3), stride=(3, 2), pad=[(2, 1), (0, 3)],
          dilation=(2, 1)),
    _conv("2d dilation", (1, 2, 9, 8), (2, 2, 3, 3), pad=2, dilation=(2, 3)),
    _conv("2d dilation and stride share a factor", (1, 2, 11, 11), (2, 2, 3, 3), stride=4, pad=1,
          dilation=2),
    _conv("2d same", (2, 2, 5, 6), (3, 2, 3, 2), pad="same"),
    _conv("2d same, stride", (1, 2, 7, 6), (3, 2, 4, 3), stride=(3, 2), pad="same"),
    _conv("2d same, stride beyond the kernel", (1, 2, 7, 6), (2, 2, 2, 1), stride=4, pad="same"),
    _conv("2d valid, dilation", (1, 2, 7, 7), (2, 2, 2, 3), pad="valid", dilation=2),
    _conv("2d groups", (2, 6, 5, 4), (4, 3, 3, 2), pad=1, group=2),
    _conv("2d groups, stride, dilation", (2, 6, 8, 7), (9, 2, 2, 3), stride=2, pad=[(1, 0), (2, 1)],
          dilation=(3, 1), group=3),
    _conv("2d depthwise, stride", (2, 3, 7, 6), (3, 1, 3, 3), stride=2, pad=1, group=3),
    _conv("2d depthwise, two filters a channel", (1, 3, 5, 5), (6, 1, 3, 2), group=3),
    _conv("2d no samples", (0, 3, 5, 5), (4, 3, 3, 3), stride=2, pad=1),
    _conv("2d no samples, groups", (0, 4, 5, 5), (4, 2, 3, 3), group=2),
    _conv("3d", (2, 2, 4, 3, 5), (3, 2, 2, 2, 3)),
    _conv("3d uneven everything", (1, 4, 5, 4, 6), (2, 2, 2, 1, 3), stride=(2, 1, 3),
          pad=[(1, 0), (0, 1), (2, 2)], dilation=(1, 2, 2), group=2),
    _conv("3d same, stride", (1, 2, 4, 3, 5), (2, 2, 3, 2, 2), stride=(2, 2, 3), pad="same"),
    _conv("3d pointwise", (1, 3, 2, 3, 2), (2, 3, 1, 1, 1)),
    _conv("4d", (1, 2, 3, 4, 2, 3), (2, 2, 2, 3, 1, 2)),
    _conv("4d uneven everything", (2, 2, 3, 4, 3, 4), (2, 1, 2, 2, 1, 2), stride=(1, 2, 2, 3),
          pad=[(0, 1), (1, 0), (0, 0), (2, 1)], dilation=(2, 1, 3, 2), group=2),
]  # fmt: skip

# x (N, C, *S), w (C, F/group, *K).
DECONV_CASES = [
    _deconv("1d", (2, 3, 4), (3, 4, 3)),
    _deconv("1d stride beyond the kernel", (1, 2, 3), (2, 2, 2), stride=4),
    _deconv("1d output_pad", (1, 2, 4), (2, 3, 3), stride=3, pad=1, output_pad=2),
    _deconv("1d output_pad beyond the stride", (1, 2, 4), (2, 2, 3), dilation=3, output_pad=2),
    _deconv("1d pad beyond the kernel", (1, 2, 6), (2, 2, 2), stride=2, pad=[(4, 3)]),
    _deconv("2d", (2, 3, 4, 3), (3, 2, 2, 3)),
    _deconv("2d pointwise, stride, pad", (1, 3, 4, 3), (3, 2, 1, 1), stride=2, pad=1),
    _deconv("2d uneven everything", (2, 2, 4, 3), (2, 3, 2, 3), stride=(3, 2), pad=[(2, 1), (0, 3)],
            dilation=(2, 1), output_pad=(1, 0)),
    _deconv("2d same, stride", (1, 2, 4, 3), (2, 3, 4, 3), stride=(3, 2), pad="same"),
    _deconv("2d same, stride beyond the kernel", (1, 2, 3, 3), (2, 2, 1, 2), stride=4, pad="same"),
    _deconv("2d groups", (2, 4, 3, 4), (4, 3, 3, 2), stride=2, pad=1, group=2, output_pad=1),
    _deconv("2d depthwise, bilinear size", (1, 3, 3, 4), (3, 1, 4, 4), stride=2, pad=1, group=3),
    _deconv("2d no samples", (0, 2, 3, 3), (2, 3, 3, 3), stride=2),
    _deconv("3d", (1, 4, 3, 2, 3), (4, 1, 2, 3, 2), stride=(1, 2, 3), pad=[(1, 0), (0, 1), (1, 1)],
            dilation=(2, 1, 1), group=2, output_pad=(0, 1, 2)),
    _deconv("4d", (1, 2, 2, 3, 2, 2), (2, 2, 2, 2, 1, 2), stride=(2, 1, 2, 1), pad=(0, 1, 0, 1),
            dilation=(1, 1, 1, 2)),
]  # fmt: skip


@st.composite
def conv_cases(draw: st.DrawFn) -> Case:
    """Any small convolution of rank 1 to 3 that is allowed."""
    rank = draw(st.integers(1, 3))
    largest = {1: 9, 2: 5, 3: 3}[rank]

    def per_axis(low: int, high: int) -> list[int]:
        return [draw(st.integers(low, high)) for _ in range(rank)]

    kernel, dilation, stride = per_axis(1, 3), per_axis(1, 3), per_axis(1, 4)
    pad = list(zip(per_axis(0, 3), per_axis(0, 3), strict=True))
    size = [
        max(drawn, d * (k - 1) + 1 - before - after)
        for drawn, d, k, (before, after) in zip(
            per_axis(1, largest), dilation, kernel, pad, strict=True
        )
    ]
    group, channels, filters = (draw(st.integers(1, 2)) for _ in range(3))
    return {
        "x_shape": (draw(st.integers(0, 2)), group * channels, *size),
        "w_shape": (group * filters, channels, *kernel),
        "stride": tuple(stride),
        "pad": tuple(pad),
        "dilation": tuple(dilation),
        "group": group,
    }
