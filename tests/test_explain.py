"""explain: the engine that a call takes, the others' reasons, its work, its measured memory."""

import tracemalloc

import numpy as np
import pytest
from cases import CONV_CASES, parameters, to_khwc, to_nhwc

import fastconv
from fastconv import _engines, _workers

# What small objects of Python and plans take besides.
SLACK = 2**16


class Watched:
    """An engine that notes that it was called."""

    def __init__(self, engine, called):
        self.engine, self.called = engine, called

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def forward(self, *args, **keywords):
        self.called.append(self.engine.NAME)
        self.engine.forward(*args, **keywords)


@pytest.mark.parametrize("case", CONV_CASES)
def test_it_names_the_engine_that_conv_takes(case, monkeypatch):
    called = []
    watched = tuple(Watched(engine, called) for engine in _engines.all_engines())
    monkeypatch.setattr(_engines, "all_engines", lambda: watched)
    told = fastconv.explain(**case)
    x, w = (np.ones(case[name], np.float32) for name in ("x_shape", "w_shape"))
    out = fastconv.conv(x, w, **parameters(case))
    assert called == [told.engine]
    assert told.out_shape == out.shape
    assert told.flop == 2 * out.size * w[0].size
    assert {told.engine, *told.refused} == set(fastconv.engines())


def measured(call, *args, **keywords):
    """Bytes of arrays that a call allocates, at their peak."""
    call(*args, **keywords)  # what is remembered
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        call(*args, **keywords)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


CALLS = [
    ((2, 3, 67, 67), (16, 3, 11, 11), {"stride": 4}),
    ((2, 64, 40, 40), (64, 64, 3, 3), {"pad": 1}),
    ((2, 128, 7, 7), (128, 128, 3, 3), {"pad": 1}),
    ((2, 64, 33, 33), (64, 64, 3, 3), {"pad": 2, "dilation": 2}),
    ((4, 96, 20, 20), (64, 96, 1, 1), {}),
    ((2, 48, 50, 50), (48, 1, 5, 5), {"pad": 2, "group": 48}),
    ((1, 8, 20, 30, 40), (8, 8, 3, 3, 3), {"pad": 1}),
    ((2, 16, 40, 40), (16, 16, 3, 3), {"pad": 1, "pad_mode": "edge"}),
    ((1, 2, 100, 100), (2, 1, 31, 31), {"pad": 15, "group": 2}),
]


@pytest.mark.parametrize(("layout", "workers"), [("NCHW", 1), ("NHWC", 2)])
@pytest.mark.parametrize(("x_shape", "w_shape", "params"), CALLS)
def test_workspace_is_what_a_call_allocates(x_shape, w_shape, params, workers, layout):
    x, w = np.ones(x_shape, np.float32), np.ones(w_shape, np.float32)
    if layout == "NHWC":
        x, w = np.ascontiguousarray(to_nhwc(x)), np.ascontiguousarray(to_khwc(w))
    params = params | {"layout": layout, "workers": workers}
    for engine in ("auto", *fastconv.engines()):
        try:
            told = fastconv.explain(x.shape, w.shape, engine=engine, **params)
        except ValueError:  # it cannot serve
            continue
        out = np.empty(told.out_shape, np.float32)
        got = measured(fastconv.conv, x, w, out=out, engine=engine, **params)
        copied = w.nbytes if layout == "NHWC" else 0
        least = told.workspace - 1000
        if told.engine == "fft":  # half of that is SciPy's own, unseen
            least //= 3
        assert least <= got <= told.workspace + copied + SLACK, engine


def test_a_prepared_call_keeps_its_packed_weights():
    x, w = np.ones((1, 256, 7, 7), np.float32), np.ones((256, 256, 3, 3), np.float32)
    told = fastconv.explain(x.shape, w.shape, pad=1, prepared=True, workers=1)
    plain = fastconv.explain(x.shape, w.shape, pad=1, engine=told.engine, workers=1)
    assert told.engine == "winograd"
    assert told.workspace > plain.workspace + 3 * w.nbytes
    prepared = fastconv.PreparedConv(w, pad=1)
    out = np.empty(told.out_shape, np.float32)
    assert measured(prepared, x, out=out, workers=1) < told.workspace - 3 * w.nbytes


def test_nothing_is_allocated_or_asked_for_more_than_needed(monkeypatch):
    monkeypatch.delenv("FASTCONV_NUM_THREADS", raising=False)
    told = fastconv.explain((10**6, 512, 1000, 1000), (512, 512, 3, 3), pad=1, dtype="float64")
    assert told.flop == 2 * 10**12 * 512 * 512 * 9
    assert fastconv.explain((0, 3, 5, 5), (4, 3, 3, 3)).workspace == 0
    more = fastconv.explain((8, 64, 56, 56), (64, 64, 3, 3), pad=1, workers=_workers.as_workers(4))
    assert more.workspace > fastconv.explain((8, 64, 56, 56), (64, 64, 3, 3), pad=1, workers=1)[-1]


def test_reasons():
    told = fastconv.explain((8, 3, 32, 32), (16, 3, 3, 3), stride=2)
    assert told.engine == "fused"
    assert told.refused == {
        "depthwise": "group must be C, got group 1 and C 3",
        "winograd": "it pays from 16 channels and filters a group on, got C 3, F 16, group 1",
        "fft": "it takes stride 1, got (2, 2)",
        "caffe": "fused is asked before it",
    }
    assert fastconv.explain((8, 3, 32, 32), (16, 3, 3, 3)).refused["winograd"] == (
        "it pays from 16 channels and filters a group on, got C 3, F 16, group 1"
    )
    assert fastconv.explain((8, 16, 8, 8), (16, 16, 3, 3)).refused["winograd"] == (
        "it pays from 8388608 multiply-adds a sample (and step) on, got 82944"
    )
    assert fastconv.explain((8, 64, 99, 99), (64, 64, 1, 3)).refused["winograd"] == (
        "it pays from 1.25 times fewer operations on, got 1.19"
    )
    forced = fastconv.explain((8, 3, 32, 32), (16, 3, 3, 3), engine="caffe")
    assert forced.engine == "caffe"
    assert forced.refused["fused"] == "engine='caffe'"


def test_it_prints_as_a_table():
    told = fastconv.explain((8, 64, 56, 56), (64, 64, 3, 3), pad=1, workers=1)
    lines = str(told).splitlines()
    assert lines[0].split() == ["engine", "winograd"]
    assert lines[1].split(maxsplit=1) == ["result", "(8, 64, 56, 56)"]
    assert lines[2].split() == ["work", "1.85", "GFLOP"]
    assert lines[3].split()[0::2] == ["workspace", "MiB"]
    assert [line.split()[:2] for line in lines[4:]] == [
        ["not", name] for name in ("depthwise", "fft", "fused", "caffe")
    ]
    assert repr(told) == str(told)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"x_shape": 3}, TypeError, "^x_shape: expected a tuple of ints, got 3"),
        ({"w_shape": (4, 3, 3.0, 3)}, TypeError, "^w_shape: expected a tuple of ints"),
        ({"x_shape": (1, -3, 8, 8)}, ValueError, "^x_shape must be >= 0"),
        ({"x_shape": (1, 4, 8, 8)}, ValueError, "^w: axis 1 must be C/group = 4"),
        ({"dtype": np.int32}, TypeError, "^dtype: expected float32 or float64"),
        ({"prepared": 1}, TypeError, "^prepared: expected a bool"),
        ({"stride": 0}, ValueError, "^stride must be >= 1"),
        ({"engine": "winograd", "stride": 3}, ValueError, "^engine 'winograd' cannot serve"),
        ({"workers": 0}, ValueError, "^workers must be >= 1"),
    ],
)
def test_bad_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        fastconv.explain(**{"x_shape": (1, 3, 8, 8), "w_shape": (4, 3, 3, 3)} | arguments)
