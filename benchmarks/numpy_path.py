"""The best pure-NumPy convolution and pools that we know: what every ratio is read against.

A block of the column matrix is a copy of a strided view of the padded input; one product makes of
it a block of the output, in place; the bias is added while that block is in cache. Buffers are made
once and used again. What that was chosen over, in medians of ms on one thread (float32, a 2.3 GHz
Sapphire Rapids Xeon, NumPy 2.4 with OpenBLAS), the forms of a layer timed in turns:

- **Blocks of 1 MiB of columns instead of a whole sample's**, which stay in cache between the copy
  and the product: image_filter 15 against 65, vgg_conv1_2 120 against 167, mobilenet_dw112 19
  against 27; for small samples a block is several of them: cs231n 2.0 against 3.4. But no fewer
  than 1024 positions, or the product reads its weights too often: deeplab_d2 111 against 188.
- Samples side by side in one product were quicker where the weights outweigh a sample's output by
  far (resnet_5_3x3 21 against 28), slower elsewhere (cs231n 3.0 against 2.0). Not done: a sample's
  result would then depend on the batch that it comes in.
- The whole batch lowered at once is slower wherever it leaves the cache: mobilenet_dw112 31.
- Padding into a buffer of its own that keeps its zero border, against `np.pad` in each call:
  mobilenet_dw112 28 against 32, resnet_3_3x3s2 28 against 33. `sliding_window_view` makes the same
  view as `as_strided` and so the same copy, after some 20 microseconds of Python a call.
- One copy of the six-axis view, against a copy for each kernel offset: cs231n 3.3 against 4.0,
  mobilenet_dw14 7.6 against 9.1, the same within 5% on most layers.
- Shifted multiply-and-add without columns for depthwise layers and image filters: mobilenet_dw112
  20 against 19, mobilenet_dw56s2 14 against 10, image_filter 29 against 15; `np.einsum` on the
  view: 34 to 117.
- Whole padded rows as columns, which copies faster and multiplies more: the same within 5% where
  the rows are long, resnet_5_3x3 39 against 30.
- Blocks of a volume of at least one whole slice, the first axis not being cut finer: conv3d 92
  against 109 with 1024 positions of a slice.
- Backward, with one filter a group: the outer product by broadcasting, not by `np.matmul`:
  mobilenet_dw112 23 against 60, image_filter 11 against 130.

Pools go by blocks of whole planes, first along the columns, then along the rows, with the cells at
the border apart, so that nothing is padded. On pool_3x3s2, and pool_2x2s2 where two figures stand:

- **One axis after the other**, against one pass over the planes for each kernel offset: max_pool
  10.4 and 6.2 against 15.0 and 9.5, avg_pool_backward 13.0 and 9.5 against 30 and 16.
- **Blocks of 512 KiB**: max_pool 10.8, against 13.8 with 100 KiB, 13.2 with 3 MiB, 18.0 with all.
- **Rows of windows at every column, of which the wanted are then copied**, from kernels of three:
  NumPy's loops over strided operands are not vectorised. max_pool 10.4 against 12.8. Pairs are
  quicker taken by strides: 6.1 against 6.6.
- **max_pool_backward by the places of the maxima**, kept from the forward pass as by the others:
  `np.add.at` 9.8, `np.bincount` 12.4, a product with a mask for each kernel offset 37 to 40. Where
  windows do not overlap, an assignment: 8.5 against 9.1; one mask for the whole image 8.4 to 9.0.
"""

import math
from collections.abc import Iterator, Sequence
from operator import mul
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided, sliding_window_view

from .layers import Layer

Array = npt.NDArray[Any]

BLOCK_BYTES = 1 << 20
LEAST_POSITIONS = 1024
POOL_BLOCK_BYTES = 1 << 19


class Block(NamedTuple):
    """Some whole samples, or some output rows of one sample: a range of the first axis."""

    samples: slice
    rows: slice
    others: tuple[slice, ...]


class NumpyLowering:
    """im2col and col2im of one layer, block by block, through buffers made once.

    Parameters
    ----------
    layer : Layer
    x : array (N, C, *S)
    """

    def __init__(self, layer: Layer, x: Array) -> None:
        self.layer, self.x, self.dx = layer, x, np.empty_like(x)
        self.samples, self.rows = self.block_size()
        sizes = zip(layer.in_size, layer.pads, strict=True)
        padded = (self.samples, layer.C, *(size + 2 * pad for size, pad in sizes))
        axes = zip(layer.in_size, layer.pads, strict=True)
        self.inner = np.s_[:, :, *(slice(pad, pad + size) for size, pad in axes)]
        self.padded, self.dpadded = np.zeros(padded, x.dtype), np.empty(padded, x.dtype)

    def block_size(self) -> tuple[int, int]:
        """Samples a block, and output rows: one of the two is not divided."""
        layer = self.layer
        positions = BLOCK_BYTES // (layer.C * layer.kernel_cells * self.x.itemsize)
        samples = min(layer.N, max(1, positions // layer.positions))
        bands = max(1, layer.positions // max(positions, LEAST_POSITIONS))
        return samples, -(-layer.out_size[0] // bands)

    def blocks(self) -> Iterator[Block]:
        size, *sizes = self.layer.out_size
        others = tuple(slice(0, size) for size in sizes)
        for samples in cut(self.layer.N, self.samples):
            for rows in cut(size, self.rows):
                yield Block(samples, rows, others)

    def im2col(self, cols: Array) -> Array:
        """Fill cols (N, C*prod(K), prod(O)) from x."""
        for block in self.blocks():
            np.copyto(self.block_of(cols, block), self.windows(block))
        return cols

    def col2im(self, cols: Array) -> Array:
        """Return dx, the sums of cols (N, C*prod(K), prod(O))."""
        for block in self.blocks():
            self.add_columns(block, self.block_of(cols, block))
        return self.dx

    def block_of(self, cols: Array, block: Block) -> Array:
        """The block's part of whole columns, as (n, C, *K, rows, ...)."""
        layer = self.layer
        shape = (layer.N, layer.C, *layer.kernel_size, *layer.out_size)
        return cols.reshape(shape)[block.samples, ..., block.rows, *block.others]

    def windows(self, block: Block) -> Array:
        """The strided view whose copy is the block's columns, as (n, C, *K, rows, ...)."""
        layer, source = self.layer, self.x[block.samples]
        if any(layer.pads):
            source = self.padded[: len(source)]
            if block.rows.start == 0:
                source[self.inner] = self.x[block.samples]
        n, c, *cells = source.strides
        return as_strided(
            source,
            (*source.shape[:2], *layer.kernel_size, *layer.out_size),
            (n, c, *map(mul, cells, layer.dilations), *map(mul, cells, layer.strides)),
            writeable=False,
        )[..., block.rows, *block.others]

    def add_columns(self, block: Block, cols: Array) -> None:
        """Add a block's columns, as (n, C, *K, rows, ...), into dx: once a kernel offset."""
        layer, dx = self.layer, self.dx[block.samples]
        target = self.dpadded[: len(dx)] if any(layer.pads) else dx
        if block.rows.start == 0:
            target.fill(0)
        for k in np.ndindex(layer.kernel_size):
            offsets = map(mul, k, layer.dilations)
            cells = map(read_by, (block.rows, *block.others), layer.strides, offsets)
            target[:, :, *cells] += cols[:, :, *k]
        if target is not dx and block.rows.stop == layer.out_size[0]:
            dx[...] = target[self.inner]


class NumpyConv(NumpyLowering):
    """Both passes of one layer; a call overwrites the results of the last.

    Parameters
    ----------
    layer : Layer
    x : array (N, C, *S)
    w : array (F, C/group, *K)
    b : array (F,)
    """

    def __init__(self, layer: Layer, x: Array, w: Array, b: Array) -> None:
        super().__init__(layer, x)
        self.w = w.reshape(layer.group, -1, layer.taps)
        self.b = b.reshape(layer.group, -1, 1)
        self.out = np.empty(layer.out_shape, x.dtype)
        self.dw, self.db = np.empty_like(self.w), np.empty_like(b)
        self.dw_parts = np.empty((self.samples, *self.w.shape), x.dtype)
        self.row = math.prod(layer.out_size[1:])
        self.buffer = np.empty(
            layer.C * layer.kernel_cells * self.samples * self.rows * self.row, x.dtype
        )

    def forward(self) -> Array:
        """Return the output."""
        for block in self.blocks():
            out = self.in_groups(self.out, block)
            np.matmul(self.w, self.columns(block), out=out)
            out += self.b
        return self.out

    def backward(self, dout: Array) -> tuple[Array, Array, Array]:
        """Return dx, dw and db.

        The columns are made again, as by every contender: kept from the forward pass, they would
        be 231 MB for vgg_conv1_2. Their gradient then takes their place.
        """
        self.dw.fill(0)
        for block in self.blocks():
            gradient = self.in_groups(dout, block)
            self.add_weight_gradient(gradient, self.columns(block))
            self.add_input_gradient(gradient, block)
        np.sum(dout.reshape(*dout.shape[:2], -1), axis=(0, 2), out=self.db)
        return self.dx, self.dw.reshape(self.layer.w_shape), self.db

    def columns(self, block: Block) -> Array:
        """The block's columns, as (n, G, K, positions)."""
        if self.layer.pointwise:
            return self.in_groups(self.x, block)
        lowered = self.buffer_of(block)
        np.copyto(lowered, self.windows(block))
        return self.grouped(lowered)

    def add_weight_gradient(self, gradient: Array, cols: Array) -> None:
        parts = self.dw_parts[: len(cols)]
        np.matmul(gradient, cols.swapaxes(-1, -2), out=parts)
        self.dw += parts[0] if len(parts) == 1 else parts.sum(axis=0)

    def add_input_gradient(self, gradient: Array, block: Block) -> None:
        multiply = np.multiply if self.w.shape[1] == 1 else np.matmul
        if self.layer.pointwise:
            multiply(self.w.swapaxes(-1, -2), gradient, out=self.in_groups(self.dx, block))
        else:
            lowered = self.buffer_of(block)
            multiply(self.w.swapaxes(-1, -2), gradient, out=self.grouped(lowered))
            self.add_columns(block, lowered)

    def buffer_of(self, block: Block) -> Array:
        """The buffer as the block's columns, (n, C, *K, rows, ...)."""
        layer = self.layer
        samples, rows = (part.stop - part.start for part in (block.samples, block.rows))
        shape = (samples, layer.C, *layer.kernel_size, rows, *layer.out_size[1:])
        return self.buffer[: math.prod(shape)].reshape(shape)

    def grouped(self, cols: Array) -> Array:
        """View columns as (n, G, K, positions)."""
        return cols.reshape(len(cols), self.layer.group, self.layer.taps, -1)

    def in_groups(self, array: Array, block: Block) -> Array:
        """The block's part of an array over the output positions, as (n, G, rows, positions)."""
        layer = self.layer
        positions = slice(block.rows.start * self.row, block.rows.stop * self.row)
        grouped = array.reshape(layer.N, layer.group, -1, layer.positions)
        return grouped[block.samples, :, :, positions]


class NumpyDeconv(NumpyConv):
    """Both passes of a deconvolution; a call overwrites the results of the last.

    Parameters
    ----------
    layer : Layer
    x : array (N, F, *O)
    w : array (F, C/group, *K)
    b : array (C,)
    """

    def __init__(self, layer: Layer, x: Array, w: Array, b: Array) -> None:
        super().__init__(layer, np.empty(layer.x_shape, x.dtype), w, np.zeros(layer.F, x.dtype))
        self.images, self.bias = x, b.reshape(-1, *[1] * layer.rank)

    def forward(self) -> Array:
        """Return the output."""
        for block in self.blocks():
            self.add_input_gradient(self.in_groups(self.images, block), block)
        self.dx += self.bias
        return self.dx

    def backward(self, dout: Array) -> tuple[Array, Array, Array]:
        """Return dx, dw and db."""
        self.x = dout
        self.dw.fill(0)
        for block in self.blocks():
            cols = self.columns(block)
            np.matmul(self.w, cols, out=self.in_groups(self.out, block))
            self.add_weight_gradient(self.in_groups(self.images, block), cols)
        db = dout.reshape(*dout.shape[:2], -1).sum(axis=(0, 2))
        return self.out, self.dw.reshape(self.layer.w_shape), db


class NumpyPool:
    """Both pools of one layer, both passes; a call overwrites the results of the last.

    An average is of the cells in the image.

    Parameters
    ----------
    layer : Layer
    x : array (N, C, H, W)
    """

    def __init__(self, layer: Layer, x: Array) -> None:
        self.layer, self.planes = layer, x.reshape(-1, *layer.in_size)
        (H, W), (OH, OW) = layer.in_size, layer.out_size
        # Kernel size, stride and pad.
        self.along_h, self.along_w = zip(layer.kernel_size, layer.strides, layer.pads, strict=True)
        self.count = len(self.planes)
        self.block = min(self.count, max(1, POOL_BLOCK_BYTES // self.planes[0].nbytes))
        self.out = np.empty((self.count, OH, OW), x.dtype)
        self.dx = np.empty_like(self.planes)
        # A block reduced to the output's rows; and these to the windows that start at each column.
        self.rows = np.empty((self.block, OH, W), x.dtype)
        self.runs = np.empty_like(self.rows)
        self.gradient = np.empty((self.block, OH, OW), x.dtype)
        in_h = cells_inside(H, OH, *self.along_h)
        in_w = cells_inside(W, OW, *self.along_w)
        self.share = np.asarray(1 / np.outer(in_h, in_w), x.dtype)

    def blocks(self) -> Iterator[slice]:
        return cut(self.count, self.block)

    def max_pool(self) -> Array:
        """Return the maximum of each window."""
        for block in self.blocks():
            self.reduce(np.maximum, block)
        return self.out.reshape(self.layer.out_shape)

    def avg_pool(self) -> Array:
        """Return the average of each window."""
        for block in self.blocks():
            self.reduce(np.add, block)
            self.out[block] *= self.share
        return self.out.reshape(self.layer.out_shape)

    def reduce(self, ufunc: np.ufunc, block: slice) -> None:
        source, out = self.planes[block], self.out[block]
        rows, runs = self.rows[: len(source)], self.runs[: len(source)]
        reduce_inside(ufunc, source, rows, *self.along_h)
        reduce_border(ufunc, source, rows, *self.along_h)
        by_column, out_by_column = rows.swapaxes(1, 2), out.swapaxes(1, 2)
        kernel, stride, pad = self.along_w
        if kernel == 2:
            reduce_inside(ufunc, by_column, out_by_column, *self.along_w)
        else:
            cells = rows.reshape(-1)
            count = cells.size - kernel + 1
            reduce_arrays(
                ufunc, [cells[k : k + count] for k in range(kernel)], runs.reshape(-1)[:count]
            )
            inside = inside_image(source.shape[2], *self.along_w)
            out[:, :, inside] = runs[:, :, read_by(inside, stride, -pad)]
        reduce_border(ufunc, by_column, out_by_column, *self.along_w)

    def places(self) -> Array:
        """Where each window's maximum is, its first, in the flat block of planes."""
        layer, (pad_h, pad_w), (H, W) = self.layer, self.layer.pads, self.layer.in_size
        padded = np.pad(
            self.planes, ((0, 0), (pad_h, pad_h), (pad_w, pad_w)), constant_values=-np.inf
        )
        windows = sliding_window_view(padded, layer.kernel_size, (1, 2))
        windows = windows[:, :: layer.strides[0], :: layer.strides[1]]
        kh, kw = divmod(windows.reshape(*self.out.shape, -1).argmax(axis=-1), layer.kernel_size[1])
        plane, oh, ow = np.indices(self.out.shape, sparse=True)
        ih, iw = oh * layer.strides[0] - pad_h + kh, ow * layer.strides[1] - pad_w + kw
        return (plane % self.block * H + ih) * W + iw

    def max_pool_backward(self, dout: Array, places: Array) -> Array:
        """Return dx, given the places."""
        dout, layer = dout.reshape(self.out.shape), self.layer
        disjoint = all(kernel <= stride for kernel, stride, _ in (self.along_h, self.along_w))
        for block in self.blocks():
            dx = self.dx[block].reshape(-1)
            dx.fill(0)
            if disjoint:
                dx[places[block].reshape(-1)] = dout[block].reshape(-1)
            else:
                np.add.at(dx, places[block].reshape(-1), dout[block].reshape(-1))
        return self.dx.reshape(layer.x_shape)

    def avg_pool_backward(self, dout: Array) -> Array:
        """Return dx."""
        dout = dout.reshape(self.out.shape)
        for block in self.blocks():
            dx = self.dx[block]
            rows, gradient = self.rows[: len(dx)], self.gradient[: len(dx)]
            np.multiply(dout[block], self.share, out=gradient)
            spread(gradient.swapaxes(1, 2), rows.swapaxes(1, 2), *self.along_w)
            spread(rows, dx, *self.along_h)
        return self.dx.reshape(self.layer.x_shape)


def cells_inside(size: int, outputs: int, kernel: int, stride: int, pad: int) -> Array:
    """How many cells of each window along one axis lie in the image."""
    start = np.arange(outputs) * stride - pad
    return np.minimum(start + kernel, size) - np.maximum(start, 0)


def inside_image(size: int, kernel: int, stride: int, pad: int) -> slice:
    """The outputs along one axis whose windows lie wholly in the image."""
    return slice(-(-pad // stride), (size - kernel + pad) // stride + 1)


def reduce_arrays(ufunc: np.ufunc, arrays: Sequence[Array], out: Array) -> None:
    """Reduce arrays, element by element, into out."""
    if len(arrays) == 1:
        out[...] = arrays[0]
        return
    ufunc(arrays[0], arrays[1], out=out)
    for array in arrays[2:]:
        ufunc(out, array, out=out)


def reduce_inside(
    ufunc: np.ufunc, source: Array, out: Array, kernel: int, stride: int, pad: int
) -> None:
    """Reduce source's windows along axis 1 into out, where they lie in the image."""
    inside = inside_image(source.shape[1], kernel, stride, pad)
    cells = [source[:, read_by(inside, stride, k - pad)] for k in range(kernel)]
    reduce_arrays(ufunc, cells, out[:, inside])


def reduce_border(
    ufunc: np.ufunc, source: Array, out: Array, kernel: int, stride: int, pad: int
) -> None:
    """Reduce the others, over their cells in the image."""
    size, outputs = source.shape[1], out.shape[1]
    inside = inside_image(size, kernel, stride, pad)
    for o in (*range(inside.start), *range(inside.stop, outputs)):
        start = o * stride - pad
        cells = range(max(0, start), min(size, start + kernel))
        reduce_arrays(ufunc, [source[:, i] for i in cells], out[:, o])


def spread(source: Array, out: Array, kernel: int, stride: int, pad: int) -> None:
    """Fill out along axis 1 with the sums of the elements of source whose windows hold a cell."""
    outputs, size = source.shape[1], out.shape[1]
    filled = max(0, outputs * stride - pad) if kernel >= stride else 0
    out[:, filled:] = 0
    for k in range(kernel):
        start = max(0, -((k - pad) // stride))
        reached = slice(start, min(outputs, (size - 1 + pad - k) // stride + 1))
        target = out[:, read_by(reached, stride, k - pad)]
        if k < stride:  # nothing has come here before
            target[...] = source[:, reached]
        else:
            target += source[:, reached]


def cut(size: int, length: int) -> Iterator[slice]:
    """Slices of at most this length that make up the whole."""
    for start in range(0, size, length):
        yield slice(start, min(start + length, size))


def read_by(outputs: slice, stride: int, offset: int) -> slice:
    """The inputs that these outputs read through one kernel offset."""
    last = (outputs.stop - 1) * stride + offset
    return slice(outputs.start * stride + offset, last + 1, stride)
