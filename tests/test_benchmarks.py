"""The benchmarks stay runnable and their contenders right between one `make bench` and the next."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))

from benchmarks import layers, peak, peers  # noqa: E402

OUT_SIZES = {
    "cs231n": (16, 16),
    "lenet_conv2": (8, 8),
    "alexnet_conv1": (55, 55),
    "alexnet_conv2": (27, 27),
    "alexnet_conv3": (13, 13),
    "vgg_conv1_2": (224, 224),
    "vgg_conv3_2": (56, 56),
    "vgg_conv5_2": (14, 14),
    "resnet_conv1": (112, 112),
    "resnet_2_3x3": (56, 56),
    "resnet_3_3x3s2": (28, 28),
    "resnet_4_3x3": (14, 14),
    "resnet_5_3x3": (7, 7),
    "resnet_2_1x1": (56, 56),
    "resnet_4_1x1": (14, 14),
    "resnet_1x1s2": (28, 28),
    "mobilenet_dw112": (112, 112),
    "mobilenet_dw56s2": (28, 28),
    "mobilenet_dw14": (14, 14),
    "resnext_g32": (28, 28),
    "deeplab_d2": (33, 33),
    "inception_1x7": (17, 17),
    "image_filter": (1080, 1920),
    "single_3x3": (28, 28),
}

# Each takes another way through the pure-NumPy path, which the others are judged by.
SMALL = [
    layers.layer_2d("uneven", 3, 4, 11, 9, 6, 3, 2, (2, 1), (1, 2), (1, 3), 2),
    layers.layer_2d("blocks", 70, 3, 16, 16, 5, 5, 5, 1, 2, 1, 1),
    layers.layer_2d("bands", 2, 32, 48, 50, 4, 3, 3, 1, 1, 1, 1),
    layers.layer_2d("few positions", 3, 40, 5, 4, 7, 3, 3, 2, 1, 1, 1),
    layers.layer_2d("pointwise", 2, 6, 5, 7, 4, 1, 1, 1, 0, 1, 2),
    layers.layer_2d("depthwise", 2, 5, 9, 9, 5, 3, 3, 2, 1, 1, 5),
    layers.layer_2d("image", 1, 1, 40, 30, 1, 5, 3, 1, (2, 1), 1, 1),
]
SMALL_RANKS = [
    layers.Layer("sound", 2, 6, (40,), 4, (3,), 2, 2, 3, 2),
    layers.Layer("long sound", 1, 64, (3000,), 4, (3,), 1, 4, 4, 1),  # bands of one sample
    layers.Layer("signal", 1, 1, (30,), 1, (5,), 1, 2, 1, 1),
    layers.Layer("volume", 2, 4, (7, 5, 6), 6, (2, 3, 1), (1, 2, 1), (0, 2, 1), (2, 1, 1), 2),
    layers.Layer("slices", 1, 16, (4, 30, 31), 3, (3, 3, 3), 1, 1, 1, 1),
]
# Convolutions whose last window ends where the padded image does.
SMALL_DECONVS = [
    layers.layer_2d("uneven", 3, 4, 11, 8, 6, 3, 2, (2, 1), (1, 2), (1, 3), 2),
    layers.layer_2d("doubles", 2, 5, 12, 14, 3, 4, 4, 2, 1, 1, 1),
    layers.layer_2d("disjoint", 1, 3, 8, 6, 4, 2, 2, 2, 0, 1, 1),
    layers.layer_2d("bands", 1, 64, 40, 42, 4, 3, 3, 1, 1, 1, 1),
    layers.layer_2d("pointwise", 2, 6, 5, 7, 4, 1, 1, 1, 0, 1, 2),
    layers.Layer("sound", 2, 3, (15,), 4, (3,), 2, 1, 1, 1),
]
SMALL_POOLS = [
    layers.layer_2d("uneven", 2, 3, 11, 10, 3, 3, 4, (1, 3), (1, 2), 1, 3),
    layers.layer_2d(
        "overlaps", 3, 400, 13, 12, 400, 3, 3, 2, 1, 1, 400
    ),  # several blocks of planes
    layers.layer_2d("pairs", 2, 5, 9, 8, 5, 2, 2, 2, 0, 1, 5),  # a row is left over
    layers.layer_2d("gaps", 2, 3, 12, 11, 3, 2, 3, (3, 5), (0, 1), 1, 3),
    layers.layer_2d("global", 3, 4, 7, 7, 4, 7, 7, 7, 0, 1, 4),
]


def small_layers(kind):
    if kind in peers.POOL_KINDS:
        return SMALL_POOLS
    if kind in peers.DECONV_KINDS:
        return SMALL_DECONVS
    return SMALL + SMALL_RANKS if kind in peers.CONV_KINDS else SMALL


def test_layers():
    assert {layer.name: layer.out_size for layer in layers.LAYERS} == OUT_SIZES
    assert len(layers.LAYERS) == 24


def test_derived_sizes():
    layer = next(layer for layer in layers.LAYERS if layer.name == "inception_1x7")
    assert layer.in_size == (17, 17)
    assert layer.kernel_size == (1, 7)
    assert layer.pads == (0, 3)
    assert layer.w_shape == (192, 160, 1, 7)
    assert layer.out_shape == (8, 192, 17, 17)
    assert layer.cols_shape == (8, 1120, 289)
    assert layer.taps == 1120
    assert layer.flop == 2 * 8 * 192 * 289 * 1120
    assert [layer.name for layer in layers.LAYERS if layer.pointwise] == [
        "resnet_2_1x1",
        "resnet_4_1x1",
    ]


def test_other_sizes():
    sizes = {layer.name: layer.out_shape for layer in layers.RANKS + layers.SMALL_CALLS}
    assert sizes == {
        "conv1d_d4": (4, 64, 16000),
        "conv3d": (1, 32, 32, 64, 64),
        "small_1x8x8": (1, 1, 8, 8),
        "small_3x32x32": (1, 16, 32, 32),
        "small_16x16x16": (1, 16, 16, 16),
    }
    # From the output back to the input.
    assert {layer.name: (layer.out_shape, layer.x_shape) for layer in layers.DECONVS} == {
        "deconv_4x4s2": ((8, 256, 16, 16), (8, 128, 32, 32)),
        "deconv_2x2s2": ((1, 64, 128, 128), (1, 32, 256, 256)),
    }


def test_pool_sizes():
    sizes = {layer.name: layer.out_size for layer in layers.POOLS}
    assert sizes == {"pool_3x3s2": (56, 56), "pool_2x2s2": (56, 56)}
    for layer in (*layers.POOLS, *SMALL_POOLS):
        assert layer.C == layer.F == layer.group
        assert layer.dilations == (1, 1)


@pytest.mark.parametrize(
    ("kind", "contender", "layer", "dtype"),
    [
        pytest.param(kind, name, layer, dtype, id=f"{kind}-{name}-{layer}-{dtype}")
        for kind in peers.KINDS
        for name in peers.contenders(kind)
        for layer in small_layers(kind)
        for dtype in (("float32", "float64") if kind == "forward" else ("float32",))
    ],
)
def test_contender(kind, contender, layer, dtype):
    judge = peers.Judge(kind, layer, dtype)
    try:
        run = peers.contenders(kind)[contender](peers.Problem(layer, dtype))
    except peers.UnavailableError as reason:
        pytest.skip(str(reason))
    result = run()
    assert {array.dtype for array in peers.as_arrays(result)} == {np.dtype(dtype)}
    judge.check(result)
    judge.check(run())  # nothing is left behind in buffers that are used again


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-3), ("float64", 1e-11)])
def test_judge_finds_one_wrong_value(dtype, error):
    layer = SMALL[0]
    result = peers.contenders("forward")["numpy"](peers.Problem(layer, dtype))()
    result[2, 5, 0, 1] += error
    with pytest.raises(AssertionError, match="1 of"):
        peers.Judge("forward", layer, dtype).check(result)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_peak(dtype):
    try:
        run, flop = peak.peak_run(dtype)
    except peers.UnavailableError as reason:
        pytest.skip(str(reason))
    assert run() == flop / peak.ROUNDS  # each multiplication and addition of a round settles at 1


def test_no_compiler_is_a_word(monkeypatch):
    peak.peak_run.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(peers.UnavailableError, match="no C compiler"):
        peak.peak_run("float32")


@pytest.mark.parametrize(
    ("kind", "layer", "dtype", "threads"),
    [
        ("forward", "single_3x3", "float32", 2),
        ("deconv_backward", "deconv_2x2s2", "float64", 1),
        ("small_call", "small_1x8x8", "float32", 1),
        ("avg_pool_backward", "pool_2x2s2", "float32", 1),
    ],
)
def test_whole_run(tmp_path, kind, layer, dtype, threads):
    """Two contenders on one layer, timed as briefly as may be, down to the ratios in the JSON."""
    for plugin in ("pytest_benchmark", "rich", "threadpoolctl"):
        pytest.importorskip(plugin)
    report = tmp_path / "report.json"
    ours = next(iter(peers.contenders(kind)))
    command = [
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "benchmarks"),
        *("--layer", layer, "-k", f"test_{kind} and ({ours} or numpy)"),
        *("--dtype", dtype, "--threads", str(threads)),
        *("--benchmark-max-time", "0.01", "--benchmark-json", str(report)),
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"numpy / {ours}" in run.stdout
    assert f"{dtype}, {threads} thread" in run.stdout
    assert f"times in {'us' if kind == 'small_call' else 'ms'}" in run.stdout
    found = json.loads(report.read_text())
    ratio = found["ratios"][-1]
    assert (ratio["kind"], ratio["layer"], ratio["contender"]) == (kind, layer, "numpy")
    assert ratio["to"] == ours
    assert ratio["quartiles"][0] <= ratio["ratio"] <= ratio["quartiles"][1]
    if kind in ("forward", "deconv_backward"):
        (speed,) = found["speeds"]
        assert speed["contender"] == ours
        assert speed["gflops"] > 0
        assert f"{ours}, GFLOP/s (of peak)" in run.stdout
        assert "peak of a core" in run.stdout
    else:
        assert found["speeds"] == []
