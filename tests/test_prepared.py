"""PreparedConv: the results of conv, weights of its own, nothing that can be changed."""

import copy
import pickle
import threading

import numpy as np
import pytest
from arrays import ODD, assert_same_bits, refuses
from cases import CONV_CASES, GENERAL, integer_array, parameters, to_khwc, to_nhwc
from failing_memory import FailingMemory

import fastconv
from fastconv._engines import fused, overlap, winograd
from fastconv.prepared import NAMES

# Large enough for every way in which weights are packed.
WINOGRAD = {"w_shape": (24, 20, 3, 3), "pad": 1}
RNG = np.random.default_rng(0)


def normal(*shape, dtype=np.float32):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("engine", GENERAL)
@pytest.mark.parametrize("case", CONV_CASES)
def test_results_are_those_of_conv(case, engine):
    x = integer_array(RNG, case["x_shape"]).astype(np.float32)
    w = integer_array(RNG, case["w_shape"]).astype(np.float32)
    b = integer_array(RNG, w.shape[:1]).astype(np.float32)
    params = parameters(case) | {"engine": engine}
    expected = fastconv.conv(x, w, b, **params)
    prepared = fastconv.PreparedConv(w, b, **params)
    for _ in range(2):
        assert_same_bits(prepared(x), expected)
    last = fastconv.PreparedConv(to_khwc(w), b, layout="NHWC", **params)
    assert_same_bits(last(to_nhwc(x)), to_nhwc(expected))
    assert_same_bits(last.w, to_khwc(w))


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("size", [(7, 7), (6, 6), (33, 20)])
@pytest.mark.parametrize("workers", [1, 2])
def test_winograd_has_the_bits_of_conv(size, dilation, workers):
    x, w, b = normal(5, 20, *size), normal(24, 20, 3, 3), normal(24)
    x[3, 2, 4, 4] = np.nan
    params = {"pad": dilation, "dilation": dilation, "engine": "winograd"}
    prepared = fastconv.PreparedConv(w, b, **params)
    expected = fastconv.conv(x, w, b, **params)
    for _ in range(2):
        assert_same_bits(prepared(x, workers=workers), expected)
    assert_same_bits(prepared(x[1:2]), expected[1:2])


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_weights_that_winograd_leaves_to_fused(value):
    x, w = normal(2, 20, 9, 9), normal(24, 20, 3, 3)
    w[3, 4, 1, 1] = value
    prepared = fastconv.PreparedConv(w, pad=1, engine="winograd")
    expected = fastconv.conv(x, w, pad=1, engine="fused")
    for _ in range(2):
        assert_same_bits(prepared(x), expected)


def test_auto_takes_winograd_for_less_than_conv_does():
    shapes = (1, 64, 14, 14), (64, 64, 3, 3)
    assert fastconv.explain(*shapes, pad=1).engine == "fused"
    assert fastconv.explain(*shapes, pad=1, prepared=True).engine == "winograd"
    x, w = map(np.ones, shapes)
    assert_same_bits(
        fastconv.PreparedConv(w, pad=1)(x), fastconv.conv(x, w, pad=1, engine="winograd")
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_fft_keeps_the_last_transforms(groups, monkeypatch):
    pytest.importorskip("scipy")
    packs = []
    pack = overlap.pack
    monkeypatch.setattr(overlap, "pack", lambda *args: packs.append(1) or pack(*args))
    w = normal(4, 4 // groups, 9, 9)
    params = {"pad": 4, "engine": "fft", "group": groups}
    prepared = fastconv.PreparedConv(w, **params)
    for n, size in [(1, 20), (2, 20), (1, 70), (1, 20), (1, 20)]:
        x = normal(n, 4, size, size)
        assert_same_bits(prepared(x), fastconv.conv(x, w, **params))
    assert len(packs) == 3 + 5
    w[1, 1 // groups, 2, 2] = np.inf
    prepared = fastconv.PreparedConv(w, **params)
    for _ in range(2):
        assert_same_bits(prepared(x), fastconv.conv(x, w, **(params | {"engine": "fused"})))


@pytest.mark.parametrize("engine", [fused, winograd], ids=lambda engine: engine.NAME)
def test_weights_are_packed_once(engine, monkeypatch):
    packs = []
    pack = engine.kernel.pack
    monkeypatch.setattr(engine.kernel, "pack", lambda *args: packs.append(1) or pack(*args))
    prepared = fastconv.PreparedConv(normal(24, 20, 3, 3), pad=1, engine=engine.NAME)
    prepared(normal(1, 20, 24, 24))
    once = len(packs)
    assert once
    for shape in ((1, 20, 24, 24), (3, 20, 24, 24), (1, 20, 40, 17)):
        prepared(normal(*shape))
    assert len(packs) == once


def test_types_are_those_of_the_arrays():
    w, b = normal(4, 3, 3, 3), normal(4)
    prepared = fastconv.PreparedConv(w, b, engine="fused")
    for dtype in (np.float32, np.float64, np.float32):
        x = normal(2, 3, 8, 8, dtype=dtype)
        assert_same_bits(prepared(x), fastconv.conv(x, w, b, engine="fused"))
    x = normal(2, 3, 8, 8)
    wide = fastconv.PreparedConv(w, b.astype(np.float64), engine="fused")
    assert_same_bits(wide(x), fastconv.conv(x, w, b.astype(np.float64), engine="fused"))


@pytest.mark.parametrize("name", ODD)
def test_arrays_in_odd_memory(name):
    x, w, b = (
        ODD[name](integer_array(RNG, shape).astype(np.float32))
        for shape in ((2, 3, 6, 5), (4, 3, 3, 3), (4,))
    )
    expected = fastconv.conv(*map(np.array, (x, w, b)), pad=1, engine="caffe")
    assert_same_bits(fastconv.PreparedConv(w, b, pad=1)(x), expected)


def test_later_changes_of_w_and_b_do_not_reach_it():
    x, w, b = normal(2, 3, 8, 8), normal(4, 3, 3, 3), normal(4)
    prepared = fastconv.PreparedConv(w, b)
    expected = fastconv.conv(x, w, b)
    w[...], b[...] = np.nan, np.nan
    assert_same_bits(prepared(x), expected)


def test_it_cannot_be_changed():
    prepared = fastconv.PreparedConv(normal(4, 3, 3, 3), normal(4))
    for name in ("w", "b", "_kept", "other", *NAMES):
        with pytest.raises(AttributeError, match=f"cannot be changed, got a value for '{name}'"):
            setattr(prepared, name, None)
        with pytest.raises(AttributeError, match=f"cannot be changed, got a deletion of '{name}'"):
            delattr(prepared, name)
    for array in (prepared.w, prepared.b):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    x, out = normal(1, 3, 5, 5), prepared.w[:1]
    refuses(ValueError, "^out: expected shape", lambda: prepared(x, out=out), out)
    refuses(
        ValueError,
        "^out: .* read-only",
        lambda: prepared(x, out=np.broadcast_to(x[0, 0, 0, 0], (1, 4, 3, 3))),
    )


def test_parameters_are_plain_whatever_they_came_as():
    prepared = fastconv.PreparedConv(
        normal(4, 3, 3, 3), stride=[2, np.int64(1)], pad=np.array([1, 2]), dilation=1
    )
    assert (prepared.stride, prepared.pad, prepared.dilation) == ((2, 1), ((1, 1), (2, 2)), (1, 1))
    assert (prepared.group, prepared.pad_mode, prepared.layout) == (1, "constant", "NCHW")
    assert prepared.b is None
    assert "w (4, 3, 3, 3) float32, stride=(2, 1), pad=((1, 1), (2, 2))" in repr(prepared)


def pickled(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("remake", [copy.copy, copy.deepcopy, pickled])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_copy_does_the_same(remake, layout):
    x, w, b = normal(2, 3, 8, 8), normal(4, 3, 3, 3), normal(4)
    if layout == "NHWC":
        x, w = to_nhwc(x), to_khwc(w)
    prepared = fastconv.PreparedConv(
        w, b, stride=2, pad="same", pad_mode="edge", layout=layout, engine="fused"
    )
    expected = prepared(x)
    again = remake(prepared)
    assert_same_bits(again(x), expected)
    assert repr(again) == repr(prepared)
    assert_same_bits(again.w, prepared.w)


def test_many_threads_may_make_its_first_call_at_once():
    x, w = normal(2, 32, 20, 20), normal(48, 32, 3, 3)
    expected = fastconv.conv(x, w, pad=1, engine="winograd")
    for _ in range(10):
        prepared = fastconv.PreparedConv(w, pad=1, engine="winograd")
        start = threading.Barrier(8)
        results = []

        def call(prepared=prepared, start=start, results=results):
            start.wait(20)
            results.append(prepared(x))

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(results) == 8
        for result in results:
            assert_same_bits(result, expected)


@pytest.mark.parametrize("engine", ["fused", "winograd", "caffe"])
def test_no_memory_leaves_out_alone_and_the_next_call_right(engine):
    x, w, b = normal(2, 20, 24, 24), normal(24, 20, 3, 3), normal(24)
    params = {"pad": 1, "engine": engine}
    expected = fastconv.conv(x, w, b, workers=1, **params)
    out = np.ones_like(expected)
    fastconv.PreparedConv(w, b, **params)(x, out=out, workers=1)  # what is made once
    prepared = fastconv.PreparedConv(w, b, **params)
    with FailingMemory() as memory:
        prepared(x, out=out, workers=1)
    assert memory.count
    for fail_at in range(memory.count):
        prepared = fastconv.PreparedConv(w, b, **params)
        out[...] = 1
        with FailingMemory(fail_at), pytest.raises(MemoryError):
            prepared(x, out=out, workers=1)
        assert (out == 1).all()
        assert_same_bits(prepared(x, out=out, workers=1), expected)


def test_out_may_overlap_x():
    x, w = normal(2, 3, 8, 8), normal(3, 3, 3, 3)
    prepared = fastconv.PreparedConv(w, pad=1)
    expected = prepared(x)
    assert prepared(x, out=x) is x
    assert_same_bits(x, expected)


# What is wrong with the weights or parameters alone: it is said at once.
W = np.ones((4, 3, 3, 3))
REFUSED = [
    ((np.ones((4, 3)),), {}, ValueError, "^w: expected at least 3 axes, got 2"),
    ((np.ones((4, 0, 3)),), {}, ValueError, r"^w: axis 1 \(C/group\) must be >= 1"),
    ((np.ones((0, 3, 3)),), {}, ValueError, "^w: F, the number of filters, must be >= 1"),
    ((np.ones((4, 3, 0)),), {}, ValueError, "^kernel_size must be >= 1"),
    ((W, np.ones(3)), {}, ValueError, r"^b: expected shape \(4,\), got \(3,\)"),
    ((W,), {"group": 3}, ValueError, "^w: F, .* divisible by group, got F=4, group=3"),
    ((W,), {"group": 0}, ValueError, "^group must be >= 1, got 0"),
    ((W,), {"group": 1.0}, TypeError, "^group: expected an int, got 1.0"),
    ((W,), {"stride": 0}, ValueError, "^stride must be >= 1, got 0"),
    ((W,), {"stride": True}, TypeError, "^stride: expected an int or 2 ints, got True"),
    ((W,), {"stride": (1, 1, 1)}, ValueError, "^stride: expected an int or 2 ints"),
    ((W,), {"pad": -1}, ValueError, "^pad must be >= 0"),
    ((W,), {"pad": "some"}, ValueError, "^pad: expected"),
    ((W,), {"pad_mode": "some"}, ValueError, "^pad_mode: expected one of"),
    ((W,), {"dilation": 0}, ValueError, "^dilation must be >= 1"),
    ((W,), {"dilation": 2**62}, ValueError, "^dilation is too large"),
    ((W,), {"dilation": 2**48}, ValueError, "too large"),
    ((W,), {"layout": "NCWH"}, ValueError, "^layout: expected"),
    ((W,), {"engine": "quick"}, ValueError, "^engine: expected 'auto' or one of"),
    (
        (W,),
        {"engine": "depthwise"},
        ValueError,
        "^engine 'depthwise' cannot serve this call: group",
    ),
    ((W.astype(int),), {}, TypeError, "^w: expected float32 or float64, got int64"),
    ((W, np.ones(4, np.float16)), {}, TypeError, "^b: expected float32 or float64, got float16"),
    ((np.ma.array(W),), {}, TypeError, "^w: masked arrays are not supported"),
    ((W,), {"padding": 1}, TypeError, "padding"),
]


@pytest.mark.parametrize(("arrays", "params", "error", "match"), REFUSED)
def test_bad_weights_and_parameters_are_refused_at_once(arrays, params, error, match):
    refuses(error, match, lambda: fastconv.PreparedConv(*arrays, **params), *arrays)


def test_bad_images_are_refused_by_the_call():
    prepared = fastconv.PreparedConv(W, pad=1)
    out = np.ones((1, 4, 8, 8))
    for x, error, match in [
        (np.ones((1, 3, 8)), ValueError, "^x and w must have the same number of axes"),
        (np.ones((1, 2, 8, 8)), ValueError, "^w: axis 1 must be C/group = 2"),
        (np.ones((1, 3, 0, 8)), ValueError, "^the kernel is larger than the padded input"),
        (np.ones((1, 3, 8, 8), int), TypeError, "^x: expected float32 or float64"),
        (np.ones((1, 3, 9, 9)), ValueError, "^out: expected shape"),
    ]:
        refuses(error, match, lambda x=x: prepared(x, out=out), out)
    x = np.ones((1, 3, 8, 8))
    refuses(ValueError, "^workers must be >= 1", lambda: prepared(x, out=out, workers=0), out)
    refuses(TypeError, "^out: expected dtype float64", lambda: prepared(x, out=out.astype("f4")))
    assert prepared(np.ones((0, 3, 8, 8))).shape == (0, 4, 8, 8)
