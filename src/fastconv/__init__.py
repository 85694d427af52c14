"""Convolution for NumPy: Caffe's layers and im2col, exact and quick."""

import importlib
from typing import TYPE_CHECKING, Any

from fastconv._config import config
from fastconv._engines import engines
from fastconv._kernels import importing
from fastconv.conv import conv, conv_backward, conv_forward
from fastconv.deconv import deconv, deconv_backward, deconv_forward
from fastconv.lowering import col2im, im2col, im2col_blocks
from fastconv.pool import (
    avg_pool,
    avg_pool_backward,
    avg_pool_forward,
    max_pool,
    max_pool_backward,
    max_pool_forward,
)

if TYPE_CHECKING:
    from fastconv import caffe, cs231n, reference
    from fastconv._explain import explain
    from fastconv.deform import deform_conv_backward, deform_conv_forward
    from fastconv.prepared import PreparedConv

__all__ = [
    "PreparedConv",
    "avg_pool",
    "avg_pool_backward",
    "avg_pool_forward",
    "caffe",
    "col2im",
    "config",
    "conv",
    "conv_backward",
    "conv_forward",
    "cs231n",
    "deconv",
    "deconv_backward",
    "deconv_forward",
    "deform_conv_backward",
    "deform_conv_forward",
    "engines",
    "explain",
    "im2col",
    "im2col_blocks",
    "max_pool",
    "max_pool_backward",
    "max_pool_forward",
    "reference",
]


def __getattr__(name: str) -> Any:
    """Import what few callers need when it is first asked for."""
    later = {
        "PreparedConv": "prepared",
        "deform_conv_backward": "deform",
        "deform_conv_forward": "deform",
        "explain": "_explain",
    }
    if name not in later and name not in ("caffe", "cs231n", "reference"):
        raise AttributeError(f"module 'fastconv' has no attribute {name!r}")
    with importing:
        module = importlib.import_module(f"fastconv.{later.get(name, name)}")
    return getattr(module, name) if name in later else module


def __dir__() -> list[str]:
    return __all__
