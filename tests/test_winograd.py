"""The engine `winograd`: its accuracy, the bits that it promises, what it leaves to other engines.

The matrices of its transforms stand here once more, in float64, for the bound of ACCURACY.md.
"""

import functools
import itertools
import math

import numpy as np
import pytest
from arrays import assert_same_bits
from cases import integer_array, parameters
from failing_memory import FailingMemory, give_memory
from test_fused import (
    Case,
    assert_extends_as_fused,
    both_passes,
    channels_last,
    filters_last,
    inputs,
    normal,
    three_passes,
)

import fastconv
from fastconv import _kernels, reference
from fastconv._engines import forms, select_engine, winograd
from fastconv._geometry import conv_geometry
from fastconv._memory import allocate as allocate_memory

DTYPES = [np.float32, np.float64]
both_types = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])

# Of an axis with m results and so many taps: A^T, G, B^T.
MATRICES = {
    (1, 1): (np.ones((1, 1)),) * 3,
    (2, 3): (
        np.array([[1, 1, 1, 0], [0, 1, -1, 1]]),
        np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2,
        np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]]),
    ),
    (4, 3): (
        np.array(
            [[1, 1, 1, 1, 1, 0], [0, 1, -1, 0.5, -2, 0], [0, 1, 1, 0.25, 4, 0],
             [0, 1, -1, 0.125, -8, 1]]
        ),
        np.array([[15, 0, 0], [5, 5, 5], [-5, 5, -5], [-16, -8, -4], [1, -2, 4], [0, 0, 15]]) / 15,
        np.array(
            [[2, -3, -4, 3, 2, 0], [0, -2, 1, 5, 2, 0], [0, 2, -5, 1, 2, 0], [0, -4, -2, 4, 2, 0],
             [0, 1, -2, -1, 2, 0], [0, 2, -3, -4, 3, 2]]
        ) / 2,
    ),
}  # fmt: skip
EIGHT_POINTS = np.array([0, 1, -1, 2, -2, 0.5, -0.5])
EIGHT_DIVISORS = np.array([90, -20, -20, 1, 1, 64, 64]) / 90
EIGHT_CELLS = np.array(
    [[4, 0, -21, 0, 21, 0, -4, 0], [0, 4, 4, -17, -17, 4, 4, 0], [0, -4, 4, 17, -17, -4, 4, 0],
     [0, 2, 1, -10, -5, 8, 4, 0], [0, -2, 1, 10, -5, -8, 4, 0], [0, 8, 16, -10, -20, 2, 4, 0],
     [0, -8, 16, 10, -20, -2, 4, 0], [0, -4, 0, 21, 0, -21, 0, 4]]
) / 4  # fmt: skip
for results, taps in ((4, 5), (2, 7)):
    last = np.eye(results)[:, -1:], np.eye(taps)[-1:]
    MATRICES[results, taps] = (
        np.hstack([EIGHT_POINTS ** np.arange(results)[:, np.newaxis], last[0]]),
        np.vstack([(EIGHT_POINTS ** np.arange(taps)[:, np.newaxis] * EIGHT_DIVISORS).T, last[1]]),
        EIGHT_CELLS,
    )

FORMS = {
    name: forms.Form(forms.Axis(*row), forms.Axis(*column))
    for name, row, column in (
        ("2x2,3x3", (2, 3), (2, 3)),
        ("4x4,3x3", (4, 3), (4, 3)),
        ("4x4,5x5", (4, 5), (4, 5)),
        ("2x2,7x7", (2, 7), (2, 7)),
        ("1x4,1x3", (1, 1), (4, 3)),
        ("1x4,1x5", (1, 1), (4, 5)),
        ("1x2,1x7", (1, 1), (2, 7)),
        ("4x1,3x1", (4, 3), (1, 1)),
        ("4x1,5x1", (4, 5), (1, 1)),
        ("2x1,7x1", (2, 7), (1, 1)),
    )
}


@pytest.fixture(autouse=True)
def _plans_made_anew(monkeypatch):
    """One remembered may be of another build, tile or limit; and whatever pays."""
    monkeypatch.setattr(winograd, "_plan", winograd._plan.__wrapped__)
    monkeypatch.setattr(winograd, "LEAST_GRADIENT_GAIN", 0)


@pytest.fixture(params=_kernels.RUNNABLE)
def build(request, monkeypatch):
    """Each build of the kernels that this machine can run, in turn."""
    monkeypatch.setattr(winograd, "kernel", _kernels.load("winograd", request.param))


def _use_form(monkeypatch, name):
    monkeypatch.setattr(winograd.Layer, "form", FORMS[name])
    return FORMS[name]


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    """Each form in turn, whatever the layer."""
    return _use_form(monkeypatch, request.param)


@pytest.fixture(params=["2x2,3x3", "4x4,3x3", "4x4,5x5", "1x2,1x7", "2x1,7x1"])
def some_form(request, monkeypatch):
    """Half of them."""
    return _use_form(monkeypatch, request.param)


@pytest.fixture(params=["2x2,3x3", "4x4,3x3"])
def square(request, monkeypatch):
    """Those for 3x3 taps."""
    return _use_form(monkeypatch, request.param)


def of_form(case, form):
    """The case with the kernel that a form is for, and as many results."""
    kernel = form.row.taps, form.column.taps
    dilation = (case.dilation,) * 2 if isinstance(case.dilation, int) else case.dilation
    sizes = (
        max(1, size + (taps - 3) * step)
        for size, taps, step in zip(case.x_shape[2:], kernel, dilation, strict=True)
    )
    x_shape = (*case.x_shape[:2], *sizes)
    return case._replace(x_shape=x_shape, w_shape=(*case.w_shape[:2], *kernel))


passes = functools.partial(three_passes, engine="winograd")


# x (N, C, H, W) and w (F, C/group, 3, 3): results of all sizes about those of tiles and vectors.
EDGES = [
    *(Case((2, 5, size + 2, size + 2), (7, 5, 3, 3)) for size in range(1, 14)),
    *(Case((3, 17, 6, 9), (33, 17, 3, 3), pad=((pad, pad),) * 2) for pad in range(5)),
    Case((2, 34, 7, 5), (38, 17, 3, 3), pad=((0, 3), (4, 1)), group=2),
    Case((1, 3, 1, 40), (2, 3, 3, 3), pad=((1, 1), (0, 2))),
    Case((20, 16, 4, 3), (16, 16, 3, 3), pad=1),
    Case((1, 130, 5, 30), (75, 130, 3, 3), pad=1),
    Case((1, 6, 19, 70), (10, 3, 3, 3), pad=1, group=2),
]
edges = pytest.mark.parametrize("case", EDGES, ids=lambda case: f"{case.x_shape} {case.pad}")


def turned_in_memory(w):
    """The same weights, whose kernels lie backwards."""
    return w[..., ::-1, ::-1].copy()[..., ::-1, ::-1]


def mirrored(array):
    """The same array, in whose memory all but the samples are reversed."""
    return array[:, ::-1, ::-1, ::-1].copy()[:, ::-1, ::-1, ::-1]


def sliced(array):
    """The same array, between whose columns there is something else."""
    return np.repeat(array, 2, axis=3)[..., ::2]


# Of images, and of weights.
ORDERS = [
    (np.array, np.array),
    (channels_last, filters_last),
    (mirrored, mirrored),
    (sliced, sliced),
    (np.asfortranarray, np.asfortranarray),
    (np.array, turned_in_memory),
]


# --- accuracy ---------------------------------------------------------------------------------


def forward_bound(x, w, pads, group, form):
    """E = |A^T| [sum_c (|G||g||G^T|) * (|B^T||d||B|)] |A|, for each result."""
    matrices = (map(np.abs, MATRICES[axis]) for axis in form)
    (at_row, g_row, bt_row), (at_column, g_column, bt_column) = matrices
    n, channels = x.shape[:2]
    shape = [
        size + sum(pad) - k + 1 for size, pad, k in zip(x.shape[2:], pads, w.shape[2:], strict=True)
    ]
    tiles = [-(-size // axis.m) for size, axis in zip(shape, form, strict=True)]
    cells = [axis.m * count + axis.taps - 1 for axis, count in zip(form, tiles, strict=True)]
    image = np.zeros((n, channels, *cells))
    # where padding is less than 0, cells are left out
    kept = [
        slice(max(0, -before), size - before) for (before, _), size in zip(pads, cells, strict=True)
    ]
    inside = np.abs(x[:, :, *kept])
    top, left = (max(0, before) for before, _ in pads)
    image[:, :, top : top + inside.shape[2], left : left + inside.shape[3]] = inside
    windows = np.lib.stride_tricks.sliding_window_view(
        image, [axis.points for axis in form], (2, 3)
    )
    d = windows[:, :, :: form.row.m, :: form.column.m]
    d = d.reshape(n, group, channels // group, *tiles, *d.shape[-2:])
    v = np.einsum("ia,ngctuab,jb->ngctuij", bt_row, d, bt_column)
    grouped = np.abs(w).reshape(group, -1, *w.shape[1:])
    u = np.einsum("ia,gfcab,jb->gfcij", g_row, grouped, g_column)
    sums = np.einsum("gfcij,ngctuij->ngftuij", u, v)
    found = np.einsum("ai,ngftuij,bj->ngftaub", at_row, sums, at_column)
    found = found.reshape(n, len(w), tiles[0] * form.row.m, tiles[1] * form.column.m)
    return found[:, :, : shape[0], : shape[1]]


def assert_within(got, wanted, bound, channels, dtype):
    unit = np.finfo(dtype).eps / 2
    limit = (8 + 2 * math.sqrt(channels)) * unit * bound
    error = np.abs(got - wanted)
    assert (error <= limit).all(), (error / np.maximum(limit, 1e-300)).max()


def turned(w, group):
    """The weights of the gradient: filters and channels exchanged, turned by half a turn."""
    grouped = w.reshape(group, -1, *w.shape[1:]).swapaxes(1, 2)
    return grouped.reshape(-1, *grouped.shape[2:])[..., ::-1, ::-1]


def assert_errors_within_bounds(case, form, arrays):
    x, w, b, dout = arrays
    dtype = x.dtype
    pads = conv_geometry(
        case.x_shape, case.w_shape, stride=1, pad=case.pad, dilation=1, group=case.group
    ).pad
    wide = np.longdouble if dtype == np.float64 else np.float64
    x_wide, w_wide, b_wide, dout_wide = (array.astype(wide) for array in arrays)
    out, dx, back = passes(x, w, b, dout, case)
    wanted = reference.conv_forward_shifted(x_wide, w_wide, b_wide, **case.params)
    bound = forward_bound(x, w, pads, case.group, form) + np.abs(b)[:, np.newaxis, np.newaxis]
    assert_within(out, wanted, bound, w.shape[1], dtype)
    wanted, _, _ = reference.conv_backward_shifted(dout_wide, x_wide, w_wide, **case.params)
    pads = [
        tuple(taps - 1 - pad for pad in pair) for taps, pair in zip(w.shape[2:], pads, strict=True)
    ]
    bound = forward_bound(dout, turned(w, case.group), pads, case.group, form)
    filters = len(w) // case.group
    assert_within(dx, wanted, bound, filters, dtype)
    added = np.arange(x.shape[1]).reshape(-1, 1, 1)
    assert_within(back, wanted + added, bound + added, filters, dtype)


@edges
@both_types
@pytest.mark.parametrize("kind", ["normal", "positive"])
def test_error_is_within_the_bound_of_its_tile(kind, dtype, case, square, build):
    arrays = normal(case, dtype)
    if kind == "positive":
        arrays = list(map(np.abs, arrays))
    assert_errors_within_bounds(case, square, arrays)


@both_types
def test_error_is_within_the_bound_in_all_forms(dtype, form, build):
    for case in map(of_form, EDGES[::3], itertools.repeat(form)):
        assert_errors_within_bounds(case, form, normal(case, dtype))


@pytest.mark.parametrize("channels", [64, 128, 256, 384, 512])
def test_promise_to_users(channels, form):
    """max|err| / max|out| in float32."""
    case = of_form(Case((1, channels, 14, 14), (64, channels, 3, 3), pad=1), form)
    x, w, b, dout = normal(case)
    out, _, _ = passes(x, w, b, dout, case)
    wanted = fastconv.conv(
        *(array.astype(np.float64) for array in (x, w, b)), pad=1, engine="caffe"
    )
    small = form == FORMS["2x2,3x3"]
    promised = 4e-6 if small else 1e-5 if forms.WHOLE in form else 2e-5
    assert np.abs(out - wanted).max() / np.abs(wanted).max() < promised


# --- other kernels, strides and ranks ---------------------------------------------------------


@both_types
@pytest.mark.parametrize(
    ("kernel", "taps"),
    [((2, 2), (3, 3)), ((4, 4), (5, 5)), ((3, 5), (5, 5)), ((6, 4), (7, 7)), ((1, 6), (1, 7)),
     ((4, 1), (5, 1)), ((2, 1), (3, 1))],
)  # fmt: skip
def test_missing_taps_are_zeros(kernel, taps, dtype, build):
    """To the bit."""
    case = Case((3, 32, 9, 12), (34, 16, *kernel), pad=((1, 0), (0, 1)), group=2)
    x, w, b, _ = normal(case, dtype)
    more = [more - some for some, more in zip(kernel, taps, strict=True)]
    whole = np.pad(w, ((0, 0), (0, 0), *((0, n) for n in more)))
    for turn_w in (np.array, turned_in_memory, filters_last):
        out = fastconv.conv(x, turn_w(w), b, engine="winograd", **case.params)
        pads = [(low, high + n) for (low, high), n in zip(case.pad, more, strict=True)]
        wanted = fastconv.conv(x, whole, b, engine="winograd", pad=pads, group=2)
        assert_same_bits(out, wanted)


STRIDED = [
    Case((2, 3, 43, 39), (20, 3, 11, 11), stride=4),
    Case((3, 10, 17, 22), (20, 5, 5, 5), stride=2, pad=((2, 1), (0, 3)), group=2),
    Case((2, 7, 30, 31), (9, 7, 7, 8), stride=3, pad=((5, 9), (10, 2))),
    Case((2, 5, 30, 31), (9, 5, 14, 13), stride=2),
    Case((2, 5, 9, 31), (9, 5, 1, 9), stride=(1, 4), pad=((0, 0), (3, 3))),
    Case((1, 70, 31, 9), (9, 70, 9, 2), stride=(3, 2), pad=1),
]


def of_phases(x, w, case):
    """The same convolution with a stride of 1: a channel for each phase of one."""
    steps = case.stride if isinstance(case.stride, tuple) else (case.stride,) * 2
    taps = [-(-k // step) for k, step in zip(w.shape[2:], steps, strict=True)]
    out = geometry(case).out_shape
    padded = np.pad(x, ((0, 0), (0, 0), *geometry(case).pad))
    cells = [(size + k - 1) * step for size, k, step in zip(out, taps, steps, strict=True)]
    images = np.zeros((*x.shape[:2], *cells), x.dtype)
    padded = padded[:, :, : cells[0], : cells[1]]
    images[:, :, : padded.shape[2], : padded.shape[3]] = padded
    kernels = np.zeros((*w.shape[:2], *(k * step for k, step in zip(taps, steps, strict=True))))
    kernels[:, :, : w.shape[2], : w.shape[3]] = w
    return tuple(in_phases(array, steps) for array in (images, kernels.astype(w.dtype)))


def in_phases(array, steps):
    """(n, c, h, w) as (n, c * steps, h / step, w / step)."""
    n, c, height, width = array.shape
    split = array.reshape(n, c, height // steps[0], steps[0], width // steps[1], steps[1])
    phases = split.transpose(0, 1, 3, 5, 2, 4)
    return np.ascontiguousarray(phases).reshape(n, -1, *phases.shape[-2:])


@both_types
@pytest.mark.parametrize("case", STRIDED, ids=lambda case: f"{case.w_shape} {case.stride}")
def test_a_stride_is_a_convolution_of_its_phases(case, dtype, build, monkeypatch):
    x, w, b, _ = normal(case, dtype)
    wanted = fastconv.conv(*of_phases(x, w, case), b, group=case.group, engine="winograd")
    assert_same_bits_in_any_memory_and_units(case, x, w, b, wanted, monkeypatch)


# Of few channels: their kernels' rows, too, are channels.
FOLDED = [
    Case((2, 3, 43, 39), (20, 3, 7, 7), stride=2, pad=3),
    Case((1, 3, 60, 64), (16, 3, 5, 5), pad=2),
    Case((3, 6, 17, 22), (34, 3, 7, 6), stride=(3, 1), pad=((2, 1), (0, 3)), group=2),
    Case((2, 2, 30, 70), (16, 2, 9, 7), stride=(2, 1)),
    Case((2, 5, 5, 41), (17, 5, 4, 9), stride=(1, 2), pad=((9, 0), (0, 9))),
    Case((2, 11, 23, 25), (16, 11, 5, 5), pad=2, dilation=(3, 2)),
    Case((1, 1, 40, 20), (16, 1, 12, 4), stride=(13, 1)),  # no row of x is read twice
]


def of_rows(x, w, case):
    """The same convolution by kernels of one row: a channel for each row and phase of columns."""
    layer = geometry(case)
    (row_step, step), (row_dilation, dilation) = layer.stride, layer.dilation
    rows, taps = w.shape[2], -(-w.shape[3] // step)
    height, width = layer.out_shape
    width += (taps - 1) * dilation
    below, right = row_step * height + row_dilation * rows, step * width
    padded = np.pad(x, ((0, 0), (0, 0), *layer.pad))
    padded = np.pad(padded, ((0, 0), (0, 0), (0, below), (0, right)))
    whole = np.pad(w, ((0, 0), (0, 0), (0, 0), (0, taps * step - w.shape[3])))
    images, kernels = [], []
    for channel, i, q in np.ndindex(x.shape[1], rows, step):
        first = i * row_dilation
        lines = padded[:, channel, first : first + row_step * height : row_step]
        images.append(lines[:, :, q : q + step * width : step])
    for channel, i, q in np.ndindex(w.shape[1], rows, step):
        kernels.append(whole[:, channel, i : i + 1, q::step])
    return np.stack(images, 1), np.stack(kernels, 1), (1, dilation)


@both_types
@pytest.mark.parametrize("case", FOLDED, ids=lambda case: f"{case.w_shape} {case.stride}")
def test_few_channels_are_those_of_all_rows(case, dtype, build, monkeypatch):
    x, w, b, _ = normal(case, dtype)
    assert winograd.Layer.forward(geometry(case)).folds[0] == case.w_shape[2]
    images, kernels, dilation = of_rows(x, w, case)
    wanted = fastconv.conv(
        images, kernels, b, group=case.group, dilation=dilation, engine="winograd"
    )
    assert_same_bits_in_any_memory_and_units(case, x, w, b, wanted, monkeypatch)


def assert_same_bits_in_any_memory_and_units(case, x, w, b, wanted, monkeypatch):
    for limits in LIMITS:
        with monkeypatch.context() as patch:
            for name, value in limits.items():
                patch.setattr(winograd, name, value)
            for turn, turn_w in ORDERS:
                out = fastconv.conv(turn(x), turn_w(w), b, engine="winograd", **case.params)
                assert_same_bits(out, wanted)
    prepared = fastconv.PreparedConv(w, b, engine="winograd", **case.params)
    assert_same_bits(prepared(x), wanted)


def test_gradients_of_a_stride_are_those_of_fused():
    case = STRIDED[1]
    arrays = normal(case)
    got, wanted = (
        both_passes(*arrays, engine=engine, **case.params) for engine in ("winograd", "fused")
    )
    for value, target in zip(got[1:], wanted[1:], strict=True):
        assert_same_bits(value, target)


@both_types
def test_images_of_one_axis_are_planes_of_one_row(dtype):
    for case in (
        Case((3, 20, 31), (18, 10, 7), pad=((2, 5),), group=2),
        Case((2, 17, 40), (18, 17, 3), dilation=(3,)),
        Case((2, 17, 40), (18, 17, 9), stride=(4,), pad=((0, 3),)),
    ):
        x, w, b, dout = normal(case, dtype)
        planes = Case(*(
            (*shape[:2], 1, *shape[2:]) for shape in (x.shape, w.shape)
        ), *(
            value if isinstance(value, int) else (one, *value)
            for value, one in zip(case[2:5], (1, (0, 0), 1), strict=True)
        ), case.group)  # fmt: skip
        wanted = passes(*(array[:, :, np.newaxis] for array in (x, w)), b,
                        dout[:, :, np.newaxis], planes)  # fmt: skip
        for got, target in zip(passes(x, w, b, dout, case), wanted, strict=True):
            assert_same_bits(got, target[:, :, 0])


DILATED = [
    Case((2, 5, 12, 17), (7, 5, 3, 3), pad=2, dilation=2),
    Case((3, 34, 9, 11), (20, 17, 3, 3), pad=((1, 4), (0, 7)), dilation=(1, 3), group=2),
    Case((2, 3, 4, 9), (4, 3, 3, 3), pad=((9, 7), (4, 4)), dilation=(5, 4)),  # phases without x
    Case((1, 2, 1, 40), (3, 2, 3, 3), pad=((3, 3), (0, 12)), dilation=(3, 6)),
]


@both_types
@pytest.mark.parametrize("case", DILATED, ids=lambda case: f"{case.x_shape} {case.dilation}")
def test_dilation_is_a_convolution_of_each_phase(case, dtype, some_form, build):
    """Of the cells that are `dilation` apart, to the bit."""
    case = of_form(case, some_form)
    x, w, b, dout = normal(case, dtype)
    out, _, _ = passes(x, w, b, dout, case)
    rows, columns = geometry(case).dilation
    padded = np.pad(x, ((0, 0), (0, 0), *geometry(case).pad))
    for p, q in itertools.product(range(rows), range(columns)):
        part = out[:, :, p::rows, q::columns]
        if part.size:
            images = padded[:, :, p::rows, q::columns]
            alone = fastconv.conv(images, w, b, group=case.group, engine="winograd")
            assert_same_bits(part, alone)


@pytest.mark.parametrize("case", [*EDGES, *DILATED], ids=lambda c: f"{c.x_shape} {c.pad}")
@both_types
def test_small_tiles_are_exact_on_integers(case, dtype, build, monkeypatch):
    """G of F(2x2) halves twice: weights are multiples of 4."""
    _use_form(monkeypatch, "2x2,3x3")
    x, w, b, dout = (array.astype(dtype) for array in inputs(case))
    w *= 4
    out, dx, back = passes(x, w, b, dout, case)
    wanted = both_passes(x, w, b, dout, engine="caffe", **case.params)
    np.testing.assert_array_equal(out, wanted[0])
    np.testing.assert_array_equal(dx, wanted[1])
    np.testing.assert_array_equal(back, wanted[1] + np.arange(x.shape[1]).reshape(-1, 1, 1))


def test_the_gradient_is_the_adjoint(monkeypatch):
    """<conv(x), y> == <x, dx(y)>, exactly, by F(2x2) in float64."""
    _use_form(monkeypatch, "2x2,3x3")
    case = Case((2, 16, 6, 5), (18, 16, 3, 3), pad=((1, 2), (3, 0)))
    rng = np.random.default_rng(0)
    x, w = (integer_array(rng, shape).astype(np.float64) for shape in case[:2])
    out, cache = fastconv.conv_forward(x, 4 * w, pad=case.pad, engine="winograd")
    y = integer_array(rng, out.shape).astype(np.float64)
    dx, dw, _ = fastconv.conv_backward(y, cache)
    assert np.vdot(out, y) == np.vdot(x, dx) == np.vdot(4 * w, dw)


def test_gradient_of_weights_of_small_images_is_that_of_fused():
    case = Case((2, 16, 9, 8), (18, 16, 3, 3), pad=1)
    arrays = normal(case)
    got = both_passes(*arrays, engine="winograd", pad=1)
    wanted = both_passes(*arrays, engine="fused", pad=1)
    assert_same_bits(got[2], wanted[2])
    assert_same_bits(got[3], wanted[3])


# --- the same bits ----------------------------------------------------------------------------

LAYERS = [
    Case((7, 20, 7, 7), (34, 20, 3, 3), pad=1),
    Case((3, 150, 9, 14), (70, 150, 3, 3), pad=((1, 0), (2, 2))),
    Case((2, 34, 30, 41), (36, 17, 3, 3), pad=1, group=2),
    Case((3, 20, 13, 19), (18, 20, 3, 3), pad=3, dilation=(2, 3)),
]
layers = pytest.mark.parametrize("case", LAYERS, ids=lambda case: "x".join(map(str, case.x_shape)))
SMALL_LIMITS = {
    "INPUT_BYTES": 1,
    "SUM_BYTES": 1,
    "TOGETHER": 1,
    "UNIT_WORK": 2**14,
    "CALL_WORK": 1,
    "PACK_SIZE": 1,
}
LIMITS = [
    *({name: value} for name, value in SMALL_LIMITS.items()),
    {"PACKED_UNITS": 1},
    {"PACKED_UNITS": 10**9},
    {**SMALL_LIMITS, "PACKED_UNITS": 1},
    {**SMALL_LIMITS, "PACKED_UNITS": 10**9},
]


@layers
@both_types
def test_cuts_and_workers_change_no_bits(case, dtype, some_form, build, monkeypatch):
    case = of_form(case, some_form)
    arrays = normal(case, dtype)
    wanted = passes(*arrays, case, workers=1)
    monkeypatch.setattr(winograd, "THREAD_WORK", 0)
    for limits in LIMITS:
        with monkeypatch.context() as patch:
            for name, value in limits.items():
                patch.setattr(winograd, name, value)
            for workers in (1, 2, 5):
                for got, target in zip(passes(*arrays, case, workers=workers), wanted, strict=True):
                    assert_same_bits(got, target)


@layers
@both_types
def test_a_sample_has_the_same_bits_in_any_batch(case, dtype, some_form, build):
    case = of_form(case, some_form)
    x, w, b, dout = normal(case, dtype)
    whole = passes(x, w, b, dout, case)
    for begin in range(len(x)):
        for part in (slice(begin, begin + 1), slice(begin, None)):
            for got, target in zip(passes(x[part], w, b, dout[part], case), whole, strict=True):
                assert_same_bits(got, target[part])


@layers
@both_types
def test_memory_layouts_give_the_same_bits(case, dtype, some_form, build):
    case = of_form(case, some_form)
    arrays = normal(case, dtype)
    wanted = passes(*arrays, case)
    for turn, turn_w in ORDERS:
        x, w, b, dout = arrays
        out, dx = (turn(np.full_like(array, np.nan)) for array in wanted[:2])
        _, cache = fastconv.conv_forward(
            turn(x), turn_w(w), b, engine="winograd", out=out, **case.params
        )
        fastconv.conv_backward(turn(dout), cache, propagate_down=(True, False, False), dx=dx)
        assert_same_bits(np.ascontiguousarray(out), wanted[0])
        assert_same_bits(np.ascontiguousarray(dx), wanted[1])


@both_types
def test_nothing_left_in_memory_reaches_a_result(dtype, some_form, build, monkeypatch):
    def allocate(name, shape, dtype, *, zero=False):
        return np.full(shape, 0 if zero else np.nan, dtype)

    for case, packed in itertools.product((*LAYERS, *EDGES[::3]), (1, 10**9)):
        case = of_form(case, some_form)
        arrays = normal(case, dtype)
        monkeypatch.setattr(winograd, "PACKED_UNITS", packed)
        give_memory(monkeypatch.setattr, winograd, allocate_memory)
        wanted = passes(*arrays, case)
        give_memory(monkeypatch.setattr, winograd, allocate)
        for got, target in zip(passes(*arrays, case), wanted, strict=True):
            assert_same_bits(got, target)


# --- what it leaves to other engines ----------------------------------------------------------

SPECIAL = Case((5, 20, 9, 8), (17, 20, 3, 3), pad=1)


@both_types
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, "max", "large", "subnormal"])
def test_one_sample_with_such_numbers_changes_no_other(value, dtype, square, build):
    x, w, b, dout = normal(SPECIAL, dtype)
    clean = passes(x, w, b, dout, SPECIAL)
    limits = np.finfo(dtype)
    if value == "subnormal":
        x[2] *= limits.tiny
        dout[2] *= limits.tiny
    else:
        value = {"max": limits.max, "large": limits.max / 100}.get(value, value)
        x[2, 3, 4, 5] = dout[2, 16, 0, 7] = value
    direct = passes(x, w, b, dout, SPECIAL, engine="fused")
    for got, others, special in zip(passes(x, w, b, dout, SPECIAL), clean, direct, strict=True):
        assert_same_bits(got[2], special[2])
        for n in (0, 1, 3, 4):
            assert_same_bits(got[n], others[n])


@both_types
@pytest.mark.parametrize("value", [np.nan, np.inf, "max", "subnormal"])
def test_such_weights_send_the_call_to_fused(value, dtype, square, build):
    x, w, b, dout = normal(SPECIAL, dtype)
    limits = np.finfo(dtype)
    if value == "subnormal":
        w *= limits.tiny
    else:
        w[3, 4, 2, 0] = limits.max if value == "max" else value
    direct = passes(x, w, b, dout, SPECIAL, engine="fused")
    for got, wanted in zip(passes(x, w, b, dout, SPECIAL), direct, strict=True):
        assert_same_bits(got, wanted)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("where", [0, 1, 3], ids=["x", "w", "dout"])
def test_no_memory_for_what_fused_computes_again_leaves_targets_alone(where, dilation):
    case = Case((2, 64, 16, 16), (64, 64, 3, 3), pad=1, dilation=dilation)
    arrays = normal(case, np.float32)
    arrays[where].flat[7] = np.nan
    x, w, b, dout = arrays
    cache = fastconv.conv_forward(x, w, b, engine="winograd", workers=1, **case.params)[1]
    calls = {
        "out": lambda target: fastconv.conv(
            x, w, b, out=target, engine="winograd", workers=1, **case.params
        ),
        "dx": lambda target: fastconv.conv_backward(
            dout, cache, propagate_down=(True, False, False), dx=target
        ),
    }
    for name, call in calls.items():
        target = np.ones_like(dout if name == "out" else x)
        other = target.copy()
        call(other)  # what is made once
        with FailingMemory() as memory:
            call(other)
        assert memory.count > 1
        for fail_at in range(memory.count):
            with FailingMemory(fail_at), pytest.raises(MemoryError):
                call(target)
            assert (target == 1).all(), (name, fail_at)


@both_types
def test_what_is_not_finite_lies_where_direct_convolution_has_it(dtype, form):
    rng = np.random.default_rng(0)
    for case, where in itertools.product(EDGES[13:], range(4)):
        case = of_form(case, form)
        arrays = [array.astype(dtype) for array in inputs(case)]
        if not arrays[where].size:
            continue
        arrays[where].flat[rng.integers(arrays[where].size)] = rng.choice([np.nan, np.inf, -np.inf])
        got = passes(*arrays, case)
        for value, wanted in zip(got, passes(*arrays, case, engine="caffe"), strict=True):
            np.testing.assert_array_equal(np.isnan(value), np.isnan(wanted))
            np.testing.assert_array_equal(np.isposinf(value), np.isposinf(wanted))
            np.testing.assert_array_equal(np.isneginf(value), np.isneginf(wanted))


@both_types
def test_limits_of_magnitude_keep_all_numbers_finite(dtype, form):
    """Signs chosen so that a result grows as much as the bound has it."""
    signs = []
    for axis in form:
        _, g, b = MATRICES[axis]
        signs.append([np.sign(m[np.abs(m).sum(axis=1).argmax()]) for m in (g, b)])
    kernel, cells = (np.outer(*pair) for pair in zip(*signs, strict=True))
    w = np.broadcast_to(kernel, (16, 16, *kernel.shape)).astype(dtype)
    x = np.broadcast_to(cells, (1, 16, *cells.shape)).astype(dtype)
    layer = winograd.Layer.forward(geometry(Case(x.shape, w.shape)))
    limits = winograd._limits(layer, np.dtype(dtype))
    size = dtype(math.sqrt(limits.product_high) * 0.999)
    out = fastconv.conv(x * size, w * size, engine="winograd")
    assert np.isfinite(out).all()
    direct = fastconv.conv(x * size, w * size, engine="fused")
    assert np.isfinite(direct).all()
    assert np.abs(out - direct).max() < 1e-4 * 16 * kernel.size * float(size) ** 2


def test_images_without_cells_or_samples(square, build):
    for x_shape in ((2, 2, 0, 4), (0, 2, 5, 4)):
        x, w, b, dout = normal(Case(x_shape, (3, 2, 3, 3), pad=((2, 1), (1, 0))))
        pads = {"pad": ((2, 1), (1, 0))}
        got = both_passes(x, w, b, dout, engine="winograd", **pads)
        for value, wanted in zip(got, both_passes(x, w, b, dout, **pads), strict=True):
            np.testing.assert_array_equal(value, wanted)


def test_zeros_are_exact(square):
    x, w = np.zeros((2, 16, 9, 9), np.float32), np.zeros((16, 16, 3, 3), np.float32)
    b = np.arange(16, dtype=np.float32)
    ones = np.ones_like(x), np.ones_like(w)
    for arrays in ((x, ones[1]), (ones[0], w), (x, w)):
        out = fastconv.conv(*arrays, b, engine="winograd")
        np.testing.assert_array_equal(out, np.broadcast_to(b.reshape(-1, 1, 1), out.shape))


# --- the choice -------------------------------------------------------------------------------


def geometry(case):
    return conv_geometry(case.x_shape, case.w_shape, **{"stride": 1, "dilation": 1, **case.params})


def chosen(case, dtype=np.float32, name="auto"):
    return select_engine(name, geometry(case), np.dtype(dtype)).NAME


def test_auto_takes_it_for_large_layers_whatever_the_batch():
    for n in (0, 1, 8, 1000):
        assert chosen(Case((n, 64, 56, 56), (64, 64, 3, 3), pad=1)) == "winograd"
        assert chosen(Case((n, 8, 224, 224), (64, 8, 3, 3), pad=1)) == "fused"
        assert chosen(Case((n, 3, 224, 224), (64, 3, 7, 7), stride=2, pad=3)) == "winograd"
        assert chosen(Case((n, 3, 224, 224), (32, 3, 7, 7), stride=2, pad=3)) == "fused"
        assert chosen(Case((n, 32, 7, 7), (32, 32, 3, 3), pad=1)) == "fused"
        assert chosen(Case((n, 128, 56, 56), (128, 4, 3, 3), pad=1, group=32)) == "fused"
        assert chosen(Case((n, 512, 33, 33), (512, 512, 3, 3), pad=2, dilation=2)) == "winograd"
        assert chosen(Case((n, 512, 33, 33), (512, 512, 3, 3), pad=4, dilation=4)) == "fused"
        assert chosen(Case((n, 16, 64, 64), (16, 16, 3, 3), pad=2, dilation=2)) == "fused"


def test_gradients_that_gain_nothing_are_those_of_fused(monkeypatch):
    """Of many filters over few channels."""
    monkeypatch.undo()
    case = Case((2, 16, 20, 21), (80, 16, 1, 5), pad=((0, 0), (2, 2)))
    x, w, b, dout = normal(case)
    by_winograd, by_fused = (passes(x, w, b, dout, case, engine=e) for e in ("winograd", "fused"))
    assert not np.array_equal(by_winograd[0], by_fused[0])
    for got, wanted in zip(by_winograd[1:], by_fused[1:], strict=True):
        assert_same_bits(got, wanted)


def test_tiles_follow_from_the_layer():
    for size, wanted in {1: 2, 4: 2, 5: 2, 6: 2, 7: 4, 8: 4, 9: 2, 13: 4, 14: 4, 56: 4}.items():
        for n in (1, 100):
            case = Case((n, 64, size, size), (64, 64, 3, 3), pad=1)
            assert winograd.Layer.forward(geometry(case)).form.row.m == wanted


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (
            Case((1, 16, 9, 9), (16, 16, 1, 8)),
            r"it takes kernels of 2 to 7 taps along an axis, got \(1, 8\)",
        ),
        (
            Case((1, 16, 99), (16, 16, 22), stride=(3,)),
            r"it takes kernels of 2 to 7 taps along an axis, in each phase of the stride, "
            r"got \(8,\)",
        ),
        (
            Case((1, 16, 9, 9), (16, 16, 1, 1)),
            r"it takes kernels of 2 to 7 taps along an axis, got \(1, 1\)",
        ),
        (
            Case((1, 16, 9, 9), (16, 16, 3, 3), stride=(1, 2), dilation=(2, 1)),
            r"it takes a stride or a dilation, got \(1, 2\) and \(2, 1\)",
        ),
        (
            Case((1, 2, 9, 9, 9), (2, 2, 3, 3, 3)),
            "it takes images of one or two axes, got 3",
        ),
    ],
)
def test_refused_by_name(case, reason):
    x, w = np.ones(case.x_shape), np.ones(case.w_shape)
    with pytest.raises(ValueError, match=f"engine 'winograd' cannot serve this call: {reason}"):
        fastconv.conv(x, w, engine="winograd", **parameters(case._asdict()))
    assert chosen(case) == "fused"


def test_padding_that_is_not_zeros():
    assert_extends_as_fused("winograd", Case((2, 16, 9, 8), (16, 16, 3, 3)), pad=2)


# --- plans ------------------------------------------------------------------------------------

HUGE = {
    "image": Case((1, 64, 1080, 1920), (64, 64, 3, 3), pad=1),
    "line": Case((1, 16, 1, 10**8), (16, 16, 3, 3), pad=1),
    "batch": Case((10**6, 64, 14, 14), (64, 64, 3, 3), pad=1),
    "channels": Case((1, 20_000, 8, 8), (64, 20_000, 3, 3), pad=1),
    "filters": Case((4, 64, 8, 8), (20_000, 64, 3, 3), pad=1),
    "both": Case((4, 4096, 16, 16), (4096, 4096, 3, 3), pad=1),
}


@both_types
@pytest.mark.parametrize("name", HUGE)
@pytest.mark.parametrize("workers", [1, 2])
def test_plans_keep_the_promises(name, workers, dtype, form, build):
    """8 MiB a worker, and steps that leave time for Ctrl-C."""
    layer = winograd.Layer.forward(geometry(of_form(HUGE[name], form)))
    for some in (layer, layer._replace(channels=layer.filters, filters=layer.channels)):
        (plan,) = winograd._plans(some.phases(), np.dtype(dtype), workers, False)
        assert plan.room * np.dtype(dtype).itemsize < 2**23
        assert plan.work * plan.chunk / plan.units < 2 * winograd.CALL_WORK
        weights = form.points * some.channels * some.filters
        assert plan.weights <= 1.1 * weights + 2**16
        assert weights * plan.pack_chunk / plan.packs < 2 * form.points * winograd.PACK_SIZE
