"""The plain-NumPy forms: equal to each other exactly, and to what others know of convolution."""

import numpy as np
import pytest
import scipy.signal
from cases import (
    CONV_CASES,
    DECONV_CASES,
    conv_cases,
    integer_array,
    parameters,
    to_khwc,
    to_nhwc,
)
from hypothesis import given, settings
from numpy.testing import assert_array_equal

import fastconv
from fastconv import reference

FORWARD = [
    reference.conv_forward_loops,
    reference.conv_forward_shifted,
    reference.conv_forward_strided,
]
BACKWARD = [
    reference.conv_backward_loops,
    reference.conv_backward_shifted,
    reference.conv_backward_strided,
]
DECONV_FORWARD = [reference.deconv_forward_loops, reference.deconv_forward_shifted]
DECONV_BACKWARD = [reference.deconv_backward_loops, reference.deconv_backward_shifted]

properties = settings(derandomize=True, max_examples=50, deadline=None)


def read_only(rng, *shapes):
    """Integers that no form may write to."""
    arrays = [integer_array(rng, shape) for shape in shapes]
    for array in arrays:
        array.flags.writeable = False
    return arrays


def conv_arrays(case, seed=0):
    """x, w, b and dout of a case."""
    rng = np.random.default_rng(seed)
    x, w, b = read_only(rng, case["x_shape"], case["w_shape"], case["w_shape"][:1])
    out = reference.conv_forward_shifted(x, w, **parameters(case))
    return x, w, b, *read_only(rng, out.shape)


def deconv_arrays(case, seed=0):
    """x, w, b and dout of a transposed case."""
    rng = np.random.default_rng(seed)
    filters = case["w_shape"][1] * case["group"]
    x, w, b = read_only(rng, case["x_shape"], case["w_shape"], (filters,))
    out = reference.deconv_forward_shifted(x, w, **parameters(case))
    return x, w, b, *read_only(rng, out.shape)


def assert_same(got, expected):
    """Equal values, type and shape, array by array."""
    for one, other in zip(got, expected, strict=True):
        assert_array_equal(one, other, strict=True)


# --- worked examples --------------------------------------------------------------------------


@pytest.mark.parametrize("forward", FORWARD)
def test_arange_36_under_arange_9(forward):
    out = forward(np.arange(36).reshape(1, 1, 6, 6), np.arange(9).reshape(1, 1, 3, 3))
    expected = [
        [366, 402, 438, 474],
        [582, 618, 654, 690],
        [798, 834, 870, 906],
        [1014, 1050, 1086, 1122],
    ]
    assert_array_equal(out[0, 0], expected)


def test_first_layer_of_alexnet():
    rng = np.random.default_rng(0)
    x = integer_array(rng, (1, 3, 227, 227)).astype(np.float32)
    w = integer_array(rng, (96, 3, 11, 11)).astype(np.float32)
    cols = fastconv.im2col(x, 11, stride=4)
    assert cols.shape == (1, 363, 3025)
    out = reference.conv_forward_strided(x, w, stride=4)
    assert out.shape == (1, 96, 55, 55)
    assert_array_equal(out.reshape(96, 3025), w.reshape(96, 363) @ cols[0])


def test_separable_layer_has_fewer_weights():
    x, depthwise, pointwise, plain = (
        integer_array(np.random.default_rng(0), shape)
        for shape in [(2, 16, 6, 6), (16, 1, 3, 3), (32, 16, 1, 1), (32, 16, 3, 3)]
    )
    assert (depthwise.size + pointwise.size, plain.size) == (656, 4608)
    between = reference.conv_forward_shifted(x, depthwise, group=16)
    composed = (pointwise * depthwise[:, 0]).reshape(plain.shape)
    assert_array_equal(
        reference.conv_forward_shifted(between, pointwise),
        reference.conv_forward_shifted(x, composed),
    )


# --- the forms against each other, exactly ----------------------------------------------------


@pytest.mark.parametrize("forward", FORWARD)
@pytest.mark.parametrize("case", CONV_CASES)
def test_conv_forward(case, forward):
    x, w, b, _ = conv_arrays(case)
    params = parameters(case)
    expected = reference.conv_forward_loops(x, w, b, **params)
    assert_same([forward(x, w, b, **params)], [expected])
    no_bias = expected - b.reshape(-1, *[1] * (x.ndim - 2))
    assert_same([forward(x, w, **params)], [no_bias])
    nhwc = forward(to_nhwc(x), to_khwc(w), b, **params, layout="NHWC")
    assert_same([nhwc], [to_nhwc(expected)])


@pytest.mark.parametrize("backward", BACKWARD)
@pytest.mark.parametrize("case", CONV_CASES)
def test_conv_backward(case, backward):
    x, w, _, dout = conv_arrays(case)
    params = parameters(case)
    dx, dw, db = expected = reference.conv_backward_loops(dout, x, w, **params)
    assert_same(backward(dout, x, w, **params), expected)
    nhwc = backward(to_nhwc(dout), to_nhwc(x), to_khwc(w), **params, layout="NHWC")
    assert_same(nhwc, (to_nhwc(dx), to_khwc(dw), db))


@pytest.mark.parametrize("case", CONV_CASES)
def test_gradients_as_convolutions(case):
    x, w, _, dout = conv_arrays(case)
    params = parameters(case)
    dx, dw, _ = reference.conv_backward_loops(dout, x, w, **params)
    assert_same([reference.conv_dx_rotated(dout, w, x.shape, **params)], [dx])
    assert_same([reference.conv_dw_conv(x, dout, w.shape[2:], **params)], [dw])


@pytest.mark.parametrize("forward", DECONV_FORWARD)
@pytest.mark.parametrize("case", DECONV_CASES)
def test_deconv_forward(case, forward):
    x, w, b, _ = deconv_arrays(case)
    params = parameters(case)
    expected = reference.deconv_forward_loops(x, w, b, **params)
    assert_same([forward(x, w, b, **params)], [expected])
    no_bias = expected - b.reshape(-1, *[1] * (x.ndim - 2))
    assert_same([forward(x, w, **params)], [no_bias])
    nhwc = forward(to_nhwc(x), to_khwc(w), b, **params, layout="NHWC")
    assert_same([nhwc], [to_nhwc(expected)])


@pytest.mark.parametrize("backward", DECONV_BACKWARD)
@pytest.mark.parametrize("case", DECONV_CASES)
def test_deconv_backward(case, backward):
    x, w, _, dout = deconv_arrays(case)
    params = parameters(case)
    dx, dw, db = expected = reference.deconv_backward_loops(dout, x, w, **params)
    assert_same(backward(dout, x, w, **params), expected)
    nhwc = backward(to_nhwc(dout), to_nhwc(x), to_khwc(w), **params, layout="NHWC")
    assert_same(nhwc, (to_nhwc(dx), to_khwc(dw), db))


@pytest.mark.parametrize("case", CONV_CASES)
def test_columns(case):
    """A convolution is a product with the columns, and col2im is im2col's adjoint."""
    x, w, _, _ = conv_arrays(case)
    params = parameters(case)
    group = params.pop("group")
    cols = reference.im2col_loops(x, w.shape[2:], **params)
    assert cols.dtype == np.int64
    out = reference.conv_forward_shifted(x, w, group=group, **params)
    weights = w.reshape(group, len(w) // group, -1)
    products = weights @ cols.reshape(len(x), group, weights.shape[2], cols.shape[2])
    assert_array_equal(products.reshape(out.shape), out)

    other = integer_array(np.random.default_rng(1), cols.shape)
    summed = reference.col2im_loops(other, x.shape, w.shape[2:], **params)
    assert summed.dtype == np.int64
    assert np.vdot(cols, other) == np.vdot(x, summed)


# --- identities -------------------------------------------------------------------------------


@pytest.mark.parametrize("backward", BACKWARD)
@pytest.mark.parametrize("case", CONV_CASES)
def test_conv_adjoint(case, backward):
    x, w, _, y = conv_arrays(case)
    params = parameters(case)
    dx, dw, db = backward(y, x, w, **params)
    expected = np.vdot(reference.conv_forward_loops(x, w, **params), y)
    assert np.vdot(x, dx) == expected
    assert np.vdot(w, dw) == expected
    assert db.sum() == y.sum()


@pytest.mark.parametrize("backward", DECONV_BACKWARD)
@pytest.mark.parametrize("case", DECONV_CASES)
def test_deconv_adjoint(case, backward):
    x, w, _, y = deconv_arrays(case)
    params = parameters(case)
    dx, dw, db = backward(y, x, w, **params)
    expected = np.vdot(reference.deconv_forward_loops(x, w, **params), y)
    assert np.vdot(x, dx) == expected
    assert np.vdot(w, dw) == expected
    assert db.sum() == y.sum()


@pytest.mark.parametrize("forward", DECONV_FORWARD)
def test_deconv_is_the_input_gradient_of_conv(forward):
    """An output_pad of the remainder brings back the size that the convolution came from."""
    rng = np.random.default_rng(0)
    params = {"stride": (2, 3), "pad": [(1, 0), (2, 1)], "dilation": (1, 2), "group": 2}
    x, w = read_only(rng, (2, 4, 9, 11), (6, 2, 3, 2))
    (dout,) = read_only(rng, reference.conv_forward_loops(x, w, **params).shape)
    dx, _, _ = reference.conv_backward_loops(dout, x, w, **params)
    assert_same([forward(dout, w, output_pad=(1, 2), **params)], [dx])


def test_deconv_same_undoes_the_size_of_conv_same():
    x, w = read_only(np.random.default_rng(0), (1, 2, 9, 8), (3, 2, 4, 5))
    small = reference.conv_forward_loops(x, w, stride=(3, 2), pad="same")
    assert small.shape == (1, 3, 3, 4)
    back = reference.deconv_forward_loops(small, w, stride=(3, 2), pad="same")
    dx, _, _ = reference.conv_backward_loops(small, x, w, stride=(3, 2), pad="same")
    assert_same([back], [dx])


# --- a second opinion -------------------------------------------------------------------------

SINGLE_CHANNEL = [
    pytest.param((9,), (3,), (2,), [(2, 1)], (2,), id="1d"),
    pytest.param((7, 8), (3, 2), (2, 3), [(1, 2), (0, 1)], (2, 1), id="2d"),
    pytest.param((4, 5, 6), (2, 3, 2), (1, 2, 2), [(1, 1), (0, 2), (2, 0)], (3, 1, 2), id="3d"),
    pytest.param((3, 4, 3, 5), (2, 2, 1, 3), (2, 1, 1, 2), [(1, 0)] * 4, (1, 2, 1, 1), id="4d"),
]


def zero_stuffed(w, dilation):
    """The kernel (F, C, *K) as a plain one of the dilated extent."""
    extent = [d * (k - 1) + 1 for d, k in zip(dilation, w.shape[2:], strict=True)]
    stuffed = np.zeros((*w.shape[:2], *extent), w.dtype)
    stuffed[:, :, *(slice(None, None, d) for d in dilation)] = w
    return stuffed


@pytest.mark.parametrize("forward", FORWARD)
@pytest.mark.parametrize(("size", "kernel", "stride", "pad", "dilation"), SINGLE_CHANNEL)
def test_scipy_correlate(size, kernel, stride, pad, dilation, forward):
    x, w = read_only(np.random.default_rng(0), (1, 1, *size), (1, 1, *kernel))
    every = scipy.signal.correlate(
        np.pad(x[0, 0], pad), zero_stuffed(w, dilation)[0, 0], mode="valid", method="direct"
    )
    out = forward(x, w, stride=stride, pad=pad, dilation=dilation)
    assert_array_equal(out[0, 0], every[*(slice(None, None, s) for s in stride)])


@pytest.mark.parametrize("forward", DECONV_FORWARD)
@pytest.mark.parametrize(("size", "kernel", "stride", "pad", "dilation"), SINGLE_CHANNEL)
def test_scipy_convolve(size, kernel, stride, pad, dilation, forward):
    """A transposed convolution is a full convolution, kernel flipped, of the zero-stuffed image."""
    x, w = read_only(np.random.default_rng(0), (1, 1, *size), (1, 1, *kernel))
    full = scipy.signal.convolve(
        zero_stuffed(x, stride)[0, 0], zero_stuffed(w, dilation)[0, 0], method="direct"
    )
    inside = tuple(
        slice(before, n - after) for n, (before, after) in zip(full.shape, pad, strict=True)
    )
    out = forward(x, w, stride=stride, pad=pad, dilation=dilation)
    assert_array_equal(out[0, 0], full[inside])


# --- properties -------------------------------------------------------------------------------


@properties
@given(conv_cases())
def test_all_forms_agree(case):
    x, w, b, dout = conv_arrays(case)
    params = parameters(case)
    out = reference.conv_forward_loops(x, w, b, **params)
    gradients = reference.conv_backward_loops(dout, x, w, **params)
    for forward, backward in zip(FORWARD[1:], BACKWARD[1:], strict=True):
        assert_same([forward(x, w, b, **params)], [out])
        assert_same(backward(dout, x, w, **params), gradients)
    as_convolutions = (
        reference.conv_dx_rotated(dout, w, x.shape, **params),
        reference.conv_dw_conv(x, dout, w.shape[2:], **params),
    )
    assert_same(as_convolutions, gradients[:2])


@properties
@given(conv_cases())
def test_linear_in_x_and_in_w(case):
    x, w, _, _ = conv_arrays(case)
    y, v, _, _ = conv_arrays(case, seed=1)
    params = parameters(case)

    def conv(x, w):
        return reference.conv_forward_loops(x, w, **params)

    assert_array_equal(conv(x + 3 * y, w), conv(x, w) + 3 * conv(y, w))
    assert_array_equal(conv(x, w + 3 * v), conv(x, w) + 3 * conv(x, v))


@properties
@given(conv_cases())
def test_samples_and_groups_do_not_mix(case):
    x, w, b, _ = conv_arrays(case)
    params = parameters(case)
    out = reference.conv_forward_loops(x, w, b, **params)
    for n in range(len(x)):
        alone = reference.conv_forward_loops(x[n : n + 1], w, b, **params)
        assert_array_equal(alone, out[n : n + 1])
    groups = params.pop("group")
    by_group = [
        reference.conv_forward_loops(*parts, **params)
        for parts in zip(
            np.split(x, groups, axis=1), np.split(w, groups), np.split(b, groups), strict=True
        )
    ]
    assert_array_equal(np.concatenate(by_group, axis=1), out)


@properties
@given(conv_cases())
def test_dilated_kernel_is_a_zero_stuffed_one(case):
    x, w, b, _ = conv_arrays(case)
    params = parameters(case)
    out = reference.conv_forward_loops(x, w, b, **params)
    stuffed = zero_stuffed(w, params.pop("dilation"))
    assert_array_equal(reference.conv_forward_loops(x, stuffed, b, **params), out)


@properties
@given(conv_cases())
def test_padding_is_a_frame_of_zeros(case):
    x, w, b, _ = conv_arrays(case)
    params = parameters(case)
    out = reference.conv_forward_loops(x, w, b, **params)
    framed = np.pad(x, [(0, 0), (0, 0), *params.pop("pad")])
    assert_array_equal(reference.conv_forward_loops(framed, w, b, **params), out)
    shifted = framed[:, :, params["stride"][0] :]  # one window less
    if out.shape[2] > 1:
        assert_array_equal(reference.conv_forward_loops(shifted, w, b, **params), out[:, :, 1:])


@properties
@given(conv_cases())
def test_there_and_back_multiplies_by_the_coverage(case):
    x, w, _, _ = conv_arrays(case)
    params = parameters(case)
    del params["group"]

    def there_and_back(x):
        cols = reference.im2col_loops(x, w.shape[2:], **params)
        return reference.col2im_loops(cols, x.shape, w.shape[2:], **params)

    assert_array_equal(there_and_back(x), x * there_and_back(np.ones_like(x)))


# --- floats -----------------------------------------------------------------------------------


def central_differences(f, array, eps=1e-6):
    """The gradient of the number f() by the elements of an array, which is changed and restored."""
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + eps
        above = f()
        array[index] = value - eps
        gradient[index] = (above - f()) / (2 * eps)
        array[index] = value
    return gradient


@pytest.mark.parametrize(("forward", "backward"), list(zip(FORWARD, BACKWARD, strict=True)))
def test_conv_gradients_by_differences(forward, backward):
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape) for shape in [(2, 4, 5, 6), (4, 2, 3, 2), (4,)])
    params = {"stride": (2, 1), "pad": [(1, 0), (1, 2)], "dilation": (1, 2), "group": 2}
    dout = rng.standard_normal(forward(x, w, b, **params).shape)

    def loss():
        return np.vdot(forward(x, w, b, **params), dout)

    for array, gradient in zip((x, w, b), backward(dout, x, w, **params), strict=True):
        expected = central_differences(loss, array)
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("forward", "backward"), list(zip(DECONV_FORWARD, DECONV_BACKWARD, strict=True))
)
def test_deconv_gradients_by_differences(forward, backward):
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape) for shape in [(2, 4, 3, 2), (4, 1, 3, 2), (2,)])
    params = {"stride": (2, 1), "pad": 1, "dilation": (1, 3), "group": 2, "output_pad": (1, 2)}
    dout = rng.standard_normal(forward(x, w, b, **params).shape)

    def loss():
        return np.vdot(forward(x, w, b, **params), dout)

    for array, gradient in zip((x, w, b), backward(dout, x, w, **params), strict=True):
        expected = central_differences(loss, array)
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ("f4 f4 f4", "f4"),
        ("f8 f8 f8", "f8"),
        ("f4 f8 f4", "f8"),
        ("f4 f4 f8", "f8"),
        (">f4 >f4 >f4", "f4"),
        ("i4 i4 i4", "i4"),
        ("i8 i4 i4", "i8"),
    ],
)
@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        *zip(FORWARD, BACKWARD, strict=True),
        *zip(DECONV_FORWARD, DECONV_BACKWARD, strict=True),
    ],
)
def test_types(forward, backward, types, expected):
    """The result has the largest type, in native byte order, and integers are exact in all."""
    x, w, b = read_only(np.random.default_rng(0), (2, 3, 6), (3, 3, 2), (3,))
    of_type = [a.astype(t) for a, t in zip((x, w, b), types.split(), strict=True)]
    out = forward(x, w, b, stride=2)
    assert_same([forward(*of_type, stride=2)], [out.astype(expected)])
    gradients = backward(out, x, w, stride=2)
    got = backward(out.astype(types.split()[2]), *of_type[:2], stride=2)
    assert_same(got, [gradient.astype(expected) for gradient in gradients])


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("forward", FORWARD + DECONV_FORWARD)
def test_forward_refuses(forward):
    x, w = np.ones((2, 4, 5)), np.ones((4, 4, 3))
    with pytest.raises(ValueError, match=r"b: expected shape \(4,\).*got \(3,\)"):
        forward(x, w, np.ones(3))
    with pytest.raises(ValueError, match="layout: expected 'NCHW' or 'NHWC', got 'CHW'"):
        forward(x, w, layout="CHW")
    with pytest.raises(ValueError, match="stride must be >= 1, got 0"):
        forward(x, w, stride=0)
    with pytest.raises(ValueError, match="group"):
        forward(x, w, group=3)


@pytest.mark.parametrize("backward", BACKWARD + DECONV_BACKWARD)
def test_backward_refuses_another_dout(backward):
    x, w = np.ones((2, 4, 5)), np.ones((4, 4, 3))
    with pytest.raises(ValueError, match=r"dout: expected shape .* got \(2, 4, 5\)"):
        backward(x, x, w)


def test_gradients_as_convolutions_refuse():
    x, w, dout = np.ones((2, 4, 5)), np.ones((6, 4, 3)), np.ones((2, 6, 4))
    with pytest.raises(ValueError, match=r"dout: expected shape \(2, 6, 3\).* got \(2, 6, 4\)"):
        reference.conv_dx_rotated(dout, w, x.shape)
    with pytest.raises(ValueError, match=r"dout: expected shape \(2, 6, 3\).* got \(2, 6, 4\)"):
        reference.conv_dw_conv(x, dout, 3)
    with pytest.raises(ValueError, match="group"):
        reference.conv_dw_conv(x, dout, 3, group=3)


def test_col2im_refuses_other_columns():
    with pytest.raises(ValueError, match=r"cols: expected shape \(1, 4, 3\).* got \(1, 4, 4\)"):
        reference.col2im_loops(np.ones((1, 4, 4)), (1, 2, 4), 2)
