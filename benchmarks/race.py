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
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter, sleep
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from threadpoolctl import threadpool_limits

from .layers import LAYERS, Layer
from .peak import peak_run
from .peers import Judge, Problem, Run, UnavailableError, contenders, surroundings

LEAST_ROUNDS = 7
# Products over the layer's every position and tap that a call computes.
PRODUCTS = {"forward": 1, "backward": 2, "deconv": 1, "deconv_backward": 2}
PEAK = "multiply-adds in registers"
# A turn is one call, or as many as fill this time; several follow one that is not timed and finds
# the caches as the last contender left them.
TURN_SECONDS = 0.02
# Before a turn with several threads the last contender's must be asleep: OpenBLAS's spin for some
# 30 ms after a call (2**26 cycles), libgomp's for less. The call that is not timed then wakes ours.
REST_SECONDS = 0.04


@dataclass(frozen=True)
class Ratio:
    """Of two times or speeds, round by round: the median and the quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: list[float]) -> "Ratio":
        if len(ratios) == 1:
            return cls(*ratios * 3)
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass
class Race:
    """One layer's contenders and what came of them.

    `peak` is what a core can do, in operations a second, in each round; empty where that was not
    measured.
    """

    kind: str
    layer: Layer
    ours: str
    threads: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)
    peak: list[float] = field(default_factory=list)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, name: str) -> Ratio | None:
        """How many times as long as ours this contender takes; None where one of them is absent."""
        if name not in self.seconds or self.ours not in self.seconds:
            return None
        pairs = zip(self.seconds[name], self.seconds[self.ours], strict=True)
        return Ratio.of([theirs / ours for theirs, ours in pairs])

    def speed(self) -> float | None:
        """Our operations a second; None where this is no matter of operations."""
        if self.kind not in PRODUCTS or self.ours not in self.seconds:
            return None
        return self.flop / self.median(self.ours)

    def share(self) -> Ratio | None:
        """How much that is of what the cores can do."""
        if not self.peak or self.ours not in self.seconds:
            return None
        pairs = zip(self.seconds[self.ours], self.peak, strict=True)
        return Ratio.of([self.flop / ours / (self.threads * peak) for ours, peak in pairs])

    @property
    def flop(self) -> int:
        return PRODUCTS[self.kind] * self.layer.flop


def run_race(
    kind: str,
    layer: Layer,
    names: list[str],
    *,
    dtype: str,
    threads: int,
    seconds: float,
    least_rounds: int,
) -> Race:
    """Prepare, check and time these contenders on one layer."""
    prepares = contenders(kind)
    race = Race(kind, layer, next(iter(prepares)), threads)
    judge, problem = Judge(kind, layer, dtype), Problem(layer, dtype, threads)
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
    if not runs:
        return race
    peak_flop = 0
    if kind in PRODUCTS:
        with suppress(UnavailableError):  # the report says so
            runs[PEAK], peak_flop = peak_run(dtype)
    with threadpool_limits(limits=threads):
        race.seconds = interleave(
            runs, seconds, least_rounds, rest=REST_SECONDS if threads > 1 else 0
        )
    race.peak = [peak_flop / taken for taken in race.seconds.pop(PEAK, ())]
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
                with surroundings(run):
                    if calls[name] > 1 or rest:
                        run()
                    turn = [time_call(run) for _ in range(calls[name])]
                times[name].append(statistics.median(turn))
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
