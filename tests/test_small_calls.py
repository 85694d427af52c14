"""What is remembered of calls changes no result and no refusal, and keeps no array alive."""

import gc
import threading
import weakref
from fractions import Fraction

import numpy as np
import pytest

import fastconv
from fastconv import _engines
from fastconv._calls import PLANS, recall_engine, recall_plan

X = np.arange(81, dtype=np.float32).reshape(3, 3, 3, 3)  # (N, C, *S) and (N, *S, C) alike
W = np.arange(81, dtype=np.float32)[::-1].reshape(3, 3, 3, 3)


class Text(str):
    """A string that may refer to anything."""


class Number(int):
    """An integer that may refer to anything."""


def same_but(value, change):
    """The value with its last integer changed."""
    if isinstance(value, tuple):
        return (*value[:-1], same_but(value[-1], change))
    return change(value)


# --- refusals -----------------------------------------------------------------------------------


EQUALS = [
    ("stride", 1),
    ("stride", (1, 1)),
    ("pad", 0),
    ("pad", (0, 0)),
    ("pad", ((0, 0), (0, 0))),
    ("dilation", 1),
    ("dilation", (1, 1)),
    ("group", 1),
    ("output_pad", 0),
    ("output_pad", (0, 0)),
]


@pytest.mark.parametrize("change", [bool, np.bool_, float, np.float32, Fraction])
@pytest.mark.parametrize(
    ("operation", "name", "value"),
    [("conv", *equal) for equal in EQUALS[:-2]] + [("deconv", *equal) for equal in EQUALS],
    ids=str,
)
def test_an_equal_int_seen_before_lets_nothing_else_pass(operation, name, value, change):
    operate = getattr(fastconv, operation)
    wrong = same_but(value, change)
    assert wrong == value
    for _ in range(2):
        operate(X, W, **{name: value})
        with pytest.raises(TypeError, match=f"^{name}: expected an int"):
            operate(X, W, **{name: wrong})
        operate(X, W, None, {name: value})
        with pytest.raises(TypeError, match=f"^{name}: expected an int"):
            operate(X, W, None, {name: wrong})


@pytest.mark.parametrize(
    ("name", "wrong", "error"),
    [
        ("layout", None, ValueError),
        ("layout", ["NCHW"], ValueError),
        ("engine", {"auto"}, ValueError),
        ("engine", np.array("auto"), ValueError),
        ("pad_mode", {}, ValueError),
        ("stride", {1: 1}, TypeError),
        ("pad", ("same",), ValueError),
        ("pad", "SAME", ValueError),
    ],
    ids=str,
)
def test_what_has_no_hash_is_refused_in_words(name, wrong, error):
    fastconv.conv(X, W)
    for _ in range(2):
        with pytest.raises(error, match=f"^{name}: expected"):
            fastconv.conv(X, W, **{name: wrong})


def test_tuples_deeper_than_the_stack_are_refused():
    deep = ()
    for _ in range(100_000):
        deep = (deep,)
    with pytest.raises(ValueError, match=r"^pad: expected an int, 2 ints"):
        fastconv.conv(X, W, pad=deep)


def test_a_keyword_beside_the_dict_is_refused_though_it_equals_the_default():
    fastconv.conv(X, W, None, {"stride": 1})
    with pytest.raises(TypeError, match=r"^stride: given both in conv_param and as a keyword"):
        fastconv.conv(X, W, None, {"stride": 1}, stride=1)


# --- results ------------------------------------------------------------------------------------


def test_calls_that_differ_in_one_thing_are_told_apart():
    """Each variant, after the others, gives what it does when nothing is remembered."""
    one = np.ones(3, np.float32)
    variants = {
        "plain": {},
        "bias": {"b": one},
        "float64 x": {"x": X.astype(np.float64)},
        "float64 w": {"w": W.astype(np.float64)},
        "float64 b": {"b": one.astype(np.float64)},
        "big-endian": {"x": X.astype(">f4"), "w": W.astype(">f4")},
        "layout": {"layout": "NHWC"},
        "pad": {"pad": 1},
        "pads": {"pad": ((0, 1), (1, 0))},
        "word": {"pad": "same"},
        "mode": {"pad": 1, "pad_mode": "edge"},
        "stride": {"stride": 2},
        "dilation": {"dilation": 2, "pad": 2},
        "group": {"group": 3, "w": W[:, :1]},
    }
    operations = {"conv": fastconv.conv, "deconv": fastconv.deconv}

    def call(name, variant):
        return operations[name](**{"x": X, "w": W, **variant})

    cases = [(name, variant) for name in operations for variant in variants.values()]
    alone = []
    for case in cases:
        recall_plan.cache_clear()
        alone.append(call(*case))
    for case, wanted in [*zip(cases, alone, strict=True)] * 2:
        got = call(*case)
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_array_equal(got, wanted)


def test_lists_and_numpy_integers_mean_what_ints_do():
    wanted = fastconv.conv(X, W, stride=2, pad=((1, 2), (0, 1)))
    for stride, pad in (
        ([2, 2], [(1, 2), [0, 1]]),
        (np.int64(2), np.array([[1, 2], [0, 1]])),
        ((Number(2), np.int8(2)), ((np.uint8(1), 2), (0, Number(1)))),
    ):
        np.testing.assert_array_equal(fastconv.conv(X, W, stride=stride, pad=pad), wanted)


def test_the_engine_is_the_one_that_was_asked_for(monkeypatch):
    """And another list of engines starts anew, there and back."""
    calls = []

    class Own:
        NAME = "own"
        unsupported_reason = staticmethod(lambda geometry, dtype: None)
        forward = staticmethod(lambda *arguments: calls.append("forward"))
        backward_x = staticmethod(lambda *arguments: calls.append("backward_x"))
        backward_w = staticmethod(lambda *arguments: calls.append("backward_w"))

    def all_three(**named):
        out, cache = fastconv.conv_forward(X, W, **named)
        fastconv.conv_backward(out, cache)
        return calls.copy()

    mine = ["forward", "backward_x", "backward_w"]
    assert all_three() == []
    available = Own, *_engines.all_engines()
    with monkeypatch.context() as patch:
        patch.setattr("fastconv._engines.all_engines", lambda: available)
        assert all_three() == mine
        assert all_three(engine="caffe") == mine
        assert all_three(engine="own") == mine * 2
    assert all_three() == mine * 2
    with pytest.raises(ValueError, match=r"^engine: expected 'auto' or one of"):
        all_three(engine="own")


def test_the_number_of_workers_is_not_remembered(monkeypatch):
    for count in (3, 2):
        monkeypatch.setenv("FASTCONV_NUM_THREADS", str(count))
        assert fastconv.conv_forward(X, W)[1].workers == count
    assert fastconv.conv_forward(X, W, workers=5)[1].workers == 5
    monkeypatch.setenv("FASTCONV_NUM_THREADS", "none")
    with pytest.raises(ValueError, match=r"^FASTCONV_NUM_THREADS must be an int"):
        fastconv.conv(X, W)
    monkeypatch.delenv("FASTCONV_NUM_THREADS")
    assert fastconv.conv_forward(X, W)[1].workers is None


def test_threads_share_what_is_remembered():
    """With more sizes than are remembered, so that entries come and go."""
    wanted = {size: size * 3.0 for size in range(1, PLANS + 50)}
    wrong = []

    def run(start):
        for size in [*range(start, len(wanted) + 1), *range(1, start)]:
            x, w = np.ones((1, 3, size), np.float32), np.ones((1, 3, 1), np.float32)
            if (
                fastconv.conv(x, w).shape != (1, 1, size)
                or fastconv.conv(x, w).sum() != wanted[size]
            ):
                wrong.append(size)

    threads = [threading.Thread(target=run, args=(start,)) for start in (1, 5, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- the memory ---------------------------------------------------------------------------------


def test_a_call_seen_before_is_recalled():
    """Whatever the arrays hold, and for the dict as for keywords."""
    recall_plan.cache_clear()
    fastconv.conv(X, W, pad=(1, 1))
    fastconv.conv_forward(X + 1, W.copy(), pad=(1, 1))
    fastconv.conv(X, W, None, {"pad": (1, 1), "stride": 1})
    assert recall_plan.cache_info()[:2] == (2, 1)
    out, cache = fastconv.conv_forward(X, W)
    recall_engine.cache_clear()
    fastconv.conv_backward(out, cache)
    fastconv.conv_backward(out, fastconv.conv_forward(X, W)[1])
    assert recall_engine.cache_info()[:2] == (1, 1)


def test_the_memory_is_bounded():
    for size in range(2, PLANS + 100):
        out, cache = fastconv.conv_forward(np.ones((1, 3, size), np.float32), W[..., :1, 0])
        fastconv.conv_backward(out, cache)
    for memory in (recall_plan, recall_engine):
        assert memory.cache_info().currsize <= memory.cache_info().maxsize == PLANS <= 1000


def test_the_memory_refers_to_no_arrays():
    """Nor does what a subclass, or the metadata of a dtype, refers to stay alive."""
    mark = np.ones(1)
    dtype = np.dtype(np.float32, metadata={"mark": mark})
    words = [Text(word) for word in ("constant", "NCHW", "auto")]
    one = Number(1)
    for thing in (*words, one):
        thing.mark = mark
    x, w, b = X.astype(dtype), W.copy(), np.ones(3, np.float32)
    out, cache = fastconv.conv_forward(x, w, b)
    fastconv.conv_backward(out, cache, dx=np.empty_like(x), dw=w.copy())
    fastconv.deconv(x, w, b, out=np.empty((3, 3, 5, 5), np.float32))
    pad_mode, layout, engine = words
    _, cache = fastconv.conv_forward(
        x, w, stride=one, dilation=(one, one), pad_mode=pad_mode, layout=layout, engine=engine
    )
    fastconv.conv_backward(out, cache)
    names = [weakref.ref(array) for array in (mark, x, w, b, out)]
    del mark, dtype, words, one, thing, x, w, b, out, cache, pad_mode, layout, engine
    gc.collect()
    assert [name() for name in names] == [None] * 5
