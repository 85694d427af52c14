"""Memory beyond inputs, results and one packed copy of the weights: below 8 MiB a worker.

Each case is a child process, which reads its own peak from /proc.
"""

import json
import math
import os
import subprocess
import sys

import pytest

PROMISE = 8 * 2**20
# Have glibc give back at once what is freed, so that no call works in what another has left.
TRIMMED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def reads_its_peak():
    """Whether a process here can read its peak of resident memory, and set it back."""
    code = "open('/proc/self/clear_refs', 'w').write('5')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    return done.returncode == 0


pytestmark = pytest.mark.skipif(not reads_its_peak(), reason="the peak is read from Linux's /proc")

CODE = """
import json, sys
import numpy as np
import fastconv

x_shape, w_shape, pad, layout, engine = json.loads(sys.argv[1])


def resident(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def images(channels, shape):
    array = np.ones(
        (x_shape[0], channels, *shape) if layout == "NCHW" else (x_shape[0], *shape, channels),
        np.float32,
    )
    return array if layout == "NCHW" else np.moveaxis(array, -1, 1)


def growth(call, *args, **keywords):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = resident("VmRSS")
    result = call(*args, **keywords)
    return resident("VmHWM") - before, result


def measure(workers):
    group = x_shape[1] // w_shape[1]
    params = {"pad": pad, "group": group, "engine": engine, "workers": workers}
    found, (_, cache) = growth(fastconv.conv_forward, x, w, b, out=out, **params)
    yield "forward", found
    for k, (name, target) in enumerate({"dx": dx, "dw": dw, "db": db}.items()):
        only = tuple(k == i for i in range(3))
        keywords = {"propagate_down": only, name: target}
        yield name, growth(fastconv.conv_backward, out, cache, **keywords)[0]


# First a small layer on two threads: then these are there, and all that is imported.
group = 8 if engine == "depthwise" else 1
small = np.ones((8, 8, 64, 64), np.float32), np.ones((32, 8 // group, 3, 3), np.float32)
fastconv.conv_backward(*fastconv.conv_forward(*small, group=group, engine=engine, workers=2))
w, b = np.ones(w_shape, np.float32), np.ones(w_shape[0], np.float32)
dw, db = np.ones_like(w), np.ones_like(b)
shape = x_shape[2:]
x, dx = images(x_shape[1], shape), images(x_shape[1], shape)
out = images(
    w_shape[0], [i + 2 * p - k + 1 for i, p, k in zip(shape, pad, w_shape[2:], strict=True)]
)
print(json.dumps([dict(measure(workers)) for workers in (1, 2)]))
"""

# x (N, C, *S), w (F, C, *K), pad and the order of x and out in memory. The images are two to thirty
# times as large as what a call may take.
CASES = {
    "image": ((1, 64, 270, 1920), (8, 64, 3, 3), (1, 1), "NCHW"),
    "image, channels last": ((1, 16, 270, 1920), (16, 16, 3, 3), (1, 1), "NHWC"),
    "line": ((1, 4, 1_000_000), (8, 4, 9), (0,), "NCHW"),
    "batch of small images": ((500, 32, 14, 14), (48, 32, 3, 3), (1, 1), "NCHW"),
    "many channels": ((20, 2048, 7, 7), (256, 2048, 3, 3), (1, 1), "NCHW"),
    "1x1": ((1, 64, 700, 700), (32, 64, 1, 1), (0, 0), "NCHW"),
    "depthwise": ((1, 32, 270, 1920), (32, 1, 5, 5), (2, 2), "NCHW"),
    "depthwise, channels last": ((1, 32, 270, 1920), (64, 1, 3, 3), (1, 1), "NHWC"),
    "depthwise volume": ((1, 8, 25, 200, 200), (8, 1, 3, 3, 3), (1, 1, 1), "NCHW"),
    "volume": ((1, 8, 20, 200, 200), (8, 8, 3, 3, 3), (1, 1, 1), "NCHW"),
    "large kernel": ((1, 2, 1000, 800), (2, 2, 31, 31), (15, 15), "NCHW"),
    "long kernel, channels last": ((1, 2, 2_000_000), (2, 1, 301), (150,), "NHWC"),
}


# The engine `winograd` has four copies of the weights, and lines of the cache between them; `fft`
# has for each kernel a tile, which follows from the layer.
COPIES = {"depthwise": 1, "fft": 120, "fused": 1, "winograd": 4.1}
ALL = [
    *(
        (name, "depthwise" if "depthwise" in name else "fft" if "kernel" in name else "fused")
        for name in CASES
    ),
    *(
        (name, "winograd")
        for name, (_, w_shape, *_) in CASES.items()
        if w_shape[1] > 1 and w_shape[2:] == (3, 3)
    ),
]


@pytest.mark.parametrize(("name", "engine"), ALL)
def test_memory_of_a_call_is_bounded(name, engine):
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps([*CASES[name], engine])],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **TRIMMED},
    )
    assert done.returncode == 0, done.stderr
    weights = 4 * math.prod(CASES[name][1])
    for workers, parts in enumerate(json.loads(done.stdout), 1):
        for part, growth in parts.items():
            limit = COPIES[engine] * weights + PROMISE * workers
            assert growth < limit, f"{part}, {workers} workers: {growth / 2**20:.1f} MiB"
