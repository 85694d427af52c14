"""What FAULTS.md promises about arrays: types, memory layouts, targets, special values, batches.

Most tests walk over `arrays.OPERATIONS`, so that every array argument of every public function is
met in every odd form.
"""

import itertools
import re
import warnings

import numpy as np
import pytest
from arrays import (
    KERNEL,
    ODD,
    OPERATIONS,
    WINDOW,
    WRITABLE,
    Unchanged,
    assert_same_bits,
    in_pieces,
    plain,
    refuses,
    root,
)
from cases import GENERAL
from numpy.lib.stride_tricks import as_strided

import fastconv
from fastconv import caffe, reference
from fastconv._memory import overlaps_itself

DTYPES = {"f32": np.float32, "f64": np.float64}
both_types = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
every_operation = pytest.mark.parametrize("name", OPERATIONS)
every_engine = pytest.mark.parametrize("engine", GENERAL)


def each(side, chosen=OPERATIONS):
    """One test for each of the inputs, or outputs, of every operation."""
    pairs = [(name, key) for name in chosen for key in getattr(OPERATIONS[name], side)]
    return pytest.mark.parametrize(("name", "key"), pairs, ids=[f"{n}: {k}" for n, k in pairs])


# The operations that write into a caller's array (a layer's are its blobs').
WRITING = [name for name, operation in OPERATIONS.items() if operation.takes_any_type]
# Those of float32 and float64 at once: all but the layers, whose blobs have one type.
MIXING = [name for name in WRITING if len(OPERATIONS[name].inputs) > 1]
# Caffe's steps, which must be given their target; that of one is also read for the sizes and type.
STEPS = [name for name in WRITING if name.startswith(("forward_", "backward_", "weight_"))]
CALLS = [name for name in WRITING if name not in STEPS]


# --- types --------------------------------------------------------------------------------------

BAD_TYPES = [
    "int8", "int64", "uint16", "bool", "float16", "longdouble", "complex64", "complex128", "object",
    "str", "datetime64[s]", "f4,f4",
]  # fmt: skip


@each("inputs")
def test_other_types_are_refused_with_the_cast_that_helps(name, key):
    operation = OPERATIONS[name]
    given = operation.random(np.float32)
    if name.endswith("Layer") and key == "dout":
        return  # which is a blob's own
    argument = "data" if name.endswith("Layer") else key
    for kind in BAD_TYPES:
        given[key] = np.zeros(operation.inputs[key], kind)
        message = (
            f"{argument}: expected float32 or float64, got {given[key].dtype}; "
            f"convert it first, as in np.asarray({argument}).astype(np.float32)"
        )
        match = f"^{re.escape(message)}$"
        refuses(TypeError, match, lambda: operation.run(given, {}), *given.values())


@each("inputs", WRITING)
def test_masked_arrays_are_refused(name, key):
    operation = OPERATIONS[name]
    given = operation.random(np.float32)
    data = given[key]
    match = rf"^{key}: masked arrays are not supported; pass {key}\.filled\(0\), say$"
    for mask in (False, True, np.ma.nomask):
        given[key] = np.ma.masked_array(data, mask)
        refuses(TypeError, match, lambda: operation.run(given, {}), data)


@each("outputs", WRITING)
def test_masked_targets_are_refused(name, key):
    operation = OPERATIONS[name]
    target = np.ma.masked_array(np.ones(operation.outputs[key], np.float32), False)
    given = operation.random(np.float32)
    match = f"^{key}: expected an ndarray, got MaskedArray$"
    refuses(TypeError, match, lambda: operation.run(given, {key: target}), target.data)


@every_operation
def test_results_are_plain_arrays(name):
    operation = OPERATIONS[name]
    given = {key: ODD["subclass"](array) for key, array in operation.random(np.float32).items()}
    for result in operation.run(given, {}):
        assert type(result) is np.ndarray


@each("inputs", WRITING)
def test_lists_are_taken_as_arrays(name, key):
    operation = OPERATIONS[name]
    given = operation.random(np.float64)
    wanted = operation.run(given, {})
    given[key] = given[key].tolist()
    for got, array in zip(operation.run(given, {}), wanted, strict=True):
        assert_same_bits(got, array)


@each("inputs", WRITING)
def test_lists_of_integers_and_ragged_ones_are_refused(name, key):
    operation = OPERATIONS[name]
    given = operation.random(np.float64)
    given[key] = np.ones(operation.inputs[key], int).tolist()
    refuses(TypeError, f"^{key}: expected float32 or float64", lambda: operation.run(given, {}))
    given[key] = [[1.0, 2.0], [3.0]]
    refuses(ValueError, f"^{key}: cannot be made an array", lambda: operation.run(given, {}))


@each("inputs", MIXING)
def test_one_wide_argument_widens_the_results(name, key):
    operation = OPERATIONS[name]
    given = operation.random(np.float32)
    given[key] = given[key].astype(np.float64) / 3
    wanted = operation.run({k: array.astype(np.float64) for k, array in given.items()}, {})
    with Unchanged(*given.values()):
        results = operation.run(given, {})
    for got, array in zip(results, wanted, strict=True):
        assert got.dtype == np.float64
        assert_same_bits(got, array)


@each("outputs", MIXING)
def test_a_target_of_the_narrow_type_is_refused_for_mixed_arguments(name, key):
    operation = OPERATIONS[name]
    given = operation.random(np.float32)
    given["w" if "w" in given else "dout"] = given["w" if "w" in given else "dout"].astype(float)
    target = np.ones(operation.outputs[key], np.float32)
    match = f"^{key}: expected dtype float64, got float32$"
    refuses(TypeError, match, lambda: operation.run(given, {key: target}), target)


def test_the_bias_step_does_not_narrow_the_bias():
    out = np.ones((2, 3), np.float32)
    match = "^out: expected dtype float64, got float32$"
    refuses(TypeError, match, lambda: caffe.forward_bias(out, np.ones(2)), out)


def test_layers_take_one_type():
    for kind in (caffe.ConvolutionLayer, caffe.DeconvolutionLayer):
        layer = kind(4, 1, dtype=np.float32)
        bottom = [caffe.Blob(np.ones((1, 2, 3, 3)))]
        match = "^bottom: expected float32, got float64$"
        refuses(TypeError, match, lambda lay=layer, low=bottom: lay.setup(low, [caffe.Blob()]))


# --- inputs that lie oddly in memory ------------------------------------------------------------


@pytest.mark.parametrize("form", ODD)
@both_types
@each("inputs")
def test_odd_inputs_give_the_bits_of_plain_ones(name, key, dtype, form):
    operation = OPERATIONS[name]
    given = operation.random(dtype)
    given[key] = ODD[form](given[key])
    wanted = operation.run({k: plain(array) for k, array in given.items()}, {})
    with Unchanged(*given.values()):
        results = operation.run(given, {})
    for got, array in zip(results, wanted, strict=True):
        assert got.dtype == dtype
        assert_same_bits(got, array)


@pytest.mark.parametrize("form", ODD)
@every_operation
def test_all_inputs_odd_at_once(name, form):
    operation = OPERATIONS[name]
    given = {key: ODD[form](array) for key, array in operation.random(np.float32).items()}
    wanted = operation.run({key: plain(array) for key, array in given.items()}, {})
    with Unchanged(*given.values()):
        results = operation.run(given, {})
    for got, array in zip(results, wanted, strict=True):
        assert_same_bits(got, array)


@pytest.mark.parametrize("size", [3, 8, 17])
@both_types
@every_engine
def test_one_array_as_two_arguments_gives_the_bits_of_two(engine, size, dtype):
    """NumPy multiplies a matrix with its own transpose otherwise than with an equal matrix's."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, size, size, size)).astype(dtype)
    _, cache = fastconv.conv_forward(x, x[0, :, :, :1, None], stride=1, engine=engine)
    x = rng.standard_normal((2, size, 5, 5)).astype(dtype)
    w = rng.standard_normal((size, size, 1, 1)).astype(dtype)
    _, cache = fastconv.conv_forward(x, w, engine=engine)
    for got, wanted in zip(
        fastconv.conv_backward(x, cache)[:2],
        fastconv.conv_backward(x.copy(), cache)[:2],
        strict=True,
    ):
        assert_same_bits(got, wanted)
    got, wanted = np.zeros((2, *w.shape), dtype)
    caffe.weight_gemm(x[0], x[0], got)
    caffe.weight_gemm(x[0], x[0].copy(), wanted)
    assert_same_bits(got, wanted)


# --- targets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", WRITABLE)
@both_types
@each("outputs", WRITING)
def test_odd_targets_get_the_bits_of_plain_ones(name, key, dtype, form):
    """Those that are added to start from ones, the others from NaN; what is around them stays."""
    operation = OPERATIONS[name]
    given = operation.random(dtype)
    index = list(operation.outputs).index(key)
    start = operation.starts(dtype)[key]
    wanted = operation.run(given, {key: start.copy()})[index]
    target = WRITABLE[form](start)
    held = target.copy().tobytes()
    surroundings = root(target)
    before = surroundings.tobytes()
    with Unchanged(*given.values()):
        result = operation.run(given, {key: target})[index]
    assert result is target
    assert_same_bits(plain(target), wanted)
    # With the result taken back, the memory all around is what it was.
    np.asarray(target)[...] = np.frombuffer(held, target.dtype).reshape(target.shape)
    assert surroundings.tobytes() == before


@both_types
@each("outputs", WRITING)
def test_results_do_not_depend_on_being_given_a_target(name, key, dtype):
    operation = OPERATIONS[name]
    given = operation.random(dtype)
    index = list(operation.outputs).index(key)
    target = np.full(operation.outputs[key], 0 if key in operation.adds else np.nan, dtype)
    assert_same_bits(operation.run(given, {key: target})[index], operation.run(given, {})[index])


@pytest.mark.parametrize("form", WRITABLE)
@each("outputs", [name for name in WRITING if OPERATIONS[name].adds])
def test_sums_of_integers_are_exact_in_any_target(name, key, form):
    operation = OPERATIONS[name]
    if key not in operation.adds:
        return
    rng = np.random.default_rng(0)
    given = {
        k: rng.integers(-4, 5, shape).astype(np.float32) for k, shape in operation.inputs.items()
    }
    index = list(operation.outputs).index(key)
    once = operation.run(given, {})[index]
    target = WRITABLE[form](rng.integers(-9, 9, once.shape).astype(np.float32))
    start = plain(target)
    for _ in range(3):
        operation.run(given, {key: target})
    np.testing.assert_array_equal(plain(target), start + 3 * once)


@each("outputs", [name for name in WRITING if name != "forward_bias"])
def test_wrong_targets_are_refused_untouched(name, key):
    operation = OPERATIONS[name]
    given = operation.random(np.float32)
    shape = operation.outputs[key]
    read_only = np.ones(shape, np.float32)
    read_only.flags.writeable = False
    for target, error, match in (
        (np.ones(shape, np.float64), TypeError, f"^{key}: expected dtype float32, got float64$"),
        (np.ones(shape, np.int32), TypeError, f"^{key}: expected dtype float32, got int32$"),
        (read_only, ValueError, f"^{key}: the array is read-only$"),
        (np.broadcast_to(np.float32(1), shape), ValueError, f"^{key}: the array is read-only$"),
        ([1.0], TypeError, f"^{key}: expected an ndarray, got list$"),
    ):
        arrays = [array for array in (target, *given.values()) if isinstance(array, np.ndarray)]
        refuses(error, match, lambda t=target: operation.run(given, {key: t}), *arrays)


@pytest.mark.parametrize("change", [(1,), (0,), "turned", "flat", "scalar"], ids=str)
@each("outputs", CALLS)
def test_targets_of_another_shape_are_refused_untouched(name, key, change):
    operation = OPERATIONS[name]
    given = operation.random(np.float32)
    shape = operation.outputs[key]
    other = {
        "turned": (shape[-1], *shape[:-1]) if len(shape) > 1 else (1, *shape),
        "flat": (int(np.prod(shape)), 1),
        "scalar": (),
    }.get(change, (*shape, *change))
    target = np.ones(other, np.float32)
    match = f"^{re.escape(f'{key}: expected shape {shape}, got {other}')}$"
    call = lambda: operation.run(given, {key: target})  # noqa: E731
    refuses(ValueError, match, call, target, *given.values())


@each("outputs", [name for name in STEPS if name != "forward_bias"])
def test_steps_refuse_targets_that_do_not_fit(name, key):
    """Where a step's sizes come from its target, another argument may be the one that is named."""
    operation = OPERATIONS[name]
    given = operation.random(np.float32)
    shape = operation.outputs[key]
    for other in ((), (2,), (*shape, 1), shape[1:], (shape[0] + 1, *shape[1:])):
        target = np.ones(other, np.float32)
        call = lambda t=target: operation.run(given, {key: t})  # noqa: E731
        refuses(ValueError, r"\(", call, target, *given.values())
    refuses(TypeError, f"^{key}: ", lambda: operation.run(given, {key: None} | {key: "array"}))


def test_the_bias_step_refuses_results_that_are_none():
    b, read_only = np.ones(3, np.float32), np.ones((3, 2), np.float32)
    read_only.flags.writeable = False
    for out, error, match in (
        ([[1.0]], TypeError, "^out: expected an ndarray, got list$"),
        (np.ones((3, 2), int), TypeError, "^out: expected float32 or float64, got int64"),
        (read_only, ValueError, "^out: the array is read-only$"),
        (np.ones((2, 3), np.float32), ValueError, r"^b: expected shape \(2,\) .*, got \(3,\)$"),
        (np.ones(3, np.float32), ValueError, r"^out: expected \(F, \*O\), none of them 0, got"),
        (np.ones((3, 0), np.float32), ValueError, r"^out: .* got shape \(3, 0\)$"),
        (np.float32(1), TypeError, "^out: expected an ndarray, got float32$"),
    ):
        arrays = [array for array in (out, b) if isinstance(array, np.ndarray)]
        refuses(error, match, lambda o=out: caffe.forward_bias(o, b), *arrays)


def laid_over(buffer, offset, shape, *, backwards=False):
    """A view of part of a buffer, in either direction."""
    size = int(np.prod(shape))
    view = buffer[offset : offset + size]
    return (view[::-1] if backwards else view).reshape(shape)


OVERLAPS = [
    pytest.param((name, key, source), id=f"{name}: {key} over {source}")
    for name in WRITING
    for key in OPERATIONS[name].outputs
    for source in OPERATIONS[name].inputs
]


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_targets_may_overlap_inputs(overlap):
    """From the same element on, by one, by the last one only; forwards and backwards."""
    name, key, source = overlap
    operation = OPERATIONS[name]
    index = list(operation.outputs).index(key)
    last = int(np.prod(operation.inputs[source])) - 1
    for shift, backwards in itertools.product((0, 1, last), (False, True)):
        given = operation.random(np.float64)
        buffer = np.random.default_rng(1).standard_normal(2000)
        laid = laid_over(buffer, 0, operation.inputs[source])
        laid[...] = given[source]
        given[source] = laid
        target = laid_over(buffer, shift, operation.outputs[key], backwards=backwards)
        apart = {k: plain(array) for k, array in given.items()}
        wanted = operation.run(apart, {key: plain(target)})[index].copy()
        assert operation.run(given, {key: target})[index] is target
        assert_same_bits(target, wanted)


@pytest.mark.parametrize(
    "name",
    [
        *(
            f"{kind}{engine}, forward"
            for kind in ("conv", "conv 1x1", "deconv")
            for engine in ("", " by caffe")
        ),
        "im2col",
    ],
)
def test_a_target_may_overlap_itself(name):
    """Two equal samples into one place."""
    operation = OPERATIONS[name]
    given = operation.random(np.float32)
    given["x"][1] = given["x"][0]
    (wanted,) = operation.run(given, {})
    one = np.full(wanted.shape[1:], np.nan, np.float32)
    out = as_strided(one, wanted.shape, (0, *one.strides))
    operation.run(given, {"out": out})
    assert_same_bits(one, wanted[0])


def test_overlaps_itself_proves_that_no_two_elements_share_memory():
    array = np.zeros((3, 4, 5))
    for view in (array, array.T, array[::-1, ::2], array[:, :1], in_pieces(array), array[:0]):
        assert not overlaps_itself(view)
    for strides in ((0, 8), (8, 8), (16, 8), (-16, 8)):
        assert overlaps_itself(as_strided(array[1:], (2, 3), strides))


@pytest.mark.parametrize("name", ["forward_gemm", "backward_gemm", "weight_gemm"])
def test_a_column_buffer_full_of_nan_has_no_effect(name):
    operation = OPERATIONS[name]
    given = operation.random(np.float32)
    (wanted,) = operation.run(given, {})
    (key,) = operation.outputs
    target = np.zeros_like(wanted)
    buffer = np.full((24, 18), np.nan, np.float32)
    step = getattr(caffe, name)
    step(**given, **{key: target}, col_buffer=buffer, group=2, **WINDOW)
    assert_same_bits(target, wanted)


@pytest.mark.parametrize("name", ["forward_gemm", "backward_gemm", "weight_gemm"])
def test_a_column_buffer_over_another_array_is_refused(name):
    operation = OPERATIONS[name]
    shapes = {**operation.inputs, **operation.outputs}
    for shared in shapes:
        buffer = np.ones((24, 18), np.float32)
        arrays = {key: np.ones(shape, np.float32) for key, shape in shapes.items()}
        arrays[shared] = laid_over(buffer.reshape(-1), 5, shapes[shared])
        refuses(
            ValueError,
            "^col_buffer: must not overlap another array of the call$",
            lambda a=arrays, b=buffer: getattr(caffe, name)(**a, col_buffer=b, group=2, **WINDOW),
            buffer,
            *arrays.values(),
        )


@pytest.mark.parametrize("kind", [caffe.ConvolutionLayer, caffe.DeconvolutionLayer])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_top_may_overlap_the_bottoms(kind, kernel):
    rng = np.random.default_rng(0)
    memory = rng.standard_normal(400).astype(np.float32)

    def run(bottom, top):
        layer = kind(2, kernel, pad=kernel // 2)
        layer.setup(bottom, top)
        layer.blobs[0].data[...] = np.random.default_rng(1).standard_normal(layer.blobs[0].shape)
        layer.forward(bottom, top)

    def blob(offset):
        return caffe.Blob(laid_over(memory, offset, (2, 2, 5, 5)))

    apart = [caffe.Blob(), caffe.Blob()]
    run([caffe.Blob(blob(0).data.copy()), caffe.Blob(blob(150).data.copy())], apart)
    over = [blob(30), blob(200)]
    run([blob(0), blob(150)], over)
    for got, wanted in zip(over, apart, strict=True):
        assert_same_bits(got.data, wanted.data)


def test_a_read_only_top_is_refused():
    bottom, top = [caffe.Blob(np.ones((1, 1, 2), np.float32))], np.ones((1, 1, 2), np.float32)
    top.flags.writeable = False
    layer = caffe.ConvolutionLayer(1, 1)
    layer.setup(bottom, [caffe.Blob()])
    match = "^top: the array is read-only$"
    refuses(ValueError, match, lambda: layer.forward(bottom, [caffe.Blob(top)]), top)


# --- special values -----------------------------------------------------------------------------

SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -2.0])

# x and w, and the parameters: products of many, of one row, of one column, of single numbers.
PLACES = {
    "2d": ((2, 4, 6, 5), (6, 2, 3, 2), {**WINDOW, "group": 2}),
    "one filter": ((2, 3, 5, 5), (1, 3, 3, 3), {"pad": 1}),
    "one position": ((2, 3, 2, 2), (4, 3, 4, 4), {"pad": 1}),
    "one filter, one position": ((1, 3, 2, 2), (1, 3, 4, 4), {"pad": 1}),
    "one tap": ((2, 1, 4), (3, 1, 1), {"pad": 2, "stride": 2}),
    "1x1": ((2, 3, 3, 3), (4, 3, 1, 1), {}),
    "depthwise": ((2, 4, 7), (4, 1, 3), {"group": 4, "pad": 1, "dilation": 2}),
    "3d": ((1, 2, 3, 3, 3), (2, 2, 2, 2, 2), {"pad": 1, "stride": 2}),
    "wide": ((1, 20, 5, 4), (24, 20, 3, 3), {"pad": 1}),
}


def special_array(rng, shape, dtype, share):
    values = rng.integers(-3, 4, shape).astype(dtype)
    chosen = rng.random(shape) < share
    values[chosen] = rng.choice(SPECIAL, chosen.sum())
    return values


def assert_same_places(got, wanted):
    for test in (np.isnan, np.isposinf, np.isneginf):
        np.testing.assert_array_equal(test(got), test(wanted))
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(got[finite], wanted[finite])


def padded_reference(x, w, dout, *, pad=0, **params):
    """out, dx and dw with the padding as cells that are there, as Caffe has it: 0 * inf is NaN."""
    pads = np.broadcast_to(
        np.reshape(pad, (-1, 2) if np.ndim(pad) > 1 else (-1, 1)), (x.ndim - 2, 2)
    )
    wide = np.pad(x, [(0, 0), (0, 0), *map(tuple, pads)])
    inside = tuple(slice(b, b + size) for (b, _), size in zip(pads, x.shape[2:], strict=True))
    with np.errstate(all="ignore"):
        out = reference.conv_forward_loops(wide, w, **params)
        dx, dw, db = reference.conv_backward_loops(dout, wide, w, **params)
    return out, dx[:, :, *inside], dw, db


@pytest.mark.parametrize("share", [0.02, 0.3])
@both_types
@pytest.mark.parametrize("place", PLACES)
@every_engine
def test_nan_and_infinity_are_where_direct_convolution_has_them(engine, place, dtype, share):
    x_shape, w_shape, params = PLACES[place]
    rng = np.random.default_rng(0)
    x, w = (special_array(rng, shape, dtype, share) for shape in (x_shape, w_shape))
    b = np.zeros(w_shape[0], dtype)
    out, cache = fastconv.conv_forward(x, w, b, engine=engine, **params)
    dout = special_array(rng, out.shape, dtype, share)
    results = (out, *fastconv.conv_backward(dout, cache))
    for got, wanted in zip(results, padded_reference(x, w, dout, **params), strict=True):
        assert_same_places(got, wanted)
    back = fastconv.deconv(dout, w, engine=engine, **params)
    with np.errstate(all="ignore"):
        assert_same_places(back, reference.deconv_forward_loops(dout, w, **params))


@both_types
@pytest.mark.parametrize("filters", [1, 2, 20])
@every_engine
def test_an_infinite_weight_on_zero_padding_gives_nan(engine, filters, dtype):
    w = np.ones((filters, 1, 3, 3), dtype)
    w[:, 0, 0, 0] = np.inf
    out = fastconv.conv(np.ones((1, 1, 4, 4), dtype), w, pad=1, engine=engine)
    assert np.isnan(out[:, :, 0]).all()
    assert np.isnan(out[:, :, :, 0]).all()
    assert np.isposinf(out[:, :, 1:, 1:]).all()


@every_operation
@both_types
def test_the_callers_error_state_has_no_effect(name, dtype):
    """Overflow, NaN and subnormals everywhere, a signalling NaN too: no warning, no error."""
    operation = OPERATIONS[name]
    rng = np.random.default_rng(0)
    huge = np.finfo(dtype).max
    numbers = np.array([np.nan, np.inf, -np.inf, huge, -huge, np.finfo(dtype).tiny / 4, 3], dtype)
    given = {
        key: rng.choice(numbers, shape).astype(dtype) for key, shape in operation.inputs.items()
    }
    signalling = {np.float32: (np.uint32, 0x7F800001), np.float64: (np.uint64, 0x7FF0000000000001)}
    unsigned, bits = signalling[dtype]
    for array in given.values():
        array.reshape(-1).view(unsigned)[0] = bits
    wanted = [array.tobytes() for array in operation.run(given, {})]
    for setting in ("raise", "warn"):
        with np.errstate(all=setting), warnings.catch_warnings():
            warnings.simplefilter("error")
            assert [array.tobytes() for array in operation.run(given, {})] == wanted
            assert np.geterr() == dict.fromkeys(np.geterr(), setting)


@pytest.mark.parametrize("key", ["x", "w", "b", "dout"])
@pytest.mark.parametrize("name", ["conv, backward", "conv by caffe, backward"])
def test_the_callers_error_state_has_no_effect_on_widening(name, key):
    operation = OPERATIONS[name]
    given = operation.random(np.float64)
    given[key] = given[key].astype(np.float32)
    given[key].reshape(-1).view(np.uint32)[0] = 0x7F800001  # a signalling NaN
    with np.errstate(all="raise"):
        results = operation.run(given, {})
    assert all(result.dtype == np.float64 for result in results)


@both_types
@every_engine
def test_subnormal_numbers_are_right(engine, dtype):
    """Integers times the smallest subnormal: every sum is exact."""
    rng = np.random.default_rng(0)
    least = np.finfo(dtype).smallest_subnormal
    x, w = rng.integers(-9, 10, (2, 4, 6, 5)), rng.integers(-9, 10, (6, 2, 3, 2))
    params = {**WINDOW, "group": 2}
    tiny = x.astype(dtype) * least
    out, cache = fastconv.conv_forward(tiny, w.astype(dtype), engine=engine, **params)
    wanted = reference.conv_forward_loops(x, w, **params)
    assert_same_bits(out + 0.0, wanted.astype(dtype) * least + 0.0)
    dout = rng.integers(-9, 10, out.shape)
    gradients = fastconv.conv_backward(dout.astype(dtype) * least, cache)
    dx, _, _ = reference.conv_backward_loops(dout, x, w, **params)
    assert_same_bits(gradients[0] + 0.0, dx.astype(dtype) * least + 0.0)
    assert not gradients[1].any()  # products of two subnormals
    cols = fastconv.im2col(tiny, KERNEL, **WINDOW)
    assert_same_bits(cols, fastconv.im2col(x.astype(dtype), KERNEL, **WINDOW) * least)
    back = fastconv.col2im(cols, x.shape, KERNEL, **WINDOW)
    wanted = reference.col2im_loops(
        reference.im2col_loops(x, KERNEL, **WINDOW), x.shape, KERNEL, **WINDOW
    )
    assert_same_bits(back + 0.0, wanted.astype(dtype) * least + 0.0)
    assert least * dtype(3) / dtype(3) == least  # nothing has switched subnormals off


# --- empty arrays -------------------------------------------------------------------------------


@every_operation
@both_types
def test_no_samples(name, dtype):
    operation = OPERATIONS[name]
    given = {key: array[:0] if key in ("x", "offset", "mask", "dout", "cols") else array
             for key, array in operation.random(dtype).items()}  # fmt: skip
    if name in STEPS:
        return  # of one sample
    if name == "col2im":
        results = (fastconv.col2im(given["cols"], (0, 4, 6, 5), KERNEL, **WINDOW),)
    elif name == "im2col_blocks":
        assert list(fastconv.im2col_blocks(given["x"], KERNEL, **WINDOW)) == []
        return
    else:
        results = operation.run(given, {})
    for result, (key, shape) in zip(results, operation.outputs.items(), strict=True):
        assert result.dtype == dtype
        if key in ("dw", "db"):
            assert result.shape == shape
            assert_same_bits(result, np.zeros(shape, dtype))
        else:
            assert result.shape == (0, *shape[1:])


@pytest.mark.parametrize("kind", ["conv", "deconv"])
@every_engine
def test_no_samples_leave_accumulated_gradients_alone(engine, kind):
    forward, backward = getattr(fastconv, f"{kind}_forward"), getattr(fastconv, f"{kind}_backward")
    out, cache = forward(np.zeros((0, 2, 5)), np.ones((2, 2, 3)), np.ones(2), engine=engine)
    dw, db = np.arange(12.0).reshape(2, 2, 3), np.arange(2.0)
    with Unchanged(dw, db):
        backward(out, cache, dw=dw, db=db)


@every_engine
def test_no_samples_need_no_memory(engine):
    """An empty result of images of a terabyte."""
    x = np.empty((0, 64, 2**20, 2**14), np.float32)
    w = np.ones((2, 64, 3, 3), np.float32)
    out, cache = fastconv.conv_forward(x, w, np.ones(2, np.float32), pad=1, engine=engine)
    assert out.shape == (0, 2, 2**20, 2**14)
    dx, dw, db = fastconv.conv_backward(out, cache)
    assert dx.shape == x.shape
    assert not dw.any()
    assert not db.any()
    w = np.ones((64, 1, 3, 3), np.float32)
    assert fastconv.deconv(x, w, pad=1, engine=engine).shape[0] == 0
    assert fastconv.im2col(x, 3, pad=1).shape == (0, 576, 2**34)
    layer = caffe.ConvolutionLayer(2, 3, pad=1)
    bottom, top = [caffe.Blob(x)], [caffe.Blob()]
    layer.setup(bottom, top)
    layer.forward(bottom, top)
    layer.backward(top, [True], bottom)
    assert top[0].shape == (0, 2, 2**20, 2**14)


@pytest.mark.parametrize("spatial", [(0,), (0, 3), (3, 0), (0, 0), (2, 0, 2)], ids=str)
@every_engine
def test_axes_of_size_0_are_valid_where_padding_makes_them_so(engine, spatial):
    rank = len(spatial)
    rng = np.random.default_rng(0)
    x, w = np.zeros((2, 3, *spatial)), rng.integers(-3, 4, (4, 3, *(2,) * rank)).astype(float)
    out, cache = fastconv.conv_forward(x, w, np.arange(4.0), pad=2, engine=engine)
    wanted = reference.conv_forward_loops(x, w, np.arange(4.0), pad=2)
    np.testing.assert_array_equal(out, wanted)
    assert out.size
    dx, dw, db = fastconv.conv_backward(np.ones_like(out), cache)
    assert dx.shape == x.shape
    assert_same_bits(dw, np.zeros_like(dw))
    assert (db == out[:, 0].size).all()
    cols = fastconv.im2col(x, 2, pad=2)
    assert_same_bits(cols, np.zeros_like(cols))
    assert fastconv.col2im(cols, x.shape, 2, pad=2).shape == x.shape
    layer = caffe.ConvolutionLayer(4, 2, pad=2, dtype=np.float64)
    bottom, top = [caffe.Blob(x)], [caffe.Blob()]
    layer.setup(bottom, top)
    layer.forward(bottom, top)
    layer.backward(top, [True], bottom)
    assert top[0].shape == out.shape


# --- more than 2**31 elements ---------------------------------------------------------------------


def sparse_image(*shape):
    """Zeros, 8 GiB of them, of which only what is touched takes memory; 3 first and 7 last."""
    try:
        x = np.zeros(shape, np.float32)
    except MemoryError:
        pytest.skip("8 GiB of addresses are refused here")
    x.reshape(-1)[[0, -1]] = 3, 7
    return x


@pytest.mark.parametrize(
    "spatial", [(2**31 + 2**20,), (2**11 + 1, 2**20), (2**11 + 1, 2**10, 2**10)], ids=str
)
@every_engine
def test_windows_over_the_corners_of_a_huge_image(engine, spatial):
    x = sparse_image(1, 1, *spatial)
    far = tuple(size - 1 for size in spatial)
    corners = np.zeros(2 ** len(spatial), np.float32)
    corners[[0, -1]] = 3, 7
    assert_same_bits(fastconv.im2col(x, 2, dilation=far), corners.reshape(1, -1, 1))
    w = np.arange(1, 1 + corners.size, dtype=np.float32).reshape(1, 1, *(2,) * len(spatial))
    out, cache = fastconv.conv_forward(x, w, dilation=far, engine=engine)
    assert out.item() == 3 + 7 * corners.size
    wanted = (False, True, False)
    _, dw, _ = fastconv.conv_backward(np.full_like(out, 2), cache, propagate_down=wanted)
    assert_same_bits(dw.reshape(-1), 2 * corners)


@pytest.mark.parametrize("axis", [0, 1])
def test_huge_numbers_of_samples_and_channels(axis):
    shape = [1, 1, 2**20]
    shape[axis] = 2**11 + 1
    cols = fastconv.im2col(sparse_image(*shape), 1, stride=2**20 - 1)
    assert cols.size == 2 * shape[axis]
    assert_same_bits(cols.reshape(-1)[[0, -1]], np.array([3, 7], np.float32))
    assert np.count_nonzero(cols) == 2


# --- batches, workers, repeats ------------------------------------------------------------------

# Small samples that are taken several at a time; one that is cut into ranges of positions; others.
BATCHES = {
    "small": ((7, 8, 9, 10), (12, 4, 3, 3), {"pad": 1, "group": 2}),
    "large": ((3, 24, 60, 50), (20, 24, 3, 3), {"pad": [(1, 0), (2, 1)]}),
    "1x1": ((5, 24, 40, 41), (10, 24, 1, 1), {}),
    "1x1 of one filter": ((5, 33, 20, 21), (1, 33, 1, 1), {}),
    "depthwise": ((4, 20, 50, 30), (40, 1, 5, 5), {"group": 20, "stride": 2, "pad": "same"}),
    "1d": ((6, 5, 700), (9, 5, 11), {"dilation": 3}),
    "3d": ((4, 3, 12, 11, 10), (5, 3, 3, 3, 3), {"stride": (1, 2, 1)}),
    "one position": ((6, 40, 7, 7), (30, 40, 7, 7), {}),
}


def everything(engine, kind, x, w, b, dout, params, workers=None, gradients=(None, None)):
    """The forward result and the three gradients; those of w and b added to what is given."""
    forward, backward = getattr(fastconv, f"{kind}_forward"), getattr(fastconv, f"{kind}_backward")
    out, cache = forward(x, w, b, **params, workers=workers, engine=engine)
    dw, db = gradients
    return (out, *backward(dout, cache, dw=dw, db=db))


def batch_arrays(kind, batch, dtype):
    """x, w, b and dout; for a transposed convolution the result's shape is taken for x's."""
    x_shape, w_shape, params = BATCHES[batch]
    rng = np.random.default_rng(0)
    w = rng.standard_normal(w_shape).astype(dtype)
    small, large = rng.standard_normal(x_shape), None
    out = fastconv.conv(small.astype(dtype), w, **params)
    if kind == "conv":
        x, bias = small, w_shape[0]
    else:
        x, bias = rng.standard_normal(out.shape), w_shape[1] * params.get("group", 1)
        out = fastconv.deconv(x.astype(dtype), w, **params)
    large = rng.standard_normal(out.shape)
    b = rng.standard_normal(bias)
    return [array.astype(dtype) for array in (x, w, b, large)], params


@pytest.mark.parametrize("kind", ["conv", "deconv"])
@both_types
@pytest.mark.parametrize("batch", BATCHES)
@every_engine
def test_workers_repeats_and_batches_make_no_difference(monkeypatch, engine, batch, dtype, kind):
    monkeypatch.setattr("fastconv._engines.fused.THREAD_WORK", 0)  # or most have too little
    (x, w, b, dout), params = batch_arrays(kind, batch, dtype)
    out, dx, dw, db = everything(engine, kind, x, w, b, dout, params)
    for workers in (1, 2, 5, None):
        results = everything(engine, kind, x, w, b, dout, params, workers)
        for got, wanted in zip(results, (out, dx, dw, db), strict=True):
            assert_same_bits(got, wanted)
    for cuts in ([1], [len(x) - 1], list(range(1, len(x)))):
        sums = np.zeros_like(w), np.zeros_like(b)
        pieces = [
            everything(engine, kind, *part, params, gradients=sums)
            for part in zip(
                np.split(x, cuts), [w] * 99, [b] * 99, np.split(dout, cuts), strict=False
            )
        ]
        assert_same_bits(np.concatenate([piece[0] for piece in pieces]), out)
        assert_same_bits(np.concatenate([piece[1] for piece in pieces]), dx)
        assert_same_bits(sums[0], dw)
        assert_same_bits(sums[1], db)
    order = np.random.default_rng(1).permutation(len(x))
    turned = everything(engine, kind, x[order], w, b, dout[order], params)
    for got, wanted in zip(turned[:2], (out, dx), strict=True):
        assert_same_bits(got, wanted[order])


@pytest.mark.parametrize("form", ["in pieces", "Fortran", "misaligned", "big-endian"])
@pytest.mark.parametrize("kind", ["conv", "deconv"])
@pytest.mark.parametrize("batch", ["small", "large", "1x1"])
@every_engine
def test_large_odd_inputs_give_the_bits_of_plain_ones(engine, batch, kind, form):
    """As above, where a call takes several steps."""
    (x, w, b, dout), params = batch_arrays(kind, batch, np.float32)
    wanted = everything(engine, kind, x, w, b, dout, params)
    odd = [ODD[form](array) for array in (x, w, b, dout)]
    sums = [WRITABLE[form](np.zeros_like(array)) for array in (w, b)]
    results = everything(engine, kind, *odd, params, gradients=sums)
    for got, array in zip(results, wanted, strict=True):
        assert_same_bits(plain(got), array)


@pytest.mark.parametrize("kind", [caffe.ConvolutionLayer, caffe.DeconvolutionLayer])
def test_layers_give_the_same_for_one_batch_and_for_several_bottoms(kind):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 4, 9, 8)).astype(np.float32)
    w = rng.standard_normal((4, 4, 3, 3)).astype(np.float32)

    def run(parts):
        layer = kind(4, 3, pad=1)
        layer.blobs = [caffe.Blob(w), caffe.Blob(w[:, 0, 0, 0])]
        bottom, top = [caffe.Blob(part) for part in parts], [caffe.Blob() for _ in parts]
        layer.setup(bottom, top)
        layer.forward(bottom, top)
        for blob, part in zip(top, parts, strict=True):
            blob.diff[...] = part
        layer.backward(top, [True] * len(parts), bottom)
        results = [np.concatenate([blob.data for blob in top])]
        results.append(np.concatenate([blob.diff for blob in bottom]))
        return [*results, *(blob.diff for blob in layer.blobs)]

    whole = run([x[:4]])
    for got, wanted in zip(run([x[:2], x[2:4]]), whole, strict=True):
        assert_same_bits(got, wanted)
