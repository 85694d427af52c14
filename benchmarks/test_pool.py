"""The pools beside their peers, forward and backward, on (8, 64, 112, 112), 3x3 and 2x2, stride 2.

For a backward pass, `max_pool_forward` and PyTorch keep where the maxima are; the forward calls of
NumPy and ONNX Runtime keep nothing.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .layers import POOLS
from .race import RECORDING, cases


@pytest.mark.parametrize(("layer", "contender"), cases("max_pool", POOLS))
def test_max_pool(seconds: list[float], benchmark: BenchmarkFixture) -> None:
    RECORDING.play(benchmark, seconds)


@pytest.mark.parametrize(("layer", "contender"), cases("avg_pool", POOLS))
def test_avg_pool(seconds: list[float], benchmark: BenchmarkFixture) -> None:
    RECORDING.play(benchmark, seconds)


@pytest.mark.parametrize(("layer", "contender"), cases("max_pool_backward", POOLS))
def test_max_pool_backward(seconds: list[float], benchmark: BenchmarkFixture) -> None:
    RECORDING.play(benchmark, seconds)


@pytest.mark.parametrize(("layer", "contender"), cases("avg_pool_backward", POOLS))
def test_avg_pool_backward(seconds: list[float], benchmark: BenchmarkFixture) -> None:
    RECORDING.play(benchmark, seconds)
