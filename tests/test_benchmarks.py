"""The benchmarks stay runnable and their contenders right between one `make bench` and the next."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))

from benchmarks import layers, peers  # noqa: E402

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
    layers.Layer("uneven", 3, 4, 11, 9, 6, 3, 2, (2, 1), (1, 2), (1, 3), 2),
    layers.Layer("blocks", 70, 3, 16, 16, 5, 5, 5, 1, 2, 1, 1),
    layers.Layer("bands", 2, 32, 48, 50, 4, 3, 3, 1, 1, 1, 1),
    layers.Layer("few positions", 3, 40, 5, 4, 7, 3, 3, 2, 1, 1, 1),
    layers.Layer("pointwise", 2, 6, 5, 7, 4, 1, 1, 1, 0, 1, 2),
    layers.Layer("depthwise", 2, 5, 9, 9, 5, 3, 3, 2, 1, 1, 5),
    layers.Layer("image", 1, 1, 40, 30, 1, 5, 3, 1, (2, 1), 1, 1),
]
SMALL_POOLS = [
    layers.Layer("uneven", 2, 3, 11, 10, 3, 3, 4, (1, 3), (1, 2), 1, 3),
    layers.Layer("overlaps", 3, 400, 13, 12, 400, 3, 3, 2, 1, 1, 400),  # several blocks of planes
    layers.Layer("pairs", 2, 5, 9, 8, 5, 2, 2, 2, 0, 1, 5),  # a row is left over
    layers.Layer("gaps", 2, 3, 12, 11, 3, 2, 3, (3, 5), (0, 1), 1, 3),
    layers.Layer("global", 3, 4, 7, 7, 4, 7, 7, 7, 0, 1, 4),
]


def test_layers():
    assert {layer.name: layer.out_size for layer in layers.LAYERS} == OUT_SIZES
    assert len(layers.LAYERS) == 24


def test_derived_sizes():
    layer = next(layer for layer in layers.LAYERS if layer.name == "inception_1x7")
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


def test_pool_sizes():
    sizes = {layer.name: layer.out_size for layer in layers.POOLS}
    assert sizes == {"pool_3x3s2": (56, 56), "pool_2x2s2": (56, 56)}
    for layer in (*layers.POOLS, *SMALL_POOLS):
        assert layer.C == layer.F == layer.group
        assert layer.dilations == (1, 1)


@pytest.mark.parametrize(
    ("kind", "contender", "layer"),
    [
        pytest.param(kind, name, layer, id=f"{kind}-{name}-{layer}")
        for kind in peers.KINDS
        for name in peers.contenders(kind)
        for layer in (SMALL_POOLS if kind in peers.POOL_KINDS else SMALL)
    ],
)
def test_contender(kind, contender, layer):
    judge = peers.Judge(kind, layer)
    try:
        run = peers.contenders(kind)[contender](peers.Problem(layer))
    except peers.UnavailableError as reason:
        pytest.skip(str(reason))
    judge.check(run())
    judge.check(run())  # nothing is left behind in buffers that are used again


def test_judge_finds_one_wrong_value():
    layer = SMALL[0]
    result = peers.contenders("forward")["numpy"](peers.Problem(layer))()
    result[2, 5, 0, 1] += 1e-3
    with pytest.raises(AssertionError, match="1 of"):
        peers.Judge("forward", layer).check(result)


@pytest.mark.parametrize(
    ("kind", "layer"), [("forward", "single_3x3"), ("avg_pool_backward", "pool_2x2s2")]
)
def test_whole_run(tmp_path, kind, layer):
    """Two contenders on one layer, timed as briefly as may be, down to the ratios in the JSON."""
    for plugin in ("pytest_benchmark", "rich", "threadpoolctl"):
        pytest.importorskip(plugin)
    report = tmp_path / "report.json"
    ours = next(iter(peers.contenders(kind)))
    command = [
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "benchmarks"),
        *("--layer", layer, "-k", f"test_{kind} and ({ours} or numpy)"),
        *("--benchmark-max-time", "0.01", "--benchmark-json", str(report)),
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"numpy / {ours}" in run.stdout
    ratio = json.loads(report.read_text())["ratios"][-1]
    assert (ratio["kind"], ratio["layer"], ratio["contender"]) == (kind, layer, "numpy")
    assert ratio["to"] == ours
    assert ratio["quartiles"][0] <= ratio["ratio"] <= ratio["quartiles"][1]
