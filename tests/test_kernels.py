"""The builds of the kernels: which one runs, and that all give the same bits."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from arrays import assert_same_bits

import fastconv
from fastconv import _kernels, _pooling, _sampling

pytestmark = pytest.mark.sanitize


def config_with(value):
    return subprocess.run(
        [sys.executable, "-c", "import fastconv; print(fastconv.config()['instruction_set'])"],
        capture_output=True,
        text=True,
        env={**os.environ, "FASTCONV_ISA": value},
        check=False,
    )


def test_the_best_build_runs():
    assert _kernels.RUNNABLE[-1] in ("x86-64", "generic")
    if "FASTCONV_ISA" not in os.environ:
        assert fastconv.config()["instruction_set"] == _kernels.RUNNABLE[0]
    assert config_with("").stdout == f"{_kernels.RUNNABLE[0]}\n"


@pytest.mark.parametrize("name", _kernels.RUNNABLE)
def test_another_build_can_be_named(name):
    assert config_with(name).stdout == f"{name}\n"


@pytest.mark.parametrize("name", ["avx512", "x86-64-v9", "0"])
def test_unknown_build(name):
    match = f"ValueError: FASTCONV_ISA must be one of {_kernels.RUNNABLE} on this machine, "
    assert f"{match}got '{name}'" in config_with(name).stderr


CASES = [
    {"kernel_size": kernel, "stride": stride, "pad": pad, "dilation": dilation, "ceil_mode": True}
    for kernel, stride, pad, dilation in itertools.product([1, 2, 3, 5], [1, 2, 3], [0, 1], [1, 2])
    if pad < kernel
]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", _kernels.RUNNABLE)
def test_pools_have_the_same_bits_in_every_build(monkeypatch, name, dtype, layout):
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((2, 3, 11, width)).astype(dtype) for width in (9, 30, 67)]
    if layout == "NHWC":
        images = [np.ascontiguousarray(np.moveaxis(x, 1, -1)) for x in images]
    images[0][0, 3:5] = np.nan

    def results():
        for x, case in itertools.product(images, CASES):
            for forward, backward in (
                (fastconv.max_pool_forward, fastconv.max_pool_backward),
                (fastconv.avg_pool_forward, fastconv.avg_pool_backward),
            ):
                out, cache = forward(x, **case, layout=layout)
                yield out
                yield backward(out, cache)

    wanted = list(results())
    monkeypatch.setattr(_pooling, "pool", _kernels.load("pool", name))
    for got, expected in zip(results(), wanted, strict=True):
        assert_same_bits(got, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", _kernels.RUNNABLE)
def test_deformed_convolutions_have_the_same_bits_in_every_build(monkeypatch, name, dtype):
    rng = np.random.default_rng(0)
    shapes = ((2, 4, 9, 11), (2, 36, 9, 11), (4, 2, 3, 3), (2, 18, 9, 11))
    x, offset, w, mask = (rng.standard_normal(shape).astype(dtype) for shape in shapes)

    def results():
        out, cache = fastconv.deform_conv_forward(
            x, offset, w, mask=mask, pad=1, group=2, offset_group=2
        )
        return out, *fastconv.deform_conv_backward(out, cache)[:4]

    wanted = results()
    monkeypatch.setattr(_sampling, "deform", _kernels.load("deform", name))
    for got, expected in zip(results(), wanted, strict=True):
        assert_same_bits(got, expected)


@pytest.mark.parametrize("name", _kernels.RUNNABLE)
def test_sizes_of_tiles_are_those_of_the_build(name):
    fused = _kernels.load("fused", name)
    assert fused.lanes(4) == 2 * fused.lanes(8) or fused.lanes(4) == fused.lanes(8) == 1
    assert 1 <= fused.NARROW_ROWS <= fused.ROWS <= fused.TAPS
