"""Train a small convolutional network on handwritten digits, with fastconv and with plain NumPy.

The digits are the 1797 scans of 8x8 pixels that come with scikit-learn. The network is

    convolution 3x3 -> ReLU -> 2x2 max pool -> convolution 3x3 -> ReLU -> fully connected -> softmax

and is trained twice from the same seed, on the same batches in the same order. Only the functions
that convolve and pool change: those of `fastconv` the first time, plain NumPy the second, where the
convolution is the strided-view form of `fastconv.reference`.

Run it with ``python examples/digits.py``; ``--help`` lists the options.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from numpy.typing import DTypeLike, NDArray
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from tqdm import tqdm  # type: ignore[import-untyped]

import fastconv
from fastconv import reference

REQUIRED_ACCURACY = 0.97
TEST_FRACTION = 0.25
BATCH = 32
CLASSES = 10
FILTERS = (32, 64)
WINDOW = 2  # of the pool
PAD = 1  # keeps the size of the image under a 3x3 kernel
SHOWN_DIGITS = 30

Array = NDArray[Any]
Parameters = dict[str, Array]


class Library(NamedTuple):
    """A way to convolve and to pool: the one thing in which the two training runs differ.

    ``conv_forward(x, w, b, pad=...)`` and ``pool_forward(x, size)`` give ``out, cache``;
    ``conv_backward(dout, cache, propagate_down=...)`` gives ``dx, dw, db``, and
    ``pool_backward(dout, cache)`` dx.
    """

    name: str
    conv_forward: Callable[..., tuple[Array, Any]]
    conv_backward: Callable[..., tuple[Any, Any, Any]]  # None for a gradient that is not wanted
    pool_forward: Callable[..., tuple[Array, Any]]
    pool_backward: Callable[..., Array]


def numpy_conv_forward(x: Array, w: Array, b: Array, *, pad: int) -> tuple[Array, Any]:
    """Convolve with a strided view and one matrix product, in NumPy alone."""
    return reference.conv_forward_strided(x, w, b, pad=pad), (x, w, pad)


def numpy_conv_backward(
    dout: Array, cache: Any, *, propagate_down: tuple[bool, bool, bool]
) -> tuple[Array | None, Array, Array]:
    """Give the gradients of `numpy_conv_forward`; this form always computes all three."""
    x, w, pad = cache
    dx, dw, db = reference.conv_backward_strided(dout, x, w, pad=pad)
    return dx if propagate_down[0] else None, dw, db


def numpy_pool_forward(x: Array, size: int) -> tuple[Array, tuple[Array, int]]:
    """Take the maximum of every window of ``x (N, C, H, W)``; H and W are multiples of its size.

    The cache says where in its window each maximum stood, in row-major order: the first of equals.
    """
    N, C, H, W = x.shape
    split = x.reshape(N, C, H // size, size, W // size, size)
    windows = split.swapaxes(3, 4).reshape(N, C, H // size, W // size, size * size)
    where = windows.argmax(axis=-1, keepdims=True)
    return np.take_along_axis(windows, where, axis=-1)[..., 0], (where, size)


def numpy_pool_backward(dout: Array, cache: tuple[Array, int]) -> Array:
    """Send each gradient back to the place its maximum came from; the rest of a window gets 0."""
    where, size = cache
    N, C, OH, OW = dout.shape
    windows = np.zeros((N, C, OH, OW, size * size), dout.dtype)
    np.put_along_axis(windows, where, dout[..., None], axis=-1)
    split = windows.reshape(N, C, OH, OW, size, size).swapaxes(3, 4)
    return split.reshape(N, C, OH * size, OW * size)


FASTCONV = Library(
    "fastconv",
    fastconv.conv_forward,
    fastconv.conv_backward,
    fastconv.max_pool_forward,
    fastconv.max_pool_backward,
)
NUMPY = Library(
    "NumPy", numpy_conv_forward, numpy_conv_backward, numpy_pool_forward, numpy_pool_backward
)


class Digits(NamedTuple):
    """The scans ``x (N, 1, 8, 8)``, from 0 to 1, and their classes ``y (N,)``, in two parts."""

    x_train: Array
    x_test: Array
    y_train: Array
    y_test: Array


def load_data(seed: int) -> Digits:
    """Load the digits and split them, each class in the same proportion in both parts."""
    images, classes = load_digits(return_X_y=True)
    x = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return Digits(
        *train_test_split(x, classes, test_size=TEST_FRACTION, stratify=classes, random_state=seed)
    )


def softmax_loss(scores: Array, y: Array) -> tuple[float, Array]:
    """Give the mean cross-entropy of ``scores (N, CLASSES)`` and its gradient by the scores."""
    samples = np.arange(len(y))
    shifted = scores - scores.max(axis=1, keepdims=True)  # so that exp cannot overflow
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    dscores = np.exp(log_p)
    dscores[samples, y] -= 1
    return -float(log_p[samples, y].mean()), dscores / len(y)


class Network:
    """The network of this example, its parameters drawn from `rng`.

    Parameters
    ----------
    library : Library
        The functions that convolve and pool, forward and backward.
    rng : numpy.random.Generator
        Source of the initial weights.
    dtype : dtype-like, default float32
        Type of the parameters.
    """

    def __init__(
        self,
        library: Library,
        rng: np.random.Generator,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.library = library
        first, second = FILTERS
        shapes = {"1": (first, 1, 3, 3), "2": (second, first, 3, 3), "3": (CLASSES, second * 4 * 4)}
        self.params: Parameters = {}
        for layer, shape in shapes.items():
            scale = np.sqrt(2 / np.prod(shape[1:]))  # He et al. 2015: keeps variance under ReLU
            self.params["w" + layer] = (scale * rng.standard_normal(shape)).astype(dtype)
            self.params["b" + layer] = np.zeros(shape[0], dtype)

    def forward(self, x: Array) -> tuple[Array, tuple[Any, ...]]:
        """Give the scores ``(N, CLASSES)`` of ``x (N, 1, 8, 8)``, and what `backward` needs."""
        p = self.params
        out1, conv1 = self.library.conv_forward(x, p["w1"], p["b1"], pad=PAD)
        pooled, pool = self.library.pool_forward(np.maximum(out1, 0), WINDOW)
        out2, conv2 = self.library.conv_forward(pooled, p["w2"], p["b2"], pad=PAD)
        features = np.maximum(out2, 0).reshape(len(x), -1)
        scores = features @ p["w3"].T + p["b3"]
        return scores, (conv1, out1, pool, conv2, out2, features)

    def backward(self, dscores: Array, cache: tuple[Any, ...]) -> Parameters:
        """Give the gradient by every parameter, under the parameter's name."""
        conv1, out1, pool, conv2, out2, features = cache
        dfeatures = dscores @ self.params["w3"]
        dout2 = dfeatures.reshape(out2.shape) * (out2 > 0)
        dpooled, dw2, db2 = self.library.conv_backward(
            dout2, conv2, propagate_down=(True, True, True)
        )
        dout1 = self.library.pool_backward(dpooled, pool) * (out1 > 0)
        # Nothing stands before the first layer, so the gradient by the image is left out.
        _, dw1, db1 = self.library.conv_backward(dout1, conv1, propagate_down=(False, True, True))
        dw3, db3 = dscores.T @ features, dscores.sum(axis=0)
        return {"w1": dw1, "b1": db1, "w2": dw2, "b2": db2, "w3": dw3, "b3": db3}

    def loss(self, x: Array, y: Array) -> tuple[float, Parameters]:
        """Give the mean loss over a batch and its gradient by every parameter."""
        scores, cache = self.forward(x)
        loss, dscores = softmax_loss(scores, y)
        return loss, self.backward(dscores, cache)

    def predict(self, x: Array) -> Array:
        """Give the most likely class of every image."""
        scores, _ = self.forward(x)
        classes: Array = scores.argmax(axis=1)
        return classes


class Adam:
    """Adam (Kingma and Ba 2015), with its usual constants; updates the parameters in place."""

    def __init__(self, params: Parameters, rate: float = 1e-3) -> None:
        self.params = params
        self.rate = rate
        self.steps = 0
        self.mean = {name: np.zeros_like(value) for name, value in params.items()}
        self.square = {name: np.zeros_like(value) for name, value in params.items()}

    def step(self, grads: Parameters) -> None:
        """Move every parameter one step down its gradient."""
        self.steps += 1
        rate = self.rate * np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        for name, grad in grads.items():
            self.mean[name] += 0.1 * (grad - self.mean[name])
            self.square[name] += 0.001 * (grad * grad - self.square[name])
            self.params[name] -= rate * self.mean[name] / (np.sqrt(self.square[name]) + 1e-8)


class Run(NamedTuple):
    """A finished training run."""

    name: str
    network: Network
    losses: list[float]  # mean over each epoch
    seconds: float
    predicted: Array  # classes of the test images
    accuracy: float


def train(library: Library, data: Digits, epochs: int, seed: int) -> Run:
    """Train a network from `seed`, then test it; only the training is timed."""
    rng = np.random.default_rng(seed)
    network = Network(library, rng)
    adam = Adam(network.params)
    losses = []
    start = time.perf_counter()
    with tqdm(range(epochs), desc=f"training with {library.name}", unit="epoch") as progress:
        for _ in progress:
            losses.append(train_epoch(network, adam, data, rng))
            progress.set_postfix(loss=f"{losses[-1]:.4f}")
    seconds = time.perf_counter() - start
    predicted = network.predict(data.x_test)
    accuracy = float((predicted == data.y_test).mean())
    return Run(library.name, network, losses, seconds, predicted, accuracy)


def train_epoch(network: Network, adam: Adam, data: Digits, rng: np.random.Generator) -> float:
    """Go once through the training images in random order; give the mean loss."""
    order = rng.permutation(len(data.y_train))
    total = 0.0
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        loss, grads = network.loss(data.x_train[batch], data.y_train[batch])
        adam.step(grads)
        total += loss * len(batch)
    return total / len(order)


def print_table(runs: list[Run]) -> None:
    """Print the accuracy and the time of every run, and the ratio of the times."""
    print(f"\n{'with':<14}{'test accuracy':>14}{'training time':>16}")
    for run in runs:
        print(f"{run.name:<14}{run.accuracy:>14.2%}{run.seconds:>14.2f} s")
    if len(runs) == 2:
        print(f"{'NumPy / fastconv':<28}{runs[1].seconds / runs[0].seconds:>14.2f} x")
    print(
        f"\nThe time covers {len(runs[0].losses)} epochs of training, and in them all that both\n"
        "runs share: ReLU, fully connected layer, softmax and Adam. It leaves out\n"
        "loading the data, testing and drawing. The plain NumPy form has no way to skip the\n"
        "gradient by the image in the first layer, and computes it.\n"
    )


def draw_losses(figure: SubFigure, runs: list[Run]) -> None:
    """Draw the training loss of every run against the epoch."""
    axes = figure.subplots()
    for run, style in zip(runs, ("o-", "x--"), strict=False):
        axes.semilogy(range(1, len(run.losses) + 1), run.losses, style, label=run.name)
    axes.set(title="Training loss", xlabel="epoch", ylabel="mean cross-entropy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()


def draw_filters(figure: SubFigure, w: Array) -> None:
    """Draw the filters ``w (F, 1, KH, KW)`` in four rows, all on one scale of colours."""
    cells = w[:, 0].repeat(10, axis=1).repeat(10, axis=2)  # 10x10 a weight, for a thin frame
    framed = np.pad(cells, ((0, 0), (2, 2), (2, 2)), constant_values=np.nan)
    F, H, W = framed.shape
    tiles = framed.reshape(4, F // 4, H, W).swapaxes(1, 2).reshape(4 * H, F // 4 * W)
    limit = float(abs(w).max())
    axes = figure.subplots()
    axes.set(title="Learned filters of the first layer", xticks=[], yticks=[], facecolor="0.2")
    image = axes.imshow(tiles, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    figure.colorbar(image, label="weight", location="bottom")


def draw_digits(figure: SubFigure, data: Digits, predicted: Array) -> None:
    """Draw test digits under their predictions: first those that are wrong, marked in red."""
    right = predicted == data.y_test
    figure.suptitle(
        f"Test digits under their predictions; of {len(right)}, {np.count_nonzero(~right)} "
        "are wrong and come first, in red"
    )
    axes = figure.subplots(3, SHOWN_DIGITS // 3)
    shown = np.argsort(right, kind="stable")[:SHOWN_DIGITS]
    for ax, i in zip(axes.flat, shown, strict=True):
        ax.imshow(data.x_test[i, 0], cmap="gray_r")
        ax.set(xticks=[], yticks=[])
        if right[i]:
            ax.set_title(f"{predicted[i]}")
        else:
            ax.set_title(f"{predicted[i]}, not {data.y_test[i]}", color="red", weight="bold")
            ax.spines[:].set(color="red", linewidth=3)


def save_picture(path: Path, runs: list[Run], data: Digits) -> None:
    """Save one picture: the loss, the learned filters, and digits with their predictions."""
    figure = Figure(figsize=(11, 9), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    draw_losses(figure.add_subfigure(grid[0, 0]), runs)
    draw_filters(figure.add_subfigure(grid[0, 1]), runs[0].network.params["w1"])
    draw_digits(figure.add_subfigure(grid[1, :]), data, runs[0].predicted)
    figure.savefig(path, format="png", dpi=100)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Train a network on handwritten digits, with fastconv and with plain NumPy."
    )
    parser.add_argument(
        "--output", type=Path, default=Path("digits.png"), help="the picture (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--skip-numpy", action="store_true", help="train with fastconv alone")
    return parser.parse_args()


def main() -> None:
    """Train, report, draw; leave with a non-zero status if the accuracy is too low."""
    arguments = parse_arguments()
    data = load_data(arguments.seed)
    print(f"{len(data.y_train)} training digits, {len(data.y_test)} test digits, 8x8 pixels")
    convolutions = [FASTCONV] if arguments.skip_numpy else [FASTCONV, NUMPY]
    runs = [train(each, data, arguments.epochs, arguments.seed) for each in convolutions]
    print_table(runs)
    save_picture(arguments.output, runs, data)
    print(f"picture: {arguments.output.resolve()}")
    for run in runs:
        if run.accuracy < REQUIRED_ACCURACY:
            sys.exit(
                f"{run.name}: test accuracy {run.accuracy:.2%} is below {REQUIRED_ACCURACY:.0%}"
            )


if __name__ == "__main__":
    main()
