"""The five steps and the two layers against Caffe's rules, each written out with the loops."""

import numpy as np
import pytest
from cases import CONV_CASES, DECONV_CASES, integer_array, parameters

import fastconv
from fastconv import caffe, reference
from fastconv.caffe import Blob, ConvolutionLayer, DeconvolutionLayer

DTYPES = [np.float32, np.float64]
both_types = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])

# Caffe pads alike on both sides and has no words for pads, no output_pad, and at least one axis.
CAFFE_CONV_CASES = [case for case in CONV_CASES if isinstance(case.values[0]["pad"], int | tuple)]
CAFFE_DECONV_CASES = [
    case
    for case in DECONV_CASES
    if isinstance(case.values[0]["pad"], int | tuple) and not case.values[0]["output_pad"]
]


# --- the five steps ------------------------------------------------------------------------------


@both_types
@pytest.mark.parametrize("case", [case for case in CONV_CASES if case.values[0]["x_shape"][0]])
def test_steps_equal_the_loops(case, dtype):
    rng = np.random.default_rng(0)
    params = parameters(case)
    x, w = integer_array(rng, case["x_shape"])[:1], integer_array(rng, case["w_shape"])
    b = integer_array(rng, w.shape[:1])
    plain = reference.conv_forward_loops(x, w, **params)
    dout = integer_array(rng, plain.shape)
    x1, w1, b1, dout1 = (array.astype(dtype) for array in (x[0], w, b, dout[0]))
    out = np.full(plain.shape[1:], np.nan, dtype)
    caffe.forward_gemm(x1, w1, out, **params)
    np.testing.assert_array_equal(out, plain[0])
    caffe.forward_bias(out, b1)
    np.testing.assert_array_equal(out, reference.conv_forward_loops(x, w, b, **params)[0])
    wanted = reference.conv_backward_loops(dout, x, w, **params)
    dx = np.full_like(x1, np.nan)
    caffe.backward_gemm(dout1, w1, dx, **params)
    np.testing.assert_array_equal(dx, wanted[0][0])
    dw, db = np.full_like(w1, 5), np.full_like(b1, 5)
    caffe.weight_gemm(x1, dout1, dw, **params)
    caffe.backward_bias(db, dout1)
    np.testing.assert_array_equal(dw, wanted[1] + 5)
    np.testing.assert_array_equal(db, wanted[2] + 5)


def test_skip_im2col_takes_the_columns_of_the_call_before():
    rng = np.random.default_rng(0)
    x, dout = rng.standard_normal((2, 6, 5)), rng.standard_normal((3, 4, 3))
    w = rng.standard_normal((3, 2, 3, 3))
    cols, out, skipped = np.empty((18, 12)), np.empty((3, 4, 3)), np.empty((3, 4, 3))
    caffe.forward_gemm(x, w, out)
    caffe.weight_gemm(x, dout, np.zeros_like(w), col_buffer=cols)
    np.testing.assert_array_equal(cols, fastconv.im2col(x[None], 3)[0])
    caffe.forward_gemm(np.zeros_like(x), w, skipped, col_buffer=cols, skip_im2col=True)
    np.testing.assert_array_equal(skipped, out)
    with pytest.raises(ValueError, match="skip_im2col: needs a col_buffer"):
        caffe.forward_gemm(x, w, out, skip_im2col=True)


@pytest.mark.parametrize(
    ("buffer", "error"),
    [
        (np.empty((18, 11)), ValueError),
        (np.empty((18, 12), np.float32), TypeError),
        (np.empty((12, 18)).T, ValueError),
        (np.empty((18, 12)).tolist(), TypeError),
    ],
    ids=["shape", "dtype", "order", "list"],
)
def test_col_buffer_that_does_not_fit_is_refused(buffer, error):
    with pytest.raises(error, match="col_buffer"):
        caffe.forward_gemm(
            np.ones((2, 6, 5)), np.ones((3, 2, 3, 3)), np.empty((3, 4, 3)), col_buffer=buffer
        )


def test_a_1x1_layer_leaves_the_buffer_alone():
    x, w, out, cols = (
        np.ones((4, 3, 3)),
        np.ones((2, 4, 1, 1)),
        np.empty((2, 3, 3)),
        np.zeros((4, 9)),
    )
    caffe.forward_gemm(x, w, out, col_buffer=cols)
    assert (out == 4).all()
    assert not cols.any()


# --- the layers ----------------------------------------------------------------------------------


def run_layer(layer, inputs, rng, propagate_down):
    """One forward and one backward pass on integers: the tops' data, what flows back, diffs."""
    bottom, top = [Blob(x) for x in inputs], [Blob() for _ in inputs]
    layer.setup(bottom, top)
    for blob in layer.blobs:
        blob.data[...] = integer_array(rng, blob.shape)
        blob.diff[...] = 3  # accumulated to
    layer.forward(bottom, top)
    for blob in top:
        blob.diff[...] = integer_array(rng, blob.shape)
    for blob in bottom:
        blob.diff[...] = np.nan  # overwritten
    layer.backward(top, propagate_down, bottom)
    return bottom, top


LAYERS = [
    pytest.param(ConvolutionLayer, case.values[0], "conv", 0, id=f"convolution {case.id}")
    for case in CAFFE_CONV_CASES
] + [
    pytest.param(DeconvolutionLayer, case.values[0], "deconv", 1, id=f"deconvolution {case.id}")
    for case in CAFFE_DECONV_CASES
]


@pytest.mark.parametrize("force_nd", [False, True], ids=["2d", "nd"])
@both_types
@pytest.mark.parametrize(("kind", "case", "operation", "filters_axis"), LAYERS)
def test_layer_equals_the_loops(kind, case, operation, filters_axis, dtype, force_nd):
    """Two bottoms that share the weights; the second one's gradient is not asked for."""
    rng = np.random.default_rng(0)
    params = {name: case[name] for name in ("stride", "pad", "dilation", "group")}
    num_output = case["w_shape"][filters_axis] * (params["group"] if filters_axis else 1)
    layer = kind(num_output, case["w_shape"][2:], force_nd_im2col=force_nd, dtype=dtype, **params)
    inputs = [integer_array(rng, case["x_shape"]).astype(dtype) for _ in range(2)]
    bottom, top = run_layer(layer, inputs, rng, [True, False])
    weight, bias = layer.blobs
    assert weight.shape == case["w_shape"]
    dw, db = np.full(weight.shape, 3.0), np.full(bias.shape, 3.0)
    forward = getattr(reference, f"{operation}_forward_loops")
    backward = getattr(reference, f"{operation}_backward_loops")
    for source, target in zip(bottom, top, strict=True):
        assert target.data.dtype == dtype
        np.testing.assert_array_equal(
            target.data, forward(source.data, weight.data, bias.data, **params)
        )
        dx, dw_part, db_part = backward(target.diff, source.data, weight.data, **params)
        dw += dw_part
        db += db_part
        if source is bottom[0]:
            np.testing.assert_array_equal(source.diff, dx)
    assert np.isnan(bottom[1].diff).all()
    np.testing.assert_array_equal(weight.diff, dw)
    np.testing.assert_array_equal(bias.diff, db)


@pytest.mark.parametrize("kind", [ConvolutionLayer, DeconvolutionLayer])
def test_nd_equals_2d_at_caffes_own_sizes(kind):
    """A layer at (15, 18, 22, 26) with an 11x13 kernel in 6 groups, to the bit, both passes."""
    results = []
    for force_nd in (False, True):
        rng = np.random.default_rng(1)
        layer = kind(
            12, (11, 13), group=6, bias_term=False, force_nd_im2col=force_nd, dtype=np.float32
        )
        bottom, top = [Blob(rng.standard_normal((15, 18, 22, 26)).astype(np.float32))], [Blob()]
        layer.setup(bottom, top)
        layer.blobs[0].data[...] = rng.standard_normal(layer.blobs[0].shape)
        layer.forward(bottom, top)
        top[0].diff[...] = rng.standard_normal(top[0].shape)
        layer.backward(top, [True], bottom)
        results.append((top[0].data, bottom[0].diff, layer.blobs[0].diff))
    for two, many in zip(*results, strict=True):
        assert two.any()
        np.testing.assert_array_equal(two, many)


@pytest.mark.parametrize("kind", [ConvolutionLayer, DeconvolutionLayer])
@pytest.mark.parametrize("params", [(w, b) for w in (False, True) for b in (False, True)])
def test_param_propagate_down(kind, params):
    rng = np.random.default_rng(0)
    layer = kind(4, 3, dtype=np.float64)
    bottom, top = [Blob(integer_array(rng, (2, 3, 5, 6)).astype(float))], [Blob()]
    layer.setup(bottom, top)
    assert layer.param_propagate_down == [True, True]
    layer.param_propagate_down = list(params)
    layer.blobs[0].data[...] = integer_array(rng, layer.blobs[0].shape)
    layer.forward(bottom, top)
    top[0].diff[...] = integer_array(rng, top[0].shape)
    layer.backward(top, [True], bottom)
    assert [blob.diff.any() for blob in layer.blobs] == list(params)
    operation = "conv" if kind is ConvolutionLayer else "deconv"
    _, cache = getattr(fastconv, f"{operation}_forward")(bottom[0].data, layer.blobs[0].data)
    dx, _, _ = getattr(fastconv, f"{operation}_backward")(top[0].diff, cache)
    np.testing.assert_array_equal(bottom[0].diff, dx)


def test_axis_takes_the_axes_before_it_as_the_batch():
    rng = np.random.default_rng(0)
    x = integer_array(rng, (2, 3, 4, 5, 6)).astype(np.float32)
    for axis in (2, -3):
        layer = ConvolutionLayer(2, 3, axis=axis)
        bottom, top = run_layer(layer, [x], np.random.default_rng(1), [True])
        assert top[0].shape == (2, 3, 2, 3, 4)
        weight, bias = (blob.data for blob in layer.blobs)
        out, cache = fastconv.conv_forward(x.reshape(6, 4, 5, 6), weight, bias)
        np.testing.assert_array_equal(top[0].data, out.reshape(top[0].shape))
        dx, dw, db = fastconv.conv_backward(top[0].diff.reshape(out.shape), cache)
        np.testing.assert_array_equal(bottom[0].diff, dx.reshape(x.shape))
        np.testing.assert_array_equal(layer.blobs[0].diff, dw + 3)
        np.testing.assert_array_equal(layer.blobs[1].diff, db + 3)


def test_setup_shapes():
    bottom = [Blob(np.ones((2, 3, 6, 4), np.float32)) for _ in range(2)]
    top = [Blob(), Blob()]
    ConvolutionLayer(4, kernel_size=3, stride=2).setup(bottom, top)
    assert [blob.shape for blob in top] == [(2, 4, 2, 1)] * 2
    ConvolutionLayer(3, [3], stride=[2], group=3).setup(bottom, top)
    assert [blob.shape for blob in top] == [(2, 3, 2, 1)] * 2
    DeconvolutionLayer(4, kernel_h=3, kernel_w=2, stride_h=2, stride_w=1).setup(bottom, top)
    assert [blob.shape for blob in top] == [(2, 4, 13, 5)] * 2
    ConvolutionLayer(4, kernel_h=3, kernel_w=3, pad_w=1).setup(bottom, top)
    assert [blob.shape for blob in top] == [(2, 4, 4, 4)] * 2


def test_blobs_are_kept_shared_and_checked():
    bottom, top = [Blob(np.ones((1, 3, 5, 5), np.float32))], [Blob()]
    first, second = ConvolutionLayer(4, 3), ConvolutionLayer(4, 3)
    first.setup(bottom, top)
    second.blobs = first.blobs
    second.setup(bottom, top)
    assert second.blobs[0] is first.blobs[0]
    other = ConvolutionLayer(4, 2)
    other.blobs = first.blobs
    with pytest.raises(ValueError, match=r"blobs: expected shapes .*\(4, 3, 2, 2\)"):
        other.setup(bottom, top)


def test_shapes_may_change_between_calls():
    layer, top = ConvolutionLayer(2, 3), [Blob()]
    layer.setup([Blob(np.ones((1, 3, 5, 5), np.float32))], top)
    layer.blobs[0].data[...] = 1
    for shape in ((2, 3, 7, 4), (4, 3, 3, 3)):
        layer.forward([Blob(np.ones(shape, np.float32))], top)
        assert top[0].shape == (shape[0], 2, shape[2] - 2, shape[3] - 2)
        assert (top[0].data == 27).all()
    with pytest.raises(ValueError, match="blobs: expected shapes"):
        layer.forward([Blob(np.ones((1, 2, 5, 5), np.float32))], top)
    with pytest.raises(ValueError, match="bottom: shapes other than in the forward call"):
        layer.backward(top, [True], [Blob(np.ones((1, 3, 5, 5), np.float32))])


F = np.float32
REFUSED = {
    "kernel 0": ({"kernel_size": 0}, {}, "kernel_size must be >= 1, got 0"),
    "kernel_h 0": ({"kernel_h": 0, "kernel_w": 1}, {}, "kernel_h and kernel_w must be >= 1"),
    "stride 0": ({"kernel_size": 3, "stride": 0}, {}, "stride must be >= 1, got 0"),
    "no kernel": ({}, {}, "kernel_size: expected an int or 2 ints, or kernel_h and kernel_w"),
    "both kernels": (
        {"kernel_size": 3, "kernel_h": 3, "kernel_w": 3},
        {},
        "kernel_size: given beside kernel_h and kernel_w",
    ),
    "both strides": ({"kernel_size": 3, "stride": 1, "stride_h": 1}, {}, "stride: given beside"),
    "both pads": ({"kernel_size": 3, "pad": 0, "pad_w": 1}, {}, "pad: given beside"),
    "one of two": ({"kernel_h": 3}, {}, r"kernel_w must be >= 1, got \(3, 0\)"),
    "count": ({"kernel_size": (3, 3, 3)}, {}, "kernel_size: expected an int or 2 ints"),
    "h and w in 3-D": (
        {"kernel_h": 3, "kernel_w": 3},
        {"shape": (1, 4, 5, 5, 5)},
        "only for two spatial axes, here there are 3",
    ),
    "num_output by group": ({"num_output": 3, "kernel_size": 1, "group": 2}, {}, "num_output must"),
    "channels by group": (
        {"num_output": 3, "kernel_size": 1, "group": 3},
        {},
        "divisible by group",
    ),
    "group 0": ({"kernel_size": 1, "group": 0}, {}, "group must be >= 1, got 0"),
    "dilation 0": ({"kernel_size": 1, "dilation": 0}, {}, "dilation must be >= 1, got 0"),
    "kernel too large": ({"kernel_size": 6}, {}, "kernel is larger than the padded input"),
    "no spatial axis": ({"kernel_size": 1, "axis": 3}, {}, "expected spatial axes after axis 3"),
    "axis": ({"kernel_size": 1, "axis": 4}, {}, "axis: 4 is out of range"),
    "tops": ({"kernel_size": 1}, {"tops": 2}, "top: expected 1 blobs, one a bottom, got 2"),
    "bottoms": ({"kernel_size": 1}, {"others": [(1, 4, 5, 6)]}, "bottom: expected shapes"),
}


@pytest.mark.parametrize(("keywords", "setting", "message"), REFUSED.values(), ids=REFUSED)
def test_layer_refuses(keywords, setting, message):
    shapes = [setting.get("shape", (1, 4, 5, 5)), *setting.get("others", [])]
    bottom = [Blob(np.ones(shape, F)) for shape in shapes]
    top = [Blob() for _ in range(setting.get("tops", len(bottom)))]
    with pytest.raises(ValueError, match=message) as info:
        ConvolutionLayer(**{"num_output": 4, **keywords}).setup(bottom, top)
    assert info.type is ValueError


def test_layer_refuses_types():
    for keywords in ({"kernel_size": 1.5}, {"kernel_size": 1, "bias_term": 1}, {"num_output": 2.0}):
        with pytest.raises(TypeError):
            ConvolutionLayer(**{"num_output": 4, **keywords}).setup(
                [Blob(np.ones((1, 4, 5, 5), F))], [Blob()]
            )
    with pytest.raises(TypeError, match="dtype: expected float32 or float64, got int64"):
        ConvolutionLayer(4, 3, dtype=np.int64)
    with pytest.raises(TypeError, match="bottom: expected float32, got float64"):
        ConvolutionLayer(4, 3).setup([Blob(np.ones((1, 4, 5, 5)))], [Blob()])


def test_layer_before_setup():
    layer = ConvolutionLayer(4, 3)
    with pytest.raises(ValueError, match="blobs: expected shapes"):
        layer.forward([Blob(np.ones((1, 4, 5, 5), F))], [Blob()])


def test_blob():
    values = np.ones((2, 3), np.float32)
    blob = Blob(values)
    assert blob.data is values
    assert blob.shape == (2, 3)
    assert not blob.diff.any()
    blob.diff[...] = 4
    blob.reshape((2, 3), np.float32)
    assert (blob.diff == 4).all()
    blob.reshape((3, 2), np.float32)
    assert blob.shape == (3, 2)
    assert not blob.diff.any()
    with pytest.raises(AttributeError):
        blob.data = values
