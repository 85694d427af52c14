"""The 24 layers every speed figure of this project is measured on, and the two of its pools.

One row a layer: name, N, C, H, W, F (filters), KH, KW, stride, pad, dilation, group. Taken from
published networks, at the sizes and strides they use; `pad` is one number or (pad_h, pad_w). A pool
has a group and a filter for each channel: C, F and group are equal.
"""

from typing import NamedTuple

Pair = tuple[int, int]


def as_pair(value: int | Pair) -> Pair:
    """Return one number an axis."""
    return value if isinstance(value, tuple) else (value, value)


class Layer(NamedTuple):
    """One row of the table, and the sizes that follow from it."""

    name: str
    N: int
    C: int
    H: int
    W: int
    F: int
    KH: int
    KW: int
    stride: int | Pair
    pad: int | Pair
    dilation: int | Pair
    group: int

    def __str__(self) -> str:
        return self.name

    @property
    def strides(self) -> Pair:
        return as_pair(self.stride)

    @property
    def pads(self) -> Pair:
        return as_pair(self.pad)

    @property
    def dilations(self) -> Pair:
        return as_pair(self.dilation)

    @property
    def kernel_size(self) -> Pair:
        return self.KH, self.KW

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return self.N, self.C, self.H, self.W

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        return self.F, self.C // self.group, self.KH, self.KW

    @property
    def out_size(self) -> Pair:
        """OH and OW."""
        oh, ow = (
            (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, pad, dilation in zip(
                (self.H, self.W),
                (self.KH, self.KW),
                self.strides,
                self.pads,
                self.dilations,
                strict=True,
            )
        )
        return oh, ow

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        return self.N, self.F, *self.out_size

    @property
    def cols_shape(self) -> tuple[int, int, int]:
        return self.N, self.C * self.KH * self.KW, self.positions

    @property
    def positions(self) -> int:
        """Output positions of a sample."""
        oh, ow = self.out_size
        return oh * ow

    @property
    def pointwise(self) -> bool:
        """Whether a sample is its own column matrix."""
        kernel_and_stride = {self.KH, self.KW, *self.strides}
        return kernel_and_stride == {1} and self.pads == (0, 0)

    @property
    def taps(self) -> int:
        """Length of the sum behind one output."""
        return self.C // self.group * self.KH * self.KW

    @property
    def flop(self) -> int:
        """Multiplications and additions of one forward pass, without the bias."""
        return 2 * self.N * self.F * self.positions * self.taps


# fmt: off
# ruff: noqa: E501 (a layer is a row, its comment included)
LAYERS = [Layer._make(row) for row in [
    ("cs231n",         100,    3,   31,   31,   25,  3,  3, 2, 1,      1, 1),    # CS231n assignment 2's own speed test, 25 filters
    ("lenet_conv2",     64,   20,   12,   12,   50,  5,  5, 1, 0,      1, 1),    # Caffe's LeNet
    ("alexnet_conv1",    8,    3,  227,  227,   96, 11, 11, 4, 0,      1, 1),    # Caffe's AlexNet
    ("alexnet_conv2",    8,   96,   27,   27,  256,  5,  5, 1, 2,      1, 2),
    ("alexnet_conv3",    8,  256,   13,   13,  384,  3,  3, 1, 1,      1, 1),
    ("vgg_conv1_2",      2,   64,  224,  224,   64,  3,  3, 1, 1,      1, 1),
    ("vgg_conv3_2",      4,  256,   56,   56,  256,  3,  3, 1, 1,      1, 1),
    ("vgg_conv5_2",      8,  512,   14,   14,  512,  3,  3, 1, 1,      1, 1),
    ("resnet_conv1",     8,    3,  224,  224,   64,  7,  7, 2, 3,      1, 1),
    ("resnet_2_3x3",     8,   64,   56,   56,   64,  3,  3, 1, 1,      1, 1),
    ("resnet_3_3x3s2",   8,  128,   56,   56,  128,  3,  3, 2, 1,      1, 1),
    ("resnet_4_3x3",     8,  256,   14,   14,  256,  3,  3, 1, 1,      1, 1),
    ("resnet_5_3x3",     8,  512,    7,    7,  512,  3,  3, 1, 1,      1, 1),
    ("resnet_2_1x1",     8,   64,   56,   56,  256,  1,  1, 1, 0,      1, 1),
    ("resnet_4_1x1",     8, 1024,   14,   14,  256,  1,  1, 1, 0,      1, 1),
    ("resnet_1x1s2",     8,  256,   56,   56,  512,  1,  1, 2, 0,      1, 1),
    ("mobilenet_dw112",  8,   32,  112,  112,   32,  3,  3, 1, 1,      1, 32),   # depthwise
    ("mobilenet_dw56s2", 8,  128,   56,   56,  128,  3,  3, 2, 1,      1, 128),
    ("mobilenet_dw14",   8,  512,   14,   14,  512,  3,  3, 1, 1,      1, 512),
    ("resnext_g32",      8,  256,   28,   28,  256,  3,  3, 1, 1,      1, 32),
    ("deeplab_d2",       2,  512,   33,   33,  512,  3,  3, 1, 2,      2, 1),
    ("inception_1x7",    8,  160,   17,   17,  192,  1,  7, 1, (0, 3), 1, 1),
    ("image_filter",     1,    1, 1080, 1920,    1,  5,  5, 1, 2,      1, 1),    # one 5x5 filter over a full-HD image
    ("single_3x3",       1,  128,   28,   28,  128,  3,  3, 1, 1,      1, 1),
]]

POOLS = [Layer._make(row) for row in [
    ("pool_3x3s2",       8,   64,  112,  112,   64,  3,  3, 2, 1,      1, 64),   # ResNet's, after resnet_conv1
    ("pool_2x2s2",       8,   64,  112,  112,   64,  2,  2, 2, 0,      1, 64),   # VGG's kind
]]
# fmt: on
