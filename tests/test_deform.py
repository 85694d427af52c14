"""Deformable convolution: exact against plain convolution and the loops, bounded on floats."""

import math
import re
import warnings

import numpy as np
import pytest
from arrays import ODD, WRITABLE, Unchanged, assert_same_bits, plain, refuses
from cases import CONV_CASES, integer_array, parameters

import fastconv
from fastconv.deform import deform_conv_backward, deform_conv_forward
from fastconv.reference.deformable import deform_conv_backward_loops, deform_conv_forward_loops

DTYPES = [np.float32, np.float64]
GRADIENTS = ("dx", "doffset", "dmask", "dw", "db")

both_types = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])


def deform_cases():
    """The plain cases of rank 2 with every number of offset groups."""
    for param in CONV_CASES:
        (case,) = param.values
        channels = case["x_shape"][1]
        if len(case["x_shape"]) == 4:
            for groups in (n for n in range(1, channels + 1) if channels % n == 0):
                name = f"{param.id}, {groups} offset groups"
                yield pytest.param({**case, "offset_group": groups}, id=name)


every_case = pytest.mark.parametrize("case", list(deform_cases()))


def out_shape(case):
    """(OH, OW)."""
    x, w = (np.zeros(case[name], np.float32) for name in ("x_shape", "w_shape"))
    return fastconv.conv(x, w, **plain_parameters(case)).shape[2:]


def plain_parameters(case):
    """The parameters that plain convolution has too."""
    return {name: value for name, value in parameters(case).items() if name != "offset_group"}


def offset_shape(case):
    taps = case["offset_group"] * math.prod(case["w_shape"][2:])
    return (case["x_shape"][0], 2 * taps, *out_shape(case))


def mask_shape(case):
    samples, moves, *rest = offset_shape(case)
    return (samples, moves // 2, *rest)


def integers_for(case, rng):
    """Integers x, w, b, mask and dout."""
    x, w = (integer_array(rng, case[name], high=5) for name in ("x_shape", "w_shape"))
    b, mask = integer_array(rng, w.shape[:1]), integer_array(rng, mask_shape(case), high=3)
    dout = integer_array(rng, (len(x), len(w), *out_shape(case)), high=3)
    return x, w, b, mask, dout


def floats_for(case, rng, dtype):
    """Normally distributed x, offset, w, b, mask and dout."""
    shapes = (
        case["x_shape"],
        offset_shape(case),
        case["w_shape"],
        case["w_shape"][:1],
        mask_shape(case),
        (case["x_shape"][0], case["w_shape"][0], *out_shape(case)),
    )
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)


def run(x, offset, w, b, mask, dout, params):
    """The result and the five gradients."""
    out, cache = deform_conv_forward(x, offset, w, b, mask=mask, **params)
    return out, *deform_conv_backward(dout, cache)


def run_loops(x, offset, w, b, mask, dout, params):
    return (
        deform_conv_forward_loops(x, offset, w, b, mask=mask, **params),
        *deform_conv_backward_loops(dout, x, offset, w, mask=mask, **params),
    )


def assert_equal(got, wanted, dtype):
    assert got.dtype == dtype
    assert got.shape == wanted.shape
    np.testing.assert_array_equal(got, wanted)


# --- exactly ----------------------------------------------------------------------------------


@both_types
@every_case
def test_offsets_of_0_give_plain_convolution_to_the_bit(case, dtype):
    x, offset, w, b, _, dout = floats_for(case, np.random.default_rng(0), dtype)
    x[..., ::2] *= -0.0
    out, cache = fastconv.conv_forward(x, w, b, engine="caffe", **plain_parameters(case))
    dx, dw, db = fastconv.conv_backward(dout, cache)
    got = run(x, offset * 0, w, b, None, dout, parameters(case))
    assert got[3] is None
    for array, wanted in zip((got[0], got[1], *got[4:]), (out, dx, dw, db), strict=True):
        assert_same_bits(array, wanted)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "pad"),
    [
        ((2, 16, 96, 100), (8, 16, 3, 3), 1),
        ((1, 3, 100, 300), (4, 3, 5, 1), "same"),
        ((3, 40, 60, 70), (5, 40, 1, 1), 0),
    ],
)
def test_offsets_of_0_are_cut_as_plain_convolution_is(x_shape, w_shape, pad):
    case = {"x_shape": x_shape, "w_shape": w_shape, "pad": pad, "offset_group": 1}
    x, offset, w, b, _, dout = floats_for(case, np.random.default_rng(0), np.float32)
    out, cache = fastconv.conv_forward(x, w, b, pad=pad, engine="caffe")
    dx, dw, db = fastconv.conv_backward(dout, cache)
    got = run(x, offset * 0, w, b, None, dout, {"pad": pad})
    for array, wanted in zip((got[0], got[1], *got[4:]), (out, dx, dw, db), strict=True):
        assert_same_bits(array, wanted)


@pytest.mark.sanitize
@both_types
@every_case
def test_whole_offsets_equal_the_loops_on_integers(case, dtype):
    rng = np.random.default_rng(1)
    x, w, b, mask, dout = integers_for(case, rng)
    offset = integer_array(rng, offset_shape(case), high=4)
    params = parameters(case)
    wanted = run_loops(x, offset, w, b, mask, dout, params)
    given = (array.astype(dtype) for array in (x, offset, w, b, mask, dout))
    for got, target in zip(run(*given, params), wanted, strict=True):
        assert_equal(got, target, dtype)


def test_whole_offsets_move_the_image():
    rng = np.random.default_rng(2)
    x = integer_array(rng, (2, 3, 7, 8)).astype(float)
    w = integer_array(rng, (4, 3, 3, 3)).astype(float)
    offset = np.zeros((2, 18, 7, 8))
    offset[:, 0::2], offset[:, 1::2] = 2, -1
    moved = np.zeros((2, 3, 7 + 2, 8 + 2))
    moved[:, :, :6, 2:] = x[:, :, 1:]  # x at (i + 2, j - 1), in a frame of one cell
    out, _ = deform_conv_forward(x, offset, w, pad=1)
    np.testing.assert_array_equal(out, fastconv.conv(moved, w))


@pytest.mark.sanitize
@both_types
@every_case
def test_half_offsets_equal_the_loops_on_integers(case, dtype):
    """Weights of 1/2 and 1/4 on multiples of 4: nothing is rounded."""
    rng = np.random.default_rng(3)
    x, w, b, mask, dout = integers_for(case, rng)
    offset = integer_array(rng, offset_shape(case), high=6) / 2
    params = parameters(case)
    given = [array.astype(np.float64) for array in (4 * x, offset, w, b, mask, dout)]
    wanted = run_loops(*given, params)
    for got, target in zip(
        run(*(array.astype(dtype) for array in given), params), wanted, strict=True
    ):
        assert_equal(got, target, dtype)


@both_types
@every_case
def test_a_mask_of_ones_is_none(case, dtype):
    x, offset, w, b, mask, dout = floats_for(case, np.random.default_rng(4), dtype)
    params = parameters(case)
    without = run(x, offset, w, b, None, dout, params)
    ones = run(x, offset, w, b, np.ones_like(mask), dout, params)
    for name, got, wanted in zip(("out", *GRADIENTS), ones, without, strict=True):
        if name == "dmask":
            assert wanted is None
        else:
            assert_same_bits(got, wanted)


@both_types
def test_a_mask_of_zeros_leaves_the_bias(dtype):
    case = {"x_shape": (2, 4, 5, 6), "w_shape": (3, 4, 3, 3), "offset_group": 2}
    x, offset, w, b, mask, dout = floats_for(case, np.random.default_rng(5), dtype)
    out, dx, doffset, dmask, dw, _ = run(x, offset, w, b, mask * 0, dout, {"offset_group": 2})
    np.testing.assert_array_equal(out, np.broadcast_to(b[:, None, None], out.shape))
    for gradient in (dx, doffset, dw):
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))
    assert dmask.any()


@every_case
def test_gradients_of_linear_arguments_are_adjoint(case):
    """<out, dout> == <x, dx> == <w, dw> == <mask, dmask>, exactly."""
    rng = np.random.default_rng(6)
    x, w, _, mask, dout = (array.astype(np.float64) for array in integers_for(case, rng))
    offset = integer_array(rng, offset_shape(case), high=6) / 2
    out, dx, _, dmask, dw, _ = run(x, offset, w, None, mask, dout, parameters(case))
    assert np.vdot(out, dout) == np.vdot(x, dx) == np.vdot(w, dw) == np.vdot(mask, dmask)


@pytest.mark.sanitize
@pytest.mark.parametrize(("step_bytes", "step_positions"), [(1, 1), (1, 5), (2000, 1)])
@every_case
def test_cuts_change_nothing(case, step_bytes, step_positions, monkeypatch):
    """A few positions, samples or channels at a time, as large layers are taken."""
    rng = np.random.default_rng(7)
    x, w, b, mask, dout = (array.astype(np.float32) for array in integers_for(case, rng))
    offset = (integer_array(rng, offset_shape(case), high=6) / 2).astype(np.float32)
    arguments = (4 * x, offset, w, b, mask, dout, parameters(case))
    wanted = run(*arguments)
    monkeypatch.setattr("fastconv._engines.caffe.STEP_BYTES", step_bytes)
    monkeypatch.setattr("fastconv._engines.caffe.STEP_POSITIONS", step_positions)
    monkeypatch.setattr("fastconv._sampling.CALL_BYTES", 16 * step_positions)
    for got, target in zip(run(*arguments), wanted, strict=True):
        assert_same_bits(got, target)


# --- within bounds ----------------------------------------------------------------------------


@both_types
@every_case
def test_error_is_within_the_bound(case, dtype):
    """|err| <= (4*sqrt(K) + 8) * u * S, with a reference of higher precision."""
    x, offset, w, b, mask, dout = floats_for(case, np.random.default_rng(8), dtype)
    params = parameters(case)
    got = run(x, 2 * offset, w, b, mask, dout, params)
    wide = [array.astype(np.longdouble) for array in (x, 2 * offset, w, b, mask, dout)]
    wanted = run_loops(*wide, params)
    moves = wide.pop(1)
    x, w, b, mask, dout = map(np.abs, wide)
    sums = list(run_loops(x, moves, w, b, mask, dout, params))
    sums[2] = _offset_sums(x, moves, w, mask, dout, params)
    unit = np.finfo(dtype).eps / 2
    samples, filters, *positions = dout.shape
    a_sample, kernel = math.prod(positions), math.prod(w.shape[2:])
    filters_a_group, channels = filters // params["group"], x.shape[1] // params["offset_group"]
    lengths = (
        w[0].size,
        filters_a_group * kernel * a_sample,
        filters_a_group * channels,
        filters_a_group * channels,
        samples * a_sample,
        samples * a_sample,
    )
    for value, target, total, length in zip(got, wanted, sums, lengths, strict=True):
        error = np.abs(value - target)
        assert (error <= (4 * math.sqrt(length) + 8) * unit * total).all()


def _offset_sums(x, offset, w, mask, dout, params):
    """What |doffset| would be if all slopes were positive, of arguments that are.

    Along y these are the values on the two rows around a point, together, and dmask is the sum of
    values times the gradients of their columns.
    """
    sums = np.zeros_like(offset)
    for axis in (0, 1):
        for step in (0, 1):
            on_cells = offset.copy()
            on_cells[:, axis::2] = np.floor(offset[:, axis::2]) + step
            _, _, dmask, _, _ = deform_conv_backward_loops(dout, x, on_cells, w, **params)
            sums[:, axis::2] += dmask * mask
    return sums


@pytest.mark.parametrize("with_mask", [False, True])
def test_gradients_by_central_differences(with_mask):
    rng = np.random.default_rng(9)
    params = {"stride": (2, 1), "pad": [(1, 0), (2, 1)], "dilation": (1, 2), "group": 2}
    case = {"x_shape": (2, 4, 6, 5), "w_shape": (6, 2, 3, 2), "offset_group": 2, **params}
    x, offset, w, b, mask, dout = floats_for(case, rng, np.float64)
    offset = np.floor(2 * offset) + rng.uniform(0.1, 0.9, offset.shape)  # away from the kinks
    arrays = {"x": x, "offset": offset, "w": w, "b": b, "mask": mask if with_mask else None}

    def loss():
        out, cache = deform_conv_forward(**arrays, **params, offset_group=2)
        return np.vdot(out, dout), cache

    gradients = dict(zip(GRADIENTS, deform_conv_backward(dout, loss()[1]), strict=True))
    for name, array in arrays.items():
        if array is None:
            assert gradients[f"d{name}"] is None
            continue
        for index in rng.permutation(array.size)[:40]:
            where, kept = np.unravel_index(index, array.shape), array.flat[index]
            losses = []
            for step in (1e-6, -1e-6):
                array[where] = kept + step
                losses.append(loss()[0])
            array[where] = kept
            difference = (losses[0] - losses[1]) / 2e-6
            np.testing.assert_allclose(difference, gradients[f"d{name}"][where], 1e-3, 1e-5)


# --- points at the border, outside and nowhere ------------------------------------------------


def one_pixel_case(dtype, y=0.0, x=0.0, size=(4, 5), at=(1, 2)):
    """A 1x1 kernel, with the point of position `at` moved by (y, x)."""
    image = np.arange(1, 1 + math.prod(size), dtype=dtype).reshape(1, 1, *size)
    offset = np.zeros((1, 2, *size), dtype)
    offset[0, :, *at] = y, x
    return image, offset, np.ones((1, 1, 1, 1), dtype)


@both_types
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("far", [np.inf, -np.inf, 1e30, -1e30, 2**31, -(2**31), 2**63, 2.0**64])
def test_points_far_outside_are_0_and_give_no_gradient(far, axis, dtype):
    moves = (far, 0.25) if axis == 0 else (0.25, far)
    image, offset, w = one_pixel_case(dtype, *moves)
    mask = np.full((1, 1, 4, 5), 2, dtype)
    dout = np.ones_like(image)
    out, dx, doffset, dmask, dw, _ = run(image, offset, w, None, mask, dout, {})
    wanted = 2 * image
    wanted[..., 1, 2] = 0
    np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(dx, 2 * (wanted > 0))
    assert doffset[0, 0, 1, 2] == doffset[0, 1, 1, 2] == dmask[0, 0, 1, 2] == 0
    assert dw == wanted.sum()


@both_types
@pytest.mark.parametrize("other", [0, np.nan, np.inf, 1e30])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_nan_gives_nan_there_and_nothing_to_dx(axis, other, dtype):
    moves = (np.nan, other) if axis == 0 else (other, np.nan)
    image, offset, w = one_pixel_case(dtype, *moves)
    out, dx, doffset, dmask, dw, db = run(
        image, offset, w, np.zeros(1, dtype), np.ones((1, 1, 4, 5), dtype), image, {}
    )
    there = np.zeros((4, 5), bool)
    there[1, 2] = True
    for array in (out[0], doffset[0], dmask[0]):
        np.testing.assert_array_equal(np.isnan(array), np.broadcast_to(there, array.shape))
    np.testing.assert_array_equal(dx[0, 0], np.where(there, 0, image[0, 0]))
    assert np.isnan(dw).all()
    assert db == image.sum()


@pytest.mark.sanitize
@both_types
def test_hostile_offsets_equal_the_loops(dtype):
    """Every kind of coordinate in every place, with all gradients."""
    rng = np.random.default_rng(10)
    case = {"x_shape": (2, 4, 5, 6), "w_shape": (3, 4, 3, 2), "pad": (2, 1), "offset_group": 2}
    x, w, b, mask, dout = (array.astype(np.float64) for array in integers_for(case, rng))
    kinds = [np.nan, np.inf, -np.inf, 1e30, -1e30, 0.5, -0.5, 1, -1, 0, -0.0, 5, 6, -6.5, 1e-20]
    offset = rng.choice(kinds, offset_shape(case))
    params = parameters(case)
    with np.errstate(invalid="ignore"):  # the loops meet NaN
        wanted = run_loops(4 * x, offset, w, b, mask, dout, params)
    arguments = (array.astype(dtype) for array in (4 * x, offset, w, b, mask, dout))
    with warnings.catch_warnings(), np.errstate(all="raise"):
        got = run(*arguments, params)
    for array, target in zip(got, wanted, strict=True):
        np.testing.assert_allclose(array, target, 1e-6, 1e-12)


@both_types
def test_values_fade_out_within_one_cell(dtype):
    for move, wanted in ((-1, 6), (-2, 1), (-2.25, 0.75), (-2.75, 0.25), (-3, 0), (-3.5, 0)):
        image, offset, w = one_pixel_case(dtype, move + 1, -2)
        out, _ = deform_conv_forward(image, offset, w)
        assert out[0, 0, 1, 2] == wanted
    for move, wanted in ((2, 16), (2.25, 12), (2.75, 4), (3, 0), (3.5, 0)):
        image, offset, w = one_pixel_case(dtype, move, -2)
        out, _ = deform_conv_forward(image, offset, w)
        assert out[0, 0, 1, 2] == wanted


@both_types
def test_kinks_take_the_slope_towards_the_next_pixel(dtype):
    image, offset, w = one_pixel_case(dtype)
    _, cache = deform_conv_forward(image, offset, w)
    _, doffset, _, _, _ = deform_conv_backward(np.ones_like(image), cache)
    below, right = np.zeros((2, 4, 5))
    below[:-1], right[:, :-1] = image[0, 0, 1:], image[0, 0, :, 1:]
    np.testing.assert_array_equal(doffset[0], np.stack([below, right]) - image[0, 0])


@both_types
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_pixel_without_weight_does_not_count(bad, dtype):
    image, offset, w = one_pixel_case(dtype, 0, 0.5)
    image[0, 0, 1, 3] = bad
    out, cache = deform_conv_forward(image, offset, w)
    wanted = image.copy()
    wanted[0, 0, 1, 2] = bad  # halfway to it; all the others are on a pixel
    np.testing.assert_array_equal(out, wanted)
    dx = deform_conv_backward(np.ones_like(image), cache)[0]
    assert np.isfinite(dx).all()
    gradient = np.zeros_like(image)
    gradient[0, 0, 2, 2] = bad
    _, cache = deform_conv_forward(image, offset, w)
    dx = deform_conv_backward(gradient, cache)[0]
    np.testing.assert_array_equal(dx, gradient)


@both_types
def test_coordinates_keep_their_digits(dtype):
    """Tiny moves, and moves that undo a position far outside."""
    image, offset, w = one_pixel_case(dtype, -1e-20, 1e-20)
    np.testing.assert_array_equal(deform_conv_forward(image, offset, w)[0], image)
    far = 2**40
    image = np.arange(1, 6, dtype=dtype).reshape(1, 1, 1, 5)
    offset = np.zeros((1, 2, 1, 2), dtype)
    offset[0, 1, 0, 1] = 3 - far if dtype is np.float64 else -far
    out, _ = deform_conv_forward(image, offset, w, stride=(1, far), pad=[(0, 0), (0, far)])
    np.testing.assert_array_equal(out, [[[[1, 4 if dtype is np.float64 else 1]]]])


# --- what the calls promise -------------------------------------------------------------------

PARAMS = {"stride": (2, 1), "pad": [(1, 0), (2, 1)], "dilation": (1, 2), "group": 2}
CASE = {"x_shape": (2, 4, 6, 5), "w_shape": (6, 2, 3, 2), "offset_group": 2, **PARAMS}
NAMES = ("x", "offset", "w", "b", "mask", "dout")


def call(arrays, **targets):
    """The results by name, of a dict of arrays and of targets to write."""
    given = {name: array for name, array in arrays.items() if name != "dout"}
    outs = {name: targets.pop(name) for name in ("out",) if name in targets}
    out, cache = deform_conv_forward(**given, **outs, **PARAMS, offset_group=2)
    gradients = deform_conv_backward(arrays["dout"], cache, **targets)
    return dict(zip(("out", *GRADIENTS), (out, *gradients), strict=True))


def small_arrays(dtype=np.float64):
    return dict(zip(NAMES, floats_for(CASE, np.random.default_rng(11), dtype), strict=True))


@pytest.mark.sanitize
@both_types
@pytest.mark.parametrize("form", ODD)
@pytest.mark.parametrize("name", NAMES)
def test_odd_inputs_give_the_bits_of_plain_ones(name, form, dtype):
    arrays = small_arrays(dtype)
    odd = ODD[form](arrays[name])
    wanted = call({**arrays, name: plain(odd)})
    with Unchanged(odd, *arrays.values()):
        got = call({**arrays, name: odd})
    for result, target in zip(got.values(), wanted.values(), strict=True):
        assert_same_bits(result, target)


@both_types
@pytest.mark.parametrize("form", WRITABLE)
@pytest.mark.parametrize("name", ["out", *GRADIENTS])
def test_odd_targets_get_the_bits_of_plain_ones(name, form, dtype):
    arrays = small_arrays(dtype)
    wanted = call(arrays)
    adds = name in ("dw", "db")
    target = WRITABLE[form](np.full(wanted[name].shape, 0 if adds else np.nan, dtype))
    got = call(arrays, **{name: target})
    assert got[name] is target
    for result, array in zip(got.values(), wanted.values(), strict=True):
        np.testing.assert_array_equal(plain(result), array)


def test_targets_may_overlap_inputs():
    for name, source in (
        ("out", "dout"),
        ("dx", "x"),
        ("dx", "offset"),
        ("doffset", "offset"),
        ("dmask", "mask"),
        ("dmask", "offset"),
        ("dw", "w"),
    ):
        arrays = small_arrays()
        wanted = call(arrays)[name]
        target = arrays[source].reshape(-1)[: wanted.size].reshape(wanted.shape)
        before = target.copy()
        if name == "out":  # of the forward call alone: its backward call reads dout again
            given = {key: array for key, array in arrays.items() if key != "dout"}
            deform_conv_forward(**given, **PARAMS, offset_group=2, out=target)
        else:
            call(arrays, **{name: target})
        np.testing.assert_allclose(target, wanted + before if name == "dw" else wanted, 1e-12)


def test_out_may_overlap_every_input():
    for name in ("x", "offset", "mask"):
        arrays = small_arrays()
        del arrays["dout"]
        wanted, _ = deform_conv_forward(**arrays, **PARAMS, offset_group=2)
        room = np.zeros(max(wanted.size, arrays[name].size))
        arrays[name], source = room[: arrays[name].size].reshape(arrays[name].shape), arrays[name]
        arrays[name][...] = source
        out = room[: wanted.size].reshape(wanted.shape)
        deform_conv_forward(**arrays, **PARAMS, offset_group=2, out=out)
        np.testing.assert_array_equal(out, wanted)


def test_gradients_of_parameters_accumulate_and_the_others_are_overwritten():
    arrays = small_arrays()
    wanted = call(arrays)
    given = {name: np.full_like(wanted[name], np.nan) for name in ("dx", "doffset", "dmask")}
    given |= {"dw": np.full_like(wanted["dw"], 7), "db": np.full_like(wanted["db"], -3)}
    got = call(arrays, **given)
    for name, target in given.items():
        assert got[name] is target
        added = {"dw": 7, "db": -3}.get(name, 0)
        np.testing.assert_allclose(target, wanted[name] + added, 1e-12, 1e-12)


@pytest.mark.parametrize("flags", list(np.ndindex((2,) * 5)), ids=str)
def test_propagate_down_skips(flags):
    arrays = small_arrays(np.float32)
    wanted = call(arrays)
    wishes = tuple(map(bool, flags))
    given = {name: np.zeros_like(wanted[name]) for name in GRADIENTS}
    got = call(arrays, propagate_down=wishes, **given)
    for name, wish in zip(GRADIENTS, wishes, strict=True):
        assert (got[name] is given[name]) if wish else (got[name] is None)
        assert_same_bits(given[name], wanted[name] if wish else np.zeros_like(wanted[name]))


@both_types
def test_batches_and_repeats_make_no_difference(dtype):
    rng = np.random.default_rng(12)
    case = {**CASE, "x_shape": (5, 4, 6, 5)}
    arrays = dict(zip(NAMES, floats_for(case, rng, dtype), strict=True))
    wanted = call(arrays)
    for size in (1, 2, 5):
        for first in range(0, 5, size):
            part = {
                name: array if name in ("w", "b") else array[first : first + size]
                for name, array in arrays.items()
            }
            got = call(part)
            for name in ("out", "dx", "doffset", "dmask"):
                assert_same_bits(got[name], wanted[name][first : first + size])


@both_types
def test_no_samples(dtype):
    arrays = {
        name: array if name in ("w", "b") else array[:0]
        for name, array in small_arrays(dtype).items()
    }
    got = call(arrays)
    for name, result in got.items():
        like = "dout" if name == "out" else name[1:]
        assert_same_bits(result, np.zeros_like(arrays[like]))


@pytest.mark.sanitize
@pytest.mark.parametrize("size", [(0, 3), (3, 0), (0, 0), (1, 1), (1, 4), (4, 1)])
def test_images_of_few_cells(size):
    case = {"x_shape": (2, 2, *size), "w_shape": (3, 2, 2, 2), "pad": 2, "offset_group": 1}
    x, offset, w, b, mask, dout = floats_for(case, np.random.default_rng(13), np.float64)
    got = run(x, 2 * offset, w, b, mask, dout, parameters(case))
    wanted = run_loops(x, 2 * offset, w, b, mask, dout, parameters(case))
    for array, target in zip(got, wanted, strict=True):
        np.testing.assert_allclose(array, target, 1e-12, 1e-12)


def test_one_wide_argument_widens_the_results():
    for name in NAMES:
        arrays = small_arrays(np.float32)
        arrays[name] = arrays[name].astype(np.float64)
        wanted = call({key: array.astype(np.float64) for key, array in arrays.items()})
        got = call(arrays)
        assert got["out"].dtype == (np.float32 if name == "dout" else np.float64)
        for key in GRADIENTS:
            assert_same_bits(got[key], wanted[key])


def test_cache_holds_references():
    arrays = small_arrays()
    del arrays["dout"]
    _, cache = deform_conv_forward(**arrays, **PARAMS, offset_group=2, workers=3)
    for name, array in arrays.items():
        assert getattr(cache, name) is array
    assert cache.workers == 3


def test_without_mask_and_bias_there_is_no_dmask_and_no_db():
    arrays = small_arrays()
    out, cache = deform_conv_forward(
        arrays["x"], arrays["offset"], arrays["w"], **PARAMS, offset_group=2
    )
    dx, doffset, dmask, dw, db = deform_conv_backward(out, cache)
    assert dmask is None
    assert db is None
    assert (dx.shape, doffset.shape, dw.shape) == tuple(
        arrays[name].shape for name in ("x", "offset", "w")
    )


# --- refused ----------------------------------------------------------------------------------


def refused_forward(error, message, **changes):
    arrays = {name: array for name, array in small_arrays().items() if name != "dout"}
    arguments = {**arrays, **PARAMS, "offset_group": 2, **changes}
    target = np.full((2, 6, 3, 7), 5.0)
    arguments.setdefault("out", target)
    match = f"^{re.escape(message)}"
    refuses(error, match, lambda: deform_conv_forward(**arguments), target, *arrays.values())


@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (
            ValueError,
            "x and w must have 4 axes (deformable convolution is of rank 2), "
            "got 3 (shape (2, 4, 6)) and 3 (shape (6, 2, 3))",
            {"x": np.zeros((2, 4, 6)), "w": np.zeros((6, 2, 3))},
        ),
        (
            ValueError,
            "x and w must have 4 axes (deformable convolution is of rank 2), "
            "got 4 (shape (2, 4, 6, 5)) and 5 (shape (6, 2, 3, 2, 1))",
            {"w": np.zeros((6, 2, 3, 2, 1))},
        ),
        (
            ValueError,
            "offset: expected shape (2, 24, 3, 6) (N, 2*offset_group*KH*KW, OH, OW), got (2, 12,",
            {"offset": np.zeros((2, 12, 3, 6))},
        ),
        (
            ValueError,
            "offset: expected shape (2, 12, 3, 6) (N, 2*offset_group*KH*KW, OH, OW), got (2, 24,",
            {"offset_group": 1},
        ),
        (
            ValueError,
            "mask: expected shape (2, 12, 3, 6) (N, offset_group*KH*KW, OH, OW), got (2, 24, 3, 6)",
            {"mask": np.zeros((2, 24, 3, 6))},
        ),
        (
            ValueError,
            "C must be divisible by offset_group, got C=4, offset_group=3, x of shape (2, 4, 6, 5)",
            {"offset_group": 3},
        ),
        (ValueError, "offset_group must be >= 1, got 0", {"offset_group": 0}),
        (ValueError, "offset_group must be >= 1, got -2", {"offset_group": -2}),
        (ValueError, "offset_group is too large", {"offset_group": 2**60}),
        (TypeError, "offset_group: expected an int, got 2.0", {"offset_group": 2.0}),
        (TypeError, "offset_group: expected an int, got True", {"offset_group": True}),
        (TypeError, "offset_group: expected an int, got None", {"offset_group": None}),
        (ValueError, "stride must be >= 1, got (0, 1)", {"stride": (0, 1)}),
        (ValueError, "C must be divisible by group", {"group": 3}),
        (ValueError, "b: expected shape (6,), got (5,)", {"b": np.zeros(5)}),
        (ValueError, "workers must be >= 1, got 0", {"workers": 0}),
        (TypeError, "out: expected dtype float64", {"out": np.zeros((2, 6, 3, 6), np.float32)}),
        (ValueError, "out: expected shape (2, 6, 3, 6), got (2, 6, 3, 7)", {}),
    ],
)
def test_forward_refuses(error, message, changes):
    refused_forward(error, message, **changes)


@pytest.mark.parametrize("name", NAMES[:-1])
def test_other_types_are_refused(name):
    array = small_arrays()[name]
    for kind in (np.int64, bool, np.float16, np.longdouble, complex, object):
        message = f"{name}: expected float32 or float64, got {np.dtype(kind)}; convert it first"
        refused_forward(TypeError, message, **{name: array.astype(kind)})
    masked = np.ma.masked_array(array, False)
    refused_forward(TypeError, f"{name}: masked arrays are not supported", **{name: masked})


def backward_arguments():
    arrays = small_arrays()
    dout = arrays.pop("dout")
    return dout, deform_conv_forward(**arrays, **PARAMS, offset_group=2)[1]


def test_backward_refuses_another_cache():
    dout, cache = backward_arguments()
    message = r"^cache: expected what deform_conv_forward returned, got tuple$"
    refuses(TypeError, message, lambda: deform_conv_backward(dout, (1, 2)))
    _, plain_cache = fastconv.conv_forward(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)))
    message = r"^cache: it comes from conv_forward, not deform_conv_forward$"
    refuses(ValueError, message, lambda: deform_conv_backward(dout, plain_cache))
    message = r"^cache: it comes from deform_conv_forward, not conv_forward$"
    refuses(ValueError, message, lambda: fastconv.conv_backward(dout, cache))


def test_backward_refuses_what_does_not_fit():
    dout, cache = backward_arguments()
    targets = {
        name: np.full(shape, 5.0)
        for name, shape in zip(
            GRADIENTS,
            (CASE["x_shape"], offset_shape(CASE), mask_shape(CASE), CASE["w_shape"], (6,)),
            strict=True,
        )
    }

    def refused(error, message, gradient=dout, **changes):
        match = f"^{re.escape(message)}"
        refuses(
            error,
            match,
            lambda: deform_conv_backward(gradient, cache, **{**targets, **changes}),
            *targets.values(),
        )

    refused(
        ValueError,
        "dout: expected shape (2, 6, 3, 6) (that of the forward result), got (2, 6, 3, 5)",
        dout[..., 1:],
    )
    refused(TypeError, "dout: expected float32 or float64, got int64", dout.astype(int))
    refused(ValueError, "propagate_down: expected 5 bools, got", propagate_down=(True,) * 3)
    refused(TypeError, "propagate_down: expected 5 bools, got", propagate_down=(1,) * 5)
    for name, target in targets.items():
        longer = np.zeros((*target.shape, 1))
        refused(ValueError, f"{name}: expected shape {target.shape}, got", **{name: longer})
        narrow = target.astype(np.float32)
        refused(TypeError, f"{name}: expected dtype float64, got float32", **{name: narrow})
        frozen = ODD["read-only"](target)
        refused(ValueError, f"{name}: the array is read-only", **{name: frozen})


def test_backward_refuses_targets_for_what_there_is_not():
    x, offset, w = (small_arrays()[name] for name in ("x", "offset", "w"))
    out, cache = deform_conv_forward(x, offset, w, **PARAMS, offset_group=2)
    for name, what in (("dmask", "mask"), ("db", "bias")):
        match = f"^{name}: given, but the forward call had no {what}$"
        target = np.zeros(6)
        refuses(
            ValueError,
            match,
            lambda name=name, target=target: deform_conv_backward(out, cache, **{name: target}),
            target,
        )
