"""What FAULTS.md promises about parameters and shapes: exact errors, before anything is done.

`CALLS` holds one valid call of every public function, with arrays of its own; a test changes one
parameter of it. Each refused call must leave the arrays alone and allocate none.
"""

import re
from decimal import Decimal
from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
from arrays import assert_same_bits, refuses
from cases import GENERAL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastconv
from fastconv import caffe
from fastconv.caffe import Blob, ConvolutionLayer, DeconvolutionLayer


def filled(shape):
    """Numbers from 1 on, float32."""
    return np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)


X, W, B = filled((2, 4, 6, 5)), filled((6, 4, 3, 2)), filled((6,))
W_DECONV = filled((4, 6, 3, 2))
COLS = filled((2, 24, 16))
CONV_OUT, DECONV_OUT = np.full((2, 6, 4, 4), np.nan, "f"), np.full((2, 6, 8, 6), np.nan, "f")
COLS_OUT, X_OUT = np.full(COLS.shape, np.nan, "f"), np.full(X.shape, np.nan, "f")
W_OUT = np.zeros(W.shape, "f")
ARRAYS = [X, W, B, W_DECONV, COLS, CONV_OUT, DECONV_OUT, COLS_OUT, X_OUT, W_OUT]
BOTTOM, TOP = [Blob(X)], [Blob()]


def conv(**params):
    return fastconv.conv(X, W, B, out=CONV_OUT, **params)


def conv_forward(**params):
    return fastconv.conv_forward(X, W, B, out=CONV_OUT, **params)[0]


def conv_by_dict(**params):
    return fastconv.conv(X, W, B, params, out=CONV_OUT)


def deconv(**params):
    return fastconv.deconv(X, W_DECONV, B, out=DECONV_OUT, **params)


def deconv_forward(**params):
    return fastconv.deconv_forward(X, W_DECONV, B, out=DECONV_OUT, **params)[0]


def deconv_by_dict(**params):
    return fastconv.deconv(X, W_DECONV, B, params, out=DECONV_OUT)


def im2col(kernel_size=(3, 2), **params):
    return fastconv.im2col(X, kernel_size, out=COLS_OUT, **params)


def col2im(kernel_size=(3, 2), x_shape=X.shape, **params):
    return fastconv.col2im(COLS, x_shape, kernel_size, out=X_OUT, **params)


def im2col_blocks(kernel_size=(3, 2), **params):
    return fastconv.im2col_blocks(X, kernel_size, **params)


def forward_gemm(**params):
    return caffe.forward_gemm(X[0], W, CONV_OUT[0], **params)


def backward_gemm(**params):
    return caffe.backward_gemm(CONV_OUT[0], W, X_OUT[0], **params)


def weight_gemm(**params):
    return caffe.weight_gemm(X[0], CONV_OUT[0], W_OUT, **params)


def convolution_layer(num_output=6, kernel_size=(3, 2), **params):
    ConvolutionLayer(num_output, kernel_size, **params).setup(BOTTOM, TOP)


def deconvolution_layer(num_output=6, kernel_size=(3, 2), **params):
    DeconvolutionLayer(num_output, kernel_size, **params).setup(BOTTOM, TOP)


CONVS, DECONVS = [conv, conv_forward, conv_by_dict], [deconv, deconv_forward, deconv_by_dict]
WINDOWS = [im2col, col2im, im2col_blocks]
STEPS = [forward_gemm, backward_gemm, weight_gemm]
LAYERS = [convolution_layer, deconvolution_layer]
CALLS = [*CONVS, *DECONVS, *WINDOWS, *STEPS, *LAYERS]
BY_KEYWORD = [conv, conv_forward, deconv, deconv_forward]

# Who takes a parameter, its least value and the value that it has above.
PARAMETERS = {
    "stride": (CALLS, 1, 1),
    "pad": (CALLS, 0, 0),
    "dilation": (CALLS, 1, 1),
    "kernel_size": ([*WINDOWS, *LAYERS], 1, None),
    "output_pad": (DECONVS, 0, 0),
    "group": ([*CONVS, *DECONVS, *STEPS, *LAYERS], 1, 1),
    "num_output": (LAYERS, 1, 6),
    "workers": (BY_KEYWORD, 1, 1),
    "max_bytes": ([im2col_blocks], 1, 10**4),
}
SINGLE = ("group", "num_output", "workers", "max_bytes")
PER_AXIS = [name for name in PARAMETERS if name not in SINGLE]


def takers(names=PARAMETERS, but=()):
    """One test for each function and parameter."""
    pairs = [(call, name) for name in names for call in PARAMETERS[name][0] if call not in but]
    return pytest.mark.parametrize(
        ("call", "name"), pairs, ids=[f"{call.__name__} {name}" for call, name in pairs]
    )


def refused(error, message, call, *arrays, exact=True):
    """The call raises exactly this, allocates nothing and leaves all arrays as they are."""
    match = f"^{re.escape(message)}$" if exact else message
    allocated = AssertionError("an array was allocated")
    with (
        mock.patch.object(np, "empty", side_effect=allocated),
        mock.patch.object(np, "zeros", side_effect=allocated),
    ):
        refuses(error, match, call, *ARRAYS, *arrays)


def expectation(call, name):
    """What a message says was expected."""
    if name in SINGLE:
        return "an int"
    if name == "pad" and call not in LAYERS:
        return 'an int, 2 ints or (before, after) pairs, "same" or "valid"'
    return "an int or 2 ints"


# --- integers -----------------------------------------------------------------------------------


class Whole:
    """Something with an index, as tensors of other libraries are."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


@takers()
def test_values_below_the_least_are_refused(call, name):
    least = PARAMETERS[name][1]
    values = [least - 1, -1, -(2**31), -(2**63), -(2**64), np.int64(least - 1), np.int8(-1)]
    if name in PER_AXIS:
        values += [(least - 1, 1), [1, -1], (-(2**63), 2**63), np.array([1, -1])]
    if name == "pad" and call not in LAYERS:
        values += [((0, -1), (0, 0)), [0, (-1, 1)], np.array([[0, 0], [-1, 0]])]
    for value in values:
        message = f"{name} must be >= {least}, got {value!r}"
        refused(ValueError, message, lambda v=value: call(**{name: v}))


def test_the_documented_message_for_a_stride_of_0():
    refused(ValueError, "stride must be >= 1, got (0, 1)", lambda: conv(stride=(0, 1)))


@takers()
def test_huge_values_are_refused(call, name):
    values = [2**48 + 1, 2**62 - 1, 2**62, 2**63 - 1, 2**63, 2**64, 2**64 + 1, 10**70]
    values += [np.uint64(2**64 - 1), np.int64(2**63 - 1)]
    if name in PER_AXIS:
        values += [(1, 2**62), [2**64, 1], np.array([1, 2**62])]
    if name == "pad" and call not in LAYERS:
        values += [((0, 2**63), (0, 0)), [0, (2**62, 1)]]
    for value in values:
        message = f"{name} is too large: at most 2**48, got {value!r}"
        refused(ValueError, message, lambda v=value: call(**{name: v}))


@takers()
def test_numbers_that_python_itself_will_not_print(call, name):
    message = f"{name} is too large: at most 2**48, got an object of type int"
    refused(ValueError, message, lambda: call(**{name: 10**5000}))
    least = PARAMETERS[name][1]
    message = f"{name} must be >= {least}, got an object of type int"
    refused(ValueError, message, lambda: call(**{name: -(10**5000)}))


NO_INTEGERS = [
    True, False, 1.0, 1.5, float("nan"), float("inf"), 1j, b"1", Fraction(1), Decimal(1), ...,
    np.bool_(True), np.float32(1), np.float64(2), np.complex64(1), np.datetime64(1, "s"),
    np.array(1.0), np.array(True), np.array("1"), np.array(None), {"height": 1}, {1, 2}, "1", None,
    np.str_("1"), range(1, 3), int, object(), (number for number in (1, 1)), iter([1, 1]),
    memoryview(b"11"),
]  # fmt: skip
NO_INTEGERS_IN_TUPLES = [
    (1.0, 1), (1, None), (True, 1), [1, "1"], (1, np.bool_(False)), ({}, 1), np.array([1.0, 1.0]),
    np.array([True, True]), np.array(["1", "1"]), np.array([1, None]),
]  # fmt: skip


@takers()
def test_other_types_are_refused(call, name):
    values = NO_INTEGERS + (NO_INTEGERS_IN_TUPLES if name in PER_AXIS else [(1,), [1], (1, 1), []])
    expected = expectation(call, name)
    for value in values:
        if value is None and ((call in LAYERS and name in PER_AXIS) or name == "workers"):
            continue  # the default
        if isinstance(value, str) and name == "pad" and call not in LAYERS:
            continue  # a word, if an unknown one
        shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."
        message = f"{name}: expected {expected}, got {shown}"
        refused(TypeError, message, lambda v=value: call(**{name: v}))


@takers(PER_AXIS)
def test_wrong_counts_are_refused(call, name):
    values = [
        (),
        [],
        (1, 1, 1),
        [1, 1, 1],
        np.array([1, 1, 1]),
        np.zeros(0, int),
        (1,),
        np.array([1]),
    ]
    for value in values:
        if call in LAYERS and len(value) == 1:
            continue  # one for all axes, as Caffe has it
        message = f"{name}: expected {expectation(call, name)}, got {value!r}"
        refused(ValueError, message, lambda v=value: call(**{name: v}))


def test_the_documented_message_for_a_wrong_count():
    message = "stride: expected an int or 2 ints, got (1, 1, 1)"
    refused(ValueError, message, lambda: conv(stride=(1, 1, 1)))
    x, w = np.ones((1, 1, 5)), np.ones((1, 1, 2))
    message = "stride: expected an int or 1 int, got (1, 1)"
    refused(ValueError, message, lambda: fastconv.conv(x, w, stride=(1, 1)), x, w)


@takers(["pad"], but=LAYERS)
def test_pads_that_are_no_pairs_and_unknown_words(call, name):
    expected = expectation(call, name)
    for value in (
        ((1, 2, 3), (0, 0)), ((1,), (0, 0)), ((), ()), ((1, 2),), ((0, 0), (0, 0), (0, 0)),
        np.zeros((2, 3), int), np.zeros((3, 2), int), "Same", "full", "", "same ", "1", "no\nword",
    ):  # fmt: skip
        message = f"pad: expected {expected}, got {value!r}"
        refused(ValueError, message, lambda v=value: call(pad=v))
    for value in ((((1, 1), 1), 0), [[[0, 0], 0], 0], ("same", "same"), (None, 0), ((0, 0.0), 0)):
        message = f"pad: expected {expected}, got {value!r}"
        refused(TypeError, message, lambda v=value: call(pad=v))
    deep = []
    for _ in range(10**4):
        deep = [deep, deep]
    message = f"pad: expected {expected}, got an object of type list"
    refused(TypeError, message, lambda: call(pad=deep))


@takers()
def test_whatever_has_an_index_is_an_integer(call, name):
    value = PARAMETERS[name][2]
    if value is None:  # kernel_size, of which there are two
        values = [[3, 2], np.array([3, 2]), (np.int8(3), np.uint64(2)), (Whole(3), np.array(2))]
    else:
        kinds = (np.int64, np.uint8, np.int16, np.array, Whole)
        values = [value] if name in ("num_output", "max_bytes") else [kind(value) for kind in kinds]
        if name in PER_AXIS:
            values += [(value, np.int32(value)), [Whole(value)] * 2, np.array([value] * 2)]
    wanted = result_of(call)
    for given_value in values:
        assert_same_bits(result_of(call, **{name: given_value}), wanted)


def result_of(call, **params):
    """Some array that shows what a call has computed."""
    result = call(**params)
    if call is im2col_blocks:
        return np.concatenate([cols.copy() for _, _, cols in result], axis=2)
    if call in LAYERS:
        return TOP[0].data.copy()
    return {forward_gemm: CONV_OUT, backward_gemm: X_OUT, weight_gemm: filled(1)}.get(
        call, result
    ).copy()


def test_an_index_that_raises_is_heard():
    class Broken:
        def __index__(self):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        conv(stride=Broken())


# --- sizes that leave 64 bits, or memory ----------------------------------------------------------

TOO_LARGE = {
    "both axes": (conv, {"pad": 2**48}, "the result", 12 * (2**49 + 4) ** 2),
    "two sides": (
        conv, {"pad": ((0, 2**40), (2**30, 0))}, "the result", 12 * (2**40 + 4) * (2**30 + 4),
    ),
    "deconv": (deconv, {"stride": 2**40}, "x", 12 * (5 * 2**40 + 3) * (4 * 2**40 + 2)),
    "im2col": (im2col, {"pad": 2**35}, "the result", 8 * (2**36 + 4) * (2**36 + 4)),
    "kernel": (
        im2col, {"kernel_size": 2**30, "pad": 2**30, "stride": 2**31},
        "the column matrix of a sample", 4 * 2**60,
    ),
    "columns": (
        im2col, {"kernel_size": (2**40, 1), "pad": ((0, 2**40 + 2**20), (0, 0))},
        "the column matrix of a sample", 4 * 2**40 * (2**20 + 7) * 5,
    ),
    "columns of the batch": (
        im2col, {"kernel_size": (2**20, 1), "pad": ((2**35, 2**34), (0, 0))},
        "cols", 2 * 4 * 2**20 * (2**35 + 2**34 - 2**20 + 7) * 5,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "params", "what", "elements"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_products_beyond_64_bits_are_refused(call, params, what, elements):
    match = rf"^{what} is too large: {elements} elements, shape \(.*\) \(limit 2\*\*60\)$"
    refused(ValueError, match, lambda: call(**params), exact=False)


def test_layers_too_large_are_refused():
    layer = ConvolutionLayer(2**40, 2**12, pad=2**11)
    shape = (2**40, 4, 2**12, 2**12)
    message = f"w is too large: {2**66} elements, shape {shape} (limit 2**60)"
    refused(ValueError, message, lambda: layer.setup(BOTTOM, TOP))
    assert layer.blobs == []


def test_extents_are_compared_before_they_are_divided():
    """A kernel of 2**49 cells in a frame of 7: no wrap-around makes it fit."""
    for dilation in (2**32, 2**47, 2**48):
        match = "^the kernel is larger than the padded input on spatial axis \\d: .*" + str(
            2 * dilation + 1
        )
        refused(ValueError, match, lambda d=dilation: conv(dilation=d), exact=False)


@pytest.mark.parametrize("engine", GENERAL)
def test_the_largest_parameters_are_right(engine):
    """Windows whose outer taps lie 2**48 cells away, in zeros."""
    x = filled((2, 3, 6))
    w = filled((4, 3, 3))
    far = {"pad": 2**48, "dilation": 2**48}
    wanted = fastconv.conv(x, w[:, :, 1:2], engine=engine)
    for array in (x, np.asfortranarray(x)):
        out, cache = fastconv.conv_forward(array, w, engine=engine, **far)
        assert_same_bits(out, wanted)
        assert_same_bits(fastconv.im2col(array, 3, **far)[:, 1::3], x)
        assert not fastconv.im2col(array, 3, **far)[:, ::3].any()
    dx, dw, _ = fastconv.conv_backward(out, cache)
    _, middle = fastconv.conv_forward(x, w[:, :, 1:2], engine=engine)
    dx_wanted, dw_wanted, _ = fastconv.conv_backward(out, middle)
    assert_same_bits(dx, dx_wanted)
    assert_same_bits(dw[:, :, 1:2], dw_wanted)
    assert not dw[:, :, ::2].any()
    far = {"stride": 2**48, "engine": engine}
    assert fastconv.conv(x, w, **far).shape == (2, 4, 1)
    assert fastconv.conv(x, w, pad=((0, 2**48),), **far).shape == (2, 4, 2)
    assert fastconv.deconv(x[:, :, :1], filled((3, 4, 3)), **far).shape == (2, 4, 3)


# Each would need 2**49 bytes or more, of addresses of 48 bits.
NUMBER = np.float32(1)
LONG = np.broadcast_to(NUMBER, (1, 1, 2**47))
NO_MEMORY = {
    "conv out": (lambda: fastconv.conv(filled((1, 1, 1)), filled((1, 1, 1)), pad=2**47),
                 "out", 4 * (2**48 + 1)),
    "deconv out": (lambda: fastconv.deconv(filled((1, 1, 1)), filled((1, 1, 1)), stride=2**48,
                                           output_pad=2**48 - 1), "out", 2**50),
    "columns": (lambda: fastconv.conv(filled((1, 1, 1)), LONG, pad=((0, 2**47 - 1),),
                                      engine="caffe"), "the column buffer", 2**49),
    "taps": (lambda: fastconv.conv(filled((1, 1, 1)), LONG, pad=((0, 2**47 - 1),),
                                   engine="fused"), "the table of taps", 2**50),
    "a pool's window": (lambda: fastconv.avg_pool_forward(filled((1, 1, 2)), 3, stride=1, pad=2**46,
                                                          dilation=2**46),
                        "the lines of a pool", 2**50 + 2**5),
    "dx": (lambda: fastconv.conv_backward(
        filled((1, 1, 1)), fastconv.conv_forward(LONG, filled((1, 1, 1)), stride=2**47)[1]),
           "dx", 2**49),
    "im2col": (lambda: fastconv.im2col(filled((1, 1, 1)), 2**7, pad=((2**46, 2**46 + 2**7 - 1),)),
               "out", 2**9 * (2**47 + 1)),
    "col2im": (lambda: fastconv.col2im(LONG, (1, 1, 2**47), 1), "out", 2**49),
    "im2col_blocks": (lambda: fastconv.im2col_blocks(filled((1, 1, 1)), 1, pad=2**47,
                                                     max_bytes=2**48),
                      "the block of columns", 2**48),
    "weights of a layer": (lambda: ConvolutionLayer(2**45, (3, 2)).setup(BOTTOM, TOP),
                           "blobs", 2**45 * 4 * 6 * 4),
    "blob": (lambda: Blob().reshape((2**24, 2**24), np.float64), "data", 2**51),
}  # fmt: skip


@pytest.mark.parametrize(("call", "what", "size"), NO_MEMORY.values(), ids=NO_MEMORY)
def test_more_memory_than_there_is_gives_the_byte_count(call, what, size):
    match = rf"^{what}: no memory for {size} bytes, shape \(.*\), (float(32|64)|int64)$"
    refuses(MemoryError, match, call, *ARRAYS)


# --- shapes -------------------------------------------------------------------------------------


def shape_call(function, *shapes, **params):
    """A call on arrays of these shapes, and the arrays."""
    arrays = [np.ones(shape, np.float32) for shape in shapes]
    return lambda: function(*arrays, **params), *arrays


def groups(c, f, group, x, w):
    return f"C={c}, F={f}, group={group}, x of shape {x}, w of shape {w}"


SHAPES = {
    "C by group": (
        fastconv.conv, [(1, 3, 4), (4, 1, 2)], {"group": 2},
        "C must be divisible by group, got " + groups(3, 4, 2, (1, 3, 4), (4, 1, 2)),
    ),
    "F by group": (
        fastconv.conv, [(1, 4, 4), (3, 2, 2)], {"group": 2},
        "F must be divisible by group, got " + groups(4, 3, 2, (1, 4, 4), (3, 2, 2)),
    ),
    "group beyond C": (
        fastconv.conv, [(1, 4, 4), (8, 1, 2)], {"group": 8},
        "C must be divisible by group, got " + groups(4, 8, 8, (1, 4, 4), (8, 1, 2)),
    ),
    "C/group": (
        fastconv.conv, [(1, 4, 4), (4, 4, 2)], {"group": 2},
        "w: axis 1 must be C/group = 2, got " + groups(4, 4, 2, (1, 4, 4), (4, 4, 2)),
    ),
    "deconv C by group": (
        fastconv.deconv, [(1, 3, 4), (3, 1, 2)], {"group": 2},
        "C must be divisible by group, got " + groups(3, 2, 2, (1, 3, 4), (3, 1, 2)),
    ),
    "deconv C": (
        fastconv.deconv, [(1, 3, 4), (2, 1, 2)], {},
        "w: axis 0 must be C = 3 for a transposed convolution, "
        "got w of shape (2, 1, 2) with x of shape (1, 3, 4)",
    ),
    "C = 0": (
        fastconv.conv, [(1, 0, 4), (2, 0, 2)], {},
        "x: C (axis 1) must be >= 1, got " + groups(0, 2, 1, (1, 0, 4), (2, 0, 2)),
    ),
    "F = 0": (
        fastconv.conv, [(1, 2, 4), (0, 2, 2)], {},
        "w: F, the number of filters, must be >= 1, got " + groups(2, 0, 1, (1, 2, 4), (0, 2, 2)),
    ),
    "deconv C = 0": (
        fastconv.deconv, [(1, 0, 4), (0, 2, 2)], {},
        "x: C (axis 1) must be >= 1, got " + groups(0, 2, 1, (1, 0, 4), (0, 2, 2)),
    ),
    "deconv F = 0": (
        fastconv.deconv, [(1, 2, 4), (2, 0, 2)], {},
        "w: F, the number of filters, must be >= 1, got " + groups(2, 0, 1, (1, 2, 4), (2, 0, 2)),
    ),
    "im2col C = 0": (
        lambda x: fastconv.im2col(x, 1), [(1, 0, 4)], {},
        "x: C (axis 1) must be >= 1, got shape (1, 0, 4)",
    ),
    "blocks C = 0": (
        lambda x: fastconv.im2col_blocks(x, 1), [(1, 0, 4)], {},
        "x: C (axis 1) must be >= 1, got shape (1, 0, 4)",
    ),
    "W = 0": (
        fastconv.conv, [(1, 1, 4, 0), (1, 1, 2, 1)], {"pad": (1, 0)},
        "the kernel is larger than the padded input on spatial axis 1: "
        "input (4, 0), pad ((1, 1), (0, 0)), "
        "kernel_size (2, 1), dilation (1, 1), extent (2, 1) give an output of (5, 0)",
    ),
    "deconv W = 0": (
        fastconv.deconv, [(1, 1, 4, 0), (1, 1, 2, 1)], {},
        "x: spatial axis 1 has size 0, got shape (1, 1, 4, 0)",
    ),
    "a kernel axis of 0": (
        fastconv.conv, [(1, 1, 4, 4), (1, 1, 2, 0)], {}, "kernel_size must be >= 1, got (2, 0)",
    ),
    "deconv, a kernel axis of 0": (
        fastconv.deconv, [(1, 1, 4, 4), (1, 1, 0, 2)], {}, "kernel_size must be >= 1, got (0, 2)",
    ),
    "kernel beyond the input": (
        fastconv.conv, [(1, 1, 6, 4), (1, 1, 3, 3)],
        {"dilation": (2, 3), "pad": ((0, 0), (1, 1)), "stride": 2},
        "the kernel is larger than the padded input on spatial axis 1: "
        "input (6, 4), pad ((0, 0), (1, 1)), "
        "kernel_size (3, 3), dilation (2, 3), extent (5, 7) give an output of (1, 0)",
    ),
    "Caffe's partial window": (
        lambda x: fastconv.im2col(x, 3, stride=3), [(1, 1, 2)], {},
        "the kernel is larger than the padded input on spatial axis 0: input (2,), pad ((0, 0),), "
        "kernel_size (3,), dilation (1,), extent (3,) give an output of (0,)",
    ),
    "deconv without output": (
        fastconv.deconv, [(1, 1, 2), (1, 1, 2)], {"pad": 2},
        "pad leaves no output: input (2,), extent (2,), pad ((2, 2),), stride (1,) "
        "give an output of (-1,)",
    ),
    "rank of x": (
        fastconv.conv, [(1, 4, 4), (1, 1, 2, 2)], {},
        "x and w must have the same number of axes, "
        "got 3 (shape (1, 4, 4)) and 4 (shape (1, 1, 2, 2))",
    ),
    "rank of w": (
        fastconv.conv, [(4, 4), (2, 2)], {}, "w: expected at least 3 axes, got 2, shape (2, 2)",
    ),
    "rank 0": (fastconv.conv, [(), ()], {}, "w: expected at least 3 axes, got 0, shape ()"),
    "NHWC rank of w": (
        fastconv.conv, [(4, 4), (2,)], {"layout": "NHWC"},
        "w: expected at least 3 axes, got 1, shape (2,)",
    ),
    "deconv rank": (
        fastconv.deconv, [(1, 1, 1, 4, 4), (1, 1, 2, 2)], {},
        "x and w must have the same number of axes, "
        "got 5 (shape (1, 1, 1, 4, 4)) and 4 (shape (1, 1, 2, 2))",
    ),
    "im2col rank": (
        lambda x: fastconv.im2col(x, 1), [(4, 4)], {},
        "x: expected at least 3 axes (N, C, *S), got 2, shape (4, 4)",
    ),
    "b": (
        fastconv.conv, [(1, 1, 4), (3, 1, 2), (2,)], {}, "b: expected shape (3,), got (2,)",
    ),
    "b of two axes": (
        fastconv.conv, [(1, 1, 4), (3, 1, 2), (3, 1)], {}, "b: expected shape (3,), got (3, 1)",
    ),
    "b scalar": (fastconv.conv, [(1, 1, 4), (1, 1, 2), ()], {}, "b: expected shape (1,), got ()"),
    "deconv b": (
        fastconv.deconv, [(1, 2, 4), (2, 3, 2), (3,)], {"group": 2},
        "b: expected shape (6,), got (3,)",
    ),
    "col2im cols": (
        lambda cols: fastconv.col2im(cols, (2, 1, 5), 2), [(2, 2, 5)], {},
        "cols: expected shape (2, 2, 4) (im2col of x (2, 1, 5)), got (2, 2, 5)",
    ),
    "col2im cols, N = 0": (
        lambda cols: fastconv.col2im(cols, (0, 1, 5), 2), [(1, 2, 4)], {},
        "cols: expected shape (0, 2, 4) (im2col of x (0, 1, 5)), got (1, 2, 4)",
    ),
    "forward_gemm rank": (
        caffe.forward_gemm, [(1, 4, 4), (1, 1, 2), (1, 3)], {},
        "x: expected 2 axes, one less than w, got 3 (shape (1, 4, 4) with w of shape (1, 1, 2))",
    ),
    "backward_gemm rank": (
        caffe.backward_gemm, [(1, 3), (1, 1, 2), (4,)], {},
        "dx: expected 2 axes, one less than w, got 1 (shape (4,) with w of shape (1, 1, 2))",
    ),
    "weight_gemm rank": (
        caffe.weight_gemm, [(1, 4), (1, 3), (1, 1, 2, 2)], {},
        "x: expected 3 axes, one less than dw, got 2 (shape (1, 4) with dw of shape (1, 1, 2, 2))",
    ),
    "backward_gemm dout": (
        caffe.backward_gemm, [(1, 4), (1, 1, 2), (1, 4)], {},
        "dout: expected shape (1, 3) (that of the forward result), got (1, 4)",
    ),
    "weight_gemm dout": (
        caffe.weight_gemm, [(1, 4), (2, 3), (1, 1, 2)], {},
        "dout: expected shape (1, 3) (that of the forward result), got (2, 3)",
    ),
    "backward_bias": (
        lambda dout: caffe.backward_bias(dout, dout), [(3,)], {},
        "dout: expected (F, *O), none of them 0, got shape (3,)",
    ),
    "backward_bias, no positions": (
        lambda db, dout: caffe.backward_bias(db, dout), [(3,), (3, 0)], {},
        "dout: expected (F, *O), none of them 0, got shape (3, 0)",
    ),
    "skip_im2col": (
        caffe.forward_gemm, [(1, 4), (1, 1, 2), (1, 3)], {"skip_im2col": True},
        "skip_im2col: needs a col_buffer that holds the columns",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("function", "shapes", "params", "message"), SHAPES.values(), ids=SHAPES)
def test_shapes_that_do_not_fit_are_refused(function, shapes, params, message):
    call, *arrays = shape_call(function, *shapes, **params)
    refused(ValueError, message, call, *arrays)


@pytest.mark.parametrize("call", DECONVS)
def test_output_pad_stays_below_stride_or_dilation(call):
    for params, output_pad, most in (
        ({}, 1, (0, 0)),
        ({"stride": 2}, 2, (1, 1)),
        ({"stride": (3, 1)}, (2, 1), (2, 0)),
        ({"dilation": (1, 4), "stride": 2}, (2, 3), (1, 3)),
        ({"dilation": (1, 4), "stride": 2}, (1, 4), (1, 3)),
    ):
        message = (
            f"output_pad must be >= 0 and less than stride or dilation, at most {most}, "
            f"got {output_pad!r}"
        )
        refused(
            ValueError, message, lambda p=params, o=output_pad: call(output_pad=o, **p)
        )  # fmt: skip
    assert fastconv.deconv(X, W_DECONV, stride=2, output_pad=1).shape == (2, 6, 14, 11)


def test_x_shape_is_a_tuple_of_ints():
    for value in (5, None, "2465", {2: 1}, (n for n in X.shape), 2.0):
        match = r"^x_shape: expected a tuple of ints, got "
        refused(TypeError, match, lambda v=value: col2im(x_shape=v), exact=False)
    for value in ((2, 4, 6, 5.0), (2, True, 6, 5), (None,) * 4, ("2", 4, 6, 5), ((2, 4), (6, 5))):
        message = f"x_shape: expected a tuple of ints, got {value!r}"
        refused(TypeError, message, lambda v=value: col2im(x_shape=v))
    for value in ((2, 4, -6, 5), [-1, 4, 6, 5], (2, 4, 6, -(2**63))):
        message = f"x_shape must be >= 0, got {value!r}"
        refused(ValueError, message, lambda v=value: col2im(x_shape=v))
    for value in ((2, 4, 6, 2**63), (2**64, 4, 6, 5)):
        message = f"x_shape is too large: at most 2**48, got {value!r}"
        refused(ValueError, message, lambda v=value: col2im(x_shape=v))
    for value in ((), (4,), (2, 4)):
        message = f"x: expected at least 3 axes (N, C, *S), got {len(value)}, shape {value}"
        refused(ValueError, message, lambda v=value: col2im(x_shape=v))
    message = "x_shape: expected at most 64 axes, got 65"
    refused(ValueError, message, lambda: fastconv.col2im(filled((1, 1, 1)), (1,) * 65, 1))
    assert_same_bits(col2im(x_shape=list(X.shape)), col2im(x_shape=np.array(X.shape)))


def test_the_highest_rank_works():
    x = filled((2, 2, *(1,) * 62))
    assert fastconv.im2col(x, 1).shape == (2, 2, 1)
    assert fastconv.conv(x, filled((3, 2, *(1,) * 62)), pad=[0] * 61 + [1]).shape[-1] == 3


def test_max_bytes_holds_a_column():
    message = "max_bytes must be at least one column, 96 bytes (24 taps of float32), got 95"
    refused(ValueError, message, lambda: im2col_blocks(max_bytes=95))
    assert sum(1 for _ in im2col_blocks(max_bytes=96)) == 2 * 4 * 4


# --- conv_param, keywords, names ------------------------------------------------------------------

BOTH = [fastconv.conv, fastconv.conv_forward, fastconv.deconv, fastconv.deconv_forward]
both = pytest.mark.parametrize("function", BOTH, ids=[function.__name__ for function in BOTH])


def weights(function):
    return W_DECONV if "deconv" in function.__name__ else W


@both
def test_conv_param_is_a_dict_of_known_names(function):
    w = weights(function)
    names = "stride, pad, dilation, group" + ", output_pad" * (w is W_DECONV)
    for key in ("strides", "Stride", "kernel_size", "layout", "", 1, None, ("stride",), b"pad"):
        message = f"conv_param: unknown name {key!r}; the names are {names}"
        refused(TypeError, message, lambda k=key: function(X, w, B, {k: 1}))
    for value in ([("stride", 1)], "stride", 1, 1.5, True, ("stride",), {"stride"}, X):
        match = "^conv_param: expected a dict, got "
        refused(TypeError, match, lambda v=value: function(X, w, B, v), exact=False)
    message = f"conv_param: unknown name an object of type int; the names are {names}"
    refused(TypeError, message, lambda: function(X, w, B, {10**5000: 1}))


@both
def test_output_pad_is_none_of_convs_names(function):
    if weights(function) is W:
        message = (
            "conv_param: unknown name 'output_pad'; the names are stride, pad, dilation, group"
        )
        refused(TypeError, message, lambda: function(X, W, B, {"output_pad": 0}))


@both
@pytest.mark.parametrize("name", ["stride", "pad", "dilation", "group"])
def test_a_parameter_given_twice_is_refused(function, name):
    """Even with the same value, and with the default."""
    value = 0 if name == "pad" else 1
    message = f"{name}: given both in conv_param and as a keyword"
    call = lambda: function(X, weights(function), B, {name: value}, **{name: value})  # noqa: E731
    refused(TypeError, message, call)
    assert function(X, weights(function), B, {}, **{name: value}) is not None


@both
def test_unknown_keywords_and_positional_parameters_fail(function):
    for call in (
        lambda: function(X, weights(function), B, strides=2),
        lambda: function(X, weights(function), B, None, 1),
        lambda: function(X),
    ):
        refused(TypeError, r"^\w+\(\) ", call, exact=False)


@both
@pytest.mark.parametrize(
    "value",
    [
        "nchw",
        "NCWH",
        "",
        None,
        0,
        True,
        b"NCHW",
        ["NCHW"],
        np.array(["NCHW", "NHWC"]),
        float("nan"),
    ],
    ids=str,
)
def test_unknown_layouts_and_engines_are_told_the_names(function, value):
    message = f"layout: expected 'NCHW' or 'NHWC', got {value!r}"
    refused(ValueError, message, lambda: function(X, weights(function), B, layout=value))
    message = f"engine: expected 'auto' or one of {fastconv.engines()}, got {value!r}"
    refused(ValueError, message, lambda: function(X, weights(function), B, engine=value))


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "two", "1e3", "9" * 20, "9" * 5000, "0x2"])
def test_a_bad_number_of_threads_in_the_environment(monkeypatch, value):
    monkeypatch.setenv("FASTCONV_NUM_THREADS", value)
    shown = repr(value) if len(value) < 78 else f"{repr(value)[:77]}..."
    message = f"FASTCONV_NUM_THREADS must be an int >= 1, got {shown}"
    refused(ValueError, message, fastconv.config)
    for call in BY_KEYWORD:
        refused(ValueError, message, call)
        assert call(workers=2) is not None


@pytest.mark.parametrize("value", ["", "  ", "9" * 5000, "-2", "x", ",,"])
def test_other_environments_are_ignored(monkeypatch, value):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("FASTCONV_NUM_THREADS", raising=False)
    wanted = fastconv.config()["workers"]
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    if not value.strip():
        monkeypatch.setenv("FASTCONV_NUM_THREADS", value)
    assert fastconv.config()["workers"] == wanted


# --- backward calls -----------------------------------------------------------------------------

CACHES = {
    "conv": (fastconv.conv_backward, fastconv.conv_forward(X, W, B)),
    "deconv": (fastconv.deconv_backward, fastconv.deconv_forward(X, W_DECONV, B)),
}
backwards = pytest.mark.parametrize(("kind", "other"), [("conv", "deconv"), ("deconv", "conv")])


@backwards
def test_a_cache_that_is_none(kind, other):
    backward, (out, cache) = CACHES[kind]
    for value in (None, (), (X, W, B), {}, out, "cache", cache.geometry, fastconv.conv):
        message = f"cache: expected what {kind}_forward returned, got {type(value).__name__}"
        refused(TypeError, message, lambda v=value: backward(out, v), out)
    message = f"cache: it comes from {other}_forward, not {kind}_forward"
    foreign_out, foreign = CACHES[other][1]
    refused(ValueError, message, lambda: backward(foreign_out, foreign), foreign_out)
    refused(TypeError, r"missing 1 required positional", lambda: backward(out), out, exact=False)


@backwards
def test_dout_of_another_shape(kind, other):
    backward, (out, cache) = CACHES[kind]
    shape = out.shape
    for wrong in ((), shape[1:], (*shape, 1), (1, *shape[1:]), shape[::-1], (0, *shape[1:])):
        dout = np.ones(wrong, np.float32)
        message = f"dout: expected shape {shape} (that of the forward result), got {wrong}"
        refused(ValueError, message, lambda d=dout: backward(d, cache), dout)


def test_dout_of_another_shape_in_nhwc():
    out, cache = fastconv.conv_forward(filled((1, 5, 4, 2)), filled((2, 2, 2, 3)), layout="NHWC")
    message = "dout: expected shape (1, 4, 3, 3) (that of the forward result), got (1, 3, 4, 3)"
    refused(ValueError, message, lambda: fastconv.conv_backward(out.swapaxes(1, 2), cache), out)


@backwards
def test_propagate_down_is_three_bools(kind, other):
    backward, (out, cache) = CACHES[kind]
    for value in (True, None, 1, "yes", iter((True,) * 3), {0: True}):
        match = "^propagate_down: expected 3 bools, got "
        call = lambda v=value: backward(out, cache, propagate_down=v)  # noqa: E731
        refused(TypeError, match, call, out, exact=False)
    for value in ((True, True, 1), (None,) * 3, [1.0, 0.0, 1.0], ("", "", ""), np.ones(3)):
        message = f"propagate_down: expected 3 bools, got {value!r}"
        refused(TypeError, message, lambda v=value: backward(out, cache, propagate_down=v), out)
    for value in ((), (True,), (True, False), [True] * 4):
        message = f"propagate_down: expected 3 bools, got {value!r}"
        refused(ValueError, message, lambda v=value: backward(out, cache, propagate_down=v), out)
    dx, dw, db = backward(out, cache, propagate_down=np.array([False, True, False]))
    assert dx is None
    assert db is None
    assert dw is not None


@backwards
def test_all_targets_are_checked_before_any_is_made(kind, other):
    backward, (out, cache) = CACHES[kind]
    shapes = {"dx": X.shape, "dw": cache.w.shape, "db": B.shape}
    for bad, shape in shapes.items():
        targets = {name: np.ones(shapes[name], ">f4") for name in shapes if name != bad}
        target = np.ones(shape)
        message = f"{bad}: expected dtype float32, got float64"
        call = lambda t=target, n=bad, rest=targets: backward(out, cache, **{n: t}, **rest)  # noqa: E731
        refused(TypeError, message, call, target, out, *targets.values())
        alone = lambda t=target, n=bad: backward(out, cache, **{n: t})  # noqa: E731
        refused(TypeError, message, alone, target, out)


def test_a_bias_gradient_without_a_bias():
    out, cache = fastconv.conv_forward(X, W)
    db = np.zeros(6, np.float32)
    message = "db: given, but the forward call had no bias"
    refused(ValueError, message, lambda: fastconv.conv_backward(out, cache, db=db), out, db)
    assert fastconv.conv_backward(out, cache)[2] is None


def test_an_engine_may_refuse_the_backward_call_too(monkeypatch):
    out, cache = fastconv.conv_forward(X, W, B, engine="caffe")
    engine = fastconv._engines.all_engines()[-1]
    monkeypatch.setattr(engine, "unsupported_reason", lambda geometry, dtype: "of a reason")
    message = "engine 'caffe' cannot serve this call: of a reason"
    refused(ValueError, message, lambda: fastconv.conv_backward(out, cache), out)


# --- layers and blobs ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ConvolutionLayer, DeconvolutionLayer])
def test_layers_take_lists_of_blobs(kind):
    layer = kind(6, 1)
    good = [Blob(X)]
    for value in (None, Blob(X), X, 1, iter(good), {0: good[0]}):
        message = f"bottom: expected a list of blobs, got {type(value).__name__}"
        refused(TypeError, message, lambda v=value: layer.setup(v, TOP))
        message = f"top: expected a list of blobs, got {type(value).__name__}"
        refused(TypeError, message, lambda v=value: layer.setup(good, v))
    for value in ([X], [None], (1,), [good], "blob"):
        match = "^bottom: expected a list of blobs, got one of "
        refused(TypeError, match, lambda v=value: layer.setup(v, TOP), exact=False)
        match = "^top: expected a list of blobs, got one of "
        refused(TypeError, match, lambda v=value: layer.setup(good, v), exact=False)
    message = "bottom: expected at least one blob"
    refused(ValueError, message, lambda: layer.setup([], []))
    assert layer.blobs == []
    layer.blobs = [W, B]
    message = "blobs: expected a list of blobs, got one of ndarray"
    refused(TypeError, message, lambda: layer.reshape(good, TOP))


@pytest.mark.parametrize("name", ["bias_term", "force_nd_im2col"])
def test_flags_are_bools(name):
    for value in (0, 1, None, "no", 1.0, np.array([True])):
        message = f"{name}: expected a bool, got {value!r}"
        refused(TypeError, message, lambda v=value: ConvolutionLayer(1, 1, **{name: v}))
    for value in (0, None, "no", np.array([True, False])):
        message = f"skip_im2col: expected a bool, got {value!r}"
        refused(TypeError, message, lambda v=value: forward_gemm(skip_im2col=v))


def test_the_type_of_a_layer():
    for value in ("float", "f4", np.float32, float, np.dtype("f8")):
        ConvolutionLayer(1, 1, dtype=value)
    for value in ("foo", "(2,", {"a": 1}, 5, [1], b"x", "a4", 10**5000, object(), X):
        match = "^dtype: expected float32 or float64, got "
        refused(TypeError, match, lambda v=value: ConvolutionLayer(1, 1, dtype=v), exact=False)
    for value in (np.int64, "f2", ">f4", "longdouble", bool, "f4,f4", "c8"):
        message = f"dtype: expected float32 or float64, got {np.dtype(value)}"
        refused(TypeError, message, lambda v=value: ConvolutionLayer(1, 1, dtype=v))
        blob = Blob()
        refused(TypeError, message, lambda v=value, b=blob: b.reshape((1,), v))


def test_the_axis_of_a_layer():
    for value in (1.0, None, True, "1", (1,)):
        message = f"axis: expected an int, got {value!r}"
        refused(TypeError, message, lambda v=value: ConvolutionLayer(1, 1, axis=v))
    message = f"axis is too large: at most 2**48, got {2**62}"
    refused(ValueError, message, lambda: ConvolutionLayer(1, 1, axis=2**62))
    for value in (4, 100, -5):
        layer = ConvolutionLayer(1, 1, axis=value)
        message = f"axis: {value} is out of range for shape (2, 4, 6, 5)"
        refused(ValueError, message, lambda lay=layer: lay.setup(BOTTOM, TOP))


def test_both_forms_of_a_layers_parameter():
    for name, prefix in (("kernel_size", "kernel"), ("stride", "stride"), ("pad", "pad")):
        pair = f"{prefix}_h and {prefix}_w"
        both_forms = {"kernel_size": 1, name: 1, f"{prefix}_h": 1, f"{prefix}_w": 1}
        layer = ConvolutionLayer(1, **both_forms)
        message = f"{name}: given beside {pair}; give one of the two forms"
        refused(ValueError, message, lambda lay=layer: lay.setup(BOTTOM, TOP))
        bottom = [Blob(X[0])]
        others = {} if name == "kernel_size" else {"kernel_size": 1}
        layer = ConvolutionLayer(1, **others, **{f"{prefix}_h": 1, f"{prefix}_w": 1})
        message = f"{pair}: only for two spatial axes, here there are 1"
        refused(ValueError, message, lambda lay=layer, low=bottom: lay.setup(low, TOP))
        layer = ConvolutionLayer(1, **others, **{f"{prefix}_h": 1.5, f"{prefix}_w": 1})
        message = f"{pair}: expected an int or 2 ints, got (1.5, 1)"
        refused(TypeError, message, lambda lay=layer: lay.setup(BOTTOM, TOP))
    layer = ConvolutionLayer(1)
    message = "kernel_size: expected an int or 2 ints, or kernel_h and kernel_w"
    refused(ValueError, message, lambda: layer.setup(BOTTOM, TOP))


def test_the_shape_of_a_blob():
    blob = Blob(X)
    for value, error, message in (
        ((2, -1), ValueError, "shape must be >= 0, got (2, -1)"),
        ((2**62,), ValueError, f"shape is too large: at most 2**48, got ({2**62},)"),
        (5, TypeError, "shape: expected a tuple of ints, got 5"),
        ((1.0, 2), TypeError, "shape: expected a tuple of ints, got (1.0, 2)"),
        ((1,) * 65, ValueError, "shape: expected at most 64 axes, got 65"),
        ((2**31, 2**31), ValueError,
         f"shape is too large: {2**62} elements, shape {(2**31, 2**31)} (limit 2**60)"),
    ):  # fmt: skip
        refused(error, message, lambda v=value: blob.reshape(v, np.float32))
    assert blob.data is X


def test_a_refused_backward_call_adds_nothing():
    layer = ConvolutionLayer(6, (3, 2))
    bottom, top = [Blob(X)], [Blob()]
    layer.setup(bottom, top)
    layer.forward(bottom, top)
    diffs = [blob.diff for blob in (*bottom, *top, *layer.blobs)]
    for diff in diffs:
        diff[...] = 1
    for flags, error, message in (
        (True, TypeError, "propagate_down: expected 1 bools, got True"),
        ([], ValueError, "propagate_down: expected 1 bools, got []"),
        ([1], TypeError, "propagate_down: expected 1 bools, got [1]"),
    ):
        refused(error, message, lambda f=flags: layer.backward(top, f, bottom), *diffs)
    layer.param_propagate_down = [True]
    message = "param_propagate_down: expected 2 bools, got [True]"
    refused(ValueError, message, lambda: layer.backward(top, [True], bottom), *diffs)
    layer.param_propagate_down = [True, True]
    other = [Blob(X[:1])]
    message = "bottom: shapes other than in the forward call"
    refused(ValueError, message, lambda: layer.backward(top, [True], other), *diffs)
    message = "top: expected shapes [(2, 6, 4, 4)], got [(2, 4, 6, 5)]"
    refused(ValueError, message, lambda: layer.backward(bottom, [True], bottom), *diffs)


# --- anything at all ----------------------------------------------------------------------------

# Numbers that make small arrays or impossible ones (2**47 elements have no address), none between.
numbers = st.sampled_from([*range(-2, 5), 2**47, 2**48, 2**62, 2**63, 2**64, -(2**63), 10**4000])
scalars = (
    numbers
    | st.booleans()
    | st.none()
    | st.sampled_from(
        [1.0, 0.5, float("nan"), "same", "valid", "NHWC", "caffe", "auto", "", b"", 1j]
    )
    | st.sampled_from(
        [np.int64(1), np.uint8(2), np.float32(1), np.bool_(True), np.array(2), Whole(1)]
    )
)
values = st.recursive(
    scalars | st.sampled_from([X, W, B, W_DECONV, COLS, X[0], W[:0], object(), int]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.sampled_from(["stride", "pad", "group", "no"]), inner, max_size=2)
        | st.lists(numbers, min_size=3, max_size=3).map(tuple)
    ),
    max_leaves=5,
)
arrays = (
    st.lists(st.integers(0, 4), max_size=5).map(lambda shape: np.ones(shape, np.float32))
    | st.sampled_from([X, W, B, W_DECONV, COLS, X.astype(int), X.astype(float), np.ma.array(X)])
    | values
)
NAMES = {
    **dict.fromkeys(BOTH, ("x", "w", "b", "conv_param", "stride", "pad", "dilation", "group",
                           "layout", "engine", "out", "workers")),
    fastconv.conv_backward: ("dout", "cache", "propagate_down", "dx", "dw", "db"),
    fastconv.im2col: ("x", "kernel_size", "stride", "pad", "dilation", "out"),
    fastconv.col2im: ("cols", "x_shape", "kernel_size", "stride", "pad", "dilation", "out"),
    fastconv.im2col_blocks: ("x", "kernel_size", "stride", "pad", "dilation", "max_bytes"),
    caffe.forward_gemm: ("x", "w", "out", "stride", "pad", "dilation", "group", "col_buffer",
                         "skip_im2col"),
    caffe.forward_bias: ("out", "b"),
    caffe.backward_gemm: ("dout", "w", "dx", "stride", "pad", "dilation", "group", "col_buffer"),
    caffe.weight_gemm: ("x", "dout", "dw", "stride", "pad", "dilation", "group", "col_buffer"),
    caffe.backward_bias: ("db", "dout"),
}  # fmt: skip
NAMES[fastconv.deconv_backward] = NAMES[fastconv.conv_backward]
# What makes each call valid; the fuzzer then spoils some of it.
VALID = {
    fastconv.conv: {"x": X, "w": W, "b": B},
    fastconv.conv_forward: {"x": X, "w": W, "b": B},
    fastconv.deconv: {"x": X, "w": W_DECONV, "b": B},
    fastconv.deconv_forward: {"x": X, "w": W_DECONV, "b": B},
    fastconv.conv_backward: {"dout": CACHES["conv"][1][0], "cache": CACHES["conv"][1][1]},
    fastconv.deconv_backward: {"dout": CACHES["deconv"][1][0], "cache": CACHES["deconv"][1][1]},
    fastconv.im2col: {"x": X, "kernel_size": (3, 2)},
    fastconv.col2im: {"cols": COLS, "x_shape": X.shape, "kernel_size": (3, 2)},
    fastconv.im2col_blocks: {"x": X, "kernel_size": (3, 2)},
    caffe.forward_gemm: {"x": X[0], "w": W, "out": CONV_OUT[0].copy()},
    caffe.forward_bias: {"out": CONV_OUT[0].copy(), "b": B},
    caffe.backward_gemm: {"dout": CONV_OUT[0], "w": W, "dx": X_OUT[0].copy()},
    caffe.weight_gemm: {"x": X[0], "dout": CONV_OUT[0], "dw": W_OUT.copy()},
    caffe.backward_bias: {"db": np.zeros(6, np.float32), "dout": CONV_OUT[0]},
}
ERRORS = (ValueError, TypeError, MemoryError)
fuzz = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


def raises_nothing_else(call):
    """Whatever the call is given, it answers, or raises exactly one of the three errors."""
    try:
        call()
    except Exception as error:
        assert type(error) in ERRORS, repr(error)  # noqa: PT017


@pytest.mark.parametrize("function", NAMES, ids=[function.__name__ for function in NAMES])
def test_anything_at_all_is_answered_or_refused(function):
    names = NAMES[function]

    @fuzz
    @given(st.dictionaries(st.sampled_from(names), arrays | values, min_size=1, max_size=3))
    def run(spoiled):
        params = {**VALID[function], **spoiled}
        for name in ("out", "dx", "dw", "db"):  # what is written must not be what others read
            if isinstance(params.get(name), np.ndarray):
                params[name] = params[name].copy()
        raises_nothing_else(lambda: function(**params))

    run()


@pytest.mark.parametrize("kind", [ConvolutionLayer, DeconvolutionLayer])
def test_anything_at_all_is_answered_or_refused_by_layers(kind):
    names = [
        "num_output", "kernel_size", "stride", "pad", "dilation", "kernel_h", "kernel_w",
        "stride_h", "pad_w", "group", "bias_term", "axis", "force_nd_im2col", "dtype",
    ]  # fmt: skip

    def train(params, bottom, flags):
        layer = kind(**{"num_output": 6, "kernel_size": (3, 2), **params})
        top = [Blob()]
        layer.setup(bottom, top)
        layer.forward(bottom, top)
        layer.backward(top, flags, bottom)

    @fuzz
    @given(
        st.dictionaries(st.sampled_from(names), values, max_size=3),
        st.just([Blob(X)]) | st.lists(values, max_size=2) | values,
        st.just([True]) | values,
    )
    def run(params, bottom, flags):
        raises_nothing_else(lambda: train(params, bottom, flags))

    run()


@fuzz
@given(arrays | values)
def test_anything_at_all_in_a_blob(value):
    raises_nothing_else(lambda: Blob(value))
