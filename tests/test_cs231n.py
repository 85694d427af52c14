"""CS231n's functions: every form against loops written here, and what the course's notebook does.

The loops stand on nothing of fastconv; results on integers must equal theirs exactly.
"""

import numpy as np
import pytest
from arrays import ODD, assert_same_bits, plain, refuses
from cases import integer_array

from fastconv import cs231n

DTYPES = [np.float32, np.float64]
both_types = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])

FORMS = ["naive", "im2col", "strides", "fast"]
POOL_FORMS = ["naive", "im2col", "reshape", "fast"]
every_form = pytest.mark.parametrize("form", FORMS)
every_pool_form = pytest.mark.parametrize("form", POOL_FORMS)


def conv_form(name):
    return getattr(cs231n, f"conv_forward_{name}"), getattr(cs231n, f"conv_backward_{name}")


def pool_form(name):
    return getattr(cs231n, f"max_pool_forward_{name}"), getattr(cs231n, f"max_pool_backward_{name}")


def pool(height, width, stride):
    return {"pool_height": height, "pool_width": width, "stride": stride}


# --- loops ------------------------------------------------------------------------------------


def out_size(x_shape, height, width, pad, stride):
    """OH and OW."""
    H, W = x_shape[2:]
    return (H + 2 * pad - height) // stride + 1, (W + 2 * pad - width) // stride + 1


def cells(x_shape, height, width, pad, stride):
    """Every row and column of the column matrix, and the cell of x that they stand for."""
    N, C, H, W = x_shape
    OH, OW = out_size(x_shape, height, width, pad, stride)
    for n, c, oh, ow, hh, ww in np.ndindex(N, C, OH, OW, height, width):
        ih, iw = oh * stride - pad + hh, ow * stride - pad + ww
        if 0 <= ih < H and 0 <= iw < W:
            yield (c * height + hh) * width + ww, (oh * OW + ow) * N + n, (n, c, ih, iw)


def columns_shape(x_shape, height, width, pad, stride):
    OH, OW = out_size(x_shape, height, width, pad, stride)
    return x_shape[1] * height * width, OH * OW * x_shape[0]


def im2col_by_loops(x, *window):
    cols = np.zeros(columns_shape(x.shape, *window), x.dtype)
    for row, column, cell in cells(x.shape, *window):
        cols[row, column] = x[cell]
    return cols


def col2im_by_loops(cols, x_shape, *window):
    x = np.zeros(x_shape, cols.dtype)
    for row, column, cell in cells(x_shape, *window):
        x[cell] += cols[row, column]
    return x


def conv_by_loops(x, w, b, stride, pad):
    """out, and a function from dout to the gradients."""
    (N, _, H, W), (F, _, HH, WW) = x.shape, w.shape
    framed = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out = np.zeros((N, F, *out_size(x.shape, HH, WW, pad, stride)), np.result_type(x, w, b))
    windows = {
        (n, f, oh, ow): np.s_[n, :, oh * stride : oh * stride + HH, ow * stride : ow * stride + WW]
        for n, f, oh, ow in np.ndindex(out.shape)
    }
    for at, window in windows.items():
        out[at] = (framed[window] * w[at[1]]).sum() + b[at[1]]

    def gradients(dout):
        dx, dw, db = np.zeros_like(framed), np.zeros_like(w), np.zeros_like(b)
        for at, window in windows.items():
            dx[window] += dout[at] * w[at[1]]
            dw[at[1]] += dout[at] * framed[window]
            db[at[1]] += dout[at]
        return dx[:, :, pad : pad + H, pad : pad + W], dw, db

    return out, gradients


def max_pool_by_loops(x, height, width, stride):
    """out, and a function from dout to dx, which goes to the first of equal maxima."""
    out = np.zeros((*x.shape[:2], *out_size(x.shape, height, width, 0, stride)), x.dtype)
    winners = {}
    for n, c, oh, ow in np.ndindex(out.shape):
        window = x[n, c, oh * stride : oh * stride + height, ow * stride : ow * stride + width]
        hh, ww = divmod(int(np.argmax(window)), width)
        out[n, c, oh, ow] = window[hh, ww]
        winners[n, c, oh, ow] = n, c, oh * stride + hh, ow * stride + ww

    def gradient(dout):
        dx = np.zeros(x.shape, dout.dtype)
        for at, cell in winners.items():
            dx[cell] += dout[at]
        return dx

    return out, gradient


# --- columns ----------------------------------------------------------------------------------

# x, then field_height, field_width, padding, stride.
WINDOWS = [
    pytest.param((1, 1, 4, 4), (3, 3, 1, 1), id="square"),
    pytest.param((2, 3, 5, 6), (3, 2, 0, 1), id="3x2"),
    pytest.param((3, 2, 6, 5), (2, 3, 1, 1), id="2x3, pad"),
    pytest.param((2, 2, 7, 8), (3, 2, 1, 2), id="3x2, stride, loose"),
    pytest.param((2, 1, 9, 4), (1, 4, 2, 3), id="1x4, stride 3"),
    pytest.param((2, 2, 5, 7), (2, 1, 0, 4), id="stride beyond the window"),
    pytest.param((3, 2, 2, 3), (4, 5, 2, 1), id="window larger than x"),
    pytest.param((4, 3, 3, 2), (1, 1, 0, 1), id="1x1"),
    pytest.param((0, 2, 4, 4), (3, 2, 1, 1), id="no images"),
]


@both_types
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("shape", "window"), WINDOWS)
def test_columns_equal_the_loops(shape, window, order, dtype):
    rng = np.random.default_rng(0)
    x = np.array(integer_array(rng, shape), dtype, order=order)
    wanted = im2col_by_loops(x, *window)
    for im2col in cs231n.im2col_cython, cs231n.im2col_indices:
        np.testing.assert_array_equal(im2col(x, *window), wanted, strict=True)

    cols = np.array(integer_array(rng, wanted.shape), dtype, order=order)
    back = col2im_by_loops(cols, shape, *window)
    N, C = shape[:2]
    OH, OW = out_size(shape, *window)
    sixfold = cols.reshape(C, *window[:2], OH, OW, N).transpose(0, 1, 2, 5, 3, 4)
    for got in (
        cs231n.col2im_cython(cols, *shape, *window),
        cs231n.col2im_indices(cols, shape, *window),
        cs231n.col2im_6d_cython(sixfold, *shape, *window),
    ):
        np.testing.assert_array_equal(got, back, strict=True)
    assert np.vdot(wanted, cols) == np.vdot(x, back)


@pytest.mark.parametrize(("shape", "window"), WINDOWS)
def test_indices_name_the_cells_of_the_columns(shape, window):
    x = integer_array(np.random.default_rng(0), shape)
    pad = window[2]
    framed = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    k, i, j = cs231n.get_im2col_indices(shape, *window)
    rows, columns = columns_shape((1, *shape[1:]), *window)
    assert k.shape == (rows, 1)
    assert i.shape == j.shape == (rows, columns)
    gathered = framed[:, k, i, j].transpose(1, 2, 0).reshape(rows, columns * shape[0])
    np.testing.assert_array_equal(gathered, im2col_by_loops(x, *window))


def test_defaults_are_those_of_the_course():
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 5))
    cols = cs231n.im2col_indices(x, 3, 3)
    np.testing.assert_array_equal(cols, cs231n.im2col_cython(x, 3, 3, 1, 1))
    np.testing.assert_array_equal(
        cs231n.col2im_indices(cols, x.shape), cs231n.col2im_cython(cols, 2, 3, 5, 5, 3, 3, 1, 1)
    )
    for got, wanted in zip(
        cs231n.get_im2col_indices(x.shape, 3, 3),
        cs231n.get_im2col_indices(x.shape, 3, 3, 1, 1),
        strict=True,
    ):
        np.testing.assert_array_equal(got, wanted)


# --- convolution, exactly ---------------------------------------------------------------------

# x, w, stride, pad.
CONVS = [
    pytest.param((2, 3, 5, 5), (2, 3, 3, 3), 1, 1, id="3x3"),
    pytest.param((2, 2, 6, 5), (3, 2, 3, 2), 1, 0, id="3x2"),
    pytest.param((3, 2, 5, 6), (2, 2, 2, 3), 2, 1, id="2x3, stride, loose"),
    pytest.param((1, 3, 8, 7), (2, 3, 1, 4), 3, 2, id="1x4, stride 3"),
    pytest.param((2, 2, 4, 3), (3, 2, 1, 1), 1, 0, id="1x1"),
    pytest.param((0, 2, 4, 4), (3, 2, 3, 3), 1, 1, id="no images"),
]


@both_types
@every_form
@pytest.mark.parametrize(("x_shape", "w_shape", "stride", "pad"), CONVS)
def test_conv_equals_the_loops(x_shape, w_shape, stride, pad, form, dtype):
    rng = np.random.default_rng(0)
    x, w, b = (integer_array(rng, shape) for shape in (x_shape, w_shape, w_shape[:1]))
    wanted, gradients = conv_by_loops(x, w, b, stride, pad)
    dout = integer_array(rng, wanted.shape)
    forward, backward = conv_form(form)
    given = [array.astype(dtype) for array in (x, w, b)]
    out, cache = forward(*given, {"stride": stride, "pad": pad})
    np.testing.assert_array_equal(out, wanted.astype(dtype), strict=True)
    for got, target in zip(backward(dout.astype(dtype), cache), gradients(dout), strict=True):
        np.testing.assert_array_equal(got, target.astype(dtype), strict=True)


def test_caches_hold_what_the_course_puts_there():
    x, w, b = np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)), np.ones(1)
    param = {"stride": 1, "pad": 0}
    for form in "naive", "im2col", "strides":
        _, cache = conv_form(form)[0](x, w, b, param)
        assert all(held is given for held, given in zip(cache, (x, w, b, param), strict=False))
    _, (*_, x_cols) = cs231n.conv_forward_im2col(x, w, b, param)
    np.testing.assert_array_equal(x_cols, cs231n.im2col_cython(x, 2, 2, 0, 1))


@every_form
def test_types_mix_to_the_larger(form):
    forward, backward = conv_form(form)
    x, w, b = np.ones((1, 2, 4, 4), "f"), np.ones((3, 2, 3, 3), "f"), np.ones(3)
    out, cache = forward(x, w, b, {"stride": 1, "pad": 1})
    assert out.dtype == np.float64
    assert {g.dtype for g in backward(np.ones(out.shape, "f"), cache)} == {np.dtype(np.float64)}


@every_form
def test_stride_and_pad_have_defaults(form):
    forward, _ = conv_form(form)
    x, w, b = np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3)), np.zeros(1)
    np.testing.assert_array_equal(forward(x, w, b, {})[0], np.full((1, 1, 2, 2), 9))


# --- pooling, exactly -------------------------------------------------------------------------

# x, pool_height, pool_width, stride.
POOLS = [
    pytest.param((2, 3, 6, 4), (2, 2, 2), id="2x2"),
    pytest.param((1, 2, 6, 9), (3, 3, 3), id="3x3"),
    pytest.param((2, 2, 6, 7), (3, 2, 1), id="3x2, overlapping"),
    pytest.param((2, 1, 7, 8), (2, 3, 2), id="2x3, loose"),
    pytest.param((2, 2, 5, 5), (2, 2, 2), id="2x2, loose"),
    pytest.param((1, 1, 7, 7), (1, 2, 3), id="stride beyond the window"),
    pytest.param((2, 2, 4, 4), (1, 1, 1), id="1x1"),
    pytest.param((0, 2, 4, 4), (2, 2, 2), id="no images"),
]


def tiles(x_shape, height, width, stride):
    return height == width == stride and not any(size % stride for size in x_shape[2:])


@both_types
@every_pool_form
@pytest.mark.parametrize(("x_shape", "window"), POOLS)
def test_pool_equals_the_loops(x_shape, window, form, dtype):
    forward, backward = pool_form(form)
    rng = np.random.default_rng(0)
    ranks = rng.permutation(int(np.prod(x_shape))).reshape(x_shape)  # no two are equal
    x = ranks.astype(dtype)
    if form == "reshape" and not tiles(x_shape, *window):
        with pytest.raises(ValueError, match="one number that divides H and W"):
            forward(x, pool(*window))
        return
    wanted, gradient = max_pool_by_loops(x, *window)
    out, cache = forward(x, pool(*window))
    np.testing.assert_array_equal(out, wanted, strict=True)
    dout = integer_array(rng, wanted.shape).astype(dtype)
    np.testing.assert_array_equal(backward(dout, cache), gradient(dout), strict=True)


@pytest.mark.parametrize("form", ["naive", "im2col", "fast"])
@pytest.mark.parametrize(("x_shape", "window"), POOLS)
def test_first_of_equal_maxima_wins(x_shape, window, form):
    forward, backward = pool_form(form)
    rng = np.random.default_rng(0)
    x = integer_array(rng, x_shape, high=1).astype(np.float64)
    wanted, gradient = max_pool_by_loops(x, *window)
    out, cache = forward(x, pool(*window))
    np.testing.assert_array_equal(out, wanted)
    dout = integer_array(rng, wanted.shape).astype(np.float64)
    np.testing.assert_array_equal(backward(dout, cache), gradient(dout))


def test_reshape_splits_a_gradient_among_equal_maxima():
    x = np.array([[[[5.0, 5, 1, 2], [0, 5, 2, 2], [1, 1, 7, 6], [1, 1, 6, 6]]]])
    out, cache = cs231n.max_pool_forward_reshape(x, pool(2, 2, 2))
    dx = cs231n.max_pool_backward_reshape(np.full(out.shape, 12.0), cache)
    wanted = [[4, 4, 0, 4], [0, 4, 4, 4], [3, 3, 12, 0], [3, 3, 0, 0]]
    np.testing.assert_array_equal(dx, [[wanted]])


@every_pool_form
def test_nan_and_infinity_in_a_pool(form):
    forward, backward = pool_form(form)
    x = np.array([[[[1, np.nan, -np.inf, -np.inf], [2, 3, -np.inf, -np.inf]]]])
    out, cache = forward(x, pool(2, 2, 2))
    np.testing.assert_array_equal(out, [[[[np.nan, -np.inf]]]])
    dx = backward(np.array([[[[8.0, 4.0]]]]), cache)
    last = [[1, 1], [1, 1]] if form == "reshape" else [[4, 0], [0, 0]]
    np.testing.assert_array_equal(dx, [[np.hstack([[[0, 8], [0, 0]], last])]])


def test_reshape_stands_a_result_that_was_changed():
    x = -np.arange(1.0, 17.0).reshape(1, 1, 4, 4)
    out, cache = cs231n.max_pool_forward_reshape(x, pool(2, 2, 2))
    np.maximum(out, 0, out=out)
    dx = cs231n.max_pool_backward_reshape(np.ones((1, 1, 2, 2)), cache)
    assert dx.sum() == 4


# --- the notebook -----------------------------------------------------------------------------


def numerical_gradient(f, x, dout, h=1e-5):
    """Central differences of ``sum(f(x) * dout)``."""
    gradient = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        there, back = x.copy(), x.copy()
        there[at] += h
        back[at] -= h
        gradient[at] = ((f(there) - f(back)) * dout).sum() / (2 * h)
    return gradient


def relative_error(x, y):
    return np.max(np.abs(x - y) / np.maximum(1e-8, np.abs(x) + np.abs(y)))


def linspace(low, high, shape):
    return np.linspace(low, high, num=int(np.prod(shape))).reshape(shape)


@every_form
def test_notebook_forward(form):
    x, w = linspace(-0.1, 0.5, (2, 3, 4, 4)), linspace(-0.2, 0.3, (3, 3, 4, 4))
    b = np.linspace(-0.1, 0.2, num=3)
    wanted, _ = conv_by_loops(x, w, b, 2, 1)
    out, _ = conv_form(form)[0](x, w, b, {"stride": 2, "pad": 1})
    assert out.shape == (2, 3, 2, 2)
    assert relative_error(out, wanted) < 1e-12


@every_form
def test_notebook_image_filters(form):
    """Grey from red, green and blue, and the horizontal edges of the blue; the bias is of ints."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2, 3, 12, 10)).astype(np.float64)
    w = np.zeros((2, 3, 3, 3))
    w[0, :, 1, 1] = 0.3, 0.6, 0.1
    w[1, 2] = [1, 2, 1], [0, 0, 0], [-1, -2, -1]
    out, _ = conv_form(form)[0](x, w, np.array([0, 128]), {"stride": 1, "pad": 1})
    assert out.dtype == np.float64
    grey = 0.3 * x[:, 0] + 0.6 * x[:, 1] + 0.1 * x[:, 2]
    np.testing.assert_allclose(out[:, 0], grey, rtol=1e-14)
    blue = np.pad(x[:, 2], ((0, 0), (1, 1), (1, 1)))
    rows = blue[..., :-2] + 2 * blue[..., 1:-1] + blue[..., 2:]
    np.testing.assert_array_equal(out[:, 1], rows[:, :-2] - rows[:, 2:] + 128)


@every_form
def test_notebook_gradients(form):
    rng = np.random.default_rng(231)
    forward, backward = conv_form("fast")
    x, w, b = (rng.standard_normal(shape) for shape in ((4, 3, 5, 5), (2, 3, 3, 3), (2,)))
    dout, param = rng.standard_normal((4, 2, 5, 5)), {"stride": 1, "pad": 1}
    wanted = (
        numerical_gradient(lambda x: forward(x, w, b, param)[0], x, dout),
        numerical_gradient(lambda w: forward(x, w, b, param)[0], w, dout),
        numerical_gradient(lambda b: forward(x, w, b, param)[0], b, dout),
    )
    forward, backward = conv_form(form)
    _, cache = forward(x, w, b, param)
    for got, target in zip(backward(dout, cache), wanted, strict=True):
        assert relative_error(got, target) < 1e-7


@every_pool_form
def test_notebook_pool_forward(form):
    x = linspace(-0.3, 0.4, (2, 3, 4, 4))
    out, _ = pool_form(form)[0](x, pool(2, 2, 2))
    np.testing.assert_array_equal(out, x[:, :, 1::2, 1::2])  # x ascends


@every_pool_form
def test_notebook_pool_gradient(form):
    rng = np.random.default_rng(231)
    x, dout = rng.standard_normal((3, 2, 8, 8)), rng.standard_normal((3, 2, 4, 4))
    forward, backward = pool_form(form)
    wanted = numerical_gradient(
        lambda x: cs231n.max_pool_forward_fast(x, pool(2, 2, 2))[0], x, dout
    )
    assert relative_error(backward(dout, forward(x, pool(2, 2, 2))[1]), wanted) < 1e-7


@both_types
def test_notebook_all_forms_agree(dtype):
    """The notebook's layer of stride 2, smaller."""
    rng = np.random.default_rng(231)
    x, w, b = (
        rng.standard_normal(shape).astype(dtype) for shape in ((3, 3, 15, 15), (5, 3, 3, 3), (5,))
    )
    dout = rng.standard_normal((3, 5, 8, 8)).astype(dtype)
    results = []
    for form in FORMS:
        forward, backward = conv_form(form)
        out, cache = forward(x, w, b, {"stride": 2, "pad": 1})
        results.append((out, *backward(dout, cache)))
    tolerance = 1e-4 if dtype is np.float32 else 1e-12
    for others in results[1:]:
        for got, wanted in zip(others, results[0], strict=True):
            assert got.dtype == dtype
            np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("conv", "pools"), [(c, p) for c in FORMS for p in ("naive", "fast")])
def test_notebook_conv_relu_pool(conv, pools):
    rng = np.random.default_rng(231)
    x, w, b = (rng.standard_normal(shape) for shape in ((2, 3, 8, 8), (3, 3, 3, 3), (3,)))
    dout, param = rng.standard_normal((2, 3, 4, 4)), {"stride": 1, "pad": 1}

    def sandwich(x, w, b, conv="fast", pools="fast"):
        (conv_f, conv_b), (pool_f, pool_b) = conv_form(conv), pool_form(pools)
        a, conv_cache = conv_f(x, w, b, param)
        out, pool_cache = pool_f(np.maximum(a, 0), pool(2, 2, 2))
        return out, lambda dout: conv_b(pool_b(dout, pool_cache) * (a > 0), conv_cache)

    out, backward = sandwich(x, w, b, conv, pools)
    np.testing.assert_allclose(out, sandwich(x, w, b)[0], rtol=1e-12, atol=1e-12)
    dx, dw, db = backward(dout)
    np.testing.assert_allclose(dx, sandwich(x, w, b)[1](dout)[0], rtol=1e-12, atol=1e-12)
    for got, f, at in (
        (dw, lambda w: sandwich(x, w, b)[0], w),
        (db, lambda b: sandwich(x, w, b)[0], b),
    ):
        np.testing.assert_allclose(got, numerical_gradient(f, at, dout), rtol=1e-6, atol=1e-6)


# --- faults -----------------------------------------------------------------------------------

X, W, B = np.ones((2, 3, 5, 4), "f"), np.ones((4, 3, 3, 2), "f"), np.ones(4, "f")
PARAM = {"stride": 1, "pad": 1}
COLS = np.ones((18, 50), "f")
WINDOW = {"field_height": 3, "field_width": 2, "padding": 1, "stride": 1}
SHAPE = {"N": 2, "C": 3, "H": 5, "W": 4}


@every_form
@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_conv_of_odd_arrays(make, form):
    forward, backward = conv_form(form)
    rng = np.random.default_rng(0)
    arrays = [make(rng.standard_normal(a.shape).astype("f")) for a in (X, W, B)]
    out, cache = forward(*arrays, PARAM)
    wanted, plain_cache = forward(*map(plain, arrays), PARAM)
    assert_same_bits(out, wanted)
    dout = make(rng.standard_normal(out.shape).astype("f"))
    for got, target in zip(backward(dout, cache), backward(plain(dout), plain_cache), strict=True):
        assert_same_bits(got, target)
        assert got.dtype.isnative
        assert type(got) is np.ndarray


@every_pool_form
@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_pool_of_odd_arrays(make, form):
    forward, backward = pool_form(form)
    rng = np.random.default_rng(0)
    x = make(rng.standard_normal((2, 3, 4, 6)).astype("f"))
    out, cache = forward(x, pool(2, 2, 2))
    wanted, plain_cache = forward(plain(x), pool(2, 2, 2))
    assert_same_bits(out, wanted)
    dout = make(rng.standard_normal(out.shape).astype("f"))
    got = backward(dout, cache)
    assert_same_bits(got, backward(plain(dout), plain_cache))
    for result in out, got:
        assert result.dtype.isnative
        assert type(result) is np.ndarray


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_columns_of_odd_arrays(make):
    rng = np.random.default_rng(0)
    x, cols, sixfold = (
        make(rng.standard_normal(shape).astype("f"))
        for shape in (X.shape, COLS.shape, (3, 3, 2, 2, 5, 5))
    )
    sizes = {"HH": 3, "WW": 2, "pad": 1, "stride": 1}
    for function, array, params in (
        (cs231n.im2col_cython, x, WINDOW),
        (cs231n.col2im_cython, cols, {**SHAPE, **WINDOW}),
        (cs231n.col2im_6d_cython, sixfold, {**SHAPE, **sizes}),
    ):
        assert_same_bits(function(array, **params), function(plain(array), **params))


@every_form
def test_no_images_give_gradients_of_zero(form):
    forward, backward = conv_form(form)
    out, cache = forward(X[:0], W, B, PARAM)
    assert out.shape == (0, 4, 5, 5)
    dx, dw, db = backward(out, cache)
    assert dx.shape == (0, 3, 5, 4)
    assert not dw.any()
    assert not db.any()


@every_form
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": X[0]}, ValueError, r"x: expected 4 axes \(N, C, H, W\), got 3, shape \(3, 5, 4\)"),
        ({"w": W[..., None]}, ValueError, r"w: expected 4 axes \(F, C, HH, WW\), got 5"),
        ({"x": X.astype(int)}, TypeError, "x: expected float32 or float64, got int64"),
        ({"w": W.astype(np.float16)}, TypeError, "w: expected float32 or float64, got float16"),
        ({"b": B.astype(bool)}, TypeError, "b: expected float32 or float64, got bool"),
        ({"b": None}, TypeError, "b: expected float32 or float64"),
        ({"b": np.ma.array(B)}, TypeError, "b: masked arrays are not supported"),
        ({"b": np.ma.array([1, 2, 3, 4])}, TypeError, "b: masked arrays are not supported"),
        ({"b": B[:3]}, ValueError, r"b: expected shape \(4,\) \(one value a filter\), got \(3,\)"),
        ({"w": W[:, :2]}, ValueError, "w: axis 1 must be C/group = 3"),
        ({"w": np.ones((4, 3, 8, 2), "f")}, ValueError, "kernel is larger than the padded input"),
        ({"conv_param": [1, 1]}, TypeError, "conv_param: expected a dict"),
        ({"conv_param": {"strides": 1}}, TypeError, "unknown name 'strides'; the names are stride"),
        ({"conv_param": {"stride": 0}}, ValueError, "stride must be >= 1, got 0"),
        ({"conv_param": {"stride": (1, 1)}}, TypeError, "stride: expected an int"),
        ({"conv_param": {"pad": -1}}, ValueError, "pad must be >= 0, got -1"),
        ({"conv_param": {"pad": 1.0}}, TypeError, "pad: expected an int, got 1.0"),
    ],
)
def test_conv_refuses(form, change, error, message):
    given = {"x": X, "w": W, "b": B, "conv_param": PARAM} | change
    refuses(error, message, lambda: conv_form(form)[0](**given), X, W, B)


@every_form
def test_conv_backward_refuses(form):
    forward, backward = conv_form(form)
    out, cache = forward(X, W, B, PARAM)
    for dout, error, message in (
        (out[:, :3], ValueError, r"dout: expected shape \(2, 4, 5, 5\)"),
        (out.astype(int), TypeError, "dout: expected float32 or float64, got int64"),
    ):
        refuses(error, message, lambda dout=dout: backward(dout, cache), X, W, B)
    refuses(TypeError, "cache: expected", lambda: backward(out, None))
    if form != "fast":
        refuses(ValueError, f"the . items that conv_forward_{form}", lambda: backward(out, (X, W)))


@every_pool_form
@pytest.mark.parametrize(
    ("x", "pool_param", "error", "message"),
    [
        (X[0], pool(1, 1, 1), ValueError, r"x: expected 4 axes \(N, C, H, W\), got 3"),
        (X.astype(int), pool(1, 1, 1), TypeError, "x: expected float32 or float64, got int64"),
        (X, 2, TypeError, "pool_param: expected a dict, got 2"),
        (X, {"stride": 2}, TypeError, "pool_param: 'pool_height' is missing"),
        (X, {"pool_height": 2, "pool_width": 2}, TypeError, "stride: expected an int, got None"),
        (X, pool(1, 1, 1) | {"pad": 1}, TypeError, "unknown name 'pad'; the names are pool_height"),
        (X, pool(0, 1, 1), ValueError, "pool_height must be >= 1, got 0"),
        (X, pool(1, 2.0, 1), TypeError, "pool_width: expected an int, got 2.0"),
        (X, pool(1, 1, -1), ValueError, "stride must be >= 1, got -1"),
        (X, pool(6, 1, 1), ValueError, "kernel is larger than the padded input"),
    ],
)
def test_pool_refuses(form, x, pool_param, error, message):
    refuses(error, message, lambda: pool_form(form)[0](x, pool_param), X)


@every_pool_form
def test_pool_backward_refuses(form):
    forward, backward = pool_form(form)
    x = np.ones((2, 3, 4, 6))
    out, cache = forward(x, pool(2, 2, 2))
    refuses(ValueError, r"dout: expected shape \(2, 3, 2, 3\)", lambda: backward(out[:1], cache), x)
    refuses(TypeError, "dout: expected float32", lambda: backward(out.astype(int), cache), x)
    refuses(TypeError, "cache: expected", lambda: backward(out, None))


def test_a_cache_that_was_tampered_with():
    out, (*forward, x_cols) = cs231n.conv_forward_im2col(X, W, B, PARAM)
    cache = (*forward, x_cols[:, 1:])
    refuses(
        ValueError,
        r"x_cols: expected shape \(18, 50\)",
        lambda: cs231n.conv_backward_im2col(out, cache),
    )
    x = np.ones((2, 3, 4, 6))
    out, (_, x_cols, argmax, param) = cs231n.max_pool_forward_im2col(x, pool(2, 2, 2))
    for changed, error, message in (
        (argmax + 4, ValueError, "expected rows of x_cols, 0 to 3, got 4 to 4"),
        (argmax - 1, ValueError, "expected rows of x_cols, 0 to 3, got -1 to -1"),
        (argmax[1:], ValueError, r"x_cols_argmax: expected shape \(36,\)"),
        (argmax + 0.5, TypeError, "x_cols_argmax: expected integers, got float64"),
    ):
        cache = (x, x_cols, changed, param)
        refuses(error, message, lambda c=cache: cs231n.max_pool_backward_im2col(out, c), x)
    out, (_, x_reshaped, maxima) = cs231n.max_pool_forward_reshape(x, pool(2, 2, 2))
    for cache, message in (
        ((x[:1], x_reshaped, maxima), r"x: expected shape \(2, 3, 4, 6\)"),
        ((x, x, maxima), "x_reshaped: expected 6 axes"),
    ):
        refuses(ValueError, message, lambda c=cache: cs231n.max_pool_backward_reshape(out, c), x)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"field_height": 0}, ValueError, "field_height must be >= 1, got 0"),
        ({"field_width": 2.0}, TypeError, "field_width: expected an int, got 2.0"),
        ({"padding": -1}, ValueError, "padding must be >= 0, got -1"),
        ({"padding": (1, 1)}, TypeError, r"padding: expected an int, got \(1, 1\)"),
        ({"stride": 0}, ValueError, "stride must be >= 1, got 0"),
        ({"stride": True}, TypeError, "stride: expected an int, got True"),
        ({"field_height": 8}, ValueError, "kernel is larger than the padded input"),
        ({"padding": 2**61}, ValueError, "padding is too large"),
    ],
)
def test_columns_refuse_a_window(change, error, message):
    window = WINDOW | change
    for call in (
        lambda: cs231n.im2col_cython(X, **window),
        lambda: cs231n.im2col_indices(X, **window),
        lambda: cs231n.col2im_cython(COLS, **SHAPE, **window),
        lambda: cs231n.col2im_indices(COLS, X.shape, **window),
        lambda: cs231n.get_im2col_indices(X.shape, **window),
    ):
        refuses(error, message, call, X, COLS)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: cs231n.im2col_cython(X[0], 3, 2, 1, 1), ValueError, "x: expected 4 axes"),
        (lambda: cs231n.im2col_cython(X.astype(int), 3, 2, 1, 1), TypeError, "x: expected float32"),
        (
            lambda: cs231n.col2im_cython(COLS[1:], 2, 3, 5, 4, 3, 2, 1, 1),
            ValueError,
            r"cols: expected shape \(18, 50\) \(C\*HH\*WW rows, OH\*OW\*N columns.*got \(17, 50\)",
        ),
        (
            lambda: cs231n.col2im_cython(COLS, -2, 3, 5, 4, 3, 2, 1, 1),
            ValueError,
            "N must be >= 0, got -2",
        ),
        (
            lambda: cs231n.col2im_cython(COLS, 2, 3, None, 4, 3, 2, 1, 1),
            TypeError,
            "H: expected an int, got None",
        ),
        (
            lambda: cs231n.col2im_indices(COLS, (2, 3, 5), 3, 2),
            ValueError,
            "x_shape: expected 4 axes",
        ),
        (
            lambda: cs231n.col2im_6d_cython(COLS, 2, 3, 5, 4, 3, 2, 1, 1),
            ValueError,
            r"cols: expected shape \(3, 3, 2, 2, 5, 5\)",
        ),
        (
            lambda: cs231n.col2im_6d_cython(COLS, 2, 3, 5, 4, 0, 2, 1, 1),
            ValueError,
            "HH must be >= 1, got 0",
        ),
        (
            lambda: cs231n.get_im2col_indices((1, 3, 2**40, 2**40), 3, 3),
            ValueError,
            "too large",
        ),
    ],
)
def test_columns_refuse(call, error, message):
    refuses(error, message, call, X, COLS)
