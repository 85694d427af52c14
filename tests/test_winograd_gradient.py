"""The gradient of weights of the engine `winograd`: accuracy, bits, and what it leaves to `fused`.

The matrices of its transforms stand here once more, in float64, for the bound of ACCURACY.md.
"""

import itertools
import math

import numpy as np
import pytest
from arrays import assert_same_bits
from failing_memory import FailingMemory, give_memory
from test_fused import Case, normal
from test_winograd import (
    DILATED,
    EDGES,
    EIGHT_CELLS,
    EIGHT_DIVISORS,
    EIGHT_POINTS,
    HUGE,
    LAYERS,
    MATRICES,
    ORDERS,
    geometry,
    layers,
    of_form,
)

import fastconv
from fastconv import _kernels, reference
from fastconv._engines import fused, winograd_gradient

DTYPES = [np.float32, np.float64]
both_types = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])

# Of an axis with so many results in a tile, and taps: A^T, G, B^T.
GRADIENT_MATRICES = {
    (1, 1): MATRICES[1, 1],
    (4, 3): (
        np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 0.5, -2, 0], [0, 1, 1, 0.25, 4, 1]]),
        np.array([[15, 0, 0, 0], [5, 5, 5, 5], [-5, 5, -5, 5], [-16, -8, -4, -2], [1, -2, 4, -8],
                  [0, 0, 0, 15]]) / 15,
        MATRICES[4, 3][2],
    ),
}  # fmt: skip
for results, taps in ((4, 5), (2, 7)):
    powers = [EIGHT_POINTS ** np.arange(count)[:, np.newaxis] for count in (results, taps)]
    ends = [np.eye(count)[-1:] for count in (results, taps)]
    GRADIENT_MATRICES[results, taps] = (
        np.hstack([powers[1], ends[1].T]),
        np.vstack([(powers[0] * EIGHT_DIVISORS).T, ends[0]]),
        EIGHT_CELLS,
    )

forms = pytest.mark.parametrize(
    "form", winograd_gradient.FORMS, ids=lambda form: "{}x{}".format(*form.taps)
)


@pytest.fixture(autouse=True)
def _whatever_pays(monkeypatch):
    """For every layer, with plans made anew: one remembered may be of another build or limit."""
    plan = winograd_gradient._plan.__wrapped__
    monkeypatch.setattr(winograd_gradient, "_plan", lambda *call: plan(*call)._replace(pays=True))


@pytest.fixture(params=_kernels.RUNNABLE)
def build(request, monkeypatch):
    """Each build of the kernel that this machine can run, in turn."""
    kernel = _kernels.load("winograd_gradient", request.param)
    monkeypatch.setattr(winograd_gradient, "kernel", kernel)


@pytest.fixture(params=[0, math.inf], ids=["beside", "looks first"])
def _either_way(request, monkeypatch):
    """Sums beside dw, or magnitudes looked at beforehand."""
    monkeypatch.setattr(winograd_gradient, "COPY_WORK", request.param)


either_way = pytest.mark.usefixtures("_either_way")


def gradient(x, w, dout, case, dw=None, engine=winograd_gradient, workers=1):
    """Dw of some samples of a case, added to what is given."""
    dw = np.zeros(w.shape, w.dtype) if dw is None else dw
    engine.backward_w(geometry(case)._replace(batch=len(x)), x, dout, dw, workers)
    return dw


# --- accuracy ---------------------------------------------------------------------------------


def tiles_of(images, sizes, steps, count, before):
    """The tiles [n][channel][row][column][cell][cell] of images, with zeros around."""
    cells = (m * tiles + size - m for m, tiles, size in zip(steps, count, sizes, strict=True))
    image = np.zeros((*images.shape[:2], *cells))
    inside = np.abs(images)[:, :, max(0, -before[0]) :, max(0, -before[1]) :]
    top, left = (max(0, zeros) for zeros in before)
    part = image[:, :, top:, left:]
    inside = inside[:, :, : part.shape[2], : part.shape[3]]
    part[:, :, : inside.shape[2], : inside.shape[3]] = inside
    windows = np.lib.stride_tricks.sliding_window_view(image, sizes, (2, 3))
    return windows[:, :, :: steps[0], :: steps[1]]


def gradient_bound(x, dout, case, form):
    """E = |A^T| [sum of (|G||g||G^T|) * (|B^T||d||B|)] |A|, over tiles; and how many these are."""
    matrices = (map(np.abs, GRADIENT_MATRICES[axis]) for axis in form)
    (at_row, g_row, bt_row), (at_column, g_column, bt_column) = matrices
    count = [-(-size // m) for size, m in zip(dout.shape[2:], form.m, strict=True)]
    before = [pad for pad, _ in geometry(case).pad]
    d = tiles_of(x, form.cells, form.m, count, before)
    r = tiles_of(dout, form.m, form.m, count, (0, 0))
    v = np.einsum("ia,nctuab,jb->nctuij", bt_row, d, bt_column)
    u = np.einsum("ia,nftuab,jb->nftuij", g_row, r, g_column)
    groups = zip(np.split(u, case.group, axis=1), np.split(v, case.group, axis=1), strict=True)
    sums = np.concatenate([np.einsum("nftuij,nctuij->fcij", *pair) for pair in groups])
    return np.einsum("ai,fcij,bj->fcab", at_row, sums, at_column), len(x) * math.prod(count)


@forms
@both_types
@pytest.mark.parametrize("kind", ["normal", "positive"])
def test_error_is_within_the_bound_of_its_tiles(kind, dtype, form, build):
    for case in EDGES[::2]:
        assert_error_within_the_bound(kind, dtype, form, of_form(case, form))


def assert_error_within_the_bound(kind, dtype, form, case):
    x, w, _, dout = normal(case, dtype)
    if kind == "positive":
        x, dout = np.abs(x), np.abs(dout)
    wide = np.longdouble if dtype == np.float64 else np.float64
    _, wanted, _ = reference.conv_backward_shifted(
        dout.astype(wide), x.astype(wide), w.astype(wide), **case.params
    )
    bound, tiles = gradient_bound(x, dout, case, form)
    error = np.abs(gradient(x, w, dout, case) - wanted)
    limit = (8 + 2 * math.sqrt(tiles)) * np.finfo(dtype).eps / 2 * bound
    assert (error <= limit).all(), (error / np.maximum(limit, 1e-300)).max()


@forms
@pytest.mark.parametrize("size", [14, 28, 57])
def test_promise_to_users(size, form):
    """max|err| / max|dw| at most 2e-5, in float32."""
    case = of_form(Case((2, 48, size, size), (64, 48, 3, 3), pad=1), form)
    x, w, _, dout = normal(case)
    wanted = gradient(*(array.astype(np.float64) for array in (x, w, dout)), case, engine=fused)
    error = np.abs(gradient(x, w, dout, case) - wanted)
    assert error.max() < 2e-5 * np.abs(wanted).max()


@forms
@both_types
@pytest.mark.parametrize("case", DILATED, ids=lambda case: f"{case.x_shape} {case.dilation}")
def test_dilation(case, dtype, form, build):
    case = of_form(case, form)
    x, w, _, dout = normal(case, dtype)
    wanted = gradient(*(array.astype(np.float64) for array in (x, w, dout)), case, engine=fused)
    error = np.abs(gradient(x, w, dout, case) - wanted)
    assert error.max() <= 100 * np.finfo(dtype).eps * np.abs(wanted).max()


def test_images_of_one_axis_are_planes_of_one_row():
    case = Case((3, 20, 31), (18, 10, 7), pad=((2, 5),), group=2)
    x, w, _, dout = normal(case)
    planes = Case((3, 20, 1, 31), (18, 10, 1, 7), pad=((0, 0), (2, 5)), group=2)
    in_planes = (array[:, :, np.newaxis] for array in (x, w, dout))
    assert_same_bits(gradient(x, w, dout, case), gradient(*in_planes, planes)[:, :, 0])


@pytest.mark.parametrize(
    "case",
    [
        Case((2, 20, 31, 30), (18, 20, 7, 7)),
        Case((2, 20, 31, 30), (18, 20, 4, 4)),
        Case((2, 20, 31, 30), (18, 20, 5, 3)),
        Case((2, 20, 61, 60), (18, 20, 5, 5), stride=2),
        Case((2, 20, 61, 60), (18, 20, 11, 11), stride=4),
    ],
    ids=lambda case: f"{case.w_shape} {case.stride}",
)
def test_other_kernels_and_strides_are_left_to_fused(case):
    x, w, _, dout = normal(case)
    assert_same_bits(gradient(x, w, dout, case), gradient(x, w, dout, case, engine=fused))


# --- the same bits ----------------------------------------------------------------------------

some_forms = pytest.mark.parametrize(
    "form", winograd_gradient.FORMS[:2] + winograd_gradient.FORMS[-2:],
    ids=lambda form: "{}x{}".format(*form.taps),
)  # fmt: skip
SMALL_LIMITS = {"UNIT_BYTES": 1, "MOST": 16, "TOGETHER": 1, "CALL_WORK": 1, "THREAD_WORK": 0}


@some_forms
@layers
@both_types
@either_way
def test_cuts_and_workers_change_no_bits(case, dtype, form, build, monkeypatch):
    case = of_form(case, form)
    x, w, _, dout = normal(case, dtype)
    wanted = gradient(x, w, dout, case)
    monkeypatch.setattr(winograd_gradient, "THREAD_WORK", 0)
    for limits in (*({name: value} for name, value in SMALL_LIMITS.items()), SMALL_LIMITS):
        with monkeypatch.context() as patch:
            for name, value in limits.items():
                patch.setattr(winograd_gradient, name, value)
            for workers in (1, 2, 5):
                assert_same_bits(gradient(x, w, dout, case, workers=workers), wanted)


@some_forms
@layers
@both_types
def test_a_batch_may_come_in_several_calls(case, dtype, form, build, monkeypatch):
    case = of_form(case, form)
    x, w, _, dout = normal(case, dtype)
    wanted = gradient(x, w, dout, case, w.copy())
    for cut, copies in itertools.product(range(1, len(x)), (0, math.inf)):
        monkeypatch.setattr(winograd_gradient, "COPY_WORK", copies)
        dw = gradient(x[:cut], w, dout[:cut], case, w.copy())
        assert_same_bits(gradient(x[cut:], w, dout[cut:], case, dw), wanted)


@some_forms
@layers
@both_types
@either_way
def test_memory_layouts_give_the_same_bits(case, dtype, form, build):
    case = of_form(case, form)
    x, w, _, dout = normal(case, dtype)
    wanted = gradient(x, w, dout, case, w.copy())
    for turn, turn_w in ORDERS:
        dw = gradient(turn(x), w, turn(dout), case, turn_w(w))
        assert_same_bits(np.ascontiguousarray(dw), wanted)


@some_forms
@both_types
def test_nothing_left_in_memory_reaches_a_result(dtype, form, build, monkeypatch):
    def allocate(name, shape, dtype, *, zero=False):
        return np.full(shape, 0 if zero else np.nan, dtype)

    for case in (*LAYERS, *EDGES[::3], *DILATED):
        case = of_form(case, form)
        x, w, _, dout = normal(case, dtype)
        wanted = gradient(x, w, dout, case)
        with monkeypatch.context() as patch:
            give_memory(patch.setattr, winograd_gradient, allocate)
            assert_same_bits(gradient(x, w, dout, case), wanted)


# --- what it leaves to `fused` ----------------------------------------------------------------

SPECIAL = Case((5, 20, 9, 8), (17, 20, 3, 3), pad=1)


@both_types
@pytest.mark.parametrize("where", ["x", "dout"])
@pytest.mark.parametrize("value", [np.nan, np.inf, "max", "large", "subnormal"])
@either_way
def test_one_sample_with_such_numbers_is_added_by_fused(value, where, dtype, build):
    x, w, _, dout = normal(SPECIAL, dtype)
    array, limits = {"x": x, "dout": dout}[where], np.finfo(dtype)
    if value == "subnormal":
        array[2] *= limits.tiny
    else:
        array[2, 3, 4, 5] = {"max": limits.max, "large": limits.max / 100}.get(value, value)
    wanted = w.copy()
    for n in range(5):
        engine = fused if n == 2 else winograd_gradient
        gradient(x[n : n + 1], w, dout[n : n + 1], SPECIAL, wanted, engine)
    assert_same_bits(gradient(x, w, dout, SPECIAL, w.copy()), wanted)


@some_forms
@both_types
@either_way
def test_what_is_not_finite_lies_where_direct_convolution_has_it(dtype, form):
    rng = np.random.default_rng(0)
    for case, where in itertools.product(EDGES[13:], (0, 2)):
        case = of_form(case, form)
        x, w, _, dout = normal(case, dtype)
        array = (x, w, dout)[where]
        array.flat[rng.integers(array.size)] = rng.choice([np.nan, np.inf, -np.inf])
        got, wanted = (
            gradient(x, w, dout, case, engine=engine) for engine in (winograd_gradient, fused)
        )
        for kind in (np.isnan, np.isposinf, np.isneginf):
            np.testing.assert_array_equal(kind(got), kind(wanted))


@either_way
@pytest.mark.parametrize("value", [1, np.nan])
def test_no_memory_leaves_dw_alone(value):
    case = Case((2, 64, 16, 16), (64, 64, 3, 3), pad=1)
    x, w, _, dout = normal(case)
    x.flat[7] = value
    dw = gradient(x, w, dout, case)
    with FailingMemory() as memory:
        gradient(x, w, dout, case, dw)
    assert memory.count > 1
    for fail_at in range(memory.count):
        dw = np.ones_like(w)
        with FailingMemory(fail_at), pytest.raises(MemoryError):
            gradient(x, w, dout, case, dw)
        assert (dw == 1).all(), fail_at


@forms
@both_types
def test_limits_of_magnitude_keep_all_numbers_finite(dtype, form):
    """Signs chosen so that sums grow as much as the bound has it."""
    signs = []
    for axis in form:
        _, g, b = GRADIENT_MATRICES[axis]
        signs.append([np.sign(m[np.abs(m).sum(axis=1).argmax()]) for m in (g, b)])
    results, cells = (np.outer(*pair) for pair in zip(*signs, strict=True))
    dout = np.broadcast_to(results, (1, 16, *results.shape)).astype(dtype)
    x = np.broadcast_to(cells, (1, 16, *cells.shape)).astype(dtype)
    case = Case(x.shape, (16, 16, *form.taps))
    pieces = winograd_gradient.Pieces.of(geometry(case), form)
    limits = winograd_gradient._limits(form, pieces, np.dtype(dtype))
    size = dtype(math.sqrt(limits.product_high) * 0.999)
    w = np.empty(case.w_shape, dtype)
    dw = gradient(x * size, w, dout * size, case)
    direct = gradient(x * size, w, dout * size, case, engine=fused)
    assert np.isfinite(direct).all()
    assert np.abs(dw - direct).max() < 1e-4 * 16 * float(size) ** 2


def test_images_without_cells_or_samples(build):
    for x_shape in ((2, 2, 0, 4), (0, 2, 5, 4)):
        case = Case(x_shape, (3, 2, 3, 3), pad=((2, 1), (1, 0)))
        x, w, _, dout = normal(case)
        assert_same_bits(gradient(x, w, dout, case, w.copy()), w)


# --- plans ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 7, 8, 12, 13, 28, 56])
def test_it_is_taken_where_it_pays_whatever_the_batch(size, monkeypatch):
    monkeypatch.undo()
    calls = []
    monkeypatch.setattr(fused, "backward_w", lambda *call: calls.append(call))
    for batch in (1, 3):
        calls.clear()
        case = Case((batch, 64, size, size), (64, 64, 3, 3), pad=1)
        x, w, b, dout = normal(case)
        _, cache = fastconv.conv_forward(x, w, b, engine="winograd", pad=1)
        fastconv.conv_backward(dout, cache, propagate_down=(False, True, False))
        assert bool(calls) == (size < 12)


@forms
@both_types
@pytest.mark.parametrize("name", HUGE)
@pytest.mark.parametrize("workers", [1, 2])
def test_plans_keep_the_promises(name, workers, dtype, form, build):
    """8 MiB a worker, and steps that leave time for Ctrl-C."""
    layer = geometry(of_form(HUGE[name], form))
    plan = winograd_gradient._plan(layer._replace(batch=1), np.dtype(dtype), workers)
    assert plan.room * np.dtype(dtype).itemsize < 2**23
    unit = plan.work / plan.units / plan.pieces / 4
    assert unit * plan.pass_pieces < 2 * winograd_gradient.CALL_WORK


def test_cells_far_apart_are_left_to_fused(monkeypatch):
    monkeypatch.undo()
    case = Case((1, 64, 900, 900), (64, 64, 3, 3), pad=50, dilation=50)
    assert not winograd_gradient._plan(geometry(case), np.dtype(np.float32), 1).pays
