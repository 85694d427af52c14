"""im2col, col2im and im2col_blocks through the public calls."""

import math
import tracemalloc

import numpy as np
import pytest
from cases import CONV_CASES, integer_array, parameters

import fastconv
from fastconv import reference
from fastconv._columns import fill_columns, sum_columns
from fastconv._geometry import window_geometry

pytestmark = pytest.mark.sanitize

DTYPES = [np.float32, np.float64]
both_types = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])


def window(case):
    """The shape of x and the keywords of a window, from a convolution's case."""
    params = parameters(case)
    del params["group"]
    return case["x_shape"], case["w_shape"][2:], params


@both_types
@pytest.mark.parametrize("case", CONV_CASES)
def test_equals_the_loops(case, dtype):
    rng = np.random.default_rng(0)
    shape, kernel, params = window(case)
    x = integer_array(rng, shape)
    wanted = reference.im2col_loops(x, kernel, **params)
    cols = fastconv.im2col(x.astype(dtype), kernel, **params)
    assert cols.dtype == dtype
    np.testing.assert_array_equal(cols, wanted)
    values = integer_array(rng, wanted.shape)
    back = fastconv.col2im(values.astype(dtype), shape, kernel, **params)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, reference.col2im_loops(values, shape, kernel, **params))


@both_types
@pytest.mark.parametrize("case", CONV_CASES)
def test_loop_for_any_rank_equals_those_of_one_rank(case, dtype):
    """To the bit, with sums that round: the order of additions is the same."""
    shape, kernel, params = window(case)
    geometry = window_geometry(shape, kernel, **params)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(dtype)
    values = rng.standard_normal(geometry.cols_shape).astype(dtype)
    cols = np.empty((2, *geometry.cols_shape), dtype)
    back = np.full((2, *shape), np.nan, dtype)
    whole = slice(0, geometry.positions)
    for force_nd in (False, True):
        fill_columns(geometry, x, cols[int(force_nd)], whole, force_nd=force_nd)
        sum_columns(geometry, values, back[int(force_nd)], whole, force_nd=force_nd)
    np.testing.assert_array_equal(cols[0], cols[1])
    np.testing.assert_array_equal(back[0], back[1])


@pytest.mark.parametrize("case", CONV_CASES)
def test_adjoint(case):
    """<im2col(x), y> == <x, col2im(y)>, and col2im(im2col(x)) is x times its coverage, exactly."""
    rng = np.random.default_rng(0)
    shape, kernel, params = window(case)
    x = integer_array(rng, shape).astype(np.float64)
    cols = fastconv.im2col(x, kernel, **params)
    y = integer_array(rng, cols.shape).astype(np.float64)
    assert np.vdot(cols, y) == np.vdot(x, fastconv.col2im(y, shape, kernel, **params))
    coverage = fastconv.col2im(
        fastconv.im2col(np.ones(shape), kernel, **params), shape, kernel, **params
    )
    np.testing.assert_array_equal(fastconv.col2im(cols, shape, kernel, **params), x * coverage)


@pytest.mark.parametrize("case", CONV_CASES)
def test_calls_of_few_bytes_change_nothing(case, monkeypatch):
    """Large images go through the kernels some samples, or some channels of one, at a time."""
    shape, kernel, params = window(case)
    x = np.random.default_rng(0).standard_normal(shape)
    cols = fastconv.im2col(x, kernel, **params)
    back = fastconv.col2im(cols, shape, kernel, **params)
    monkeypatch.setattr("fastconv._columns.CALL_BYTES", cols[:1].nbytes // 2)
    np.testing.assert_array_equal(fastconv.im2col(x, kernel, **params), cols)
    np.testing.assert_array_equal(fastconv.col2im(cols, shape, kernel, **params), back)


def test_order_of_rows_and_columns():
    x = np.arange(24.0).reshape(2, 3, 2, 2)
    cols = fastconv.im2col(x, (1, 2), pad=((0, 0), (1, 0)))
    assert cols.shape == (2, 6, 4)
    np.testing.assert_array_equal(cols[1, 4], [0, 20, 0, 22])  # c = 2, kw = 0
    np.testing.assert_array_equal(cols[1, 5], [20, 21, 22, 23])  # c = 2, kw = 1


def test_col2im_starts_from_zeros_whatever_out_holds():
    cols = fastconv.im2col(np.ones((1, 1, 4)), 2)
    out = np.full((1, 1, 4), np.nan)
    assert fastconv.col2im(cols, (1, 1, 4), 2, out=out) is out
    np.testing.assert_array_equal(out, [[[1, 2, 2, 1]]])


def test_col2im_gives_positive_zero():
    """0 + -0 is +0: Caffe fills with zeros, then adds."""
    back = fastconv.col2im(np.full((1, 2, 1), -0.0), (1, 1, 2), 2)
    assert not np.signbit(back).any()


def test_no_samples():
    assert fastconv.im2col(np.ones((0, 2, 5)), 3).shape == (0, 6, 3)
    assert fastconv.col2im(np.ones((0, 6, 3)), (0, 2, 5), 3).shape == (0, 2, 5)


# --- in pieces --------------------------------------------------------------------------------


@both_types
@pytest.mark.parametrize("columns", [1, 2, 7, 50, 10**6])
@pytest.mark.parametrize("case", CONV_CASES)
def test_blocks_are_the_whole(case, columns, dtype):
    shape, kernel, params = window(case)
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    whole = fastconv.im2col(x, kernel, **params)
    budget = columns * whole.shape[1] * whole.itemsize
    pieced = np.full_like(whole, np.nan)
    seen = np.zeros((whole.shape[0], whole.shape[2]), int)
    for samples, positions, cols in fastconv.im2col_blocks(x, kernel, max_bytes=budget, **params):
        assert cols.dtype == dtype
        assert cols.flags.c_contiguous
        assert cols.nbytes <= budget
        pieced[samples, :, positions] = cols
        seen[samples, positions] += 1
    np.testing.assert_array_equal(pieced, whole)
    assert (seen == 1).all()


def test_blocks_take_several_small_samples_at_once():
    x = np.ones((10, 1, 4), np.float32)
    pieces = [
        (samples, positions) for samples, positions, _ in fastconv.im2col_blocks(x, 2, max_bytes=96)
    ]
    assert [(piece.start, piece.stop) for piece, _ in pieces] == [(0, 4), (4, 8), (8, 10)]
    assert {(piece.start, piece.stop) for _, piece in pieces} == {(0, 3)}


def test_blocks_stay_within_their_budget():
    x = np.ones((1, 64, 128, 128), np.float32)
    whole = 64 * 9 * 126 * 126 * 4
    tracemalloc.start()
    for _ in fastconv.im2col_blocks(x, 3, max_bytes=2**20):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20 + 2**16 < whole


def test_blocks_refuse_at_the_call_and_name_the_least_budget():
    x = np.ones((1, 2, 5))
    with pytest.raises(ValueError, match="max_bytes must be at least one column, 48 bytes") as info:
        fastconv.im2col_blocks(x, 3, max_bytes=47)
    assert info.type is ValueError
    with pytest.raises(ValueError, match="kernel is larger than the padded input"):
        fastconv.im2col_blocks(x, 6)
    assert math.prod(next(iter(fastconv.im2col_blocks(x, 3, max_bytes=48)))[2].shape) == 6
