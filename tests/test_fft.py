"""The engine `fft`: its accuracy, the bits that it promises, what it leaves to other engines."""

import functools
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from arrays import assert_same_bits
from failing_memory import FailingMemory
from test_fused import (
    Case,
    assert_extends_as_fused,
    backwards,
    both_passes,
    channels_last,
    filters_last,
    inputs,
    normal,
    three_passes,
)

import fastconv
from fastconv import reference
from fastconv._engines import fft, overlap, select_engine
from fastconv._geometry import conv_geometry

DTYPES = [np.float32, np.float64]
both_types = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])

# x (N, C, *S) and w (F, C/group, *K): ranks, pads below and above the kernel's extent, one tile and
# several, groups one by one and together.
CASES = [
    Case((2, 1, 40), (1, 1, 9)),
    Case((1, 4, 300), (6, 2, 31), pad=((15, 15),), group=2),
    Case((2, 3, 23, 31), (4, 3, 15, 15), pad=7),
    Case((1, 2, 9, 8), (3, 2, 7, 5), pad=((9, 0), (2, 11))),
    Case((3, 6, 17, 12), (6, 1, 11, 4), pad=((5, 5), (0, 3)), group=6),
    Case((2, 4, 30, 40), (2, 2, 5, 3), pad=4, dilation=(3, 7), group=2),
    Case((1, 2, 3, 3), (2, 2, 5, 6), pad=((2, 3), (4, 4))),
    Case((1, 1, 90, 110), (1, 1, 21, 17), pad=((10, 10), (8, 8))),
    Case((2, 2, 9, 8, 7), (3, 2, 5, 4, 3), pad=((2, 2), (0, 1), (1, 1))),
    Case((1, 1, 5, 4, 6, 5), (2, 1, 3, 2, 3, 4), pad=1),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.x_shape}")


@pytest.fixture(params=[True, False], ids=["whole", "tiles"])
def cut(request, monkeypatch):
    """Tiles as they are chosen, and small ones, a few filters of them at a time."""
    monkeypatch.setattr(overlap, "plan_of", overlap.plan_of.__wrapped__)
    if not request.param:
        for name in ("NEAR_CELLS", "FAR", "SUM_BYTES", "UNIT_CELLS"):
            monkeypatch.setattr(overlap, name, 1)


passes = functools.partial(three_passes, engine="fft")


def passes_by_reference(x, w, b, dout, case):
    """The same in the arrays' own type."""
    out = reference.conv_forward_shifted(x, w, b, **case.params)
    dx, _, _ = reference.conv_backward_shifted(dout, x, w, **case.params)
    return out, dx, dx + np.arange(x.shape[1]).reshape(-1, *(1,) * (x.ndim - 2))


# --- accuracy ---------------------------------------------------------------------------------


def norms(array):
    """Of each sample."""
    return np.sqrt((array.astype(np.float64) ** 2).sum(axis=tuple(range(1, array.ndim))))


@every_case
@both_types
@pytest.mark.parametrize("positive", [False, True], ids=["mixed", "positive"])
def test_error_is_within_the_bound(dtype, case, positive, cut):
    """|err| <= log2(cells) * u * |x| |w| + u * |out|, with the norms of a sample and of w."""
    arrays = normal(case, dtype)
    if positive:  # where sums do not cancel
        arrays = tuple(map(np.abs, arrays))
    x, w, b, dout = arrays
    wanted = passes_by_reference(*(array.astype(np.longdouble) for array in arrays), case)
    cells = 4 * math.prod(x.shape[2:]) * math.prod(w.shape[2:])  # more than any transform has
    u = np.finfo(dtype).eps / 2
    for got, right, images in zip(
        passes(x, w, b, dout, case), wanted, (x, dout, dout), strict=True
    ):
        sizes = norms(images).reshape(-1, *(1,) * (x.ndim - 1)) * np.linalg.norm(w)
        limit = math.log2(cells) * u * sizes + 2 * u * (np.abs(right) + x.shape[1])
        assert (np.abs(got - right) <= limit).all()


@pytest.mark.parametrize("offset", [0, 100], ids=["noise", "bright"])
def test_promise_of_float32(offset):
    """At most 1e-6 of the largest result, by kernels that `auto` takes it for."""
    rng = np.random.default_rng(0)
    for size in (23, 51):
        x = rng.standard_normal((1, 1, 300, 400), np.float32) + np.float32(offset)
        w = rng.standard_normal((1, 1, size, size), np.float32)
        out, right = (
            fastconv.conv(*(array.astype(dtype) for array in (x, w)), engine=engine)
            for engine, dtype in (("fft", np.float32), ("fused", np.float64))
        )
        assert np.abs(out - right).max() <= 1e-6 * np.abs(right).max()


@every_case
def test_integers_are_exact_once_rounded(case, cut):
    """An indexing error has no tolerance to hide behind."""
    x, w, b, dout = inputs(case)
    wanted = passes_by_reference(x, w, b, dout, case)
    arrays = (array.astype(np.float64) for array in (x, w, b, dout))
    for got, right in zip(passes(*arrays, case), wanted, strict=True):
        assert np.abs(got - right).max(initial=0) < 1e-9
        np.testing.assert_array_equal(np.rint(got), right)


def test_gradients_of_weights_and_bias_are_those_of_fused():
    case = Case((2, 3, 19, 18), (4, 3, 15, 15), pad=7)
    x, w, b, dout = normal(case)
    gradients = []
    for engine in ("fft", "fused"):
        _, cache = fastconv.conv_forward(x, w, b, engine=engine, pad=7)
        gradients.append(fastconv.conv_backward(dout, cache)[1:])
    for got, wanted in zip(*gradients, strict=True):
        assert_same_bits(got, wanted)


# --- the same bits ----------------------------------------------------------------------------


@every_case
@both_types
def test_workers_batch_and_memory_change_no_bits(case, dtype, cut, monkeypatch):
    x, w, b, dout = normal(case, dtype)
    wanted = passes(x, w, b, dout, case, workers=1)
    monkeypatch.setattr(overlap, "THREAD_TIME", 0)
    for workers, step_time in ((1, 1), (2, 10**9), (5, 1)):
        monkeypatch.setattr(overlap, "STEP_TIME", step_time)
        for got, right in zip(passes(x, w, b, dout, case, workers=workers), wanted, strict=True):
            assert_same_bits(got, right)
    for n in range(len(x)):
        part = slice(n, n + 1)
        for got, right in zip(passes(x[part], w, b, dout[part], case), wanted, strict=True):
            assert_same_bits(got, right[part])
    for turn, turn_w in ((channels_last, filters_last), (backwards, backwards)):
        out, dx = (turn(np.full_like(array, np.nan)) for array in wanted[:2])
        _, cache = fastconv.conv_forward(
            turn(x), turn_w(w), b, engine="fft", out=out, **case.params
        )
        fastconv.conv_backward(turn(dout), cache, propagate_down=(True, False, False), dx=dx)
        assert_same_bits(np.ascontiguousarray(out), wanted[0])
        assert_same_bits(np.ascontiguousarray(dx), wanted[1])


# --- numbers that transforms do not suit ------------------------------------------------------

SPECIAL = Case((3, 2, 20, 33), (3, 2, 15, 7), pad=((7, 7), (3, 3)))


@both_types
@pytest.mark.parametrize("value", [np.nan, -np.inf, "max", "subnormal"])
def test_one_sample_with_such_numbers_changes_no_other(value, dtype, cut):
    x, w, b, dout = normal(SPECIAL, dtype)
    clean = passes(x, w, b, dout, SPECIAL)
    limits = np.finfo(dtype)
    if value == "subnormal":
        x[1] *= limits.tiny
        dout[1] *= limits.tiny
    else:
        x[1, 1, 4, 5] = dout[1, 2, 0, 7] = limits.max if value == "max" else value
    direct = passes(x, w, b, dout, SPECIAL, engine="fused")
    for got, others, special in zip(passes(x, w, b, dout, SPECIAL), clean, direct, strict=True):
        assert_same_bits(got[1], special[1])
        for n in (0, 2):
            assert_same_bits(got[n], others[n])


@both_types
@pytest.mark.parametrize("value", [np.nan, np.inf, "max"])
def test_such_weights_send_the_call_to_fused(value, dtype):
    x, w, b, dout = normal(SPECIAL, dtype)
    w[2, 1, 2, 0] = np.finfo(dtype).max if value == "max" else value
    direct = passes(x, w, b, dout, SPECIAL, engine="fused")
    for got, wanted in zip(passes(x, w, b, dout, SPECIAL), direct, strict=True):
        assert_same_bits(got, wanted)


@both_types
def test_what_is_not_finite_lies_where_direct_convolution_has_it(dtype):
    rng = np.random.default_rng(0)
    for case, where in itertools.product(CASES, range(4)):
        arrays = [array.astype(dtype) for array in inputs(case)]
        arrays[where].flat[rng.integers(arrays[where].size)] = rng.choice([np.nan, np.inf, -np.inf])
        got = passes(*arrays, case)
        for value, wanted in zip(got, passes(*arrays, case, engine="caffe"), strict=True):
            np.testing.assert_array_equal(np.isnan(value), np.isnan(wanted))
            np.testing.assert_array_equal(np.isposinf(value), np.isposinf(wanted))
            np.testing.assert_array_equal(np.isneginf(value), np.isneginf(wanted))


@both_types
def test_limits_of_magnitude_keep_all_numbers_finite(dtype):
    x, w = np.ones((1, 2, 32, 32), dtype), np.ones((1, 2, 15, 15), dtype)
    layer = overlap.Layer.forward(geometry(Case(x.shape, w.shape)), np.dtype(dtype))
    limits = overlap.limits_of(layer, math.prod(overlap.plan_of(layer).cells))
    size = dtype(math.sqrt(limits.product_high) * 0.999)
    out = fastconv.conv(x * size, w * size, engine="fft")
    np.testing.assert_allclose(out, fastconv.conv(x * size, w * size, engine="fused"), 1e-5)


def test_images_without_cells_or_samples():
    for x_shape in ((2, 2, 0, 4), (0, 2, 5, 4)):
        case = Case(x_shape, (3, 2, 3, 3), pad=((2, 1), (1, 0)))
        arrays = normal(case)
        results = (both_passes(*arrays, engine=name, pad=case.pad) for name in ("fft", "fused"))
        for got, wanted in zip(*results, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_memory_that_runs_out_leaves_results_whole_or_untouched():
    x, w, b, dout = normal(SPECIAL)
    wanted = passes(x, w, b, dout, SPECIAL)[:2]
    _, cache = fastconv.conv_forward(x, w, b, engine="fft", workers=1, **SPECIAL.params)
    calls = (
        lambda out: fastconv.conv(x, w, b, engine="fft", workers=1, out=out, **SPECIAL.params),
        lambda dx: fastconv.conv_backward(dout, cache, propagate_down=(True, False, False), dx=dx),
    )
    for call, right in zip(calls, wanted, strict=True):
        with FailingMemory() as memory:
            call(np.empty_like(right))
        endings = set()
        for fail_at in range(memory.count):
            target = np.full_like(right, 7)
            try:
                with FailingMemory(fail_at):
                    call(target)
            except MemoryError:
                assert (target == 7).all()
                endings.add("untouched")
            else:
                np.testing.assert_allclose(target, right, atol=1e-4)
                endings.add("whole")
        assert endings == {"untouched", "whole"}


# --- the choice -------------------------------------------------------------------------------


def geometry(case):
    return conv_geometry(case.x_shape, case.w_shape, **{"stride": 1, "dilation": 1, **case.params})


def chosen(case, dtype=np.float32):
    return select_engine("auto", geometry(case), np.dtype(dtype)).NAME


def test_auto_takes_it_for_large_kernels_whatever_the_batch():
    for n in (0, 1, 1000):
        image = (n, 1, 1080, 1920)
        assert chosen(Case(image, (1, 1, 51, 51), pad=25)) == "fft"
        assert chosen(Case(image, (1, 1, 31, 31), pad=15), np.float64) == "fft"
        assert chosen(Case(image, (1, 1, 15, 15), pad=7)) == "depthwise"
        assert chosen(Case(image, (1, 1, 51, 51), stride=2)) == "fused"
        assert chosen(Case((n, 16, 128, 128), (16, 16, 51, 51), pad=25)) == "fft"
        assert chosen(Case((n, 1, 100_000), (1, 1, 2001))) == "fft"
        assert chosen(Case((n, 64, 56, 56), (64, 64, 9, 9), pad=4)) == "fused"
        assert chosen(Case((n, 1, 60, 60), (1, 1, 31, 31))) == "fused"


def test_refused_by_name():
    x, w = np.ones((1, 1, 40, 40)), np.ones((1, 1, 15, 15))
    message = r"engine 'fft' cannot serve this call: it takes stride 1, got \(1, 2\)"
    with pytest.raises(ValueError, match=message):
        fastconv.conv(x, w, engine="fft", stride=(1, 2))


def test_without_scipy(monkeypatch):
    monkeypatch.setattr(fft, "is_installed", lambda: False)
    assert fastconv.engines() == ("depthwise", "winograd", "fused", "caffe")
    assert chosen(Case((1, 1, 1080, 1920), (1, 1, 51, 51), pad=25)) == "fused"
    with pytest.raises(ValueError, match="'fft' cannot serve this call: SciPy is not installed"):
        fastconv.conv(np.ones((1, 1, 40)), np.ones((1, 1, 15)), engine="fft")


def test_scipy_is_imported_for_large_kernels_alone():
    code = """
import sys, numpy as np, fastconv
image = np.ones((1, 1, 400, 400))
for size in (15, 51):
    fastconv.conv(image, np.ones((1, 1, size, size)), pad=size // 2)
    print("scipy" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\nTrue\n"


def test_padding_that_is_not_zeros():
    assert_extends_as_fused("fft", Case((2, 2, 19, 18), (3, 2, 15, 15)), pad=7)


# --- plans ------------------------------------------------------------------------------------

HUGE = {
    "image": Case((1, 64, 1080, 1920), (64, 64, 15, 15), pad=7),
    "line": Case((1, 1, 10**8), (1, 1, 1001)),
    "volume": Case((1, 4, 300, 300, 300), (4, 4, 11, 11, 11), pad=5),
    "large kernel": Case((1, 1, 2000, 2000), (1, 1, 201, 201), pad=100),
    "filters": Case((1, 1, 500, 500), (1000, 1, 31, 31)),
    "groups": Case((1, 1000, 64, 64), (1000, 1, 31, 31), pad=15, group=1000),
}


@pytest.mark.parametrize("name", HUGE)
def test_plans_keep_the_promises(name):
    """8 MiB a worker, and units that leave time for Ctrl-C."""
    passes, dtypes = (overlap.Layer.forward, overlap.Layer.backward), map(np.dtype, DTYPES)
    for layer_of, dtype in itertools.product(passes, dtypes):
        layer = layer_of(geometry(HUGE[name]), dtype)
        plan = overlap.plan_of(layer)
        tile = 2 * dtype.itemsize * math.prod(plan.spectrum)
        filters, groups, tiles = plan.parts
        # tiles and their spectra; sums, spectra on the way back, results; a product
        assert groups * tiles * (3 + 3 * filters) * tile < 2**23
        assert plan.unit_time < 2 * overlap.UNIT_TIME
        assert all(size <= step * tiles for size, step, tiles in zip(
            layer.shape, plan.step, plan.tiles, strict=True))  # fmt: skip
