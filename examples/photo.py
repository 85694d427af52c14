"""Filter a photograph with fastconv: edges by Sobel, and a Gaussian blur.

The photograph is the one of a Chinese temple, 427x640 pixels, that comes with scikit-learn.

Run it with ``python examples/photo.py``; ``--help`` lists the options.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.datasets import load_sample_image  # type: ignore[import-untyped]

import fastconv

SIGMA = 4.0  # standard deviation of the Gaussian, in pixels

Array = NDArray[Any]


def load_photo() -> Array:
    """Load the photograph as ``x (1, 3, H, W)``: a batch of one, colours as channels, 0 to 1."""
    photo = np.asarray(load_sample_image("china.jpg"), np.float32) / 255
    return photo.transpose(2, 0, 1)[np.newaxis]


def as_grey(x: Array) -> Array:
    """Mix ``x (N, 3, H, W)`` into ``(N, 1, H, W)``: a 1x1 convolution with one filter.

    The weights are those of ITU-R BT.601, the usual ones for the brightness of red, green, blue.
    """
    w = np.array([0.299, 0.587, 0.114], x.dtype).reshape(1, 3, 1, 1)
    return fastconv.conv(x, w)


def sobel(x: Array) -> Array:
    """Give the gradient magnitude of ``x (N, 1, H, W)``, of shape ``(N, 1, H-2, W-2)``.

    Both derivatives come from one convolution with two filters. It is not padded: zeros around the
    photograph would make an edge of its frame.
    """
    across = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], x.dtype)
    w = np.stack([across, across.T])[:, np.newaxis]
    slopes = fastconv.conv(x, w, pad="valid")
    magnitude: Array = np.hypot(slopes[:, :1], slopes[:, 1:])
    return magnitude


def gaussian(x: Array, sigma: float) -> Array:
    """Blur ``x (N, C, H, W)``, every channel by itself, into an array of the same shape.

    A Gaussian is the product of one along each axis, so a column of weights and then a row of them
    do the work of a square: for a standard deviation of 4 that is 25 + 25 products a pixel in place
    of 25 * 25.

    The padding is zeros, which darken the edges. The same blur of an image of ones says by how
    much, and the division by it makes up for that.
    """
    radius = int(np.ceil(3 * sigma))  # beyond lies 0.3% of the weight
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(x.dtype)
    return _separable(x, weights) / _separable(np.ones_like(x[:1, :1]), weights)


def _separable(x: Array, weights: Array) -> Array:
    """Convolve every channel of x along its columns, then along its rows, with zeros around it."""
    channels = x.shape[1]
    w = np.tile(weights, (channels, 1, 1, 1))  # depthwise (C, 1, 1, K): one filter a channel
    x = fastconv.conv(x, w.swapaxes(2, 3), pad="same", group=channels)
    return fastconv.conv(x, w, pad="same", group=channels)


def save_picture(path: Path, photo: Array, edges: Array, blurred: Array) -> None:
    """Save the photograph, its edges and its blurred form side by side."""
    figure = Figure(figsize=(15, 3.7), layout="constrained")
    before, middle, after = figure.subplots(1, 3)
    height, width = photo.shape[2:]
    before.imshow(photo[0].transpose(1, 2, 0))
    before.set_title(f"Before: china.jpg, {height}x{width} pixels")
    middle.imshow(edges[0, 0], cmap="gray", vmin=0, vmax=np.percentile(edges, 99.5))
    middle.set_title("Sobel: gradient magnitude of the grey image")
    after.imshow(blurred[0].transpose(1, 2, 0).clip(0, 1))
    after.set_title(f"Gaussian: standard deviation of {SIGMA:g} pixels")
    for ax in (before, middle, after):
        ax.set_axis_off()
    figure.savefig(path, format="png", dpi=100)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Filter a photograph with fastconv.")
    parser.add_argument(
        "--output", type=Path, default=Path("photo.png"), help="the picture (default: %(default)s)"
    )
    return parser.parse_args()


def main() -> None:
    """Filter the photograph, say how long it took, and save it before and after."""
    output = parse_arguments().output
    photo = load_photo()
    start = time.perf_counter()
    edges = sobel(as_grey(photo))
    between = time.perf_counter()
    blurred = gaussian(photo, SIGMA)
    end = time.perf_counter()
    print(f"Sobel     {1e3 * (between - start):7.1f} ms  (with the mixing to grey)")
    print(f"Gaussian  {1e3 * (end - between):7.1f} ms  (three colours, and the ones for the edges)")
    save_picture(output, photo, edges, blurred)
    print(f"picture: {output.resolve()}")


if __name__ == "__main__":
    main()
