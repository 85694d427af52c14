"""Options of the benchmarks, and their place in pytest and pytest-benchmark.

NumPy, PyTorch and the others read their number of threads when they are loaded. So nothing is
loaded at the top of this file: they come with the test modules, after `pytest_configure`.
"""

import os
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .layers import ALL_LAYERS, Layer

if TYPE_CHECKING:
    from .race import Race

HERE = Path(__file__).parent
THREAD_VARIABLES = (
    "FASTCONV_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
)
RACES = pytest.StashKey["dict[tuple[str, Layer], Race]"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastconv")
    group.addoption("--threads", type=int, default=1, help="threads of each contender (1)")
    group.addoption(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="type of the numbers (float32)",
    )
    group.addoption(
        "--layer",
        action="append",
        choices=[layer.name for layer in ALL_LAYERS],
        metavar="NAME",
        help="time this layer; may be given several times (all of them)",
    )


def pytest_configure(config: pytest.Config) -> None:
    threads = config.getoption("threads")
    if threads < 1:
        raise pytest.UsageError(f"--threads: expected at least 1, got {threads}")
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    config.stash[RACES] = {}


def case(item: pytest.Item) -> tuple[str, Layer, str] | None:
    """The kind, layer and contender that a test is about, None where it is not one of ours."""
    if item.path.parent != HERE or not isinstance(item, pytest.Function):
        return None
    params: dict[str, Any] = dict(item.callspec.params)
    return item.originalname.removeprefix("test_"), params["layer"], params["contender"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    names = config.getoption("layer")
    if names:
        others = [item for item in items if (ours := case(item)) and ours[1].name not in names]
        items[:] = [item for item in items if item not in others]
        config.hook.pytest_deselected(items=others)


@pytest.fixture
def seconds(request: pytest.FixtureRequest, layer: Layer, contender: str) -> list[float]:
    """This contender's time in each round; the layer's first test times the whole field."""
    from .peers import UnavailableError
    from .race import LEAST_ROUNDS, run_race

    config, cases = request.config, [ours for ours in map(case, request.session.items) if ours]
    kind = request.node.originalname.removeprefix("test_")
    races = config.stash[RACES]
    if (kind, layer) not in races:
        once = config.getoption("benchmark_disable")
        races[kind, layer] = run_race(
            kind,
            layer,
            [selected for *race, selected in cases if race == [kind, layer]],
            dtype=config.getoption("dtype"),
            threads=config.getoption("threads"),
            seconds=0 if once else float(config.getoption("benchmark_max_time")),
            least_rounds=1 if once else max(LEAST_ROUNDS, config.getoption("benchmark_min_rounds")),
        )
    race = races[kind, layer]
    failure = race.failures.get(contender)
    if isinstance(failure, UnavailableError):
        pytest.skip(str(failure))
    if failure:
        raise failure
    return race.seconds[contender]


def tables(config: pytest.Config) -> Iterator["list[Race]"]:
    """The races that were run, those of one kind of call and one rank together."""
    from .peers import KINDS

    timed = [race for race in config.stash[RACES].values() if race.seconds]
    for kind in KINDS:
        for rank in (2, 1, 3):
            races = [race for race in timed if (race.kind, race.layer.rank) == (kind, rank)]
            if races:
                yield races


def described_machine(config: pytest.Config, processor: dict[str, Any]) -> dict[str, Any]:
    from .report import machine

    return machine(processor, config.getoption("dtype"), config.getoption("threads"))


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    machine_info["fastconv"] = described_machine(config, machine_info["cpu"])


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    from .report import speeds, summary

    output_json["ratios"] = [row for races in tables(config) for row in summary(races)]
    output_json["speeds"] = [row for races in tables(config) for row in speeds(races)]


@pytest.hookimpl(trylast=True)  # below pytest-benchmark's tables
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if not config.stash[RACES] or config.getoption("benchmark_disable"):
        return
    from rich.console import Console

    from .report import LEGEND, machine_lines, peak_line, ratio_table

    page = StringIO()
    console = Console(file=page, width=240, force_terminal=terminalreporter.hasmarkup)
    for races in tables(config):
        console.print(ratio_table(races))
    terminalreporter.section("fastconv beside its peers")
    terminalreporter.write(page.getvalue())
    terminalreporter.write_line(LEGEND)
    info = config.hook.pytest_benchmark_generate_machine_info(config=config)
    for line in machine_lines(described_machine(config, info["cpu"])):
        terminalreporter.write_line(line)
    races = list(config.stash[RACES].values())
    terminalreporter.write_line(peak_line(races, config.getoption("dtype")))
