"""`conv_forward` beside its peers on every layer."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .race import RECORDING, cases


@pytest.mark.parametrize(("layer", "contender"), cases("forward"))
def test_forward(seconds: list[float], benchmark: BenchmarkFixture) -> None:
    RECORDING.play(benchmark, seconds)
