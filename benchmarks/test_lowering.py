"""`im2col` beside `unfold` and `col2im` beside `fold`, on (8, 64, 56, 56), 3x3, pad 1."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .layers import LAYERS
from .race import RECORDING, cases

LOWERED = [layer for layer in LAYERS if layer.name == "resnet_2_3x3"]


@pytest.mark.parametrize(("layer", "contender"), cases("im2col", LOWERED))
def test_im2col(seconds: list[float], benchmark: BenchmarkFixture) -> None:
    RECORDING.play(benchmark, seconds)


@pytest.mark.parametrize(("layer", "contender"), cases("col2im", LOWERED))
def test_col2im(seconds: list[float], benchmark: BenchmarkFixture) -> None:
    RECORDING.play(benchmark, seconds)
