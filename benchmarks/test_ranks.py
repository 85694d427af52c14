"""Convolution of ranks 1 and 3 beside its peers, forward and backward."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .layers import RANKS
from .race import RECORDING, cases


@pytest.mark.parametrize(("layer", "contender"), cases("forward", RANKS))
def test_forward(seconds: list[float], benchmark: BenchmarkFixture) -> None:
    RECORDING.play(benchmark, seconds)


@pytest.mark.parametrize(("layer", "contender"), cases("backward", RANKS))
def test_backward(seconds: list[float], benchmark: BenchmarkFixture) -> None:
    RECORDING.play(benchmark, seconds)
