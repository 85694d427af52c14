"""Arrays against unreadable pages, and the kernels driven over them; run as a child process.

::

    | no access | ......... array | no access |      end="back":  one element further is a fault
    | no access | array ......... | no access |      end="front": one element before is a fault

``python guarded.py all`` runs every case and prints how many; ``python guarded.py before`` and
``python guarded.py after`` touch the element outside on purpose, to show that the guard works.
"""

import ctypes
import itertools
import math
import mmap
import os
import random
import sys
from types import ModuleType
from typing import Any

import numpy as np
from cases import GENERAL
from failing_memory import give_memory

import fastconv
from fastconv import _im2col, _kernels, _pooling, reference
from fastconv._columns import size_table
from fastconv._engines import (
    depthwise,
    forms,
    fused,
    lanes,
    planes,
    plans,
    winograd,
    winograd_gradient,
)
from fastconv._geometry import conv_geometry, window_geometry

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)


class Guarded:
    """Memory of some pages between two pages without access."""

    def __init__(self, pages: int = 64) -> None:
        self.size = pages * PAGE
        self.memory = mmap.mmap(-1, self.size + 2 * PAGE)
        self.bytes = np.frombuffer(self.memory, np.uint8)
        for page in (0, self.size + PAGE):
            address = self.bytes.ctypes.data + page
            if LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), 0) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")

    def array(self, values: np.ndarray, end: str) -> np.ndarray:
        """A copy of `values` that touches the page before it or the page after it."""
        start = PAGE if end == "front" else PAGE + self.size - values.nbytes
        where = self.bytes[start : start + values.nbytes].view(values.dtype)
        array = where.reshape(values.shape)
        array[...] = values
        return array


POOL = [Guarded() for _ in range(8)]


def guarded(end: str, *arrays: np.ndarray) -> list[np.ndarray]:
    return [memory.array(array, end) for memory, array in zip(POOL, arrays, strict=False)]


def window_cases():
    """Parameters of windows that cross every edge: all in 1-D, a sample of them from 2-D to 4-D."""
    wide = list(itertools.product((1, 2, 3, 5, 8), (1, 2, 3), (1, 2, 3), (0, 1, 2), (1, 2)))
    narrow = list(itertools.product((1, 2, 3), (1, 2), (1, 2), (0, 1), (1, 2)))
    choose = random.Random(0)
    chosen = [(axis,) for axis in wide]
    for rank, axis, count in ((2, wide, 200), (3, narrow, 100), (4, narrow, 40)):
        chosen += [[choose.choice(axis) for _ in range(rank)] for _ in range(count)]
    for axes in chosen:
        if all(i + 2 * p >= d * (k - 1) + 1 for i, k, _, p, d in axes):
            yield tuple(zip(*axes, strict=True))


def check_lowering(end: str, dtype: type) -> int:
    """The kernels themselves, by rank and for any rank, in whole and in parts; x also reversed."""
    cases = 0
    for size, kernel, stride, pad, dilation in window_cases():
        geometry = window_geometry((2, 2, *size), kernel, stride=stride, pad=pad, dilation=dilation)
        x = np.arange(1, 1 + math.prod(geometry.x_shape), dtype=dtype).reshape(geometry.x_shape)
        params = {"stride": stride, "pad": pad, "dilation": dilation}
        expected = reference.im2col_loops(x, kernel, **params)
        back = reference.col2im_loops(expected, x.shape, kernel, **params)
        table, positions = size_table(geometry), geometry.positions
        backwards = x[:, ::-1, ..., ::-1]
        inside, cols, dx, mirrored, expected_inside = guarded(
            end, x, np.zeros_like(expected), np.zeros_like(x), backwards, expected
        )
        for source in (inside, mirrored[:, ::-1, ..., ::-1]):
            for force_nd in (False, True):
                cols.fill(np.nan)
                _im2col.im2col(source, cols, table, 0, positions, force_nd)
                np.testing.assert_array_equal(cols, expected)
                dx.fill(0)
                _im2col.col2im(expected_inside, dx, table, 0, positions, force_nd)
                np.testing.assert_array_equal(dx, back)
                cases += 1
        for begin, stop in {(0, 1), (positions - 1, positions), (positions // 3, positions)}:
            part, wanted = guarded(end, expected[..., begin:stop] * 0, expected[..., begin:stop])
            source = POOL[2].array(x, end)
            for force_nd in (False, True):
                part.fill(np.nan)
                _im2col.im2col(source, part, table, begin, stop, force_nd)
                np.testing.assert_array_equal(part, wanted)
                cases += 1
    return cases


def check_convolution(end: str, dtype: type) -> int:
    """The public calls, with every array guarded, by each engine in turn."""
    rng = np.random.default_rng(0)
    cases = 0
    for size, kernel, stride, pad, dilation in itertools.islice(window_cases(), 0, None, 3):
        for group in (1, 2):
            params = {"stride": stride, "pad": pad, "dilation": dilation, "group": group}
            x, w, b = guarded(
                end,
                rng.integers(-3, 4, (2, 4, *size)).astype(dtype),
                rng.integers(-3, 4, (6, 4 // group, *kernel)).astype(dtype),
                rng.integers(-3, 4, 6).astype(dtype),
            )
            expected = reference.conv_forward_shifted(x, w, b, **params)
            out = POOL[3].array(expected * 0, end)
            dout = POOL[4].array(rng.integers(-3, 4, expected.shape).astype(dtype), end)
            dx, dw, db = (
                memory.array(np.zeros_like(array), end)
                for memory, array in zip(POOL[5:], (x, w, b), strict=True)
            )
            engine = GENERAL[cases // 2 % 2]
            _, cache = fastconv.conv_forward(x, w, b, out=out, engine=engine, **params)
            np.testing.assert_array_equal(out, expected)
            fastconv.conv_backward(dout, cache, dx=dx, dw=dw, db=db)
            gradients = reference.conv_backward_shifted(dout, x, w, **params)
            for got, wanted in zip((dx, dw, db), gradients, strict=True):
                np.testing.assert_array_equal(got, wanted)
            cases += 1
    return cases


def check_deconvolution(end: str, dtype: type) -> int:
    """The transposed calls, with every array guarded, by each engine in turn."""
    rng = np.random.default_rng(0)
    cases = 0
    for size, kernel, stride, _, dilation in itertools.islice(window_cases(), 0, None, 5):
        params = {"stride": stride, "dilation": dilation, "group": 2}
        x, w, b = guarded(
            end,
            rng.integers(-3, 4, (2, 4, *size)).astype(dtype),
            rng.integers(-3, 4, (4, 3, *kernel)).astype(dtype),
            rng.integers(-3, 4, 6).astype(dtype),
        )
        expected = reference.deconv_forward_shifted(x, w, b, **params)
        out = POOL[3].array(expected * 0, end)
        dout = POOL[4].array(rng.integers(-3, 4, expected.shape).astype(dtype), end)
        dx, dw, db = (
            memory.array(np.zeros_like(array), end)
            for memory, array in zip(POOL[5:], (x, w, b), strict=True)
        )
        engine = GENERAL[cases % 2]
        _, cache = fastconv.deconv_forward(x, w, b, out=out, engine=engine, **params)
        np.testing.assert_array_equal(out, expected)
        fastconv.deconv_backward(dout, cache, dx=dx, dw=dw, db=db)
        gradients = reference.deconv_backward_shifted(dout, x, w, **params)
        for got, wanted in zip((dx, dw, db), gradients, strict=True):
            np.testing.assert_array_equal(got, wanted)
        cases += 1
    return cases


def mirrored(array: np.ndarray) -> np.ndarray:
    return array[:, ::-1, ..., ::-1]


# How images and weights lie in memory, and back: plain, as the NHWC calls have them, backwards.
ORDERS = [
    (np.asarray,) * 4,
    (
        lambda x: np.moveaxis(x, 1, -1),
        lambda x: np.moveaxis(x, -1, 1),
        lambda w: np.moveaxis(w, (0, 1), (-1, -2)),
        lambda w: np.moveaxis(w, (-1, -2), (0, 1)),
    ),
    (mirrored,) * 4,
    # steps down between neighbours' lines, of channels and filters, or of cells channels last
    (*[lambda x: x[:, ::-1]] * 2, *[lambda w: w[::-1]] * 2),
    (
        lambda x: np.moveaxis(x, 1, -1)[..., ::-1, :],
        lambda x: np.moveaxis(x[..., ::-1, :], -1, 1),
        *[lambda w: w[:, ::-1]] * 2,
    ),
]


def guard_scratch(engine: ModuleType, end: str) -> None:
    """Have an engine's own scratch guarded as well, and no plans remembered."""

    def allocate(
        _: str, shape: tuple[int, ...], dtype: np.dtype, *, zero: bool = False
    ) -> np.ndarray:
        memory = Guarded(1 + math.prod(shape) * dtype.itemsize // PAGE)
        return memory.array(np.full(shape, 0 if zero else np.nan, dtype), end)

    give_memory(setattr, engine, allocate)
    engine.THREAD_WORK = 0
    for name, function in list(vars(engine).items()):
        setattr(engine, name, getattr(function, "__wrapped__", function))


def check_fused(end: str, dtype: type) -> int:
    """Every build of the engine `fused`, its own scratch guarded as well, in several layouts.

    Half of the cases are cut into small units.
    """
    guard_scratch(fused, end)
    rng, choose = np.random.default_rng(0), random.Random(0)
    cases = 0
    for size, kernel, stride, pad, dilation, channels, filters in fused_cases():
        build = _kernels.load("fused", choose.choice(_kernels.RUNNABLE))
        fused.kernel = lanes.kernel = plans.kernel = build
        often = choose.randrange(2)
        lanes.LEAST_FILTERS, lanes.MOST_LANES = ((32, 1.2), (0, 99))[often]
        lanes.LONG_SUM, lanes.LONG_KERNEL = ((1000, 4), (0, 0))[often]
        cut, group = choose.randrange(2), choose.choice((1, 2))
        plans.SCRATCH_BYTES, plans.SUMS_BYTES = ((2**21, 2**19), (2**10, 2**9))[cut]
        plans.SMALL_WORK, plans.GRADIENT_CHANNELS = ((2**22, 256), (0, 1))[cut]
        plans.GRADIENT_BYTES, plans.TILE_SUMS_BYTES = ((2**22, 2**14), (2**11, 2**9))[cut]
        plans.UNIT_WORK, plans.PACK_SIZE = ((2**31, 2**25), (2**10, 2**5))[cut]
        plans.FILTERS_GAIN, plans.DOT_SUMS = choose.choice(((0.9, 2**10), (99, 0)))
        params = {"stride": stride, "pad": pad, "dilation": dilation, "group": group}
        x = rng.integers(-3, 4, (2, group * channels, *size)).astype(dtype)
        w = rng.integers(-3, 4, (group * filters, channels, *kernel)).astype(dtype)
        cases += check_in_all_orders(end, "fused", x, w, rng, params)
    return cases


def check_in_all_orders(
    end: str,
    engine: str,
    x: np.ndarray,
    w: np.ndarray,
    rng: np.random.Generator,
    params: dict[str, Any],
) -> int:
    """Both passes of a convolution, with arrays that lie in memory in each of ORDERS."""
    b = rng.integers(-3, 4, len(w)).astype(w.dtype)
    expected = reference.conv_forward_shifted(x, w, b, **params)
    dout = rng.integers(-3, 4, expected.shape).astype(w.dtype)
    gradients = reference.conv_backward_shifted(dout, x, w, **params)
    for turn, turn_back, turn_w, turn_w_back in ORDERS:
        arrays = (turn(x), turn_w(w), b, turn(dout))
        targets = (turn(expected * 0), turn(x * 0), turn_w(w * 0), b * 0)
        *given, out, dx, dw, db = guarded(end, *arrays, *targets)
        x_view, dout_view, out, dx = map(turn_back, (given[0], given[3], out, dx))
        w_view, dw = map(turn_w_back, (given[1], dw))
        _, cache = fastconv.conv_forward(
            x_view, w_view, given[2], out=out, engine=engine, workers=2, **params
        )
        fastconv.conv_backward(dout_view, cache, dx=dx, dw=dw, db=db)
        np.testing.assert_array_equal(out, expected)
        for got, wanted in zip((dx, dw, db), gradients, strict=True):
            np.testing.assert_array_equal(got, wanted)
    return len(ORDERS)


def check_depthwise(end: str, dtype: type) -> int:
    """Every build of the engine `depthwise`, as above."""
    guard_scratch(depthwise, end)
    rng, choose = np.random.default_rng(0), random.Random(0)
    every = 4 if "FASTCONV_SANITIZE" in os.environ else 2
    wide = [((5, width), (3, 3), (1, step), (1, 1), (1, 1))
            for width in range(1, 71) for step in (1, 2)]  # fmt: skip
    cases = 0
    for size, kernel, stride, pad, dilation in (
        *itertools.islice(window_cases(), 0, None, every), *wide
    ):  # fmt: skip
        params = {"stride": stride, "pad": pad, "dilation": dilation}
        geometry = conv_geometry((1, 1, *size), (1, 1, *kernel), group=1, **params)
        if depthwise.unsupported_reason(geometry, np.dtype(dtype)):
            continue
        build = _kernels.load("depthwise", choose.choice(_kernels.RUNNABLE))
        depthwise.kernel = planes.kernel = build
        planes.BOX_CELLS, planes.UNIT_CELLS = choose.choice(((2**16, 2**15), (2**7, 2**6)))
        channels, multiplier = choose.choice((1, 2, 5, 17)), choose.choice((1, 1, 2))
        params["group"] = channels
        x = rng.integers(-3, 4, (2, channels, *size)).astype(dtype)
        w = rng.integers(-3, 4, (channels * multiplier, 1, *kernel)).astype(dtype)
        cases += check_in_all_orders(end, "depthwise", x, w, rng, params)
    return cases


def fused_cases():
    """Windows with few channels, and sizes of several panels, tiles and blocks of taps."""
    choose = random.Random(1)
    every = 8 if "FASTCONV_SANITIZE" in os.environ else 4  # the sanitizers take their time
    for case in itertools.islice(window_cases(), 0, None, every):
        yield *case, choose.choice((1, 2, 3, 5)), choose.choice((1, 4, 7))
    for size, kernel, channels, filters in (
        ((9, 10), (3, 3), 30, 11),
        ((70,), (5,), 58, 19),
        ((6, 18), (1, 1), 33, 20),
        ((3, 4, 5), (2, 3, 2), 45, 10),
        ((31, 33), (3, 3), 2, 3),
        ((7, 13), (3, 2), 3, 35),
    ) * 2:
        for stride, before, dilation in itertools.product((1, 2), (0, 1), (1, 2)):
            steps, pad, dilations = ((v,) * len(size) for v in (stride, before, dilation))
            extents = (dilation * (k - 1) + 1 for k in kernel)
            if all(i + 2 * before >= e for i, e in zip(size, extents, strict=True)):
                yield size, kernel, steps, pad, dilations, channels, filters


# Kernels, and strides.
WINOGRAD_KERNELS = [
    *(((taps, taps), (1, 1)) for taps in (2, 3, 3, 3, 4, 5, 7)),
    *(((1, taps), (1, 1)) for taps in (3, 5, 6, 7)),
    *(((taps, 1), (1, 1)) for taps in (3, 5, 7)),
    ((11, 11), (4, 4)),
    ((5, 6), (2, 2)),
    ((3, 9), (1, 3)),
]


def check_winograd(end: str, dtype: type) -> int:
    """Every build of the engine `winograd`, its scratch guarded, in several layouts.

    Half of the cases transform weights once, a third are cut into small units. Weights are
    multiples of 4, for which F(2x2, 3x3) is exact; other forms are to a ten thousandth.
    """
    guard_scratch(winograd, end)
    rng, choose = np.random.default_rng(0), random.Random(0)
    cases = 0
    suited = winograd.Layer.form
    winograd.LEAST_GRADIENT_GAIN = 0
    for height, width, _ in itertools.product((1, 2, 5, 8), (1, 3, 7, 14, 33), range(3)):
        kernel, stride = choose.choice(WINOGRAD_KERNELS)
        winograd.kernel = _kernels.load("winograd", choose.choice(_kernels.RUNNABLE))
        small = kernel == (3, 3) and choose.random() < 0.5
        winograd.Layer.form = forms.SMALL_TILES if small else suited
        winograd.PACKED_UNITS = choose.choice((1, 10**9))
        winograd.INPUT_BYTES, winograd.SUM_BYTES = choose.choice(((1, 1), *((2**20, 2**22),) * 2))
        winograd.DEPTH_BYTES = choose.choice((64, 512))
        many = () if math.prod(kernel) > 25 else ((1, 37, 10), (1, 8, 26), (2, 3, 17))
        group, channels, filters = choose.choice(((1, 5, 7), (2, 9, 11), *many))
        pad = tuple(
            (choose.randrange(5), max(choose.randrange(5), taps - size))
            for size, taps in zip((height, width), kernel, strict=True)
        )
        params = {"stride": stride, "pad": pad, "group": group}
        x = rng.integers(-3, 4, (2, group * channels, height, width)).astype(dtype)
        w = 4 * rng.integers(-3, 4, (group * filters, channels, *kernel)).astype(dtype)
        b = rng.integers(-3, 4, group * filters).astype(dtype)
        expected = reference.conv_forward_shifted(x, w, b, **params)
        dout = rng.integers(-3, 4, expected.shape).astype(dtype)
        gradient, _, _ = reference.conv_backward_shifted(dout, x, w, **params)
        for turn, turn_back, turn_w, turn_w_back in ORDERS:
            arrays = (turn(x), turn_w(w), b, turn(dout), turn(expected * 0), turn(x * 0))
            *given, out, dx = guarded(end, *arrays)
            x_view, dout_view, out, dx = map(turn_back, (given[0], given[3], out, dx))
            _, cache = fastconv.conv_forward(
                x_view, turn_w_back(given[1]), given[2], out=out, engine="winograd", workers=2,
                **params,
            )  # fmt: skip
            only_x = (True, False, False)
            fastconv.conv_backward(dout_view, cache, propagate_down=only_x, dx=dx)
            for got, wanted in ((out, expected), (dx, gradient)):
                atol = 0 if small else 1e-4 * np.abs(wanted).max()
                np.testing.assert_allclose(got, wanted, rtol=0, atol=atol)
            cases += 1
    winograd.Layer.form = suited
    return cases


def check_winograd_gradient(end: str, dtype: type) -> int:
    """Every build of its gradient of weights, as above, for layers of any size."""
    guard_scratch(winograd_gradient, end)
    plan = winograd_gradient._plan
    winograd_gradient._plan = lambda *call: plan(*call)._replace(pays=True)
    rng, choose = np.random.default_rng(0), random.Random(0)
    cases = 0
    for height, width in itertools.product((1, 2, 5, 8, 21), (1, 3, 7, 14, 33)):
        winograd_gradient.kernel = _kernels.load(
            "winograd_gradient", choose.choice(_kernels.RUNNABLE)
        )
        winograd_gradient.UNIT_BYTES = choose.choice((1, 2**20))
        winograd_gradient.TILE_POINTS, winograd_gradient.MOST = choose.choice(
            ((2000, 192), (100, 16))
        )
        form = choose.choice(winograd_gradient.FORMS)
        winograd_gradient.COPY_WORK = choose.choice((0, math.inf))
        group, channels, filters = choose.choice(((1, 5, 7), (2, 9, 11), (1, 37, 10), (1, 8, 26)))
        dilation = choose.choice((1, 1, 2, 3))
        pad = tuple(
            (choose.randrange(5), choose.randrange(3) + max(0, (taps - 1) * dilation + 1 - size))
            for size, taps in zip((height, width), form.taps, strict=True)
        )
        params = {"pad": pad, "group": group, "dilation": dilation}
        x = rng.integers(-3, 4, (2, group * channels, height, width)).astype(dtype)
        w = rng.integers(-3, 4, (group * filters, channels, *form.taps)).astype(dtype)
        expected = reference.conv_forward_shifted(x, w, None, **params)
        dout = rng.integers(-3, 4, expected.shape).astype(dtype)
        _, gradient, _ = reference.conv_backward_shifted(dout, x, w, **params)
        for turn, turn_back, turn_w, turn_w_back in ORDERS:
            *given, dw = guarded(end, turn(x), turn(dout), turn_w(w * 0))
            geometry = conv_geometry(
                x.shape, w.shape, stride=1, pad=pad, dilation=dilation, group=group
            )
            winograd_gradient.backward_w(geometry, *map(turn_back, given), turn_w_back(dw), 2)
            np.testing.assert_allclose(
                turn_w_back(dw), gradient, rtol=0, atol=1e-5 * max(1, np.abs(gradient).max())
            )
            cases += 1
    return cases


def check_pools(end: str, dtype: type) -> int:
    """Every build of the kernels, in both layouts, in whole and in parts."""
    rng = np.random.default_rng(0)
    cases = 0
    for size, kernel, stride, pad, dilation in itertools.islice(window_cases(), 0, None, 2):
        params = {"stride": stride, "dilation": dilation, "ceil_mode": True}
        params["pad"] = tuple(min(p, k // 2) for p, k in zip(pad, kernel, strict=True))
        x = rng.integers(-9, 10, (2, 3, *size)).astype(dtype)
        try:
            maximum, _ = reference.max_pool_forward_loops(x, kernel, **params)
        except ValueError:  # a window wholly in the padding
            continue
        average = reference.avg_pool_forward_loops(x, kernel, **params)
        dout = rng.integers(-9, 10, maximum.shape).astype(dtype)
        dmaximum = reference.max_pool_backward_loops(dout, x, kernel, **params)
        build = _kernels.RUNNABLE[cases % len(_kernels.RUNNABLE)]
        _pooling.pool = _kernels.load("pool", build)
        _pooling.CALL_COLUMNS, _pooling.CALL_CELLS = ((2**10, 2**24), (3, 40))[cases % 2]
        for layout, axis in (("NCHW", 1), ("NHWC", -1)):
            images, out, gradient, dx = guarded(
                end,
                *(
                    np.ascontiguousarray(np.moveaxis(array, 1, axis))
                    for array in (x, maximum * 0, dout, x * 0)
                ),
            )
            _, cache = fastconv.max_pool_forward(images, kernel, out=out, layout=layout, **params)
            np.testing.assert_array_equal(np.moveaxis(out, axis, 1), maximum)
            taps = np.moveaxis(POOL[4].array(np.moveaxis(cache.taps, 1, axis), end), axis, 1)
            fastconv.max_pool_backward(gradient, cache._replace(taps=taps), dx=dx)
            np.testing.assert_array_equal(np.moveaxis(dx, axis, 1), dmaximum)
            _, cache = fastconv.avg_pool_forward(images, kernel, out=out, layout=layout, **params)
            np.testing.assert_array_equal(np.moveaxis(out, axis, 1), average)
            fastconv.avg_pool_backward(gradient, cache, dx=dx)
            cases += 1
    return cases


def check_deformable(end: str, dtype: type) -> int:
    """Deformable convolution, with every array guarded and offsets of all kinds."""
    rng = np.random.default_rng(0)
    kinds = [np.nan, np.inf, -np.inf, 1e30, -1e30, *np.arange(-4, 4.5, 0.5)]
    cases = 0
    for size, kernel, stride, pad, dilation in window_cases():
        if len(size) != 2:
            continue
        params = {"stride": stride, "pad": pad, "dilation": dilation, "group": 2, "offset_group": 2}
        geometry = window_geometry((2, 4, *size), kernel, stride=stride, pad=pad, dilation=dilation)
        taps, rest = 2 * math.prod(kernel), geometry.out_shape
        x, offset, w, mask, dout = guarded(
            end,
            4 * rng.integers(-3, 4, (2, 4, *size)).astype(dtype),
            rng.choice(kinds, (2, 2 * taps, *rest)).astype(dtype),
            rng.integers(-3, 4, (6, 2, *kernel)).astype(dtype),
            rng.integers(-3, 4, (2, taps, *rest)).astype(dtype),
            rng.integers(-3, 4, (2, 6, *rest)).astype(dtype),
        )
        wanted = reference.deform_conv_forward_loops(x, offset, w, mask=mask, **params)
        out = POOL[5].array(wanted * 0, end)
        _, cache = fastconv.deform_conv_forward(x, offset, w, mask=mask, out=out, **params)
        np.testing.assert_array_equal(out, wanted)
        *gradients, _ = reference.deform_conv_backward_loops(
            dout, x, offset, w, mask=mask, **params
        )
        names = ("dx", "doffset", "dmask", "dw")
        for name, gradient in zip(names, gradients, strict=True):
            target = POOL[6].array(np.zeros_like(gradient), end)
            wishes = tuple(other == name for other in (*names, "db"))
            fastconv.deform_conv_backward(dout, cache, propagate_down=wishes, **{name: target})
            np.testing.assert_array_equal(target, gradient)
        cases += 1
    return cases


def main(what: str) -> None:
    if what == "all":
        calls = list(itertools.product(("front", "back"), (np.float32, np.float64)))
        if "FASTCONV_SANITIZE" in os.environ:  # which see both ends of what they allocate
            calls = calls[::3]
        print(
            sum(
                check(end, dtype)
                for check in (
                    check_lowering,
                    check_convolution,
                    check_deconvolution,
                    check_pools,
                    check_deformable,
                    check_fused,
                    check_depthwise,
                    check_winograd,
                    check_winograd_gradient,
                )
                for end, dtype in calls
            )
        )
        return
    end, index = ("front", -1) if what == "before" else ("back", 4)
    array = POOL[0].array(np.zeros(4, np.float32), end)
    outside = np.lib.stride_tricks.as_strided(array[:1] if index > 0 else array, (8,), (4,))
    address = outside.ctypes.data + 4 * index
    print(ctypes.c_float.from_address(address).value)


if __name__ == "__main__":
    main(sys.argv[1])
