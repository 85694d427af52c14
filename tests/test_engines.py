"""The choice of engine, the number of workers, and what config() says."""

import os

import numpy as np
import pytest

import fastconv
from fastconv._engines import all_engines, select_engine
from fastconv._geometry import conv_geometry
from fastconv._workers import as_workers, default_workers

GEOMETRY = conv_geometry((1, 1, 3), (1, 1, 2), stride=1, pad=0, dilation=1, group=1)
DTYPE = np.dtype(np.float32)


class Refusing:
    """An engine that serves nothing."""

    NAME = "refusing"

    @staticmethod
    def unsupported_reason(geometry, dtype):
        return "it never does"


def test_auto_takes_the_first_that_serves(monkeypatch):
    available = Refusing, *all_engines()
    monkeypatch.setattr("fastconv._engines.all_engines", lambda: available)
    assert fastconv.engines() == ("refusing", "depthwise", "winograd", "fft", "fused", "caffe")
    assert select_engine("auto", GEOMETRY, DTYPE).NAME == "depthwise"


def test_a_forced_engine_that_cannot_serve_gives_its_reason(monkeypatch):
    available = Refusing, *all_engines()
    monkeypatch.setattr("fastconv._engines.all_engines", lambda: available)
    with pytest.raises(ValueError, match="'refusing' cannot serve this call: it never does"):
        fastconv.conv(np.ones((1, 1, 3)), np.ones((1, 1, 2)), engine="refusing")


def test_an_unknown_engine_is_told_the_names():
    names = r"\('depthwise', 'winograd', 'fft', 'fused', 'caffe'\)"
    with pytest.raises(ValueError, match=rf"'auto' or one of {names}, got 'quick'"):
        fastconv.conv(np.ones((1, 1, 3)), np.ones((1, 1, 2)), engine="quick")


def test_the_last_engine_takes_everything():
    last = all_engines()[-1]
    assert last.NAME == "caffe"
    assert last.unsupported_reason(GEOMETRY, DTYPE) is None


@pytest.mark.parametrize(
    ("own", "shared", "wanted"),
    [("3", "5", 3), (None, "5", 5), (None, "4,2", 4), (" 2 ", None, 2), (None, "many", None)],
)
def test_default_workers(monkeypatch, own, shared, wanted):
    for name, value in (("FASTCONV_NUM_THREADS", own), ("OMP_NUM_THREADS", shared)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert default_workers() == as_workers(None) == (wanted or available)
    assert as_workers(7) == 7


def test_config(monkeypatch):
    monkeypatch.setenv("FASTCONV_NUM_THREADS", "6")
    told = fastconv.config()
    assert told["instruction_set"] in ("x86-64", "x86-64-v3", "x86-64-v4", "generic")
    assert told["workers"] == 6
    assert told["engines"] == fastconv.engines()
    assert told["versions"]["numpy"] == np.__version__
    assert set(told["versions"]) == {"fastconv", "numpy", "python"}
