"""Properties of the public calls on any small convolution, on integers and so exact."""

import numpy as np
import pytest
from cases import GENERAL, conv_cases, integer_array, parameters
from hypothesis import given, settings
from numpy.testing import assert_array_equal

import fastconv
from fastconv import reference

properties = settings(max_examples=60, deadline=None, derandomize=True)


def floats(case, seed=0):
    """x, w and b of a case: integers in float64."""
    rng = np.random.default_rng(seed)
    shapes = case["x_shape"], case["w_shape"], case["w_shape"][:1]
    return tuple(integer_array(rng, shape).astype(np.float64) for shape in shapes)


@pytest.mark.parametrize("engine", GENERAL)
@properties
@given(case=conv_cases())
def test_both_passes_equal_the_loops(engine, case):
    x, w, b = floats(case)
    params = parameters(case)
    out, cache = fastconv.conv_forward(x, w, b, **params, engine=engine)
    assert_array_equal(out, reference.conv_forward_loops(x, w, b, **params))
    dout = integer_array(np.random.default_rng(1), out.shape).astype(np.float64)
    gradients = fastconv.conv_backward(dout, cache)
    for got, wanted in zip(
        gradients, reference.conv_backward_loops(dout, x, w, **params), strict=True
    ):
        assert_array_equal(got, wanted)


@properties
@given(conv_cases())
def test_linear_in_x_and_in_w(case):
    (x, w, _), (y, v, _) = floats(case), floats(case, seed=1)
    params = parameters(case)

    def conv(x, w):
        return fastconv.conv(x, w, **params)

    assert_array_equal(conv(x + 3 * y, w), conv(x, w) + 3 * conv(y, w))
    assert_array_equal(conv(x, w + 3 * v), conv(x, w) + 3 * conv(x, v))


@properties
@given(conv_cases())
def test_samples_and_groups_do_not_mix(case):
    x, w, b = floats(case)
    params = parameters(case)
    out = fastconv.conv(x, w, b, **params)
    for n in range(len(x)):
        assert_array_equal(fastconv.conv(x[n : n + 1], w, b, **params), out[n : n + 1])
    groups = params.pop("group")
    split = zip(np.split(x, groups, axis=1), np.split(w, groups), np.split(b, groups), strict=True)
    by_group = [fastconv.conv(*arrays, **params) for arrays in split]
    assert_array_equal(np.concatenate(by_group, axis=1), out)


@properties
@given(conv_cases())
def test_padding_is_a_frame_of_zeros_and_a_shift_of_the_input_one_of_the_output(case):
    x, w, b = floats(case)
    params = parameters(case)
    out = fastconv.conv(x, w, b, **params)
    framed = np.pad(x, [(0, 0), (0, 0), *params.pop("pad")])
    assert_array_equal(fastconv.conv(framed, w, b, **params), out)
    if out.shape[2] > 1:
        shifted = framed[:, :, params["stride"][0] :]
        assert_array_equal(fastconv.conv(shifted, w, b, **params), out[:, :, 1:])


@properties
@given(conv_cases())
def test_dilated_kernel_is_a_zero_stuffed_one(case):
    x, w, _ = floats(case)
    params = parameters(case)
    dilation = params.pop("dilation")
    extent = [d * (k - 1) + 1 for k, d in zip(w.shape[2:], dilation, strict=True)]
    stuffed = np.zeros((*w.shape[:2], *extent))
    stuffed[(..., *(slice(None, None, d) for d in dilation))] = w
    assert_array_equal(
        fastconv.conv(x, stuffed, **params), fastconv.conv(x, w, dilation=dilation, **params)
    )


@properties
@given(conv_cases())
def test_deconv_undoes_the_shape_of_conv(case):
    """Where conv brings S to O, deconv brings O back to S, given the cells that were left over."""
    x, w, _ = floats(case)
    params = parameters(case)
    out = fastconv.conv(x, w, **params)
    sizes = zip(
        x.shape[2:], w.shape[2:], params["dilation"], params["pad"], params["stride"], strict=True
    )
    left = tuple((i + sum(p) - d * (k - 1) - 1) % s for i, k, d, p, s in sizes)
    assert fastconv.deconv(out, w, output_pad=left, **params).shape == x.shape
