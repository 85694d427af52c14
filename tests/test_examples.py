"""The examples run, learn what they should, and draw what they say."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

for needed in ("sklearn", "matplotlib", "tqdm"):
    pytest.importorskip(needed)
Image = pytest.importorskip("PIL.Image")

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", EXAMPLES / name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def import_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    return import_example("digits")


@pytest.fixture(scope="module")
def photo() -> ModuleType:
    return import_example("photo")


def assert_is_picture(path: Path) -> None:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert min(image.size) >= 300
        image.load()
        assert len(image.convert("RGB").getcolors(2**24)) > 100  # a blank one has a single colour


def accuracies(stdout: str) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in re.findall(r"^(\w+) +([\d.]+)% ", stdout, re.MULTILINE)
    }


def test_digits_learns(tmp_path):
    picture = tmp_path / "digits.png"
    result = run_example("digits.py", "--epochs", "12", "--skip-numpy", "--output", picture)
    assert result.returncode == 0, result.stderr
    assert accuracies(result.stdout)["fastconv"] >= 97
    assert str(picture) in result.stdout
    assert_is_picture(picture)


def test_digits_compares_with_numpy_and_fails_below_97_percent(
    digits, tmp_path, monkeypatch, capsys
):
    picture = tmp_path / "digits.png"
    monkeypatch.setattr(sys, "argv", ["digits.py", "--epochs", "1", "--output", str(picture)])
    with pytest.raises(SystemExit, match=r"test accuracy [\d.]+% is below 97%"):
        digits.main()
    stdout = capsys.readouterr().out
    found = accuracies(stdout)
    assert found["fastconv"] == pytest.approx(found["NumPy"], abs=1)  # they differ by rounding
    assert re.search(r"^NumPy / fastconv +[\d.]+ x$", stdout, re.MULTILINE)
    assert_is_picture(picture)


def test_photo(tmp_path):
    picture = tmp_path / "photo.png"
    result = run_example("photo.py", "--output", picture)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^Sobel +[\d.]+ ms", result.stdout, re.MULTILINE)
    assert re.search(r"^Gaussian +[\d.]+ ms", result.stdout, re.MULTILINE)
    assert str(picture) in result.stdout
    assert_is_picture(picture)


@pytest.mark.parametrize("library", ["FASTCONV", "NUMPY"])
def test_digits_gradients(digits, library):
    rng = np.random.default_rng(0)
    network = digits.Network(getattr(digits, library), rng, np.float64)
    for name in ("b1", "b2", "b3"):  # off zero, where ReLU has no derivative
        network.params[name] += 0.1 * rng.standard_normal(network.params[name].shape)
    x, y = rng.standard_normal((5, 1, 8, 8)), rng.integers(0, digits.CLASSES, 5)
    _, grads = network.loss(x, y)
    assert grads.keys() == network.params.keys()
    for name, value in network.params.items():
        assert grads[name].dtype == np.float64
        for i in rng.choice(value.size, 4, replace=False):
            expected = central_difference(lambda: network.loss(x, y)[0], value.reshape(-1), i)
            assert_allclose(grads[name].flat[i], expected, rtol=1e-5, atol=1e-8, err_msg=name)


def central_difference(function, values, i, step=1e-5):
    kept = values[i]
    values[i] = kept + step
    after = function()
    values[i] = kept - step
    before = function()
    values[i] = kept
    return (after - before) / (2 * step)


def test_max_pool_takes_the_first_of_equals(digits):
    x = np.array([[1, 7, 5, 5], [7, 7, 2, 5], [0, 0, 3, 4], [0, 0, 9, 8]], np.float32)
    out, cache = digits.numpy_pool_forward(x[None, None], 2)
    assert_array_equal(out[0, 0], [[7, 5], [0, 9]])
    dx = digits.numpy_pool_backward(np.array([[[[1, 2], [3, 4]]]], np.float32), cache)
    assert_array_equal(dx[0, 0], [[0, 1, 2, 0], [0, 0, 0, 0], [3, 0, 0, 0], [0, 0, 4, 0]])


def test_sobel_of_a_ramp(photo):
    ramp = np.add.outer(3 * np.arange(6), 4 * np.arange(7)).astype(np.float32)
    edges = photo.sobel(ramp[None, None])
    assert_array_equal(edges, np.full((1, 1, 4, 5), 8 * 5, np.float32))


def test_gaussian_keeps_what_is_even_and_spreads_a_point(photo):
    even = np.full((1, 3, 20, 30), 0.5, np.float32)
    assert_allclose(photo.gaussian(even, 2.0), even, rtol=1e-6)
    point = np.zeros((1, 1, 41, 41))
    point[0, 0, 20, 20] = 1
    blurred = photo.gaussian(point, 3.0)[0, 0]
    distance = np.hypot(*np.mgrid[-20:21, -20:21])
    shown = distance < 9
    expected = np.exp(-((distance / 3.0) ** 2) / 2) / (2 * np.pi * 3.0**2)
    assert_allclose(blurred[shown], expected[shown], rtol=0.01)
