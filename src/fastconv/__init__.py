"""Convolution for NumPy: Caffe's layers and im2col, exact and quick."""

from fastconv import caffe, cs231n, reference
from fastconv._config import config
from fastconv._engines import engines
from fastconv.conv import conv, conv_backward, conv_forward
from fastconv.deconv import deconv, deconv_backward, deconv_forward
from fastconv.deform import deform_conv_backward, deform_conv_forward
from fastconv.lowering import col2im, im2col, im2col_blocks
from fastconv.pool import (
    avg_pool_backward,
    avg_pool_forward,
    max_pool_backward,
    max_pool_forward,
)

__all__ = [
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
    "im2col",
    "im2col_blocks",
    "max_pool_backward",
    "max_pool_forward",
    "reference",
]
