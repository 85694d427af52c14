"""Padding with the image's own cells: np.pad and a convolution without padding, and the adjoint."""

import itertools

import numpy as np
import pytest
from arrays import assert_same_bits, refuses
from cases import CONV_CASES, GENERAL, integer_array, parameters, to_khwc, to_nhwc
from hypothesis import given
from hypothesis import strategies as st

import fastconv
from fastconv.reference import conv_backward_loops, conv_forward_loops

MODES = ["reflect", "edge", "wrap"]
CASES = [
    case
    for case in CONV_CASES
    if 0 not in case.values[0]["x_shape"][2:] and not isinstance(case.values[0]["pad"], str)
]


def pads_of(case):
    """(before, after) an axis."""
    rank = len(case["x_shape"]) - 2
    pad = case["pad"] if isinstance(case["pad"], list | tuple) else [case["pad"]] * rank
    return [(item, item) if isinstance(item, int) else item for item in pad]


def padded(x, pads, mode):
    return np.pad(x, ((0, 0), (0, 0), *pads), mode)


def folded(dx, shape, pads, mode):
    """Add every cell of a padded array to the one it repeats, one cell at a time."""
    result = np.zeros(shape, dx.dtype)
    places = padded(np.arange(np.prod(shape)).reshape(shape), pads, mode)
    np.add.at(result.reshape(-1), places.reshape(-1), dx.reshape(-1))
    return result


def arrays_of(case, rng, dtype):
    x, w = (integer_array(rng, case[name], high=4) for name in ("x_shape", "w_shape"))
    return x.astype(dtype), w.astype(dtype), integer_array(rng, w.shape[:1]).astype(dtype)


@pytest.mark.parametrize("engine", GENERAL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_equals_np_pad_and_the_loops(case, mode, dtype, engine):
    rng = np.random.default_rng(0)
    x, w, b = arrays_of(case, rng, dtype)
    pads, others = pads_of(case), {**parameters(case), "pad": 0}
    large = padded(x, pads, mode)
    wanted = conv_forward_loops(large, w, b, **others)
    out, cache = fastconv.conv_forward(x, w, b, **parameters(case), pad_mode=mode, engine=engine)
    assert_same_bits(out, wanted)

    dout = integer_array(rng, out.shape).astype(dtype)
    dlarge, dw, db = conv_backward_loops(dout, large, w, **others)
    gradients = fastconv.conv_backward(dout, cache)
    for got, expected in zip(gradients, (folded(dlarge, x.shape, pads, mode), dw, db), strict=True):
        assert_same_bits(got, expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_deconv_is_the_adjoint(case, mode):
    rng = np.random.default_rng(0)
    x, w, _ = arrays_of(case, rng, np.float64)
    out, cache = fastconv.conv_forward(x, w, **parameters(case), pad_mode=mode)
    y = integer_array(rng, out.shape).astype(np.float64)
    dx, dw, _ = fastconv.conv_backward(y, cache)
    bias = integer_array(rng, x.shape[1:2]).astype(np.float64)

    axes = zip(
        x.shape[2:], out.shape[2:], w.shape[2:], np.broadcast_to(case["stride"], x.ndim - 2),
        np.broadcast_to(case["dilation"], x.ndim - 2), pads_of(case), strict=True,
    )  # fmt: skip
    extra = tuple(
        int(i + sum(pair) - (s * (o - 1) + d * (k - 1) + 1)) for i, o, k, s, d, pair in axes
    )
    limits = np.maximum(case["stride"], case["dilation"])
    if np.any(extra >= limits):
        pytest.skip("no output_pad gives this size")
    result, dcache = fastconv.deconv_forward(
        y, w, bias, **parameters(case), output_pad=extra, pad_mode=mode
    )
    assert_same_bits(result, dx + bias.reshape(-1, *(1,) * (x.ndim - 2)))
    back, dw_back, _ = fastconv.deconv_backward(x, dcache)
    assert_same_bits(back, out)
    assert_same_bits(dw_back, dw)


@pytest.mark.parametrize(("size", "pad", "mode"), [
    (*pair, mode)
    for pair in itertools.product([1, 2, 3, 5], [(0, 1), (2, 0), (4, 7), (13, 11)])
    for mode in MODES
])  # fmt: skip
def test_pads_longer_than_the_image(size, pad, mode):
    rng = np.random.default_rng(0)
    x = integer_array(rng, (2, 1, size)).astype(np.float64)
    w = np.ones((1, 1, 1))
    out, cache = fastconv.conv_forward(x, w, pad=[pad], pad_mode=mode)
    assert_same_bits(out, padded(x, [pad], mode))
    dout = integer_array(rng, out.shape).astype(np.float64)
    dx, _, _ = fastconv.conv_backward(dout, cache)
    assert_same_bits(dx, folded(dout, x.shape, [pad], mode))


def test_worked_examples():
    x, w = np.array([[[1.0, 2, 3, 4]]]), np.ones((1, 1, 1))
    for mode, expected in [
        ("constant", [0, 0, 1, 2, 3, 4, 0]),
        ("reflect", [3, 2, 1, 2, 3, 4, 3]),
        ("edge", [1, 1, 1, 2, 3, 4, 4]),
        ("wrap", [3, 4, 1, 2, 3, 4, 1]),
    ]:
        out, cache = fastconv.conv_forward(x, w, pad=[(2, 1)], pad_mode=mode)
        assert out[0, 0].tolist() == expected
        dx, _, _ = fastconv.conv_backward(np.array([[[1.0, 10, 100, 0, 0, 0, 1000]]]), cache)
        assert (
            dx[0, 0].tolist()
            == {
                "constant": [100, 0, 0, 0],
                "reflect": [100, 10, 1001, 0],
                "edge": [111, 0, 0, 1000],
                "wrap": [1100, 0, 1, 10],
            }[mode]
        )


@pytest.mark.parametrize("engine", GENERAL)
@pytest.mark.parametrize("mode", MODES)
def test_same_and_layout_and_batch(mode, engine):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((3, 4, 9, 7)), rng.standard_normal((6, 2, 4, 3))
    keywords = {"pad": "same", "group": 2, "stride": (1, 2), "pad_mode": mode, "engine": engine}
    out, cache = fastconv.conv_forward(x, w, **keywords)
    assert out.shape == (3, 6, 9, 4)
    gradients = fastconv.conv_backward(out, cache)
    for n in range(3):
        one, its_cache = fastconv.conv_forward(x[n : n + 1], w, **keywords)
        assert_same_bits(one, out[n : n + 1])
        dx, _, _ = fastconv.conv_backward(one, its_cache)
        assert_same_bits(dx, gradients[0][n : n + 1])
    last, cache = fastconv.conv_forward(to_nhwc(x), to_khwc(w), **keywords, layout="NHWC")
    assert_same_bits(last, to_nhwc(out))
    dx, dw, _ = fastconv.conv_backward(last, cache)
    assert_same_bits(dx, to_nhwc(gradients[0]))
    assert_same_bits(dw, to_khwc(gradients[1]))


def test_targets():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 1, 5, 5)), rng.standard_normal((1, 1, 3, 3))
    wanted, cache = fastconv.conv_forward(x, w, pad=1, pad_mode="wrap")
    dx, dw, _ = fastconv.conv_backward(wanted, cache)
    own = x.copy()
    assert fastconv.conv(own, w, pad=1, pad_mode="wrap", out=own) is own
    assert_same_bits(own, wanted)
    dw_sum, target = np.ones_like(w), np.full((2, 1, 5, 10), np.nan)[..., ::2]
    got = fastconv.conv_backward(wanted, cache, dx=target, dw=dw_sum)
    assert got[0] is target
    assert_same_bits(target, dx)
    assert_same_bits(dw_sum, 1 + dw)


def test_empty_batch():
    out, cache = fastconv.conv_forward(
        np.ones((0, 2, 4)), np.ones((3, 2, 3)), np.ones(3), pad=2, pad_mode="reflect"
    )
    assert out.shape == (0, 3, 6)
    dx, dw, db = fastconv.conv_backward(out, cache)
    assert dx.shape == (0, 2, 4)
    assert not dw.any()
    assert not db.any()


def test_not_a_number_goes_where_its_cell_is_read():
    x = np.zeros((1, 1, 4))
    x[..., 1] = np.nan
    out = fastconv.conv(x, np.ones((1, 1, 1)), pad=[(2, 0)], pad_mode="reflect")
    assert np.isnan(out[0, 0]).tolist() == [False, True, False, True, False, False]


@given(st.data())
def test_adjoint_identity(data):
    mode = data.draw(st.sampled_from(MODES))
    size, kernel = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 4))
    pads = data.draw(st.tuples(st.integers(0, 9), st.integers(0, 9)))
    stride, dilation = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    if size + sum(pads) < dilation * (kernel - 1) + 1:
        return
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x, w = (integer_array(rng, s).astype(np.float64) for s in ((2, 2, size), (3, 2, kernel)))
    out, cache = fastconv.conv_forward(
        x, w, stride=stride, pad=[pads], dilation=dilation, pad_mode=mode
    )
    y = integer_array(rng, out.shape).astype(np.float64)
    dx, dw, _ = fastconv.conv_backward(y, cache)
    assert (out * y).sum() == (x * dx).sum() == (w * dw).sum()


@pytest.mark.parametrize("call", [fastconv.conv, fastconv.deconv])
@pytest.mark.parametrize("value", ["zeros", "symmetric", "", None, 0, ["edge"], b"edge"])
def test_unknown_mode(call, value):
    match = r"pad_mode: expected one of \('constant', 'reflect', 'edge', 'wrap'\), got "
    refuses(ValueError, match, lambda: call(np.ones((1, 1, 3)), np.ones((1, 1, 1)), pad_mode=value))


@pytest.mark.parametrize("mode", MODES)
def test_no_cell_to_repeat(mode):
    x, w = np.ones((1, 1, 0, 3)), np.ones((1, 1, 2, 2))
    match = f"pad_mode: '{mode}' needs a cell to repeat, but spatial axis 0 has size 0"
    refuses(ValueError, match, lambda: fastconv.conv(x, w, pad=2, pad_mode=mode), x, w)
