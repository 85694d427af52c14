"""`conv_backward`, all three gradients, beside its peers on every layer."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .race import RECORDING, cases


@pytest.mark.parametrize(("layer", "contender"), cases("backward"))
def test_backward(seconds: list[float], benchmark: BenchmarkFixture) -> None:
    RECORDING.play(benchmark, seconds)
