"""Convolution and its transpose, through the public calls: exact on integers, bounded on floats.

The oracle is `fastconv.reference` in int64; every engine must equal it bit for bit.
"""

import math
import tracemalloc

import numpy as np
import pytest
from cases import CONV_CASES, DECONV_CASES, GENERAL, integer_array, parameters, to_khwc, to_nhwc
from scipy import signal

import fastconv
from fastconv import reference

pytestmark = pytest.mark.sanitize

DTYPES = [np.float32, np.float64]

both_types = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
every_engine = pytest.mark.parametrize("engine", GENERAL)


def as_types(dtype, *arrays):
    return tuple(array.astype(dtype) for array in arrays)


def assert_equal(got, wanted, dtype):
    """Equal to the bit, and of the dtype asked for."""
    assert got.dtype == dtype
    assert got.shape == wanted.shape
    np.testing.assert_array_equal(got, wanted)


# --- exactly, on integers ---------------------------------------------------------------------


@every_engine
@both_types
@pytest.mark.parametrize("case", CONV_CASES)
def test_conv_equals_the_loops(case, dtype, engine):
    rng = np.random.default_rng(0)
    x, w = integer_array(rng, case["x_shape"]), integer_array(rng, case["w_shape"])
    b = integer_array(rng, case["w_shape"][:1])
    params = parameters(case)
    wanted = reference.conv_forward_loops(x, w, b, **params)
    out, cache = fastconv.conv_forward(*as_types(dtype, x, w, b), engine=engine, **params)
    assert_equal(out, wanted, dtype)
    assert_equal(fastconv.conv(*as_types(dtype, x, w, b), engine=engine, **params), wanted, dtype)
    dout = integer_array(rng, wanted.shape)
    gradients = fastconv.conv_backward(dout.astype(dtype), cache)
    for got, target in zip(
        gradients, reference.conv_backward_loops(dout, x, w, **params), strict=True
    ):
        assert_equal(got, target, dtype)


@every_engine
@both_types
@pytest.mark.parametrize("case", DECONV_CASES)
def test_deconv_equals_the_loops(case, dtype, engine):
    rng = np.random.default_rng(0)
    x, w = integer_array(rng, case["x_shape"]), integer_array(rng, case["w_shape"])
    b = integer_array(rng, (case["w_shape"][1] * case["group"],))
    params = parameters(case)
    wanted = reference.deconv_forward_loops(x, w, b, **params)
    out, cache = fastconv.deconv_forward(*as_types(dtype, x, w, b), engine=engine, **params)
    assert_equal(out, wanted, dtype)
    assert_equal(fastconv.deconv(*as_types(dtype, x, w, b), engine=engine, **params), wanted, dtype)
    dout = integer_array(rng, wanted.shape)
    gradients = fastconv.deconv_backward(dout.astype(dtype), cache)
    for got, target in zip(
        gradients, reference.deconv_backward_loops(dout, x, w, **params), strict=True
    ):
        assert_equal(got, target, dtype)


@pytest.mark.parametrize(("step_bytes", "step_positions"), [(1, 1), (1, 5), (2000, 1)])
@pytest.mark.parametrize("case", CONV_CASES)
def test_cuts_change_nothing(case, step_bytes, step_positions, monkeypatch):
    """The engine `caffe` over a few positions or samples at a time, as it takes large layers."""
    rng = np.random.default_rng(0)
    params = parameters(case)
    x, w = (integer_array(rng, case[name]).astype(np.float32) for name in ("x_shape", "w_shape"))
    b = np.ones(len(w), np.float32)
    out, cache = fastconv.conv_forward(x, w, b, engine="caffe", **params)
    dout = integer_array(rng, out.shape).astype(np.float32)
    wanted = out, *fastconv.conv_backward(dout, cache)
    monkeypatch.setattr("fastconv._engines.caffe.STEP_BYTES", step_bytes)
    monkeypatch.setattr("fastconv._engines.caffe.STEP_POSITIONS", step_positions)
    out, cache = fastconv.conv_forward(x, w, b, engine="caffe", **params)
    for got, target in zip((out, *fastconv.conv_backward(dout, cache)), wanted, strict=True):
        assert_equal(got, target, np.float32)


@every_engine
@both_types
@pytest.mark.parametrize("case", CONV_CASES)
def test_nhwc_equals_nchw_transposed(case, dtype, engine):
    rng = np.random.default_rng(1)
    params = parameters(case)
    x, w, b = as_types(
        dtype,
        rng.standard_normal(case["x_shape"]),
        rng.standard_normal(case["w_shape"]),
        rng.standard_normal(case["w_shape"][0]),
    )
    out, cache = fastconv.conv_forward(x, w, b, engine=engine, **params)
    dout = rng.standard_normal(out.shape).astype(dtype)
    dx, dw, db = fastconv.conv_backward(dout, cache)
    turned = np.ascontiguousarray(to_nhwc(x)), np.ascontiguousarray(to_khwc(w)), b
    out_nhwc, cache_nhwc = fastconv.conv_forward(*turned, layout="NHWC", engine=engine, **params)
    assert out_nhwc.flags.c_contiguous
    assert_equal(out_nhwc, to_nhwc(out), dtype)
    got = fastconv.conv_backward(np.ascontiguousarray(to_nhwc(dout)), cache_nhwc)
    for gradient, wanted in zip(got, (to_nhwc(dx), to_khwc(dw), db), strict=True):
        assert_equal(gradient, wanted, dtype)


@pytest.mark.parametrize("case", DECONV_CASES)
def test_deconv_nhwc_equals_nchw_transposed(case):
    rng = np.random.default_rng(1)
    params = parameters(case)
    x, w = rng.standard_normal(case["x_shape"]), rng.standard_normal(case["w_shape"])
    out, cache = fastconv.deconv_forward(x, w, **params)
    dx, dw, _ = fastconv.deconv_backward(out, cache)
    turned = np.ascontiguousarray(to_nhwc(x)), np.ascontiguousarray(to_khwc(w))
    out_nhwc, cache_nhwc = fastconv.deconv_forward(*turned, layout="NHWC", **params)
    assert_equal(out_nhwc, to_nhwc(out), np.float64)
    dx_nhwc, dw_nhwc, db = fastconv.deconv_backward(out_nhwc, cache_nhwc)
    assert db is None
    assert_equal(dx_nhwc, to_nhwc(dx), np.float64)
    assert_equal(dw_nhwc, to_khwc(dw), np.float64)


@pytest.mark.parametrize("case", CONV_CASES)
def test_deconv_is_the_adjoint_of_conv(case):
    """<conv(x), y> == <x, deconv(y)>, exactly."""
    rng = np.random.default_rng(2)
    params = parameters(case)
    x = integer_array(rng, case["x_shape"]).astype(np.float64)
    w = integer_array(rng, case["w_shape"]).astype(np.float64)
    out, cache = fastconv.conv_forward(x, w, **params)
    y = integer_array(rng, out.shape).astype(np.float64)
    dx, dw, _ = fastconv.conv_backward(y, cache)
    assert np.vdot(out, y) == np.vdot(x, dx) == np.vdot(w, dw)
    if params["pad"] == "same" or not x.size:  # the pads of "same" are another thing transposed
        return
    g = cache.geometry
    extent = np.multiply(g.dilation, np.subtract(g.kernel_size, 1)) + 1
    reached = np.multiply(g.stride, np.subtract(g.out_shape, 1)) + extent - np.sum(g.pad, axis=1)
    missing = np.subtract(g.in_shape, reached)
    limit = np.maximum(params["stride"], params["dilation"])
    if (missing >= 0).all() and (missing < limit).all():
        back = fastconv.deconv(y, w, output_pad=tuple(missing), **params)
        assert_equal(back, dx, np.float64)


# --- worked examples, and Caffe's own test cases by their idea --------------------------------


def test_caffenet_conv1():
    rng = np.random.default_rng(0)
    x = integer_array(rng, (1, 3, 227, 227), high=3)
    w = integer_array(rng, (96, 3, 11, 11), high=3)
    cols = fastconv.im2col(x.astype(np.float32), 11, stride=4)
    assert cols.shape == (1, 363, 3025)
    wanted = reference.conv_forward_shifted(x, w, stride=4)
    arrays = x.astype(np.float32), w.astype(np.float32)
    out = fastconv.conv(*arrays, stride=4, engine="fused")
    assert out.shape == (1, 96, 55, 55)
    assert_equal(out, wanted, np.float32)
    by_tiles = fastconv.conv(*arrays, stride=4)
    np.testing.assert_allclose(by_tiles, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_six_by_six_under_three_by_three():
    x, w = np.arange(36.0).reshape(1, 1, 6, 6), np.arange(9.0).reshape(1, 1, 3, 3)
    wanted = [
        [366, 402, 438, 474],
        [582, 618, 654, 690],
        [798, 834, 870, 906],
        [1014, 1050, 1086, 1122],
    ]
    np.testing.assert_array_equal(fastconv.conv(x, w)[0, 0], wanted)


def test_depthwise_separable_layer_has_656_weights():
    depthwise, pointwise = np.ones((16, 1, 3, 3)), np.ones((32, 16, 1, 1))
    plain = np.ones((32, 16, 3, 3))
    assert (depthwise.size + pointwise.size, plain.size) == (656, 4608)
    x = integer_array(np.random.default_rng(0), (2, 16, 7, 9)).astype(np.float64)
    separable = fastconv.conv(fastconv.conv(x, depthwise, pad=1, group=16), pointwise)
    assert_equal(separable, fastconv.conv(x, plain, pad=1), np.float64)


@both_types
def test_sobel_as_two_separable_passes(dtype):
    x = integer_array(np.random.default_rng(0), (2, 3, 6, 4)).astype(dtype)
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype)
    whole = fastconv.conv(x, np.broadcast_to(sobel, (1, 3, 3, 3)), stride=2)
    column = np.array([1, 2, 1], dtype).reshape(1, 1, 3, 1)
    row = np.array([-1, 0, 1], dtype).reshape(1, 1, 1, 3)
    first = fastconv.conv(x, np.broadcast_to(column, (1, 3, 3, 1)), stride=(2, 1))
    assert_equal(fastconv.conv(first, row, stride=(1, 2)), whole, dtype)


def test_setup_shapes():
    x = np.ones((2, 3, 6, 4), np.float32)
    assert fastconv.conv(x, np.ones((4, 3, 3, 3), np.float32), stride=2).shape == (2, 4, 2, 1)
    assert fastconv.conv(x, np.ones((3, 1, 3, 3), np.float32), stride=2, group=3).shape == (
        2,
        3,
        2,
        1,
    )
    assert fastconv.deconv(x, np.ones((3, 4, 3, 3), np.float32), stride=2).shape == (2, 4, 13, 9)


def test_deconv_sums_of_a_constant():
    """Ones through ones, 3x3 at stride 2: as many windows as meet at a cell, for each channel."""
    out = fastconv.deconv(np.ones((2, 3, 6, 4)), np.ones((3, 4, 3, 3)), np.full(4, 0.1), stride=2)
    rows = 1 + (np.arange(13) % 2 == 0) * (np.arange(13) % 12 > 0)
    columns = 1 + (np.arange(9) % 2 == 0) * (np.arange(9) % 8 > 0)
    np.testing.assert_array_equal(
        out, np.broadcast_to(0.1 + 3 * np.outer(rows, columns), out.shape)
    )


def test_three_dimensional_kernel_of_ones_counts():
    x = integer_array(np.random.default_rng(0), (1, 2, 5, 6, 4)).astype(np.float64)
    out = fastconv.conv(x, np.ones((1, 2, 5, 6, 4)))
    assert out.item() == x.sum()


@every_engine
def test_a_flat_axis_changes_nothing(engine):
    """A 2-D convolution as a 3-D one with an axis of 1, in any place, to the bit."""
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((2, 4, 9, 8)), rng.standard_normal((6, 2, 3, 2)), np.ones(6)
    params = {"stride": (2, 1), "pad": ((1, 2), (0, 1)), "dilation": (1, 3)}
    out, cache = fastconv.conv_forward(x, w, b, group=2, engine=engine, **params)
    gradients = fastconv.conv_backward(out, cache)
    for axis in (0, 1, 2):
        deeper = {
            name: (*values[:axis], neutral, *values[axis:])
            for (name, values), neutral in zip(params.items(), (1, (0, 0), 1), strict=True)
        }
        x3, w3 = np.expand_dims(x, axis + 2), np.expand_dims(w, axis + 2)
        out3, cache3 = fastconv.conv_forward(x3, w3, b, group=2, engine=engine, **deeper)
        assert_equal(out3, np.expand_dims(out, axis + 2), np.float64)
        dx, dw, db = fastconv.conv_backward(out3, cache3)
        assert_equal(dx, np.expand_dims(gradients[0], axis + 2), np.float64)
        assert_equal(dw, np.expand_dims(gradients[1], axis + 2), np.float64)
        assert_equal(db, gradients[2], np.float64)


# --- what the calls promise -------------------------------------------------------------------


def small_call(**keywords):
    rng = np.random.default_rng(5)
    x, w, b = (integer_array(rng, s).astype(float) for s in ((2, 4, 6, 5), (6, 2, 3, 3), (6,)))
    out, cache = fastconv.conv_forward(x, w, b, pad=1, stride=2, group=2, **keywords)
    return (x, w, b), out, cache, integer_array(rng, out.shape).astype(float)


def test_gradients_of_parameters_accumulate_and_dx_is_overwritten():
    (x, w, b), _, cache, dout = small_call()
    dx, dw, db = fastconv.conv_backward(dout, cache)
    given = np.full_like(x, np.nan), np.full_like(w, 7), np.full_like(b, -3)
    returned = fastconv.conv_backward(dout, cache, dx=given[0], dw=given[1], db=given[2])
    assert all(a is b for a, b in zip(returned, given, strict=True))
    for got, wanted in zip(given, (dx, dw + 7, db - 3), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("operation", ["conv", "deconv"])
@pytest.mark.parametrize("flags", [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)])
def test_propagate_down_skips(operation, flags):
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((2, 3, 5)), rng.standard_normal((3, 3, 2)), np.zeros(3)
    forward = getattr(fastconv, f"{operation}_forward")
    backward = getattr(fastconv, f"{operation}_backward")
    out, cache = forward(x, w, b)
    wanted = backward(out, cache)
    given = np.full_like(x, 5), np.zeros_like(w), np.zeros_like(b)
    wishes = tuple(map(bool, flags))
    got = backward(out, cache, propagate_down=wishes, dx=given[0], dw=given[1], db=given[2])
    for gradient, target, whole, wish in zip(got, given, wanted, wishes, strict=True):
        assert (gradient is target) if wish else (gradient is None)
        np.testing.assert_array_equal(target, whole if wish else np.full_like(target, target[:1]))


def test_no_bias_no_db():
    x, w = np.ones((1, 1, 3)), np.ones((1, 1, 2))
    for forward, backward in (
        (fastconv.conv_forward, fastconv.conv_backward),
        (fastconv.deconv_forward, fastconv.deconv_backward),
    ):
        out, cache = forward(x, w)
        assert backward(out, cache)[2] is None


def test_conv_param_is_the_keywords():
    (x, w, b), out, cache, dout = small_call()
    given = {"stride": 2, "pad": 1, "group": 2, "dilation": 1}
    again, cache_again = fastconv.conv_forward(x, w, b, given)
    np.testing.assert_array_equal(again, out)
    np.testing.assert_array_equal(fastconv.conv(x, w, b, given), out)
    for a, b in zip(
        fastconv.conv_backward(dout, cache), fastconv.conv_backward(dout, cache_again), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    deconv_param = {"stride": 2, "output_pad": 1}
    np.testing.assert_array_equal(
        fastconv.deconv(x, w[:4], None, deconv_param),
        fastconv.deconv(x, w[:4], stride=2, output_pad=1),
    )


def test_cache_holds_references_and_the_calls_engine():
    (x, w, b), _, cache, _ = small_call(engine="caffe", workers=3)
    assert cache.x is x
    assert cache.w is w
    assert cache.b is b
    assert (cache.engine, cache.workers) == ("caffe", 3)


def test_out_is_returned_and_filled():
    (x, w, b), out, _, _ = small_call()
    given = np.full_like(out, np.nan)
    assert fastconv.conv(x, w, b, pad=1, stride=2, group=2, out=given) is given
    np.testing.assert_array_equal(given, out)


def test_same_and_valid():
    for size in range(1, 9):
        for kernel in range(1, 5):
            for stride in range(1, 5):
                x, w = np.ones((1, 1, size)), np.ones((1, 1, kernel))
                same = fastconv.conv(x, w, stride=stride, pad="same")
                assert same.shape[2] == math.ceil(size / stride)
                assert fastconv.deconv(x, w, stride=stride, pad="same").shape[2] == size * stride
    total = fastconv.conv(np.eye(1, 4)[None], np.array([[[1.0, 2, 4, 8]]]), pad="same")
    np.testing.assert_array_equal(total, [[[2, 1, 0, 0]]])  # one cell before, two at the end
    valid = fastconv.conv(np.ones((1, 1, 5)), np.ones((1, 1, 3)), pad="valid")
    assert valid.shape == (1, 1, 3)


# --- within bounds, on floats -----------------------------------------------------------------


@every_engine
@both_types
@pytest.mark.parametrize("case", CONV_CASES)
def test_error_is_within_the_bound(case, dtype, engine):
    """|err| <= (4*sqrt(K) + 8) * u * S, with a reference of higher precision."""
    rng = np.random.default_rng(3)
    params = parameters(case)
    unit = np.finfo(dtype).eps / 2
    x, w, b = as_types(
        dtype,
        rng.standard_normal(case["x_shape"]),
        rng.standard_normal(case["w_shape"]),
        rng.standard_normal(case["w_shape"][0]),
    )
    out, cache = fastconv.conv_forward(x, w, b, engine=engine, **params)
    dout = rng.standard_normal(out.shape).astype(dtype)
    got = (out, *fastconv.conv_backward(dout, cache))
    wide = as_types(np.longdouble, x, w, b, dout)
    reach = tuple(map(np.abs, wide))
    samples, positions = out.shape[0], math.prod(out.shape[2:])
    taps = math.prod(case["w_shape"][1:])
    filters_a_group = case["w_shape"][0] // params["group"]
    lengths = (
        taps,
        filters_a_group * math.prod(case["w_shape"][2:]),
        samples * positions,
        samples * positions,
    )
    wanted = _forward_and_gradients(*wide, params)
    sums = _forward_and_gradients(*reach, params)
    for value, target, total, length in zip(got, wanted, sums, lengths, strict=True):
        error = np.abs(value - target)
        assert (error <= (4 * math.sqrt(length) + 8) * unit * total).all()


def _forward_and_gradients(x, w, b, dout, params):
    return (
        reference.conv_forward_shifted(x, w, b, **params),
        *reference.conv_backward_shifted(dout, x, w, **params),
    )


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_scipy_agrees_on_single_channels(rank):
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((7, 6, 5, 4)[:rank]), rng.standard_normal((3, 2, 3, 2)[:rank])
    wanted = signal.correlate(x, w, mode="valid", method="direct")
    np.testing.assert_allclose(fastconv.conv(x[None, None], w[None, None])[0, 0], wanted, 1e-12)
    wanted = signal.convolve(x, w, mode="full", method="direct")
    np.testing.assert_allclose(fastconv.deconv(x[None, None], w[None, None])[0, 0], wanted, 1e-12)


@pytest.mark.parametrize("operation", ["conv", "deconv"])
def test_gradients_by_central_differences(operation):
    rng = np.random.default_rng(6)
    forward = getattr(fastconv, f"{operation}_forward")
    params = {"stride": (2, 1), "pad": (1, 0), "dilation": (1, 2), "group": 2}
    arrays = [
        rng.standard_normal((2, 4, 5, 6)),
        rng.standard_normal((6, 2, 3, 2) if operation == "conv" else (4, 3, 3, 2)),
        rng.standard_normal(6),
    ]
    out, cache = forward(*arrays, **params)
    dout = rng.standard_normal(out.shape)
    gradients = getattr(fastconv, f"{operation}_backward")(dout, cache)
    for array, gradient in zip(arrays, gradients, strict=True):
        for index in rng.permutation(array.size)[:20]:
            where, kept = np.unravel_index(index, array.shape), array.flat[index]
            losses = []
            for step in (1e-6, -1e-6):
                array[where] = kept + step
                losses.append(np.vdot(forward(*arrays, **params)[0], dout))
            array[where] = kept
            np.testing.assert_allclose((losses[0] - losses[1]) / 2e-6, gradient[where], 1e-3, 1e-5)


@pytest.mark.parametrize("call", [
    lambda x: fastconv.conv(x, np.ones((3, 3, 16, 1), np.float32), pad=1, layout="NHWC"),
    lambda x: fastconv.max_pool_forward(x, 8, layout="NHWC"),
    lambda x: fastconv.avg_pool_forward(x, 8, layout="NHWC"),
], ids=["conv", "max_pool", "avg_pool"])  # fmt: skip
def test_channels_last_images_are_read_in_place(call):
    """No copy of x, which has 16 MiB; the result and the scratch together have less than 8."""
    x = np.ones((1, 512, 512, 16), np.float32)
    call(x)
    tracemalloc.start()
    try:
        call(x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**23
