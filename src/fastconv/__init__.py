"""Convolution for NumPy: Caffe's layers and im2col, exact and quick."""

from fastconv import caffe, reference
from fastconv._config import config
from fastconv._engines import engines
from fastconv.conv import conv, conv_backward, conv_forward
from fastconv.deconv import deconv, deconv_backward, deconv_forward
from fastconv.lowering import col2im, im2col, im2col_blocks

__all__ = [
    "caffe",
    "col2im",
    "config",
    "conv",
    "conv_backward",
    "conv_forward",
    "deconv",
    "deconv_backward",
    "deconv_forward",
    "engines",
    "im2col",
    "im2col_blocks",
    "reference",
]
