"""Convolution by large kernels beside its peers, Fourier transforms among them."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .layers import LARGE_KERNELS
from .race import RECORDING, cases


@pytest.mark.parametrize(("layer", "contender"), cases("forward", LARGE_KERNELS))
def test_forward(seconds: list[float], benchmark: BenchmarkFixture) -> None:
    RECORDING.play(benchmark, seconds)
