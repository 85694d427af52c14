"""The timing: contenders take turns, so that a machine's drift falls on all of them alike.

pytest-benchmark times one test after the other, each in a block of its own. On a shared machine the
speed of whole blocks differs by tens of percent, and a ratio of two blocks with it. So the first
test of a layer times the whole field, a turn for each contender in each round, and every test then
plays its contender's own times back to pytest-benchmark, through its public `pedantic` and `timer`:
a clock that stands still but for the recorded time of each round. Reports, JSON, comparisons and
histograms are pytest-benchmark's as ever, and each thing is timed once.
"""

import gc
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter, sleep
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from threadpoolctl import threadpool_limits

from .layers import LAYERS, Layer
from .peers import Judge, Problem, Run, contenders

LEAST_ROUNDS = 7
# A turn is one call, or as many as fill this time; several follow one that is not timed and finds
# the caches as the last contender left them.
TURN_SECONDS = 0.02
# Before a turn with several threads the last contender's must be asleep: OpenBLAS's spin for some
# 30 ms after a call (2**26 cycles), libgomp's for less. The call that is not timed then wakes ours.
REST_SECONDS = 0.04


@dataclass(frozen=True)
class Ratio:
    """Of a peer's time to ours, round by round: the median and the quartiles."""

    median: float
    low: float
    high: float


@dataclass
class Race:
    """One layer's contenders and what came of them."""

    kind: str
    layer: Layer
    ours: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, name: str) -> Ratio | None:
        """How many times as long as ours this contender takes; None where one of them is absent."""
        if name not in self.seconds or self.ours not in self.seconds:
            return None
        pairs = zip(self.seconds[name], self.seconds[self.ours], strict=True)
        ratios = [theirs / ours for theirs, ours in pairs]
        if len(ratios) == 1:
            return Ratio(*ratios * 3)
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return Ratio(median, low, high)


def run_race(
    kind: str, layer: Layer, names: list[str], *, threads: int, seconds: float, least_rounds: int
) -> Race:
    """Prepare, check and time these contenders on one layer."""
    prepares = contenders(kind)
    race = Race(kind, layer, ours=next(iter(prepares)))
    judge, problem = Judge(kind, layer), Problem(layer, threads)
    runs: dict[str, Run] = {}
    for name in names:
        try:
            run = prepares[name](problem)
            judge.check(run())
        except Exception as failure:  # its own test reports it; the others go on
            race.failures[name] = failure
        else:
            runs[name] = run
    del judge
    if runs:
        with threadpool_limits(limits=threads):
            race.seconds = interleave(
                runs, seconds, least_rounds, rest=REST_SECONDS if threads > 1 else 0
            )
    return race


def interleave(
    runs: Mapping[str, Run], seconds: float, least_rounds: int, rest: float
) -> dict[str, list[float]]:
    """Time each call once a round, in an order that changes from round to round.

    A turn's time is the median of its calls. Rounds are as many as come to `seconds` a contender.
    """
    calls = {
        name: max(1, round(TURN_SECONDS / min(time_call(run) for _ in range(2))))
        for name, run in runs.items()
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    order = random.Random(0)
    gc.collect()
    gc.disable()
    try:
        deadline = perf_counter() + seconds * len(runs)
        rounds = 0
        while rounds < least_rounds or perf_counter() < deadline:
            rounds += 1
            for name in order.sample(list(runs), len(runs)):
                sleep(rest)
                run = runs[name]
                if calls[name] > 1 or rest:
                    run()
                times[name].append(statistics.median(time_call(run) for _ in range(calls[name])))
    finally:
        gc.enable()
    return times


def time_call(run: Run) -> float:
    start = perf_counter()
    run()
    return perf_counter() - start


class Recording:
    """A clock for pytest-benchmark that shows recorded times instead of the present one."""

    def __init__(self) -> None:
        self.now = 0.0

    def recorded_time(self) -> float:
        """The `timer`."""
        return self.now

    def play(self, benchmark: BenchmarkFixture, seconds: list[float]) -> None:
        """Let pytest-benchmark see one round of each of these lengths."""
        rounds = iter(seconds)

        def call() -> None:
            self.now = next(rounds)

        def rewind() -> None:
            self.now = 0.0

        benchmark.pedantic(call, setup=rewind, rounds=len(seconds))


RECORDING = Recording()


def cases(kind: str, layers: Sequence[Layer] = LAYERS) -> list[Any]:
    """The parameters `layer` and `contender` of a test, grouped by layer."""
    return [
        pytest.param(
            layer,
            name,
            id=f"{layer}-{name}",
            marks=pytest.mark.benchmark(group=f"{layer} {kind}", timer=RECORDING.recorded_time),
        )
        for layer in layers
        for name in contenders(kind)
    ]
