"""The layers that the speed figures of this project are measured on: 24 of 2-D convolution, and more.

A row of the 24: name, N, C, H, W, F (filters), KH, KW, stride, pad, dilation, group. Taken from
published networks, at the sizes and strides they use; `pad` is one number or (pad_h, pad_w). Rows of
other ranks have tuples for the sizes of image and kernel.

A pool has a group and a filter for each channel: C, F and group are equal. A deconvolution is
described, as in fastconv itself, by the convolution that it reads backwards, from output to input.
"""

import math
from dataclasses import dataclass
from functools import cached_property

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One row of the table, and the sizes that follow from it."""

    name: str
    N: int
    C: int
    in_size: Sizes
    F: int
    kernel_size: Sizes
    stride: int | Sizes
    pad: int | Sizes
    dilation: int | Sizes
    group: int

    def __str__(self) -> str:
        return self.name

    @property
    def rank(self) -> int:
        return len(self.in_size)

    @cached_property
    def strides(self) -> Sizes:
        return self._per_axis(self.stride)

    @cached_property
    def pads(self) -> Sizes:
        return self._per_axis(self.pad)

    @cached_property
    def dilations(self) -> Sizes:
        return self._per_axis(self.dilation)

    def _per_axis(self, value: int | Sizes) -> Sizes:
        return value if isinstance(value, tuple) else (value,) * self.rank

    @cached_property
    def x_shape(self) -> Sizes:
        return self.N, self.C, *self.in_size

    @cached_property
    def w_shape(self) -> Sizes:
        return self.F, self.C // self.group, *self.kernel_size

    @cached_property
    def out_size(self) -> Sizes:
        """OH and OW, or as many as there are axes."""
        return tuple(
            (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, pad, dilation in zip(
                self.in_size,
                self.kernel_size,
                self.strides,
                self.pads,
                self.dilations,
                strict=True,
            )
        )

    @cached_property
    def out_shape(self) -> Sizes:
        return self.N, self.F, *self.out_size

    @cached_property
    def cols_shape(self) -> tuple[int, int, int]:
        return self.N, self.C * self.kernel_cells, self.positions

    @cached_property
    def kernel_cells(self) -> int:
        return math.prod(self.kernel_size)

    @cached_property
    def positions(self) -> int:
        """Output positions of a sample."""
        return math.prod(self.out_size)

    @cached_property
    def pointwise(self) -> bool:
        """Whether a sample is its own column matrix."""
        return {*self.kernel_size, *self.strides} == {1} and not any(self.pads)

    @cached_property
    def taps(self) -> int:
        """Length of the sum behind one output."""
        return self.C // self.group * self.kernel_cells

    @cached_property
    def flop(self) -> int:
        """Multiplications and additions of one forward pass, without the bias."""
        return 2 * self.N * self.F * self.positions * self.taps


def layer_2d(
    name: str,
    N: int,
    C: int,
    H: int,
    W: int,
    F: int,
    KH: int,
    KW: int,
    stride: int | Sizes,
    pad: int | Sizes,
    dilation: int | Sizes,
    group: int,
) -> Layer:
    """Make a layer of a row of the 24."""
    return Layer(name, N, C, (H, W), F, (KH, KW), stride, pad, dilation, group)


# fmt: off
# ruff: noqa: E501 (a layer is a row, its comment included)
LAYERS = [layer_2d(*row) for row in [
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

POOLS = [layer_2d(*row) for row in [
    ("pool_3x3s2",       8,   64,  112,  112,   64,  3,  3, 2, 1,      1, 64),   # ResNet's, after resnet_conv1
    ("pool_2x2s2",       8,   64,  112,  112,   64,  2,  2, 2, 0,      1, 64),   # VGG's kind
]]

RANKS = [
    Layer("conv1d_d4",    4,  64, (16000,),     64, (3,),      1, 4, 4, 1),      # sound: a second at 16 kHz
    Layer("conv3d",       1,  16, (32, 64, 64), 32, (3, 3, 3), 1, 1, 1, 1),      # a video or a volume
]

DECONVS = [
    Layer("deconv_4x4s2", 8, 128, (32, 32),    256, (4, 4),    2, 1, 1, 1),      # (8, 256, 16, 16) to 128 channels of 32x32
    Layer("deconv_2x2s2", 1,  32, (256, 256),   64, (2, 2),    2, 0, 1, 1),      # (1, 64, 128, 128) to 32 channels of 256x256
]

LARGE_KERNELS = [
    Layer("blur_15",      1,   1, (1080, 1920), 1, (15, 15),  1, 7, 1, 1),      # filters over a full-HD image
    Layer("blur_21",      1,   1, (1080, 1920), 1, (21, 21),  1, 10, 1, 1),
    Layer("blur_31",      1,   1, (1080, 1920), 1, (31, 31),  1, 15, 1, 1),
    Layer("blur_51",      1,   1, (1080, 1920), 1, (51, 51),  1, 25, 1, 1),
    Layer("replknet_31",  1,  32, (64, 64),    32, (31, 31),  1, 15, 1, 32),    # RepLKNet's depthwise kernels
    Layer("dense_31",     1,  16, (128, 128),  16, (31, 31),  1, 15, 1, 1),
    Layer("echo_1001",    1,   1, (100_000,),   1, (1001,),   1, 500, 1, 1),    # sound: two seconds at 48 kHz
]

SMALL_CALLS = [
    Layer("small_1x8x8",    1,  1, (8, 8),    1, (3, 3), 1, 1, 1, 1),
    Layer("small_3x32x32",  1,  3, (32, 32), 16, (3, 3), 1, 1, 1, 1),
    Layer("small_16x16x16", 1, 16, (16, 16), 16, (3, 3), 1, 1, 1, 1),
]
# fmt: on

ALL_LAYERS = [*LAYERS, *RANKS, *DECONVS, *LARGE_KERNELS, *SMALL_CALLS, *POOLS]
