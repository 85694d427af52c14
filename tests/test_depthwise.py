"""The engine `depthwise`: every tail of its kernels, in every build, and the bits that it promises.

The oracle on integers is the engine `caffe`, which `test_convolution.py` holds to the loops; the
test with hypothesis below asks the loops themselves.
"""

import itertools
import math
import random
import time

import numpy as np
import pytest
from arrays import ODD, WRITABLE, assert_same_bits, plain
from cases import CONV_CASES, DECONV_CASES, conv_cases, integer_array, parameters
from failing_memory import give_memory
from hypothesis import given, settings
from test_fused import (
    DATA,
    NON_FINITE,
    Case,
    assert_lies_as_by_caffe,
    backwards,
    both_passes,
    by_caffe,
    by_reference,
    channels_last,
    filters_last,
    inputs,
    normal,
    nowhere,
)

import fastconv
from fastconv import _kernels, reference
from fastconv._engines import depthwise, planes
from fastconv._geometry import conv_geometry, deconv_geometry

DTYPES = [np.float32, np.float64]
both_types = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])


def forget_plans(monkeypatch):
    for name in ("_plan", "_gradient_plan"):
        function = getattr(depthwise, name)
        monkeypatch.setattr(depthwise, name, getattr(function, "__wrapped__", function))


@pytest.fixture(params=_kernels.RUNNABLE)
def build(request, monkeypatch):
    """Each build of the kernels that this machine can run, in turn."""
    kernel = _kernels.load("depthwise", request.param)
    for module in (depthwise, planes):
        monkeypatch.setattr(module, "kernel", kernel)
    forget_plans(monkeypatch)
    return kernel


SMALL_LIMITS = {"BOX_CELLS": 2**7, "UNIT_CELLS": 2**6, "SCRATCH_BYTES": 2**10, "CALL_WORK": 1}


def set_limits(monkeypatch, **limits):
    for name, value in limits.items():
        monkeypatch.setattr(planes, name, value)
    forget_plans(monkeypatch)


def passes(*arrays, **keywords):
    return both_passes(*arrays, engine="depthwise", **keywords)


def assert_as_caffe(case, dtype, memory=(np.array,) * 6, **keywords):
    """Equal on integers; `memory` has the order of x, w, dout, out, dx and dw."""
    x, w, b, dout = (array.astype(dtype) for array in inputs(case))
    arrays = memory[0](x), memory[1](w), b, memory[2](dout)
    starts = [np.nan, np.nan, 7, 7]
    targets = [
        turn(np.full_like(array, start))
        for turn, array, start in zip((*memory[3:], np.array), (dout, x, w, b), starts, strict=True)
    ]
    passes(*arrays, targets=targets, **keywords, **case.params)
    for name, got, wanted, start in zip(
        ("out", "dx", "dw", "db"), targets, by_caffe(case), (0, 0, 7, 7), strict=True
    ):
        np.testing.assert_array_equal(got, wanted + start, f"{name} of {case} in {memory}")


# --- what it serves -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (Case((1, 4, 9), (4, 2, 3), group=2), "group must be C, got group 2 and C 4"),
        (Case((1, 1, 3, 3, 3, 3), (1, 1, 1, 1, 1, 2)), "at most 3 spatial axes, got 4"),
        (Case((1, 1, 9), (1, 1, 3), stride=5), r"stride must be at most 4, got \(5,\)"),
        (Case((1, 2, 9), (10, 1, 3), group=2), "at most 4 filters a channel, got 5"),
        (Case((1, 1, 2000), (2, 1, 129)), "at most 256 weights, got 258"),
        (Case((1, 1, 9000), (1, 1, 2), dilation=4096), r"at most 4096 cells, .* \[4097\]"),
    ],
)
def test_what_it_does_not_serve(case, reason):
    with pytest.raises(ValueError, match=f"'depthwise' cannot serve this call: .*{reason}"):
        fastconv.conv(
            np.ones(case.x_shape), np.ones(case.w_shape), engine="depthwise", **case.params
        )
    geometry = conv_geometry(case.x_shape, case.w_shape, **case.params)
    assert depthwise.unsupported_reason(geometry, np.dtype(np.float32))


def test_the_batch_does_not_choose_the_engine():
    for batch in (0, 1, 1000):
        geometry = conv_geometry(
            (batch, 8, 14, 14), (8, 1, 3, 3), stride=1, pad=1, dilation=1, group=8
        )
        assert depthwise.unsupported_reason(geometry, np.dtype(np.float32)) is None


# --- every tail, exactly ------------------------------------------------------------------------


def tail_cases():
    """Rows of every length up to some vectors, and of every number up to some tiles."""
    choose = random.Random(0)
    for width, stride in itertools.product(range(1, 71), (1, 2)):
        kernel, pad = choose.choice(((3, 1), (3, 0), (5, 2), (2, 1), (1, 0)))
        kernel = min(kernel, width + 2 * pad)
        yield Case((2, 3, 5, width), (3, 1, kernel, kernel), stride, pad, group=3)
        yield Case((1, 2, width, 5), (2, 1, kernel, kernel), stride, pad, group=2)
        yield Case((2, 2, width), (4, 1, kernel), stride, pad, group=2)


def kernel_cases():
    """Every height that there are tiles for, and those between."""
    for height, width in itertools.product((1, 2, 3, 4, 5, 6, 7, 8, 11), (1, 3, 7, 11)):
        for stride, dilation in ((1, 1), (2, 1), (1, 2), (3, 1), ((2, 1), (1, 2))):
            pad = ((height // 2, height), (width, width // 2))
            yield Case((1, 2, 23, 21), (2, 1, height, width), stride, pad, dilation, 2)


def shape_cases():
    """Images of all ranks, with windows that cross every edge."""
    choose = random.Random(1)
    for rank, largest, count in ((1, 80, 60), (2, 25, 90), (3, 9, 70)):
        for _ in range(count):
            axes = []
            while len(axes) < rank:
                size, kernel, stride = (choose.randint(1, n) for n in (largest, 4, 3))
                pads, dilation = (choose.randrange(9), choose.randrange(3)), choose.randint(1, 2)
                if dilation * (kernel - 1) < size + sum(pads):
                    axes.append((size, kernel, stride, pads, dilation))
            size, kernels, stride, pad, dilation = zip(*axes, strict=True)
            channels, multiplier = choose.choice((1, 2, 5, 17)), choose.choice((1, 1, 2, 3))
            yield Case(
                (choose.choice((1, 2, 3)), channels, *size),
                (channels * multiplier, 1, *kernels),
                stride,
                pad,
                dilation,
                channels,
            )


CASES = [*tail_cases(), *kernel_cases(), *shape_cases()]
LAST = (channels_last, filters_last, *[channels_last] * 3, filters_last)


@both_types
def test_every_tail_equals_caffe(dtype, build):
    choose = random.Random(3)
    for case in CASES:
        assert_as_caffe(case, dtype)
        memory = (channels_last, backwards, np.array)
        assert_as_caffe(case, dtype, [choose.choice(memory) for _ in range(6)])
        assert_as_caffe(case, dtype, LAST)


@pytest.mark.sanitize
@both_types
def test_cut_into_the_smallest_units_every_tail_equals_caffe(dtype, build, monkeypatch):
    monkeypatch.setattr(depthwise, "THREAD_WORK", 0)
    set_limits(monkeypatch, **SMALL_LIMITS)
    for case in CASES[::3]:
        assert_as_caffe(case, dtype, workers=2)
        assert_as_caffe(case, dtype, LAST)


def served(cases, geometry_of):
    """Those of the cases that the engine serves."""

    def serves(case):
        geometry = geometry_of(case["x_shape"], case["w_shape"], **parameters(case))
        return not depthwise.unsupported_reason(geometry, np.dtype(np.float32))

    return [param for param in cases if serves(*param.values)]


@both_types
@pytest.mark.parametrize("case", served(CONV_CASES, conv_geometry))
def test_conv_equals_the_loops(case, dtype, build):
    assert_equals_the_loops(case, dtype)


@both_types
@settings(max_examples=150, deadline=None, derandomize=True)
@given(conv_cases())
def test_any_conv_equals_the_loops(dtype, case):
    channels = case["x_shape"][1]
    shape = (channels * (1 + case["w_shape"][0] % 2), 1, *case["w_shape"][2:])
    assert_equals_the_loops({**case, "w_shape": shape, "group": channels}, dtype)


def assert_equals_the_loops(case, dtype):
    rng = np.random.default_rng(0)
    params = parameters(case)
    x, w = integer_array(rng, case["x_shape"]), integer_array(rng, case["w_shape"])
    b = integer_array(rng, case["w_shape"][:1])
    out = reference.conv_forward_loops(x, w, b, **params)
    dout = integer_array(rng, out.shape)
    got = passes(*(array.astype(dtype) for array in (x, w, b, dout)), **params)
    wanted = out, *reference.conv_backward_loops(dout, x, w, **params)
    for value, target in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(value, target)


@both_types
@pytest.mark.parametrize("case", served(DECONV_CASES, deconv_geometry))
def test_deconv_equals_the_loops(case, dtype, build):
    rng = np.random.default_rng(0)
    params = parameters(case)
    x, w = integer_array(rng, case["x_shape"]), integer_array(rng, case["w_shape"])
    b = integer_array(rng, (case["w_shape"][1] * case["group"],))
    wanted = reference.deconv_forward_loops(x, w, b, **params)
    arrays = [array.astype(dtype) for array in (x, w, b)]
    out, cache = fastconv.deconv_forward(*arrays, engine="depthwise", **params)
    np.testing.assert_array_equal(out, wanted)
    dout = integer_array(rng, wanted.shape)
    for got, target in zip(
        fastconv.deconv_backward(dout.astype(dtype), cache),
        reference.deconv_backward_loops(dout, x, w, **params),
        strict=True,
    ):
        np.testing.assert_array_equal(got, target)


def test_gradients_are_adjoint(build):
    """<conv(x), y> == <x, dx(y)> == <w, dw(y)>, exactly."""
    for case in CASES[::5]:
        x, w, _, dout = inputs(case)
        out, dx, dw, _ = passes(x, w, None, dout, **case.params)
        assert np.vdot(out, dout) == np.vdot(x, dx) == np.vdot(w, dw)


# --- the same bits ------------------------------------------------------------------------------

LAYERS = [
    Case((5, 6, 9, 11), (6, 1, 3, 3), pad=1, group=6),
    Case((3, 20, 14, 14), (20, 1, 3, 3), pad=1, group=20),
    Case((2, 3, 40, 61), (6, 1, 5, 3), stride=(2, 1), pad=((2, 0), (1, 4)), group=3),
    Case((3, 17, 30, 33), (17, 1, 7, 7), stride=2, pad=3, group=17),
    Case((2, 4, 700), (4, 1, 9), pad=4, group=4),
    Case((1, 1, 90, 200), (2, 1, 11, 11), pad=5),
    Case((2, 5, 6, 7, 19), (10, 1, 2, 3, 2), stride=(1, 2, 1), pad=1, dilation=(2, 1, 1), group=5),
]
layers = pytest.mark.parametrize("case", LAYERS, ids=lambda case: "x".join(map(str, case.x_shape)))


@layers
@both_types
def test_any_number_of_workers_gives_the_same_bits(case, dtype, build, monkeypatch):
    arrays = normal(case, dtype)
    wanted = passes(*arrays, workers=1, **case.params)
    monkeypatch.setattr(depthwise, "THREAD_WORK", 0)
    set_limits(monkeypatch, CALL_WORK=1)
    for workers in (1, 2, 3, 5, 2):
        got = passes(*arrays, workers=workers, **case.params)
        for value, target in zip(got, wanted, strict=True):
            assert_same_bits(value, target)


@layers
@both_types
def test_a_sample_has_the_same_bits_in_any_batch(case, dtype, build):
    x, w, b, dout = normal(case, dtype)
    out, dx, dw, _ = passes(x, w, b, dout, **case.params)
    total = np.zeros_like(w)
    for n in range(len(x)):
        part = slice(n, n + 1)
        targets = (None, None, total, None)
        alone = passes(x[part], w, b, dout[part], workers=3, targets=targets, **case.params)
        assert_same_bits(alone[0], out[part])
        assert_same_bits(alone[1], dx[part])
    assert_same_bits(total, dw)


@layers
@both_types
def test_layouts_give_the_same_bits(case, dtype, build):
    x, w, b, dout = normal(case, dtype)
    wanted = passes(x, w, b, dout, **case.params)
    for images, weights in ((channels_last, filters_last), (backwards, backwards)):
        given = images(x), weights(w), b, images(dout)
        targets = [
            turn(np.zeros_like(array))
            for turn, array in zip((images, images, weights, np.array), wanted, strict=True)
        ]
        passes(*given, targets=targets, **case.params)
        for value, target in zip(targets, wanted, strict=True):
            assert_same_bits(plain(value), target)


@layers
@both_types
def test_cuts_change_no_bits_of_images(case, dtype, build, monkeypatch):
    arrays = normal(case, dtype)
    wanted = passes(*arrays, **case.params)[:2]
    monkeypatch.setattr(depthwise, "THREAD_WORK", 0)
    for name, value in SMALL_LIMITS.items():
        set_limits(monkeypatch, **{name: value})
        got = passes(*arrays, workers=2, **case.params)
        for value, target in zip(got, wanted, strict=False):
            assert_same_bits(value, target)


@both_types
@pytest.mark.parametrize("form", ODD)
def test_odd_memory_gives_the_bits_of_plain_copies(form, dtype):
    case = LAYERS[2]
    given = [ODD[form](array) for array in normal(case, dtype)]
    wanted = passes(*map(plain, given), **case.params)
    for value, target in zip(passes(*given, **case.params), wanted, strict=True):
        assert_same_bits(value, target)


@both_types
@pytest.mark.parametrize("form", WRITABLE)
def test_odd_targets_give_the_bits_of_plain_ones(form, dtype):
    case = LAYERS[2]
    arrays = normal(case, dtype)
    wanted = passes(*arrays, **case.params)
    targets = [
        WRITABLE[form](np.full_like(target, start))
        for target, start in zip(wanted, (np.nan, np.nan, 0, 0), strict=True)
    ]
    passes(*arrays, targets=targets, **case.params)
    for value, target in zip(targets, wanted, strict=True):
        assert_same_bits(plain(np.asarray(value)), target)


# --- within bounds ------------------------------------------------------------------------------

LONG = [
    Case((1, 1, 500, 500), (1, 1, 2, 2)),
    Case((2, 1, 2000, 40), (1, 1, 3, 3), pad=1),
    Case((1, 1, 100_000), (1, 1, 3), pad=1),
    Case((1, 2, 40, 40), (2, 1, 16, 16), group=2),
    Case((1, 2, 40, 40), (8, 1, 8, 8), pad=3, group=2),
]


@both_types
@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("case", LONG, ids=lambda case: "x".join(map(str, case.x_shape)))
def test_error_of_long_sums_is_within_the_bound(case, kind, dtype, build):
    """|err| <= (4*sqrt(K) + 8) * u * S."""
    rng = np.random.default_rng(0)
    x, w, b, dout = (DATA[kind](rng, array.shape).astype(dtype) for array in inputs(case))
    wide = np.longdouble if dtype == np.float64 else np.float64
    arrays = [array.astype(wide) for array in (x, w, b, dout)]
    wanted, sums = by_reference(*arrays, case), by_reference(*map(np.abs, arrays), case)
    positions, taps = len(x) * math.prod(dout.shape[2:]), math.prod(w.shape[2:])
    got = passes(x, w, b, dout, **case.params)
    lengths = taps, taps, positions, positions
    for value, target, total, length in zip(got, wanted, sums, lengths, strict=True):
        limit = (4 * math.sqrt(length) + 8) * np.finfo(dtype).eps / 2 * total
        assert (np.abs(value - target) <= limit).all()


# --- plans --------------------------------------------------------------------------------------

# What no test can run, and only plan.
HUGE = {
    "image": Case((1, 64, 1080, 1920), (64, 1, 3, 3), pad=1, group=64),
    "batch": Case((10**6, 64, 14, 14), (64, 1, 3, 3), pad=1, group=64),
    "4 gigapixels": Case((1, 1, 2**16, 2**16), (4, 1, 7, 7), pad=3),
    "line": Case((1, 64, 10**8), (64, 1, 3), stride=2, group=64),
    "high": Case((1, 1, 10**7, 3), (1, 1, 3, 3), stride=4),
    "volume": Case((1, 4, 600, 600, 600), (8, 1, 3, 3, 3), pad=1, group=4),
    "high kernel": Case((1, 4, 9000, 4000), (4, 1, 2, 1), dilation=(4095, 1), group=4),
    "long kernel": Case((1, 1, 10**6), (1, 1, 256), dilation=16),
    "deep kernel": Case((1, 4, 5000, 90, 90), (4, 1, 256, 1, 1), dilation=(16, 1, 1), group=4),
    "dilation": Case((9, 4, 500, 500, 500), (4, 1, 2, 2, 2), dilation=15, stride=4, group=4),
}


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("which", ["forward", "backward_x", "backward_w"])
@pytest.mark.parametrize("name", HUGE)
@both_types
def test_plans_keep_the_promises(name, which, layout, dtype, monkeypatch):
    """8 MiB a worker, steps that leave time for Ctrl-C, and less than a second to plan them."""
    case, calls, sizes = HUGE[name], [], []
    geometry = conv_geometry(case.x_shape, case.w_shape, **case.params)
    assert depthwise.unsupported_reason(geometry, np.dtype(dtype)) is None
    x, out = nowhere(case.x_shape, dtype), nowhere(geometry.result_shape, dtype)
    w = np.zeros(case.w_shape, dtype)
    arguments = {"forward": (x, w, None, out), "backward_x": (out, w, None, x)}

    def allocate(_, shape, dtype, *, zero=False):
        sizes.append(math.prod(shape) * dtype.itemsize)
        return np.empty(shape, dtype)

    give_memory(monkeypatch.setattr, depthwise, allocate)
    monkeypatch.setattr(depthwise, "_is_by_channels", lambda _: layout == "NHWC")
    monkeypatch.setattr(depthwise, "spread", lambda step, *call: calls.append(call))
    forget_plans(monkeypatch)
    start = time.process_time()
    getattr(depthwise, which)(geometry, *arguments.get(which, (x, out, w)), 2)
    assert time.process_time() - start < 1
    assert sum(sizes) < 2 * 2**23  # of two workers
    work = out.size * math.prod(case.w_shape[1:]) / sum(units for _, units, _ in calls)
    assert work * max(chunk for _, _, chunk in calls) < 4 * planes.CALL_WORK


# --- NaN and Inf --------------------------------------------------------------------------------

UNFINISHED = [
    *(case for case in NON_FINITE if case.group == case.x_shape[1]),
    Case((2, 3, 9, 20), (6, 1, 3, 2), stride=(2, 3), pad=((2, 1), (0, 3)), group=3),
    Case((2, 2, 8, 7), (2, 1, 2, 3), stride=3, pad=4, dilation=2, group=2),
    Case((1, 2, 3, 4, 20), (2, 1, 2, 2, 3), pad=1, stride=(1, 2, 1), group=2),
    Case((1, 1, 40), (1, 1, 3), pad=((5, 0),), dilation=2),
]


@pytest.mark.parametrize("case", UNFINISHED, ids=lambda case: "x".join(map(str, case.x_shape)))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 1, 2, 3], ids=["x", "w", "b", "dout"])
@both_types
def test_what_is_not_finite_lies_where_caffe_has_it(where, value, case, dtype, build):
    assert_lies_as_by_caffe(where, value, case, dtype, "depthwise")


@both_types
def test_nothing_left_in_memory_reaches_a_result(dtype, build, monkeypatch):
    """The scratch starts as NaN."""

    def allocate(_, shape, dtype, *, zero=False):
        return np.full(shape, 0 if zero else np.nan, dtype)

    give_memory(monkeypatch.setattr, depthwise, allocate)
    for case in (*LAYERS, *UNFINISHED, *CASES[::7]):
        assert_as_caffe(case, dtype)
        assert_as_caffe(case, dtype, LAST)


def test_images_without_cells_or_samples(build):
    for case in (
        Case((0, 3, 5, 5), (3, 1, 3, 3), pad=1, group=3),
        Case((2, 3, 0, 4), (3, 1, 2, 2), pad=1, group=3),
        Case((2, 3, 0), (6, 1, 2), pad=2, group=3),
    ):
        assert_as_caffe(case, np.float32)
