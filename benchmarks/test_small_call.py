"""`conv` beside its peers on images so small that the call itself is most of the time."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .layers import SMALL_CALLS
from .race import RECORDING, cases


@pytest.mark.parametrize(("layer", "contender"), cases("small_call", SMALL_CALLS))
def test_small_call(seconds: list[float], benchmark: BenchmarkFixture) -> None:
    RECORDING.play(benchmark, seconds)
