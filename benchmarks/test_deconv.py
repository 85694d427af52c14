"""Deconvolution beside its peers, forward and backward, where it doubles height and width."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .layers import DECONVS
from .race import RECORDING, cases


@pytest.mark.parametrize(("layer", "contender"), cases("deconv", DECONVS))
def test_deconv(seconds: list[float], benchmark: BenchmarkFixture) -> None:
    RECORDING.play(benchmark, seconds)


@pytest.mark.parametrize(("layer", "contender"), cases("deconv_backward", DECONVS))
def test_deconv_backward(seconds: list[float], benchmark: BenchmarkFixture) -> None:
    RECORDING.play(benchmark, seconds)
