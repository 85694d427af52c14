"""Pooling through the public calls: exact on integers, bounded on floats, and the rules in words.

The oracles are `fastconv.reference.pooling`: its loops in int64, and its columns where there are
many cases.
"""

import itertools
import math

import numpy as np
import pytest
from arrays import ODD, WRITABLE, Unchanged, assert_same_bits, plain, refuses, root
from cases import integer_array, parameters, to_nhwc
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fastconv
from fastconv import pool
from fastconv.reference import pooling as reference

pytestmark = pytest.mark.sanitize

DTYPES = [np.float32, np.float64]
NAN, INF = np.nan, np.inf

both_types = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
both_pools = pytest.mark.parametrize("kind", ["max", "avg"])
both_layouts = pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
properties = settings(max_examples=100, deadline=None, derandomize=True)

FORWARD = {"max": pool.max_pool_forward, "avg": pool.avg_pool_forward}
BACKWARD = {"max": pool.max_pool_backward, "avg": pool.avg_pool_backward}


def _case(name, x_shape, kernel_size, **params):
    return pytest.param({"x_shape": x_shape, "kernel_size": kernel_size, **params}, id=name)


# x (N, C, *S). "Loose": the last window ends before the padded image does.
CASES = [
    _case("1d", (2, 3, 8), 2),
    _case("1d one cell", (1, 1, 1), 1),
    _case("1d stride loose", (2, 2, 10), 3, stride=4),
    _case("1d stride beyond the kernel", (1, 2, 11), 2, stride=5),
    _case("1d uneven pad, dilation", (1, 2, 7), 3, stride=1, pad=[(4, 1)], dilation=3),
    _case("1d kernel beyond the image", (2, 2, 3), 6, stride=2, pad=3),
    _case("1d overhang", (2, 2, 8), 3, stride=2, ceil_mode=True),
    _case("1d overhang of a dilated kernel", (2, 1, 9), 2, stride=4, dilation=3, ceil_mode=True),
    _case("1d last window dropped", (2, 2, 5), 2, stride=3, pad=1, ceil_mode=True),
    _case("1d padding and overhang", (1, 2, 4), 4, stride=3, pad=[(0, 1)], ceil_mode=True),
    _case("2d", (2, 3, 6, 4), 2),
    _case("2d overlapping", (2, 3, 7, 6), 3, stride=2),
    _case("2d dense", (2, 2, 5, 6), 3, stride=1, pad=1),
    _case("2d one cell a window", (2, 2, 5, 6), 1, stride=(2, 3)),
    _case("2d the whole image", (2, 3, 4, 5), (4, 5)),
    _case("2d row kernel", (1, 3, 4, 8), (1, 4), stride=(1, 2), pad=(0, 2)),
    _case("2d column kernel", (1, 3, 8, 4), (4, 1), stride=(3, 1), pad=[(2, 1), (0, 0)]),
    _case("2d Caffe's rule", (2, 2, 7, 8), 3, stride=2, pad=1, ceil_mode=True),
    _case("2d same", (2, 2, 5, 6), (3, 2), stride=1, pad="same"),
    _case("2d same, stride", (1, 2, 7, 6), (4, 3), stride=(3, 2), pad="same"),
    _case("2d valid, dilation", (1, 2, 7, 7), (2, 3), stride=1, pad="valid", dilation=2),
    _case("2d uneven everything", (2, 2, 8, 7), (2, 3), stride=(3, 2), pad=[(1, 0), (0, 3)],
          dilation=(2, 1), ceil_mode=True),
    _case("2d no samples", (0, 3, 5, 5), 2, stride=1),
    _case("3d", (2, 2, 4, 3, 5), (2, 3, 2), stride=1),
    _case("3d uneven everything", (1, 2, 5, 4, 6), (2, 1, 3), stride=(2, 1, 3),
          pad=[(1, 0), (0, 0), (2, 2)], dilation=(1, 2, 2), ceil_mode=True),
    _case("3d same, stride", (1, 2, 4, 3, 5), (3, 2, 2), stride=(2, 2, 3), pad="same"),
    _case("4d", (1, 2, 3, 4, 2, 3), (2, 2, 1, 3)),
    _case("4d uneven everything", (2, 2, 3, 4, 3, 4), (2, 2, 1, 2), stride=(1, 2, 2, 3),
          pad=[(0, 1), (1, 0), (0, 0), (1, 1)], dilation=(2, 1, 3, 2), ceil_mode=True),
]  # fmt: skip


def divisible(case):
    """What every divisor of an average divides."""
    kernel = case["kernel_size"]
    rank = len(case["x_shape"]) - 2
    sides = kernel if isinstance(kernel, tuple) else (kernel,) * rank
    return math.prod(math.lcm(*range(1, side + 1)) for side in sides)


def assert_equal(got, wanted, dtype):
    """Equal, NaN to NaN, and of the dtype asked for."""
    assert got.dtype == dtype
    assert got.shape == wanted.shape
    np.testing.assert_array_equal(got, wanted)


def pools(case):
    """Both operations with their parameters: the average with either divisor."""
    params = parameters(case)
    yield "max", params
    for count_include_pad in (False, True):
        yield "avg", {**params, "count_include_pad": count_include_pad}


def run(kind, x, dout=None, *, dx=None, **params):
    """The result, the indices of a maximum, and dx where there is a dout."""
    out, cache, *indices = FORWARD[kind](x, **params, **returning_indices(kind))
    return (out, *indices, *([] if dout is None else [BACKWARD[kind](dout, cache, dx=dx)]))


def returning_indices(kind):
    return {"return_indices": True} if kind == "max" else {}


def check_against(form, x, dout, dtype, case):
    """Both pools, forward and backward, equal one of the references.

    `dout` are the integers to take the gradient's from; those of an average are made multiples of
    every divisor.
    """
    params = parameters(case)
    wanted, indices = getattr(reference, f"max_pool_forward_{form}")(x, **params)
    shown, _, where = pool.max_pool_forward(x.astype(dtype), return_indices=True, **params)
    out, cache = pool.max_pool_forward(x.astype(dtype), **params)
    assert_equal(out, wanted, dtype)
    assert_equal(shown, wanted, dtype)
    assert_equal(where, indices, np.int64)
    dout = dout[tuple(map(slice, wanted.shape))]
    dx = getattr(reference, f"max_pool_backward_{form}")(dout, x, **params)
    assert_equal(pool.max_pool_backward(dout.astype(dtype), cache), dx, dtype)

    dout = dout * divisible({**params, "x_shape": x.shape})
    for counting in (False, True):
        params["count_include_pad"] = counting
        wanted = getattr(reference, f"avg_pool_forward_{form}")(x.astype(dtype), **params)
        out, cache = pool.avg_pool_forward(x.astype(dtype), **params)
        assert_equal(out, wanted, dtype)
        dx = getattr(reference, f"avg_pool_backward_{form}")(dout, x, **params)
        assert_equal(pool.avg_pool_backward(dout.astype(dtype), cache), dx, dtype)


# --- exactly, on integers ---------------------------------------------------------------------


@both_types
@pytest.mark.parametrize("case", CASES)
def test_equals_the_loops(case, dtype):
    rng = np.random.default_rng(0)
    x = integer_array(rng, case["x_shape"])
    dout = integer_array(rng, tuple(size + 9 for size in case["x_shape"]), high=3)
    check_against("loops", x, dout, dtype, case)


@both_types
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4])
def test_equals_the_columns_on_a_grid(kernel_size, dtype):
    rng = np.random.default_rng(kernel_size)
    x, dout = integer_array(rng, (2, 3, 11)), integer_array(rng, (2, 3, 20), high=3)
    for stride, dilation, ceil_mode in itertools.product(range(1, 6), (1, 2, 3), (False, True)):
        most = dilation * (kernel_size - 1)
        pads = {(0, 0), (most, most // 2), (most // 2, most)}
        for pair in sorted(pads):
            case = {
                "kernel_size": kernel_size,
                "stride": stride,
                "pad": [pair],
                "dilation": dilation,
                "ceil_mode": ceil_mode,
            }
            check_against("im2col", x, dout, dtype, case)


@both_types
@pytest.mark.parametrize(
    ("kernel_size", "stride", "pad"),
    [(2, 2, 0), (3, 2, 0), (3, 1, 0), (3, 2, 1), (5, 3, 2)],
    ids=str,
)
def test_rows_of_every_width(kernel_size, stride, pad, dtype):
    """Every tail of a vector, and every width that leaves cells of the last window unused."""
    rng = np.random.default_rng(0)
    x = integer_array(rng, (1, 2, kernel_size + stride, 220), high=2)
    dout = integer_array(rng, (1, 2, 9, 80), high=3)
    for columns in range(1, 71):
        least = stride * (columns - 1) + kernel_size - 2 * pad
        for width in {max(least, 1), least + stride - 1}:
            case = {"kernel_size": kernel_size, "stride": stride, "pad": pad}
            check_against("im2col", x[..., :width], dout, dtype, case)


@both_types
def test_channels_last_of_every_count(dtype):
    rng = np.random.default_rng(0)
    for channels in (*range(1, 35), 63, 255, 256, 257, 513):
        x = integer_array(rng, (1, 5, 4, channels), high=2)
        for kernel_size, params in ((2, {}), (3, {"stride": 1, "pad": 1})):
            wanted, indices = reference.max_pool_forward_im2col(
                x, kernel_size, layout="NHWC", **params
            )
            out, _, where = pool.max_pool_forward(
                x.astype(dtype), kernel_size, layout="NHWC", return_indices=True, **params
            )
            assert_equal(out, wanted, dtype)
            assert_equal(where, indices, np.int64)
            wanted = reference.avg_pool_forward_im2col(
                x.astype(dtype), kernel_size, layout="NHWC", **params
            )
            out, _ = pool.avg_pool_forward(x.astype(dtype), kernel_size, layout="NHWC", **params)
            assert_equal(out, wanted, dtype)


@both_types
@pytest.mark.parametrize(
    ("shape", "params"),
    [
        ((1, 1, 100_003), {"kernel_size": 3, "stride": 2}),
        ((1, 2, 20_000), {"kernel_size": 300, "stride": 7, "pad": 13, "ceil_mode": True}),
        ((2, 2, 301, 203), {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
        ((1, 3, 70, 71), {"kernel_size": (70, 71)}),
        ((40, 9, 17, 15), {"kernel_size": 2}),
    ],
    ids=["long row", "long kernel", "large image", "whole image", "many samples"],
)
def test_large_ones(shape, params, dtype):
    """Beyond whatever is worked on at a time."""
    rng = np.random.default_rng(0)
    x = integer_array(rng, shape)
    wanted, indices = reference.max_pool_forward_im2col(x, **params)
    out, cache, where = pool.max_pool_forward(x.astype(dtype), return_indices=True, **params)
    assert_equal(out, wanted, dtype)
    assert_equal(where, indices, np.int64)
    dout = integer_array(rng, wanted.shape)
    dx = reference.max_pool_backward_im2col(dout, x, **params)
    assert_equal(pool.max_pool_backward(dout.astype(dtype), cache), dx, dtype)
    wanted = reference.avg_pool_forward_im2col(x.astype(dtype), **params)
    assert_equal(pool.avg_pool_forward(x.astype(dtype), **params)[0], wanted, dtype)


@pytest.mark.parametrize(
    ("call_bytes", "columns", "cells"), [(1, 1, 1), (300, 3, 40), (9**9, 2, 9)]
)
@pytest.mark.parametrize("case", CASES)
def test_cuts_change_nothing(case, call_bytes, columns, cells, monkeypatch):
    """A few planes, positions or cells of windows at a time, as large images are taken."""
    rng = np.random.default_rng(0)
    x = integer_array(rng, case["x_shape"])
    dout = integer_array(rng, tuple(size + 9 for size in case["x_shape"]), high=3)
    monkeypatch.setattr("fastconv._pooling.CALL_BYTES", call_bytes)
    monkeypatch.setattr("fastconv._pooling.CALL_COLUMNS", columns)
    monkeypatch.setattr("fastconv._pooling.CALL_CELLS", cells)
    check_against("im2col", x, dout, np.float32, case)


@both_types
@pytest.mark.parametrize("case", CASES)
def test_nhwc_equals_nchw_transposed(case, dtype):
    rng = np.random.default_rng(1)
    x = rng.standard_normal(case["x_shape"]).astype(dtype)
    for kind, params in pools(case):
        out = FORWARD[kind](x, **params)[0]
        dout = rng.standard_normal(out.shape).astype(dtype)
        wanted = run(kind, x, dout, **params)
        turned = (np.ascontiguousarray(to_nhwc(array)) for array in (x, dout))
        got = run(kind, *turned, layout="NHWC", **params)
        assert all(array.flags.c_contiguous for array in got)
        for array, other in zip(got, wanted, strict=True):
            assert_same_bits(array, to_nhwc(other))


# --- the rules on which libraries differ ------------------------------------------------------


def maxima(cells, kernel_size, **params):
    """Maxima, indices and the gradient of their sum, of one channel."""
    x = np.array(cells, np.float64)
    out, cache, indices = pool.max_pool_forward(
        x[None, None], kernel_size, return_indices=True, **params
    )
    dx = pool.max_pool_backward(np.ones_like(out), cache)
    return out[0, 0].tolist(), indices[0, 0].tolist(), dx[0, 0].tolist()


def averages(cells, kernel_size, **params):
    """Averages, and the gradient of their sum, of one channel."""
    out, cache = pool.avg_pool_forward(
        np.array(cells, np.float64)[None, None], kernel_size, **params
    )
    return out[0, 0].tolist(), pool.avg_pool_backward(np.ones_like(out), cache)[0, 0].tolist()


def test_ceil_mode_adds_the_window_that_hangs_over():
    """Of 1 2 3 9, two cells a window and three a step, the last window has the 9 alone."""
    assert maxima([1, 2, 3, 9], 2, stride=3) == ([2], [1], [0, 1, 0, 0])
    assert maxima([1, 2, 3, 9], 2, stride=3, ceil_mode=True) == ([2, 9], [1, 3], [0, 1, 0, 1])


def test_ceil_mode_drops_a_last_window_that_starts_in_the_padding():
    """Of (.) 1 2 3 4 (.) the windows are (. 1) and (3 4); a third would start at the last dot."""
    params = {"stride": 3, "pad": 1, "ceil_mode": True}
    assert maxima([1, 2, 3, 4], 2, **params) == ([1, 4], [0, 3], [1, 0, 0, 1])
    assert averages([1, 2, 3, 4], 2, **params) == ([1, 3.5], [1, 0, 0.5, 0.5])
    including = averages([1, 2, 3, 4], 2, count_include_pad=True, **params)
    assert including == ([0.5, 3.5], [0.5, 0, 0.5, 0.5])


def test_the_divisor_counts_padding_if_asked_but_never_the_overhang():
    """The second window over 1 2 3 8 (.) is the 8, a cell of padding, and two cells beyond."""
    params = {"stride": 3, "pad": [(0, 1)], "ceil_mode": True}
    assert averages([1, 2, 3, 8], 4, **params) == ([3.5, 8], [0.25, 0.25, 0.25, 1.25])
    including = averages([1, 2, 3, 8], 4, count_include_pad=True, **params)
    assert including == ([3.5, 4], [0.25, 0.25, 0.25, 0.75])


def test_the_divisor_is_a_product_over_the_axes():
    """A corner of a 2x2 image under 3x3 windows, padded by 1: 4 of its 9 cells are inside."""
    out, _ = averages([[1, 2], [3, 6]], 3, stride=1, pad=1)
    assert out == [[3, 3], [3, 3]]
    out, _ = averages([[1, 2], [3, 6]], 3, stride=1, pad=1, count_include_pad=True)
    assert out == [[12 / 9, 12 / 9], [12 / 9, 12 / 9]]


def test_the_first_maximum_wins():
    assert maxima([2, 5, 5, 1], 4) == ([5], [1], [0, 1, 0, 0])
    assert maxima([[1, 7], [7, 7]], 2) == ([[7]], [[1]], [[0, 1], [0, 0]])
    zeros, indices, _ = maxima([-0.0, 0.0, 0.0, -0.0], 2)
    assert [math.copysign(1, zero) for zero in zeros] == [-1, 1]
    assert indices == [0, 2]


@both_types
@both_layouts
def test_the_first_maximum_is_in_row_major_order(layout, dtype):
    """Among equal cells everywhere, in windows of every shape."""
    for kernel_size in itertools.product((1, 2, 3), repeat=3):
        x = np.zeros((1, 5, 6, 7, 3) if layout == "NHWC" else (1, 3, 5, 6, 7), dtype)
        _, _, indices = pool.max_pool_forward(
            x, kernel_size, stride=1, layout=layout, return_indices=True
        )
        plane = np.arange(210).reshape(5, 6, 7)
        wanted = plane[
            tuple(slice(size - k + 1) for size, k in zip((5, 6, 7), kernel_size, strict=True))
        ]
        for plane in np.moveaxis(indices, -1, 1)[0] if layout == "NHWC" else indices[0]:
            np.testing.assert_array_equal(plane, wanted)


def test_nan_propagates_and_the_first_has_the_index():
    assert np.isnan(maxima([1, NAN, 7, NAN], 4)[0]).all()
    assert maxima([1, NAN, 7, NAN], 4)[1:] == ([1], [0, 1, 0, 0])
    assert maxima([[INF, 2], [NAN, NAN]], 2)[1] == [[2]]
    assert maxima([[1, NAN], [NAN, 9]], 2)[1] == [[1]]
    assert np.isnan(averages([1, NAN, 7, 8], 2)[0]).tolist() == [True, False]


def test_a_window_of_minus_infinity_has_an_index_inside():
    low = -INF
    assert maxima([low, low], 2, pad=1) == ([low, low], [0, 1], [1, 1])
    assert maxima([[low] * 2] * 2, 3, stride=1, pad=1)[1] == [[0, 0], [0, 0]]
    assert maxima([[low] * 3] * 2, (2, 3), stride=2, pad=1, ceil_mode=True)[1] == [[0, 1], [3, 4]]


def test_infinities_average_as_they_add():
    assert averages([INF, 1, -INF, 1], 2)[0] == [INF, -INF]
    assert np.isnan(averages([INF, -INF], 2)[0]).all()


@both_types
@both_layouts
@pytest.mark.parametrize(
    ("kernel_size", "params"),
    [
        (2, {}),
        (3, {"stride": 2, "pad": 1, "ceil_mode": True}),
        (3, {"stride": 1}),
        ((3, 2), {"stride": (1, 3), "dilation": (1, 2), "pad": (0, 1)}),
    ],
    ids=str,
)
def test_special_numbers_anywhere(kernel_size, params, layout, dtype):
    """Against the loops: NaN and infinities of both signs among few numbers, so with many ties."""
    rng = np.random.default_rng(0)
    for width in (6, 17, 37):
        numbers = np.array([NAN, INF, -INF, -INF, -INF, -INF, -INF, -INF, 0, 1], dtype)
        x = rng.choice(numbers, (2, 3, 7, width) if layout == "NCHW" else (2, 7, width, 3))
        wanted, indices = reference.max_pool_forward_loops(x, kernel_size, layout=layout, **params)
        dout = integer_array(rng, wanted.shape).astype(dtype)
        dx = reference.max_pool_backward_loops(dout, x, kernel_size, layout=layout, **params)
        out, where, got = run("max", x, dout, kernel_size=kernel_size, layout=layout, **params)
        assert_equal(out, wanted, dtype)
        assert_equal(where, indices, np.int64)
        assert_equal(got, dx, dtype)
        with np.errstate(all="ignore"):
            wanted = reference.avg_pool_forward_loops(x, kernel_size, layout=layout, **params)
        (out,) = run("avg", x, kernel_size=kernel_size, layout=layout, **params)
        assert_equal(out, wanted, dtype)


@both_pools
def test_the_callers_error_state_has_no_effect(kind):
    huge = np.finfo(np.float32).max
    x = np.array([NAN, INF, -INF, huge, huge, -huge, 1e-45, 1], np.float32)[None, None]
    wanted = run(kind, x, x[..., :4], kernel_size=2)
    with np.errstate(all="raise"):
        for got, array in zip(run(kind, x, x[..., :4], kernel_size=2), wanted, strict=True):
            assert_same_bits(got, array)


# --- what the calls promise -------------------------------------------------------------------

SMALL = {"kernel_size": (3, 2), "stride": (2, 1), "pad": [(1, 0), (0, 1)], "dilation": (1, 2)}


def small_arrays(kind, layout="NCHW", dtype=np.float64):
    """x (2, 3, 7, 6), and the dout of its pool by `SMALL`."""
    rng = np.random.default_rng(5)
    shape = (2, 3, 7, 6) if layout == "NCHW" else (2, 7, 6, 3)
    x = rng.standard_normal(shape).astype(dtype)
    out = FORWARD[kind](x, layout=layout, **SMALL)[0]
    return x, rng.standard_normal(out.shape).astype(dtype)


def test_stride_is_the_kernel_size_by_default():
    x = integer_array(np.random.default_rng(0), (1, 2, 9, 8)).astype(float)
    for kind, params in pools({"kernel_size": (3, 2)}):
        for got, wanted in zip(
            run(kind, x, **params), run(kind, x, stride=(3, 2), **params), strict=True
        ):
            assert_same_bits(got, wanted)


def test_same_and_valid():
    for size, kernel, stride in itertools.product(range(1, 9), range(1, 5), range(1, 5)):
        x = np.arange(1.0, size + 1)[None, None]
        out = pool.max_pool_forward(x, kernel, stride=stride, pad="same")[0]
        assert out.shape[2] == math.ceil(size / stride)
        if kernel <= size:
            out = pool.avg_pool_forward(x, kernel, stride=stride, pad="valid")[0]
            assert out.shape[2] == (size - kernel) // stride + 1
    # An uneven cell of padding goes to the end.
    assert maxima([4, 3, 2, 1], 2, stride=1, pad="same")[0] == [4, 3, 2, 1]


def test_parameters_as_arrays_and_lists():
    x, _ = small_arrays("max")
    wanted = pool.max_pool_forward(x, **SMALL)[0]
    for form in (list, np.array):
        params = {name: form(value) for name, value in SMALL.items()}
        assert_same_bits(pool.max_pool_forward(x, **params)[0], wanted)


@both_pools
def test_the_dict_of_cs231n(kind):
    x, _ = small_arrays(kind)
    param = {"pool_height": 2, "pool_width": 3, "stride": 2}
    wanted = FORWARD[kind](x, (2, 3), stride=2)[0]
    assert_same_bits(FORWARD[kind](x, param)[0], wanted)
    assert_same_bits(FORWARD[kind](x, None, param)[0], wanted)
    assert_same_bits(FORWARD[kind](x, pool_param=param)[0], wanted)
    assert_same_bits(FORWARD[kind](x, {"pool_height": 2, "pool_width": 3}, stride=2)[0], wanted)
    padded = FORWARD[kind](x, (2, 3), stride=2, pad=1, ceil_mode=True)[0]
    assert_same_bits(FORWARD[kind](x, param, pad=1, ceil_mode=True)[0], padded)


@both_pools
@both_layouts
@both_types
def test_results_are_new_arrays_of_the_inputs_type(kind, layout, dtype):
    x, dout = small_arrays(kind, layout, dtype)
    for array in run(kind, x, dout, layout=layout, **SMALL):
        assert type(array) is np.ndarray
        assert array.dtype in (dtype, np.int64)
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert not np.may_share_memory(array, x)


@both_pools
def test_a_wide_dout_widens_dx(kind):
    x, dout = small_arrays(kind, dtype=np.float32)
    _, cache = FORWARD[kind](x, **SMALL)
    wide = dout.astype(np.float64) / 3
    dx = BACKWARD[kind](wide, cache)
    assert_same_bits(dx, run(kind, x.astype(np.float64), wide, **SMALL)[-1])
    _, cache = FORWARD[kind](x.astype(np.float64), **SMALL)
    assert BACKWARD[kind](dout, cache).dtype == np.float64


@both_pools
def test_a_cache_serves_again(kind):
    x, dout = small_arrays(kind)
    _, cache = FORWARD[kind](x, **SMALL)
    first = BACKWARD[kind](dout, cache)
    assert_same_bits(BACKWARD[kind](dout, cache), first)
    given = np.full_like(x, NAN)
    assert BACKWARD[kind](dout, cache, dx=given) is given
    assert_same_bits(given, first)


@both_types
@pytest.mark.parametrize("case", CASES)
def test_samples_and_channels_do_not_mix(case, dtype):
    rng = np.random.default_rng(2)
    x = rng.standard_normal(case["x_shape"]).astype(dtype)
    for kind, params in pools(case):
        dout = rng.standard_normal(FORWARD[kind](x, **params)[0].shape).astype(dtype)
        whole = run(kind, x, dout, **params)
        for n, c in np.ndindex(x.shape[:2]):
            part = (slice(n, n + 1), slice(c, c + 1))
            for got, wanted in zip(run(kind, x[part], dout[part], **params), whole, strict=True):
                assert_same_bits(got, wanted[part])


def test_no_samples():
    for layout, shape in (("NCHW", (0, 3, 7, 6)), ("NHWC", (0, 7, 6, 3))):
        for kind, params in pools(SMALL):
            out = FORWARD[kind](np.ones(shape), layout=layout, **params)[0]
            assert out.shape == ((0, 3, 3, 5) if layout == "NCHW" else (0, 3, 5, 3))
            *_, dx = run(kind, np.ones(shape), out, layout=layout, **params)
            assert dx.shape == shape


# --- odd memory -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ODD)
@both_layouts
@both_pools
@both_types
def test_odd_inputs_give_the_bits_of_plain_ones(kind, layout, form, dtype):
    x, dout = map(ODD[form], small_arrays(kind, layout, dtype))
    wanted = run(kind, plain(x), plain(dout), layout=layout, **SMALL)
    with Unchanged(x, dout):
        got = run(kind, x, dout, layout=layout, **SMALL)
    for array, other in zip(got, wanted, strict=True):
        assert type(array) is np.ndarray
        assert_same_bits(array, other)
        assert array.dtype.isnative


@pytest.mark.parametrize("axes", [*itertools.permutations(range(4))], ids=str)
@both_pools
def test_axes_in_any_order_give_the_bits_of_plain_ones(kind, axes):
    for layout in ("NCHW", "NHWC"):
        x, dout = (
            np.ascontiguousarray(array.transpose(axes)).transpose(np.argsort(axes))
            for array in small_arrays(kind, layout, np.float32)
        )
        wanted = run(kind, plain(x), plain(dout), layout=layout, **SMALL)
        for array, other in zip(run(kind, x, dout, layout=layout, **SMALL), wanted, strict=True):
            assert_same_bits(array, other)


@both_pools
def test_lists_are_taken_as_arrays(kind):
    x, dout = small_arrays(kind)
    wanted = run(kind, x, dout, **SMALL)
    for got, array in zip(run(kind, x.tolist(), dout.tolist(), **SMALL), wanted, strict=True):
        assert_same_bits(got, array)


@pytest.mark.parametrize("form", WRITABLE)
@both_layouts
@both_pools
@both_types
def test_odd_targets_get_the_bits_of_plain_ones(kind, layout, form, dtype):
    """What lies around them stays."""
    x, dout = small_arrays(kind, layout, dtype)
    out, *_, dx = run(kind, x, dout, layout=layout, **SMALL)
    for name, wanted in (("out", out), ("dx", dx)):
        target = WRITABLE[form](np.full(wanted.shape, NAN, dtype))
        surroundings = root(target)
        before = surroundings.tobytes()
        with Unchanged(x, dout):
            *_, got = (
                run(kind, x, layout=layout, out=target, **SMALL)[:1]
                if name == "out"
                else run(kind, x, dout, dx=target, layout=layout, **SMALL)
            )
        assert got is target
        assert_same_bits(plain(target), wanted)
        np.asarray(target)[...] = NAN
        assert surroundings.tobytes() == before


@both_pools
@both_layouts
def test_targets_may_overlap_inputs(kind, layout):
    """From the same element on, by one, by the last one only; forwards and backwards."""
    plain_x, plain_dout = small_arrays(kind, layout)
    wanted, *_, wanted_dx = run(kind, plain_x, plain_dout, layout=layout, **SMALL)
    for shift, way in itertools.product((0, 1, plain_x.size - 1), (1, -1)):
        buffer = np.zeros(4 * plain_x.size)
        x, dout = (buffer[: array.size].reshape(array.shape) for array in (plain_x, plain_dout))
        out, dx = (
            buffer[shift : shift + array.size][::way].reshape(array.shape)
            for array in (wanted, plain_x)
        )
        x[...] = plain_x
        assert run(kind, x, layout=layout, out=out, **SMALL)[0] is out
        assert_same_bits(out, wanted)
        x[...] = plain_x
        assert_same_bits(run(kind, x, plain_dout, dx=dx, layout=layout, **SMALL)[-1], wanted_dx)
        dout[...] = plain_dout
        assert_same_bits(run(kind, plain_x, dout, dx=dx, layout=layout, **SMALL)[-1], wanted_dx)


# --- on floats --------------------------------------------------------------------------------


@both_types
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_maxima_add_in_the_order_of_positions(case, dtype):
    rng = np.random.default_rng(3)
    params = parameters(case)
    x = rng.standard_normal(case["x_shape"]).astype(dtype)
    out, cache = pool.max_pool_forward(x, **params)
    dout = rng.standard_normal(out.shape).astype(dtype)
    wanted = reference.max_pool_backward_loops(dout, x, **params)
    assert_same_bits(pool.max_pool_backward(dout, cache), wanted)


@both_types
@pytest.mark.parametrize("case", CASES)
def test_errors_of_averages_are_within_the_bound(case, dtype):
    """|err| <= (4*sqrt(K) + 8) * u * S, with a reference of higher precision."""
    rng = np.random.default_rng(3)
    unit = np.finfo(dtype).eps / 2
    x = rng.standard_normal(case["x_shape"]).astype(dtype)
    for kind, params in itertools.islice(pools(case), 1, None):
        out, cache = FORWARD[kind](x, **params)
        dout = rng.standard_normal(out.shape).astype(dtype)
        dx = BACKWARD[kind](dout, cache)
        wide, wide_dout = x.astype(np.longdouble), dout.astype(np.longdouble)
        for got, form, arrays in (
            (out, reference.avg_pool_forward_im2col, [wide]),
            (dx, reference.avg_pool_backward_im2col, [wide_dout, wide]),
        ):
            wanted, reach = form(*arrays, **params), form(*map(np.abs, arrays), **params)
            taps = np.prod(cache.geometry.kernel_size)
            assert (abs(got - wanted) <= (4 * math.sqrt(taps) + 8) * unit * reach).all()


@both_pools
def test_gradients_by_central_differences(kind):
    x, dout = small_arrays(kind)
    *_, dx = run(kind, x, dout, **SMALL)
    for index in np.random.default_rng(0).permutation(x.size)[:40]:
        where, kept = np.unravel_index(index, x.shape), x.flat[index]
        losses = []
        for step in (1e-6, -1e-6):
            x[where] = kept + step
            losses.append(np.vdot(run(kind, x, **SMALL)[0], dout))
        x[where] = kept
        np.testing.assert_allclose((losses[0] - losses[1]) / 2e-6, dx[where], 1e-3, 1e-5)


# --- properties -------------------------------------------------------------------------------


@st.composite
def pool_cases(draw):
    """Any small pool of rank 1 to 3 that is allowed."""
    rank = draw(st.integers(1, 3))
    largest = {1: 12, 2: 6, 3: 3}[rank]

    def per_axis(low, high):
        return [draw(st.integers(low, high)) for _ in range(rank)]

    kernel, dilation, stride = per_axis(1, 4 if rank < 3 else 3), per_axis(1, 3), per_axis(1, 5)
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    pad = [(draw(st.integers(0, r)), draw(st.integers(0, r))) for r in reach]
    size = [
        max(drawn, r + 1 - sum(pair))
        for drawn, r, pair in zip(per_axis(1, largest), reach, pad, strict=True)
    ]
    ceil_mode = draw(st.booleans())
    for cells, d, s, r, pair in zip(size, dilation, stride, reach, pad, strict=True):
        room = cells + sum(pair) - r - 1
        last = min(-(-room // s) if ceil_mode else room // s, (cells + pair[0] - 1) // s)
        taps = (range(o * s - pair[0], o * s - pair[0] + r + 1, d) for o in range(last + 1))
        assume(all(any(0 <= i < cells for i in window) for window in taps))
    return {
        "x_shape": (draw(st.integers(0, 2)), draw(st.integers(1, 3)), *size),
        "kernel_size": tuple(kernel),
        "stride": tuple(stride),
        "pad": tuple(pad),
        "dilation": tuple(dilation),
        "ceil_mode": ceil_mode,
    }


def integers_of(case, seed=0, *, high=9):
    return integer_array(np.random.default_rng(seed), case["x_shape"], high=high)


@properties
@given(pool_cases(), st.sampled_from(DTYPES))
def test_any_pool_equals_the_loops(case, dtype):
    dout = integer_array(np.random.default_rng(1), tuple(s + 20 for s in case["x_shape"]), high=3)
    check_against("loops", integers_of(case), dout, dtype, case)


@properties
@given(pool_cases())
def test_no_average_exceeds_the_maximum(case):
    x = integers_of(case).astype(np.float32)
    params = parameters(case)
    largest, _ = pool.max_pool_forward(x, **params)
    average, _ = pool.avg_pool_forward(x, **params)
    assert (largest >= average).all()


@properties
@given(pool_cases())
def test_averages_are_a_depthwise_convolution(case):
    x = integers_of(case).astype(np.float64)
    params = {**parameters(case), "ceil_mode": False}
    kernel = params.pop("kernel_size")
    channels = x.shape[1]
    group = {name: params[name] for name in ("stride", "pad", "dilation")} | {"group": channels}
    ones = np.ones((channels, 1, *kernel))
    sums, counts = fastconv.conv(x, ones, **group), fastconv.conv(np.ones_like(x), ones, **group)
    assert_equal(pool.avg_pool_forward(x, kernel, **params)[0], sums / counts, np.float64)
    including = pool.avg_pool_forward(x, kernel, count_include_pad=True, **params)[0]
    assert_equal(including, sums / math.prod(kernel), np.float64)


@properties
@given(pool_cases(), st.booleans())
def test_the_gradient_of_averages_is_their_adjoint(case, count_include_pad):
    """<avg(x), y> == <x, backward(y)>, exactly, since every divisor divides x and y."""
    x = integers_of(case).astype(np.float64) * divisible(case)
    out, cache = pool.avg_pool_forward(x, count_include_pad=count_include_pad, **parameters(case))
    y = integer_array(np.random.default_rng(1), out.shape).astype(np.float64) * divisible(case)
    assert np.vdot(out, y) == np.vdot(x, pool.avg_pool_backward(y, cache))


@properties
@given(pool_cases())
def test_gradients_keep_their_sum(case):
    x = integers_of(case).astype(np.float64)
    for kind, params in itertools.islice(pools(case), 2):
        out, cache = FORWARD[kind](x, **params)
        dout = integer_array(np.random.default_rng(1), out.shape).astype(np.float64)
        dout *= divisible(case)
        dx = BACKWARD[kind](dout, cache)
        np.testing.assert_array_equal(dx.sum(axis=(2, *range(3, x.ndim))),
                                      dout.sum(axis=(2, *range(3, x.ndim))))  # fmt: skip


@properties
@given(pool_cases())
def test_indices_point_at_the_maxima(case):
    x = np.random.default_rng(0).standard_normal(case["x_shape"])
    out, _, indices = pool.max_pool_forward(x, return_indices=True, **parameters(case))
    planes, rows = (a.reshape(*a.shape[:2], math.prod(a.shape[2:])) for a in (x, indices))
    assert_same_bits(np.take_along_axis(planes, rows, 2).reshape(out.shape), out)


@properties
@given(pool_cases())
def test_maxima_of_maxima_and_of_monotone_functions(case):
    """A maximum commutes with what keeps the order, and its negative is a minimum."""
    x = integers_of(case).astype(np.float64)
    params = parameters(case)
    out, _ = pool.max_pool_forward(x, **params)
    assert_equal(pool.max_pool_forward(3 * x + 1, **params)[0], 3 * out + 1, np.float64)
    both = pool.max_pool_forward(np.maximum(x, -x), **params)[0]
    assert_equal(np.maximum(out, pool.max_pool_forward(-x, **params)[0]), both, np.float64)


# --- refusals ---------------------------------------------------------------------------------

X = np.ones((1, 2, 6, 5), np.float32)


def refuses_forward(error, match, x=X, *args, **params):
    """Both pools refuse the call."""
    for forward in FORWARD.values():
        refuses(error, match, lambda f=forward: f(x, *args, **params), np.asarray(x))


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"kernel_size": 0}, r"^kernel_size must be >= 1, got 0$"),
        ({"kernel_size": (2, 0)}, r"^kernel_size must be >= 1, got \(2, 0\)$"),
        ({"kernel_size": -1}, r"^kernel_size must be >= 1, got -1$"),
        ({"kernel_size": 2, "stride": 0}, r"^stride must be >= 1, got 0$"),
        ({"kernel_size": 2, "stride": (1, -1)}, r"^stride must be >= 1, got \(1, -1\)$"),
        ({"kernel_size": 2, "dilation": 0}, r"^dilation must be >= 1, got 0$"),
        ({"kernel_size": 3, "pad": -1}, r"^pad must be >= 0, got -1$"),
        ({"kernel_size": 3, "pad": [(0, 1), (-1, 0)]}, r"^pad must be >= 0, got \[\(0, 1\), "),
        ({"kernel_size": (2, 2, 2)}, r"^kernel_size: expected an int or 2 ints, got \(2, 2, 2\)$"),
        ({"kernel_size": ()}, r"^kernel_size: expected an int or 2 ints, got \(\)$"),
        ({"kernel_size": 2, "stride": (1,)}, r"^stride: expected an int or 2 ints, got \(1,\)$"),
        ({"kernel_size": 2, "pad": "full"}, r"^pad: expected an int, .*, got 'full'$"),
        ({"kernel_size": 2, "layout": "NWHC"}, r"^layout: expected 'NCHW' or 'NHWC', got 'NWHC'$"),
        ({"kernel_size": 7}, r"^the kernel is larger than the padded input on spatial axis 0: "),
        (
            {"kernel_size": (2, 4), "dilation": 2},
            r"^the kernel is larger than the padded input on spatial axis 1: input \(6, 5\), "
            r"pad .*, kernel_size \(2, 4\), dilation \(2, 2\), extent \(3, 7\) "
            r"give an output of \(2, 0\)$",
        ),
        ({"kernel_size": 2**62}, rf"^kernel_size is too large: at most 2\*\*48, got {2**62}$"),
        ({"kernel_size": 2, "stride": 2**62}, r"^stride is too large: at most 2\*\*48, got "),
        ({"kernel_size": 2, "pad": 2**62}, r"^pad is too large: at most 2\*\*48, got "),
        ({"kernel_size": 2, "dilation": 2**62}, r"^dilation is too large: at most 2\*\*48, got "),
        ({"kernel_size": 2**31, "stride": 1, "pad": 2**31 - 1}, r" is too large: \d+ elements, "),
    ],
    ids=str,
)
def test_values_that_are_refused(params, match):
    refuses_forward(ValueError, match, **params)


@pytest.mark.parametrize("name", ["kernel_size", "stride", "pad", "dilation"])
@pytest.mark.parametrize("value", [1.0, True, "2", 1j, [1.0, 2], b"2"], ids=str)
def test_parameters_are_integers(name, value):
    if name == "pad" and value == "2":
        return  # a word, and unknown: a ValueError
    refuses_forward(TypeError, f"^{name}: expected ", **{"kernel_size": 2, name: value})


@pytest.mark.parametrize(
    ("cells", "params"),
    [
        ((6, 5), {"kernel_size": 2, "pad": 2}),
        ((6, 5), {"kernel_size": 1, "pad": [(0, 0), (0, 1)], "stride": 1}),
        ((1,), {"kernel_size": 2, "dilation": 4, "pad": 2, "stride": 1}),
        ((1,), {"kernel_size": 3, "dilation": 2, "pad": 3, "stride": 1}),
        ((2,), {"kernel_size": 2, "stride": 4, "pad": [(0, 4)]}),
        ((0,), {"kernel_size": 2, "pad": 1}),
        ((6, 0), {"kernel_size": 2, "pad": 1}),
    ],
    ids=str,
)
def test_windows_wholly_in_the_padding_are_refused(cells, params):
    """By their taps: between those of a dilated kernel the image may slip through."""
    match = r"^pad leaves a window wholly in the padding on spatial axis \d: input \("
    refuses_forward(ValueError, match, np.ones((2, 3, *cells)), **params)


def test_windows_that_meet_the_image_with_a_dilated_tap_are_not():
    assert maxima([5], 3, dilation=2, pad=2, stride=1) == ([5], [0], [1])
    assert maxima([5], 2, dilation=4, pad=[(0, 4)], stride=1) == ([5], [0], [1])


def test_the_kernel_size_is_needed():
    for args in ((), (None,), (None, None)):
        refuses_forward(
            TypeError, "^kernel_size: expected it, or pool_param, got neither$", X, *args
        )


def test_the_dict_of_cs231n_is_checked():
    whole = {"pool_height": 2, "pool_width": 2, "stride": 2}
    for name in ("pool_hight", "kernel_size", "ceil_mode", 1):
        match = f"^pool_param: unknown name {name!r}; the names are pool_height, pool_width, stride"
        refuses_forward(TypeError, match, X, {**whole, name: 1})
    for name in ("pool_height", "pool_width"):
        part = {key: value for key, value in whole.items() if key != name}
        refuses_forward(TypeError, f"^pool_param: '{name}' is missing, got ", X, part)
    for name, value in {"stride": 2, "pad": 0, "dilation": 1}.items():
        match = f"^{name}: given both in pool_param and as a keyword$"
        refuses_forward(TypeError, match, X, {**whole, name: value}, **{name: value})
    refuses_forward(TypeError, "^kernel_size: given besides pool_param, got 2$", X, 2, whole)
    refuses_forward(TypeError, "^kernel_size: given besides pool_param, got {", X, whole, whole)
    refuses_forward(TypeError, "^pool_param: expected a dict, got 2$", X, 2, 2)
    bad = {**whole, "pool_width": 0}
    refuses_forward(ValueError, r"^kernel_size must be >= 1, got \(2, 0\)$", X, bad)
    match = r"^kernel_size: expected an int or 1 int, got \(2, 2\)$"
    refuses_forward(ValueError, match, X[0], whole)


def test_flags_are_bools():
    for value in (1, None, "yes", [True]):
        refuses_forward(TypeError, "^ceil_mode: expected a bool, got ", X, 2, ceil_mode=value)
        for name, forward in (
            ("return_indices", FORWARD["max"]),
            ("count_include_pad", FORWARD["avg"]),
        ):
            match = f"^{name}: expected a bool, got "
            refuses(TypeError, match, lambda f=forward, n=name, v=value: f(X, 2, **{n: v}), X)


def test_arrays_that_are_refused():
    for x in (np.ones(()), np.ones(6), np.ones((2, 6))):
        match = rf"^x: expected at least 3 axes .*, got {x.ndim}"
        refuses_forward(ValueError, match, x, 2)
        refuses_forward(ValueError, match, x, 2, layout="NHWC")
    refuses_forward(ValueError, r"^x: C \(axis 1\) must be >= 1, got shape ", X[:, :0], 2)
    for kind in ("int64", "uint8", "bool", "float16", "longdouble", "complex64", "object", "str"):
        match = r"^x: expected float32 or float64, got .*; convert it first, as in np\.asarray\(x\)"
        refuses_forward(TypeError, match, X.astype(kind), 2)
    match = r"^x: masked arrays are not supported; pass x\.filled\(0\), say$"
    refuses_forward(TypeError, match, np.ma.masked_array(X), 2)
    refuses_forward(TypeError, "^x: expected float32 or float64, got int64", [[[1, 2]]], 2)


@both_pools
def test_targets_that_are_refused(kind):
    out, cache = FORWARD[kind](X, 2)
    read_only = np.ones_like(out), np.ones_like(X)
    for array in read_only:
        array.flags.writeable = False
    for k, (name, shape, call) in enumerate(
        [
            ("out", out.shape, lambda target: FORWARD[kind](X, 2, out=target)),
            ("dx", X.shape, lambda target: BACKWARD[kind](out, cache, dx=target)),
        ]
    ):
        for target, error, match in (
            (np.ones(shape), TypeError, f"^{name}: expected dtype float32, got float64$"),
            (np.ones(shape, int), TypeError, f"^{name}: expected dtype float32, got int64$"),
            (np.ones((*shape, 1), "f4"), ValueError, rf"^{name}: expected shape \(.*\), got "),
            (np.ones(shape[1:], "f4"), ValueError, rf"^{name}: expected shape \(.*\), got "),
            (read_only[k], ValueError, f"^{name}: the array is read-only$"),
            ([1.0], TypeError, f"^{name}: expected an ndarray, got list$"),
        ):
            arrays = [target] if isinstance(target, np.ndarray) else []
            refuses(error, match, lambda c=call, t=target: c(t), X, out, *arrays)


@both_pools
def test_douts_that_are_refused(kind):
    out, cache = FORWARD[kind](X, 2)
    for shape in (X.shape, out.shape[1:], (*out.shape, 1), (2, *out.shape[1:]), ()):
        match = r"^dout: expected shape \(1, 2, 3, 2\) \(that of the forward result\), got "
        dout = np.ones(shape, np.float32)
        refuses(ValueError, match, lambda d=dout: BACKWARD[kind](d, cache), dout)
    match = "^dout: expected float32 or float64, got int64"
    refuses(TypeError, match, lambda: BACKWARD[kind](np.ones(out.shape, int), cache))
    match = "^dout: masked arrays are not supported"
    refuses(TypeError, match, lambda: BACKWARD[kind](np.ma.masked_array(out), cache))
    last = np.ones((1, 6, 5, 2), np.float32)
    _, cache = FORWARD[kind](last, 2, layout="NHWC")
    match = r"^dout: expected shape \(1, 3, 2, 2\) \(that of the forward result\), got "
    refuses(ValueError, match, lambda: BACKWARD[kind](np.ones((1, 2, 3, 2)), cache))


@both_pools
def test_caches_of_other_operations_are_refused(kind):
    name, other = ("max", "avg") if kind == "max" else ("avg", "max")
    out, cache = FORWARD[other](X, 2)
    match = f"^cache: it comes from {other}_pool_forward, not {name}_pool_forward$"
    refuses(ValueError, match, lambda: BACKWARD[kind](out, cache), out)
    conv_out, conv_cache = fastconv.conv_forward(X, np.ones((2, 2, 2, 2), np.float32), stride=2)
    for dout, value in ((conv_out, conv_cache), (out, None), (out, ()), (out, {}), (out, X)):
        match = f"^cache: expected what {name}_pool_forward returned, got {type(value).__name__}$"
        refuses(TypeError, match, lambda d=dout, v=value: BACKWARD[kind](d, v), out)
    match = f"^cache: expected what conv_forward returned, got {type(cache).__name__}$"
    refuses(TypeError, match, lambda: fastconv.conv_backward(conv_out, cache), conv_out)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("kernel", [3, 17])
def test_a_cache_whose_taps_do_not_fit_is_refused(kernel, layout):
    shape = (1, 2, 40, 40) if layout == "NCHW" else (1, 40, 40, 2)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    out, cache = fastconv.max_pool_forward(x, kernel, stride=2, pad=1, layout=layout)
    last = tuple(size - 1 for size in cache.taps.shape)
    inside = tuple(size // 2 for size in cache.taps.shape)
    for where, tap in [
        ((0, 0, 0, 0), 0),  # in the padding
        ((0, 0, 0, 0), kernel),
        (inside, kernel**2),
        (inside, np.iinfo(cache.taps.dtype).max),
        (inside, -1 if kernel == 17 else kernel**2),
        (last, kernel**2),
    ]:
        taps = cache.taps.copy()
        taps[where] = tap
        broken = cache._replace(taps=taps)
        dx = np.ones_like(x)
        match = "^cache: its taps are no cells of the windows of x$"
        refuses(
            ValueError, match, lambda c=broken, d=dx: fastconv.max_pool_backward(out, c, dx=d), dx
        )
    for taps in (cache.taps[:, :1], cache.taps[..., :-1], cache.taps.astype(np.int64)):
        broken = cache._replace(taps=taps)
        refuses(ValueError, "do not fit", lambda c=broken: fastconv.max_pool_backward(out, c), out)
    fastconv.max_pool_backward(out, cache._replace(taps=cache.taps[:, ::-1][:, ::-1]))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_without_the_cache_the_result_is_the_same(kernel, layout):
    x = np.random.default_rng(0).standard_normal((2, 7, 9, 8)).astype(np.float32)
    x[0, 2, 3] = np.nan
    params = {"stride": 2, "pad": kernel // 2, "ceil_mode": True, "layout": layout}
    assert_same_bits(
        fastconv.max_pool(x, kernel, **params), fastconv.max_pool_forward(x, kernel, **params)[0]
    )
    param = {"pool_height": kernel, "pool_width": kernel}
    params["count_include_pad"] = True
    assert_same_bits(
        fastconv.avg_pool(x, param, **params), fastconv.avg_pool_forward(x, kernel, **params)[0]
    )
