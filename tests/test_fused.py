"""The engine `fused`: every tail of its kernels, in every build, and the bits that it promises.

The oracle on integers is the engine `caffe` in float64, which `test_convolution.py` and the test
with hypothesis below hold to the loops.
"""

import functools
import itertools
import math
import os
import random
import time
from typing import NamedTuple

import numpy as np
import pytest
from arrays import ODD, WRITABLE, assert_same_bits, plain
from cases import conv_cases, integer_array, parameters
from failing_memory import give_memory
from hypothesis import given, settings

import fastconv
from fastconv import _kernels, reference
from fastconv._engines import fused, lanes, plans
from fastconv._geometry import conv_geometry

DTYPES = [np.float32, np.float64]
both_types = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])


def forget_plans(monkeypatch):
    """Have plans made anew at each call, as one remembered may be of another build or limit."""
    for name, function in list(vars(fused).items()):
        if hasattr(function, "__wrapped__"):
            monkeypatch.setattr(fused, name, function.__wrapped__)


@pytest.fixture(params=_kernels.RUNNABLE)
def build(request, monkeypatch):
    """Each build of the kernels that this machine can run, in turn."""
    kernel = _kernels.load("fused", request.param)
    for module in (fused, lanes, plans):
        monkeypatch.setattr(module, "kernel", kernel)
    forget_plans(monkeypatch)
    return kernel


SMALL_LIMITS = {
    "SCRATCH_BYTES": 2**10,
    "SUMS_BYTES": 2**9,
    "UNIT_WORK": 2**10,
    "CALL_WORK": 2**11,
    "PACK_SIZE": 2**5,
    "SMALL_WORK": 0,
    "GRADIENT_CHANNELS": 1,
    "GRADIENT_BYTES": 2**11,
    "FILTERS_BYTES": 2**11,
    "TILE_SUMS_BYTES": 2**9,
}


def set_limits(monkeypatch, **limits):
    for name, value in limits.items():
        monkeypatch.setattr(plans, name, value)
    forget_plans(monkeypatch)


class Case(NamedTuple):
    """The shapes and parameters of a convolution."""

    x_shape: tuple[int, ...]
    w_shape: tuple[int, ...]
    stride: tuple[int, ...] | int = 1
    pad: tuple[tuple[int, int], ...] | int = 0
    dilation: tuple[int, ...] | int = 1
    group: int = 1

    @property
    def params(self):
        return parameters(self._asdict())


def three_passes(x, w, b, dout, case, *, engine, **keywords):
    """Out and dx, and a transposed convolution with a bias."""
    given = {"engine": engine, **case.params, **keywords}
    out, cache = fastconv.conv_forward(x, w, b, **given)
    dx, _, _ = fastconv.conv_backward(dout, cache, propagate_down=(True, False, False))
    return out, dx, fastconv.deconv(dout, w, np.arange(x.shape[1]).astype(x.dtype), **given)


def both_passes(x, w, b, dout, *, engine="fused", targets=(None,) * 4, **params):
    """Out, dx, dw and db."""
    out, cache = fastconv.conv_forward(x, w, b, engine=engine, out=targets[0], **params)
    dx, dw, db = targets[1:]
    return out, *fastconv.conv_backward(dout, cache, dx=dx, dw=dw, db=db)


def assert_extends_as_fused(engine, case, pad):
    """Padding that is not zeros, in float64."""
    x, w, _, _ = normal(case, np.float64)
    for mode in ("reflect", "edge", "wrap"):
        out = fastconv.conv(x, w, pad=pad, pad_mode=mode, engine=engine)
        wanted = fastconv.conv(x, w, pad=pad, pad_mode=mode, engine="fused")
        np.testing.assert_allclose(out, wanted, atol=1e-12)


def out_shape(case):
    x, w = np.empty(case.x_shape), np.empty(case.w_shape)
    return fastconv.conv(x, w, engine="caffe", **case.params).shape


@functools.cache
def inputs(case, high=3):
    """The arrays x, w, b and dout of small integers."""
    rng = np.random.default_rng(0)
    shapes = case.x_shape, case.w_shape, case.w_shape[:1], out_shape(case)
    return tuple(integer_array(rng, shape, high=high).astype(np.float64) for shape in shapes)


@functools.cache
def by_caffe(case):
    return both_passes(*inputs(case), engine="caffe", **case.params)


def normal(case, dtype=np.float32, seed=0):
    """The arrays x, w, b and dout, normally distributed."""
    rng = np.random.default_rng(seed)
    shapes = case.x_shape, case.w_shape, case.w_shape[:1], out_shape(case)
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)


def channels_last(array):
    """The same array, in whose memory the channels are innermost."""
    return np.moveaxis(np.moveaxis(array, 1, -1).copy(), -1, 1)


def backwards(array):
    """The same array, the last axis reversed in memory."""
    return array[..., ::-1].copy()[..., ::-1]


def filters_last(array):
    """The same array, lying in memory as the NHWC calls have weights."""
    return np.moveaxis(np.moveaxis(array, (0, 1), (-1, -2)).copy(), (-1, -2), (0, 1))


def assert_as_caffe(case, dtype, memory=(np.array,) * 6):
    """Equal on integers; `memory` has the order of x, w, dout, out, dx and dw."""
    x, w, b, dout = (array.astype(dtype) for array in inputs(case))
    places = dict(zip(("x", "w", "dout", "out", "dx", "dw"), memory, strict=True))
    targets = (
        places["out"](np.full_like(dout, np.nan)),
        places["dx"](np.full_like(x, np.nan)),
        places["dw"](np.full_like(w, 7)),
        np.full_like(b, 7),
    )
    given = places["x"](x), places["w"](w), b, places["dout"](dout)
    got = both_passes(*given, targets=targets, **case.params)
    for name, value, target, wanted, start in zip(
        ("out", "dx", "dw", "db"), got, targets, by_caffe(case), (0, 0, 7, 7), strict=True
    ):
        assert value is target
        np.testing.assert_array_equal(value, wanted + start, f"{name} of {case} in {memory}")


# --- every tail, exactly ----------------------------------------------------------------------


def split_taps(taps):
    """Channels and kernel size whose product is `taps`; the kernel small, but above 1 if it can."""
    kernel = next((k for k in (3, 2, 5, 7) if taps % k == 0), 1)
    return taps // kernel, kernel


def tail_cases(kernel, itemsize):
    """Positions, filters and taps around what panels, tiles and blocks hold, in 1-D."""
    choose = random.Random(0)
    columns = kernel.VECTORS * kernel.lanes(itemsize)
    blocks = (kernel.TAPS - 1, kernel.TAPS, kernel.TAPS + 1, 2 * kernel.TAPS + 1)
    taps = (1, 2, 9, *blocks)
    triples = [
        (size, choose.randint(1, 33), choose.choice(taps)) for size in range(1, 2 * columns + 2)
    ]
    triples += [
        (size, choose.randint(1, kernel.NARROW_ROWS), choose.choice(taps))
        for size in range(1, 4 * kernel.lanes(itemsize) + 2)
    ]
    triples += [
        (choose.randint(1, 2 * columns + 1), filters, count)
        for filters in range(1, 34)
        for count in (choose.choice(taps[:3]), choose.choice(blocks))
    ]
    for positions, filters, count in triples:
        channels, size = split_taps(count)
        group = choose.choice((1, 1, 2, 3))
        pad = choose.randrange(size)
        yield Case(
            (choose.choice((1, 1, 2, 3)), group * channels, max(1, positions + size - 1 - pad)),
            (group * filters, channels, size),
            pad=((pad, 0),),
            group=group,
        )


def axis_of(choose, positions):
    """One axis with that many positions or some more: size, kernel, stride, pad and dilation."""
    kernel, stride, dilation = (choose.randint(1, 4) for _ in range(3))
    extent = dilation * (kernel - 1) + 1
    pad = tuple(choose.choice((0, 0, 1, extent - 1, extent + 2)) for _ in range(2))
    loose = choose.randrange(stride)
    size = stride * (positions - 1) + extent - sum(pad) + loose
    return max(size, extent - sum(pad), 1), kernel, stride, pad, dilation


def shape_cases(kernel, itemsize):
    """All parameters in 1-D to 4-D, rows shorter than, equal to and longer than a vector."""
    choose = random.Random(1)
    lanes = kernel.lanes(itemsize)
    widths = (1, 2, 3, lanes - 1, lanes, lanes + 1, 2 * lanes + 3, kernel.VECTORS * lanes + 1)
    for rank, count in ((1, 30), (2, 110), (3, 25), (4, 15)):
        for _ in range(count):
            sizes = [choose.randint(1, (3, 3, 7, 0)[4 - rank]) for _ in range(rank - 1)]
            sizes.append(choose.choice(widths[: 8 if rank < 3 else 5]))
            axes = [axis_of(choose, size) for size in sizes]
            if math.prod(size for size, *_ in axes) > 8000:
                continue
            size, kernels, stride, pad, dilation = zip(*axes, strict=True)
            group = choose.choice((1, 1, 1, 2, 3))
            channels, filters = choose.choice((1, 2, 3, 5, 17)), choose.choice((1, 2, 4, 10, 19))
            if choose.random() < 0.2:  # depthwise
                group, channels, filters = choose.choice((2, 5, 8)), 1, choose.choice((1, 2))
            yield Case(
                (choose.choice((1, 2, 3, 5)), group * channels, *size),
                (group * filters, channels, *kernels),
                stride,
                pad,
                dilation,
                group,
            )


def pointwise_cases(kernel, itemsize):
    """1x1 kernels, which read x itself, with rows and samples of all sizes."""
    choose = random.Random(2)
    lanes = kernel.lanes(itemsize)
    for height, width in itertools.product((1, 2, 5), (1, 3, lanes, lanes + 1, 2 * lanes + 5)):
        group = choose.choice((1, 1, 2))
        channels, filters = choose.choice((1, 4, 33, kernel.TAPS + 1)), choose.choice((1, 5, 20))
        yield Case(
            (choose.choice((1, 2, 5)), group * channels, height, width),
            (group * filters, channels, 1, 1),
            group=group,
        )


@both_types
@pytest.mark.parametrize("cases", [tail_cases, shape_cases, pointwise_cases])
def test_every_tail_equals_caffe(cases, dtype, build):
    choose = random.Random(3)
    for case in cases(build, np.dtype(dtype).itemsize):
        assert_as_caffe(case, dtype)
        images = (channels_last, backwards, np.array)
        weights = (filters_last, channels_last, backwards, np.array)
        mixed = [choose.choice(weights if k in (1, 5) else images) for k in range(6)]
        assert_as_caffe(case, dtype, mixed)
        last = (channels_last, filters_last, *[channels_last] * 3, filters_last)
        assert_as_caffe(case, dtype, last)


@both_types
@settings(max_examples=150, deadline=None, derandomize=True)
@given(conv_cases())
def test_equals_caffe_and_the_loops(dtype, case):
    rng = np.random.default_rng(0)
    params = parameters(case)
    x, w = integer_array(rng, case["x_shape"]), integer_array(rng, case["w_shape"])
    b = integer_array(rng, case["w_shape"][:1])
    out = reference.conv_forward_loops(x, w, b, **params)
    dout = integer_array(rng, out.shape)
    wanted = out, *reference.conv_backward_loops(dout, x, w, **params)
    arrays = [array.astype(dtype) for array in (x, w, b, dout)]
    for engine in ("fused", "caffe"):
        got = both_passes(*arrays, engine=engine, **params)
        for value, target in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(value, target)


# Larger than a unit of the plans' own limits, or than one block of their filters and channels.
LARGE = [
    Case((1, 40, 90, 110), (30, 40, 3, 3), pad=1),
    Case((2, 600, 14, 14), (70, 600, 3, 3), pad=1),
    Case((40, 33, 7, 7), (300, 33, 3, 3), pad=1),
    Case((3, 20, 61, 59), (24, 10, 5, 3), stride=(2, 3), pad=2, dilation=(1, 2), group=2),
    Case((1, 3, 227, 227), (96, 3, 11, 11), stride=4),
    Case((5, 130, 28, 29), (66, 130, 1, 1)),
    Case((2, 16, 12, 30, 31), (8, 16, 3, 3, 3), pad=1),
    Case((2, 15, 3, 40), (7, 15, 1, 11)),  # channels share lanes with the kernel, in several tiles
    Case((2, 17, 21, 23), (11, 17, 18, 18)),  # sums of a tile are cut along the kernel
    Case((2, 3, 300, 300), (5, 3, 1, 1), stride=(1, 2)),
    # phases of dx take turns in its rows: few, more than a vector, too many
    Case((3, 40, 29, 41), (7, 40, 5, 7), stride=(3, 6), pad=2),
    Case((2, 3, 7, 150), (5, 3, 3, 21), stride=(2, 20)),
    Case((1, 2, 300), (3, 2, 71), stride=70),
]


@both_types
@pytest.mark.parametrize("case", LARGE, ids=lambda case: "x".join(map(str, case.x_shape)))
def test_large_layers_equal_caffe(case, dtype, build):
    assert_as_caffe(case, dtype)
    assert_as_caffe(case, dtype, (channels_last, filters_last, *[channels_last] * 3, filters_last))


# --- the same bits ----------------------------------------------------------------------------

LAYERS = [
    Case((5, 6, 9, 11), (20, 6, 3, 3), pad=1),
    Case((2, 40, 17, 19), (33, 40, 3, 3), stride=2, pad=1),
    Case((7, 90, 5, 6), (13, 90, 1, 1)),
    Case((3, 8, 10, 12), (12, 4, 3, 2), stride=(2, 3), pad=((2, 0), (1, 4)), dilation=2, group=2),
    Case((4, 6, 30), (6, 1, 5), pad=2, group=6),
    Case((3, 3, 21, 50), (9, 3, 3, 3), pad=1),
    Case((2, 5, 6, 7, 9), (7, 5, 2, 3, 2), stride=(1, 2, 1), pad=1),
    Case((3, 3, 61, 59), (40, 3, 7, 7), stride=2, pad=3),  # dw with filters as lanes
    Case((3, 40, 13, 30), (17, 40, 4, 4), stride=(2, 3), pad=1),
    Case((3, 48, 5, 12), (48, 48, 3, 7), pad=(1, 3)),  # filters, and channels of dx, as lanes
    Case((3, 64, 30, 30), (20, 64, 1, 1)),  # dw with four vectors a tile
    Case((4, 6, 23, 37), (96, 3, 3, 4), stride=2, pad=1, group=2),
]
layers = pytest.mark.parametrize("case", LAYERS, ids=lambda case: "x".join(map(str, case.x_shape)))


@layers
@both_types
def test_any_number_of_workers_gives_the_same_bits(case, dtype, build, monkeypatch):
    arrays = normal(case, dtype)
    wanted = both_passes(*arrays, workers=1, **case.params)
    monkeypatch.setattr(fused, "THREAD_WORK", 0)
    set_limits(monkeypatch, SMALL_WORK=0, CALL_WORK=1)
    for workers in (1, 2, 3, 5, 2):
        got = both_passes(*arrays, workers=workers, **case.params)
        for value, target in zip(got, wanted, strict=True):
            assert_same_bits(value, target)


@layers
@both_types
def test_a_sample_has_the_same_bits_in_any_batch(case, dtype, build, monkeypatch):
    x, w, b, dout = normal(case, dtype)
    out, dx, _, _ = both_passes(x, w, b, dout, **case.params)
    monkeypatch.setattr(fused, "THREAD_WORK", 0)
    for begin in range(len(x)):
        for part in (slice(begin, begin + 1), slice(begin, None)):
            alone = both_passes(x[part], w, b, dout[part], workers=3, **case.params)
            assert_same_bits(alone[0], out[part])
            assert_same_bits(alone[1], dx[part])


@layers
@both_types
@pytest.mark.parametrize("limits", [*[{k: v} for k, v in SMALL_LIMITS.items()], SMALL_LIMITS],
                         ids=[*SMALL_LIMITS, "all"])  # fmt: skip
def test_cuts_change_no_bits(case, dtype, limits, build, monkeypatch):
    arrays = normal(case, dtype)
    out, dx, _, _ = both_passes(*arrays, workers=1, **case.params)
    set_limits(monkeypatch, **limits)
    monkeypatch.setattr(fused, "THREAD_WORK", 0)
    for workers in (1, 2):
        got = both_passes(*arrays, workers=workers, **case.params)
        assert_same_bits(got[0], out)
        assert_same_bits(got[1], dx)
        whole = [array.astype(dtype) for array in inputs(case)]
        for value, target in zip(
            both_passes(*whole, workers=workers, **case.params), by_caffe(case), strict=True
        ):
            np.testing.assert_array_equal(value, target)


@pytest.mark.sanitize
@both_types
def test_cut_into_the_smallest_units_every_tail_equals_caffe(dtype, build, monkeypatch):
    set_limits(monkeypatch, **SMALL_LIMITS)
    monkeypatch.setattr(fused, "THREAD_WORK", 0)
    for case in itertools.islice(shape_cases(build, np.dtype(dtype).itemsize), 0, None, 2):
        assert_as_caffe(case, dtype)
        assert_as_caffe(case, dtype, (channels_last,) * 6)


def sample(cases, step):
    """Every step-th case; under the sanitizers, which take 25 times as long, a fifth of these."""
    if "FASTCONV_SANITIZE" in os.environ:
        step *= 5
    return itertools.islice(cases, 0, None, step)


@pytest.mark.sanitize
@both_types
@pytest.mark.parametrize("limits", [{}, SMALL_LIMITS], ids=["whole", "cut"])
def test_with_filters_as_lanes_every_tail_equals_caffe(limits, dtype, build, monkeypatch):
    set_limits(monkeypatch, **limits, FILTERS_GAIN=99, DOT_SUMS=0)
    monkeypatch.setattr(fused, "THREAD_WORK", 0)
    for cases in (tail_cases, shape_cases):
        for case in sample(cases(build, np.dtype(dtype).itemsize), 4):
            assert_as_caffe(case, dtype)
            assert_as_caffe(case, dtype, (channels_last,) * 6)


def lane_cases(kernel, itemsize):
    """All parameters and tails of positions, with more filters than a vector has numbers."""
    choose = random.Random(4)
    width = kernel.lanes(itemsize)
    for case in (*tail_cases(kernel, itemsize), *shape_cases(kernel, itemsize)):
        filters = case.group * choose.randint(width + 1, max(5 * width, 7))
        yield case._replace(w_shape=(filters, *case.w_shape[1:]))


@pytest.mark.sanitize
@both_types
@pytest.mark.parametrize("limits", [{}, SMALL_LIMITS], ids=["whole", "cut"])
def test_convolution_with_filters_as_lanes_equals_caffe(limits, dtype, build, monkeypatch):
    set_limits(monkeypatch, **limits)
    monkeypatch.setattr(fused, "THREAD_WORK", 0)
    monkeypatch.setattr(fused, "prefers_lanes", lambda *_: True)
    for case in sample(lane_cases(build, np.dtype(dtype).itemsize), 7):
        assert_as_caffe(case, dtype)
        assert_as_caffe(case, dtype, (channels_last, filters_last, backwards) * 2)
        assert_as_caffe(case, dtype, (backwards, *[channels_last] * 5))


# --- the gradient of the bias, beside that of the weights ----------------------------------------

BIASED = [
    Case((3, 20, 900), (17, 20, 1)),  # two pieces of a sample
    Case((3, 64, 30, 30), (20, 64, 1, 1)),
    Case((2, 33, 5, 9, 13), (12, 33, 1, 1, 1)),
    Case((2, 40, 21, 61), (30, 20, 1, 2), stride=(1, 2), pad=((0, 0), (1, 0)), group=2),
    Case((2, 64, 37, 41), (70, 64, 1, 1), stride=2),
    Case((5, 256, 4, 4), (40, 256, 1, 1)),
    Case((2, 17, 1, 1500), (90, 17, 1, 1)),
    Case((2, 30, 13, 14), (20, 30, 3, 3)),  # dout is transposed, db added up by itself
]


def sum_by_pieces(dout):
    """db as documented: pieces of equal length, of 64 sums, which are added up by halves."""
    db = np.zeros(dout.shape[1], dout.dtype)
    for sample in dout.reshape(*dout.shape[:2], -1):
        length = plans.piece_of(sample.shape[1])
        for begin in range(0, sample.shape[1], length):
            piece = sample[:, begin : begin + length]
            lanes = np.zeros((len(db), 64), dout.dtype)
            for first in range(0, piece.shape[1], 64):
                lanes[:, : piece[:, first : first + 64].shape[1]] += piece[:, first : first + 64]
            while lanes.shape[1] > 1:
                lanes = lanes[:, : lanes.shape[1] // 2] + lanes[:, lanes.shape[1] // 2 :]
            db += lanes[:, 0]
    return db


def apart(array):
    """The same array, whose rows are not neighbours in memory."""
    return np.concatenate([array, array], axis=-1)[..., : array.shape[-1]]


@pytest.mark.sanitize
@both_types
@pytest.mark.parametrize("case", BIASED, ids=lambda case: "x".join(map(str, case.w_shape)))
def test_the_bias_gradient_has_the_same_bits_beside_the_weights(case, dtype, build, monkeypatch):
    x, w, b, dout = normal(case, dtype)
    wanted = sum_by_pieces(dout)
    set_limits(monkeypatch, DOT_SUMS=0)

    def gradients(asked, x=x, dout=dout, db=None, workers=1):
        _, cache = fastconv.conv_forward(x, w, b, engine="fused", workers=workers, **case.params)
        return fastconv.conv_backward(dout, cache, propagate_down=asked, db=db)

    both = (False, True, True)
    dw = gradients(both)[1]
    for asked in ((False, False, True), both, (True, True, True)):
        for turn in (np.array, channels_last, backwards, apart):
            got = gradients(asked, turn(x), turn(dout))
            assert_same_bits(got[2], wanted)
            if asked[1]:
                assert_same_bits(got[1], dw)
    for target in (np.zeros(2 * len(b), dtype)[::2], np.zeros(len(b), dtype)):
        for n in range(len(x)):
            gradients(both, x[n : n + 1], dout[n : n + 1], target)
        assert_same_bits(plain(target), wanted)
    monkeypatch.setattr(fused, "THREAD_WORK", 0)
    for workers in (2, 3, 7):
        got = gradients(both, workers=workers)
        assert_same_bits(got[1], dw)
        assert_same_bits(got[2], wanted)
    set_limits(monkeypatch, GRADIENT_BYTES=2**11, GRADIENT_CHANNELS=1)
    for workers in (1, 3):
        assert_same_bits(gradients(both, workers=workers)[2], wanted)


def test_the_bias_gradient_is_added_up_on_the_way_where_dout_is_read_in_place(monkeypatch):
    set_limits(monkeypatch, DOT_SUMS=0)
    monkeypatch.setattr(fused, "backward_b", None)
    for case in BIASED[:-1]:
        assert both_passes(*normal(case), **case.params)[3].any()
    with pytest.raises(TypeError):
        both_passes(*normal(BIASED[-1]), **BIASED[-1].params)


@pytest.mark.parametrize("positions", [1, 63, 64, 65, 511, 512, 513, 784, 3136, 2**40 + 1])
def test_pieces_of_a_sample_are_whole_sums_of_nearly_equal_length(positions):
    piece = plans.piece_of(positions)
    pieces = -(-positions // piece)
    assert piece % 64 == 0
    assert piece <= 512
    assert pieces <= -(-positions // 512)


ODD_CASE = LAYERS[3]


def odd_inputs(form, dtype):
    x, w, b, dout = normal(ODD_CASE, dtype)
    return tuple(ODD[form](array) for array in (x, w, b, dout))


@both_types
@pytest.mark.parametrize("form", ODD)
def test_odd_memory_gives_the_bits_of_plain_copies(form, dtype):
    given = odd_inputs(form, dtype)
    wanted = both_passes(*map(plain, given), **ODD_CASE.params)
    for value, target in zip(both_passes(*given, **ODD_CASE.params), wanted, strict=True):
        assert_same_bits(value, target)
    for k in range(4):  # each alone
        mixed = [array if i == k else plain(array) for i, array in enumerate(given)]
        for value, target in zip(both_passes(*mixed, **ODD_CASE.params), wanted, strict=True):
            assert_same_bits(value, target)


@both_types
@pytest.mark.parametrize("form", WRITABLE)
def test_odd_targets_give_the_bits_of_plain_ones(form, dtype):
    arrays = normal(ODD_CASE, dtype)
    wanted = both_passes(*arrays, **ODD_CASE.params)
    starts = [np.nan, np.nan, 0, 0]
    targets = [
        WRITABLE[form](np.full_like(target, start))
        for target, start in zip(wanted, starts, strict=True)
    ]
    both_passes(*arrays, targets=targets, **ODD_CASE.params)
    for value, target in zip(targets, wanted, strict=True):
        assert_same_bits(plain(np.asarray(value)), target)


# --- within bounds ----------------------------------------------------------------------------

LONG = {
    "forward": Case((2, 560, 6, 7), (5, 560, 3, 3), pad=1),
    "dx": Case((2, 4, 6, 7), (560, 4, 3, 3), pad=1),
    "dw": Case((3, 4, 41, 40), (5, 4, 3, 3), pad=1),
    "1x1": Case((2, 5000, 3, 5), (7, 5000, 1, 1)),
    "1d": Case((1, 50, 230), (3, 50, 100), stride=3, pad=20),
    "dw of an image": Case((1, 1, 500, 500), (1, 1, 2, 2)),
    "dw of rows of a block and one": Case((1, 1, 800, 163), (2, 1, 1, 2)),
}
DATA = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "positive": lambda rng, shape: rng.random(shape),
    "constant": lambda rng, shape: np.full(shape, 0.1),
}


@both_types
@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("name", LONG)
def test_error_of_long_sums_is_within_the_bound(name, kind, dtype, build):
    """|err| <= (4*sqrt(K) + 8) * u * S."""
    case = LONG[name]
    rng = np.random.default_rng(0)
    x, w, b, dout = (DATA[kind](rng, array.shape).astype(dtype) for array in inputs(case))
    wide = np.longdouble if dtype == np.float64 else np.float64
    arrays = [array.astype(wide) for array in (x, w, b, dout)]
    wanted = by_reference(*arrays, case)
    sums = by_reference(*map(np.abs, arrays), case)
    positions = len(x) * math.prod(dout.shape[2:])
    taps = math.prod(w.shape[2:])
    lengths = w.shape[1] * taps, len(w) // case.group * taps, positions, positions
    unit = np.finfo(dtype).eps / 2
    got = both_passes(x, w, b, dout, **case.params)
    for value, target, total, length in zip(got, wanted, sums, lengths, strict=True):
        error = np.abs(value - target)
        limit = (4 * math.sqrt(length) + 8) * unit * total
        assert (error <= limit).all(), (error / limit).max()


def by_reference(x, w, b, dout, case):
    return (
        reference.conv_forward_shifted(x, w, b, **case.params),
        *reference.conv_backward_shifted(dout, x, w, **case.params),
    )


# --- plans ------------------------------------------------------------------------------------

# What no test can run, and only plan. Plans of the last kernel are not remembered.
HUGE = {
    "image": Case((1, 64, 1080, 1920), (64, 64, 3, 3), pad=1),
    "batch": Case((10**6, 64, 14, 14), (64, 64, 3, 3), pad=1),
    "few channels": Case((256, 16, 224, 224), (16, 16, 3, 3), pad=1),
    "400 megapixels": Case((1, 64, 20_000, 20_000), (64, 64, 3, 3), pad=1),
    "4 gigapixels": Case((1, 1, 2**16, 2**16), (8, 1, 7, 7), pad=3),
    "line": Case((1, 64, 10**8), (64, 64, 3), stride=2),
    "channels": Case((1, 20_000, 8, 8), (64, 20_000, 3, 3)),
    "patches": Case((1, 3, 512, 512), (768, 3, 32, 32), stride=32),
    "long patches": Case((1, 256, 10**6), (64, 256, 64), stride=64),
    "first layer": Case((10**6, 3, 224, 224), (64, 3, 7, 7), stride=2, pad=3),
    "tall kernel": Case((1, 3, 3000, 300), (64, 3, 500, 3)),
    "kernel": Case((1, 48, 300, 300), (64, 48, 101, 101)),
    "long kernel": Case((1, 1, 10**6), (1, 1, 10**5)),
    "lanes to fill": Case((1, 8000, 30, 30), (41, 8000, 7, 7)),
    "far apart": Case((1, 256, 10**6), (64, 256, 5), dilation=70_000),
    "strides far apart": Case((1, 64, 10**6), (64, 64, 3), stride=2, dilation=100_000),
}
PLANNED = [(name, which) for name in HUGE for which in ("forward", "backward_x", "backward_w")]
# For dw a window takes more than is promised by itself, as all that lies between its taps is read.
PLANNED = [case for case in PLANNED if "apart" not in case[0] or case[1] != "backward_w"]


def nowhere(shape, dtype):
    """A writable array of any size that needs no memory."""
    return np.lib.stride_tricks.as_strided(np.zeros(1, dtype), shape, [0] * len(shape))


@pytest.mark.parametrize(("name", "which"), PLANNED)
@both_types
def test_plans_keep_the_promises(name, which, dtype, monkeypatch):
    """8 MiB a worker, steps that leave time for Ctrl-C, and less than a second to plan them."""
    case, calls, sizes = HUGE[name], [], []
    geometry = conv_geometry(case.x_shape, case.w_shape, **case.params)
    x, w = nowhere(case.x_shape, dtype), nowhere(case.w_shape, dtype)
    packed = w.nbytes
    if which == "backward_w":  # contiguous, and never touched: a copy takes a second by itself
        w, packed = np.empty(case.w_shape, dtype), 0
    out = nowhere((geometry.batch, geometry.filters, *geometry.out_shape), dtype)
    arguments = {"forward": (x, w, None, out), "backward_x": (out, w, None, x)}

    def allocate(_, shape, dtype, *, zero=False):
        sizes.append(math.prod(shape) * dtype.itemsize)
        return np.empty(shape, dtype)

    give_memory(monkeypatch.setattr, fused, allocate)
    monkeypatch.setattr(fused, "spread", lambda step, *call: calls.append(call))
    forget_plans(monkeypatch)
    start = time.process_time()
    getattr(fused, which)(geometry, *arguments.get(which, (x, out, w)), 2)
    assert time.process_time() - start < 1
    assert sum(sizes) - packed < 2 * 2**23  # of two workers, beside the packed weights
    calls = [call for call in calls if call[0][0] is not None]  # not those that pack the weights
    work = out.size * math.prod(case.w_shape[1:]) / sum(units for _, units, _ in calls)
    assert work * max(chunk for _, _, chunk in calls) < 2 * plans.CALL_WORK


@pytest.mark.parametrize(
    ("units", "workers", "limit", "least", "chunk"),
    [
        (9, 1, 99, 2, 9),  # alone, all at once
        (9, 1, 4, 2, 4),
        (64, 2, 99, 1, 8),  # four pieces a thread
        (64, 2, 3, 1, 3),
        (8, 2, 99, 2, 2),  # fewer where they would be short
        (15, 2, 99, 5, 8),
        (15, 2, 99, 20, 20),  # one piece: no other thread
        (15, 16, 99, 5, 5),  # fewer threads
        (15, 2, 3, 20, 3),  # Ctrl-C comes first
        (0, 2, 0, 0, 1),
    ],
)
def test_pieces_are_neither_long_nor_short(units, workers, limit, least, chunk):
    assert plans.chunk_of(units, workers, limit, least) == chunk


def test_strides_far_beyond_the_kernel_cost_little():
    case = Case((1, 2, 1000, 1000), (3, 2, 2, 2), stride=500)
    by_caffe(case)
    start = time.process_time()
    assert_as_caffe(case, np.float32)
    assert time.process_time() - start < 0.5


# --- NaN and Inf ------------------------------------------------------------------------------

NON_FINITE = [
    Case((2, 5, 9, 10), (7, 5, 3, 3), pad=1),
    Case((2, 6, 9, 10), (8, 3, 3, 2), stride=(2, 3), pad=((2, 1), (0, 3)), group=2),
    Case((2, 3, 8, 7), (3, 3, 2, 3), stride=3, pad=4, dilation=2),
    Case((3, 20, 4, 5), (21, 20, 1, 1)),
    Case((3, 20, 4, 5), (21, 20, 1, 1), pad=1),
    Case((2, 3, 40), (4, 3, 3), pad=((5, 0),), dilation=2),
    Case((1, 2, 3, 4, 20), (3, 2, 2, 2, 3), pad=1, stride=(1, 2, 1)),
    Case((2, 8, 9, 9), (8, 1, 3, 3), pad=1, group=8),
    Case((2, 3, 9, 11), (42, 3, 3, 3), stride=2, pad=1),
]


def assert_lies_as_by_caffe(where, value, case, dtype, engine):
    rng = np.random.default_rng(0)
    for count in (1, 3):
        arrays = [array.astype(dtype) for array in inputs(case)]
        chosen = rng.choice(arrays[where].size, min(count, arrays[where].size), replace=False)
        arrays[where].reshape(-1)[chosen] = value
        wanted = both_passes(*arrays, engine="caffe", **case.params)
        results = both_passes(*arrays, engine=engine, **case.params)
        for got, target in zip(results, wanted, strict=True):
            np.testing.assert_array_equal(got, target)


@pytest.mark.parametrize("case", NON_FINITE, ids=lambda case: "x".join(map(str, case.x_shape)))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 1, 2, 3], ids=["x", "w", "b", "dout"])
@both_types
def test_what_is_not_finite_lies_where_caffe_has_it(where, value, case, dtype, build):
    assert_lies_as_by_caffe(where, value, case, dtype, "fused")


def test_infinite_weight_on_padding_is_nan():
    x, w = np.ones((1, 1, 3), np.float32), np.array([[[np.inf, 1, 1]]], np.float32)
    out, cache = fastconv.conv_forward(x, w, pad=1, engine="fused")
    np.testing.assert_array_equal(out, [[[np.nan, np.inf, np.inf]]])
    # dx has no products with padding: the first cell meets the infinite weight in dout's second
    dx, _, _ = fastconv.conv_backward(np.ones_like(out), cache)
    np.testing.assert_array_equal(dx, [[[np.inf, np.inf, 2]]])


@both_types
def test_nothing_left_in_memory_reaches_a_result(dtype, build, monkeypatch):
    """Packed weights, scratch and sums start as NaN."""

    def allocate(_, shape, dtype, *, zero=False):
        return np.full(shape, 0 if zero else np.nan, dtype)

    give_memory(monkeypatch.setattr, fused, allocate)
    for case in (*LAYERS, *NON_FINITE):
        assert_as_caffe(case, dtype)


def test_images_without_cells_or_samples(build):
    for case in (
        Case((0, 3, 5, 5), (4, 3, 3, 3), pad=1),
        Case((2, 3, 0, 4), (4, 3, 2, 2), pad=1),
        Case((2, 3, 0), (4, 3, 2), pad=2),
    ):
        assert_as_caffe(case, np.float32)
