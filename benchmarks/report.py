"""The tables of ratios at the end of a run, and what they were measured on."""

import math
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.table import Table
from threadpoolctl import threadpool_info

import fastconv

from .peak import peak_run
from .peers import UnavailableError, contenders
from .race import Race

PACKAGES = ("fastconv", "numpy", "scipy", "torch", "onnxruntime")
FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "amx_tile", "asimd", "sve")

LEGEND = (
    "Times are medians. Ratios to ours, the first column, are taken round by round: their median "
    "(and quartiles); above 1, ours is faster. numpy is the only pure-NumPy contender, the best "
    "that we know. The peak is what a core multiplies and adds in registers, measured in the same "
    "rounds, times the threads."
)


def machine(processor: dict[str, Any], dtype: str, threads: int) -> dict[str, Any]:
    """What the times depend on; `processor` is what py-cpuinfo says of it."""
    return {
        "processor": processor.get("brand_raw", platform.machine()),
        "features": [flag for flag in FEATURES if flag in processor.get("flags", ())],
        "dtype": dtype,
        "threads": threads,
        "instruction_set": fastconv.config()["instruction_set"],
        "versions": {"python": platform.python_version(), **versions()},
        "blas": sorted(
            {
                f"{library['internal_api']} {library['version']}"
                for library in threadpool_info()
                if library["user_api"] == "blas"
            }
        ),
    }


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine_lines(machine: dict[str, Any]) -> list[str]:
    threads = machine["threads"]
    return [
        f"{machine['processor']} ({' '.join(machine['features'])}), "
        f"{machine['dtype']}, {threads} thread{'s' if threads > 1 else ''}",
        ", ".join(f"{name} {number}" for name, number in machine["versions"].items()),
        f"fastconv built for {machine['instruction_set']}; {', '.join(machine['blas'])}",
    ]


def peak_line(races: Sequence[Race], dtype: str) -> str:
    """What a core could do in these races; empty where none asked."""
    peaks = [speed for race in races for speed in race.peak]
    if peaks:
        median, low, high = (call(peaks) / 1e9 for call in (statistics.median, min, max))
        return f"peak of a core in {dtype}: {median:.0f} GFLOP/s ({low:.0f} to {high:.0f})"
    try:
        peak_run(dtype)
    except UnavailableError as reason:
        return f"peak of a core: not measured, {reason}"
    return ""


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def summary(races: Sequence[Race]) -> list[dict[str, Any]]:
    """The ratios of one kind of call, in a form for JSON."""
    rows = []
    for race in races:
        for name in race.seconds:
            ratio = race.ratio(name)
            if ratio and name != race.ours:
                rows.append(
                    {
                        "kind": race.kind,
                        "layer": race.layer.name,
                        "contender": name,
                        "to": race.ours,
                        "ratio": ratio.median,
                        "quartiles": [ratio.low, ratio.high],
                        "rounds": len(race.seconds[name]),
                    }
                )
    return rows


def speeds(races: Sequence[Race]) -> list[dict[str, Any]]:
    """Our operations a second, and the share of the peak (None where that was not measured)."""
    rows = []
    for race in races:
        speed, share = race.speed(), race.share()
        if speed:
            rows.append(
                {
                    "kind": race.kind,
                    "layer": race.layer.name,
                    "contender": race.ours,
                    "gflops": speed / 1e9,
                    "of_peak": share.median if share else None,
                }
            )
    return rows


def ratio_table(races: Sequence[Race]) -> Table:
    """One kind of call: a row a layer, each contender's time, each peer's ratio to ours."""
    kind, ours, rank = races[0].kind, races[0].ours, races[0].layer.rank
    timed = {name for race in races for name in race.seconds}
    names = [name for name in contenders(kind) if name in timed]
    peers = [name for name in names if name != ours] if ours in names else []
    in_micros = all(race.median(name) < 1e-3 for race in races for name in race.seconds)
    unit, factor = ("us", 1e6) if in_micros else ("ms", 1e3)
    title = f"{kind}, times in {unit}" if rank == 2 else f"{kind}, {rank}-D, times in {unit}"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("layer")
    for name in names:
        table.add_column(name, justify="right")
    for name in peers:
        table.add_column(f"{name} / {ours}", justify="right")
    has_speeds = any(race.speed() for race in races)
    if has_speeds:
        table.add_column(f"{ours}, GFLOP/s (of peak)", justify="right")
    ratios: dict[str, list[float]] = {name: [] for name in peers}
    for race in races:
        times = [f"{race.median(n) * factor:.3f}" if n in race.seconds else "-" for n in names]
        cells = []
        for name in peers:
            ratio = race.ratio(name)
            if ratio:
                ratios[name].append(ratio.median)
                cells.append(f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})")
            else:
                cells.append("-")
        if has_speeds:
            cells.append(speed_cell(race))
        table.add_row(race.layer.name, *times, *cells)
    table.add_section()
    means = [
        f"{geometric_mean(values):.2f} over {len(values)}" if values else "-"
        for values in ratios.values()
    ]
    table.add_row("geometric mean", *[""] * len(names), *means)
    return table


def speed_cell(race: Race) -> str:
    speed, share = race.speed(), race.share()
    if speed is None:
        return "-"
    return f"{speed / 1e9:.1f}" + (f" ({share.median:.0%})" if share else "")
