"""What FAULTS.md promises of a process: threads, forks, interrupts, memory that runs out, leaks."""

import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from arrays import COLS, KERNEL, ODD, OPERATIONS, WINDOW, WRITABLE, X, assert_same_bits
from cases import GENERAL
from failing_memory import FailingMemory

import fastconv
from fastconv import caffe
from fastconv._engines import caffe as caffe_engine
from fastconv._engines import fused, plans

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and fork are POSIX")
every_engine = pytest.mark.parametrize("engine", GENERAL)


def child(*arguments, **options):
    """Run a Python of its own, for what a test's process must not do."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, timeout=60, **options)
    assert done.returncode == 0, done.stderr.decode()
    return done


def cut_small(monkeypatch, numbers):
    """Have the engines take pieces of about so many numbers, or multiply-adds, in three threads."""
    monkeypatch.setattr("fastconv._columns.CALL_BYTES", 4 * numbers)
    monkeypatch.setattr(caffe_engine, "PRODUCT_SIZE", numbers)
    monkeypatch.setattr(caffe_engine, "STEP_BYTES", 4 * numbers)
    monkeypatch.setattr(caffe_engine, "STEP_POSITIONS", max(1, numbers // 10))
    monkeypatch.setenv("FASTCONV_NUM_THREADS", "3")
    monkeypatch.setattr(fused, "THREAD_WORK", 0)
    for name in ("UNIT_WORK", "CALL_WORK", "PACK_SIZE"):
        monkeypatch.setattr(plans, name, numbers)
    monkeypatch.setattr(plans, "SCRATCH_BYTES", 4 * numbers)
    monkeypatch.setattr(plans, "GRADIENT_CHANNELS", 1)
    monkeypatch.setattr(plans, "SUMS_BYTES", 2**9)  # the widest panel of one filter
    for name, function in list(vars(fused).items()):
        if name[0] == "_" and hasattr(function, "__wrapped__"):  # forget plans
            monkeypatch.setattr(fused, name, fused._remembered(function.__wrapped__))


# --- threads and forks ----------------------------------------------------------------------------


def test_many_threads_at_once_give_the_same_bits():
    """All operations at once, small and large products and every kind of transpose mixed."""
    threads, rounds = 8, 3
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 40, 30, 30)).astype(np.float32)
    w = rng.standard_normal((60, 40, 3, 3)).astype(np.float32)

    def large(engine):
        out, cache = fastconv.conv_forward(x, w, pad=1, engine=engine, workers=3)
        return out, *fastconv.conv_backward(out, cache)[:2]

    given = {name: operation.random(np.float64) for name, operation in OPERATIONS.items()}
    work = [lambda engine=engine: large(engine) for engine in GENERAL] + [
        lambda name=name: OPERATIONS[name].run(given[name], {}) for name in OPERATIONS
    ]
    wanted = [[array.copy() for array in call()] for call in work]
    together = threading.Barrier(threads)

    def run(thread):
        order = np.random.default_rng(thread).permutation(len(work))
        together.wait(timeout=20)
        for index in np.tile(order, rounds):
            for got, array in zip(work[index](), wanted[index], strict=True):
                assert_same_bits(got, array)

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(run, thread) for thread in range(threads)]:
            done.result(timeout=60)


FORK = """
import multiprocessing, os, signal
import numpy as np
import fastconv

rng = np.random.default_rng(0)
x = rng.standard_normal((4, 32, 40, 40)).astype(np.float32)
w = rng.standard_normal((32, 32, 3, 3)).astype(np.float32)

def work(_=None):
    out, cache = fastconv.conv_forward(x, w, pad=1, engine=ENGINE, workers=3)
    return [array.tobytes() for array in (out, *fastconv.conv_backward(out, cache)[:2])]

wanted = work()
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    os._exit(0 if work() == wanted else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert all(got == wanted for got in pool.map_async(work, range(4)).get(timeout=20))
assert work() == wanted
print("done")
"""


@posix
@pytest.mark.parametrize("engine", [*GENERAL, "fft"])
def test_fork_after_a_call(engine):
    code = f"ENGINE = {engine!r}\n{FORK}"
    assert child("-W", "ignore", "-c", code).stdout == b"done\n"


FORK_IN_THE_FIRST_CALL = """
import os, signal, sys, threading, warnings
import numpy as np
import fastconv

warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads, since 3.12
sys.setswitchinterval(1e-5)
x, w = np.ones((1, 1, 8, 8), np.float32), np.ones((1, 1, 3, 3), np.float32)
thread = threading.Thread(target=fastconv.conv, args=(x, w))
thread.start()
for _ in range(10):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        fastconv.conv(x, w)
        fastconv.PreparedConv(w)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
thread.join()
print("done")
"""


@posix
def test_fork_while_a_thread_is_in_the_first_call():
    """Which imports the engines and kernels."""
    for _ in range(3):
        assert child("-c", FORK_IN_THE_FIRST_CALL).stdout == b"done\n"


# --- Ctrl-C ---------------------------------------------------------------------------------------

INTERRUPTED = """
import gc, signal, tracemalloc
from dataclasses import replace
import numpy as np
import fastconv
from fastconv import caffe

HOW = {"engine": ENGINE, "workers": WORKERS}

def one(*shape):
    return np.broadcast_to(np.float32(1), shape)

def layer():
    conv = caffe.ConvolutionLayer(2, 3, pad=1)
    bottom, top = [caffe.Blob(np.ones((4, 32, 64, 64), np.float32))], [caffe.Blob()]
    conv.setup(bottom, top)
    return lambda: conv.forward(bottom * 999, top * 999)

def backward(x, w, wanted, b=None, **params):
    _, cache = fastconv.conv_forward(x[:1], w, b, **params, **HOW)
    cache = replace(cache, x=x, geometry=cache.geometry._replace(batch=len(x)))
    dout = one(*cache.geometry.result_shape)
    return lambda: fastconv.conv_backward(dout, cache, propagate_down=wanted)

def backward_w():
    return backward(one(30000, 32, 64, 64), one(1, 32, 3, 3), (False, True, False), pad=1)

def backward_b():
    return backward(one(200000, 1, 64, 64), one(32, 1, 1, 1), (False, False, True), one(32))

def backward_w_of_one_large_sample():
    return backward(one(1, 32, 2000, 2000), one(24, 32, 5, 5), (False, True, False), pad=2)

def depthwise():
    x, w = one(1000, 32, 64, 64), one(32, 1, 15, 15)
    return lambda: fastconv.conv(x, w, pad=7, group=32, **HOW)

def backward_w_depthwise():
    x, w = one(20000, 4, 128, 128), one(4, 1, 3, 3)
    return backward(x, w, (False, True, False), pad=1, group=4)

def backward_x_depthwise():
    x, w = one(1000, 32, 64, 64), one(32, 1, 15, 15)
    return backward(x, w, (True, False, False), pad=7, group=32)

def backward_x_of_large_kernels():
    x, w = one(200, 32, 64, 64), one(32, 1, 31, 31)
    return backward(x, w, (True, False, False), pad=15, group=32)

def step():
    x, cols = one(512, 128, 64), np.empty((4608, 2**13), np.float32)
    w, out = np.ones((4096, 512, 3, 3), np.float32), np.ones((4096, 128, 64), np.float32)
    return lambda: caffe.forward_gemm(x, w, out, pad=1, col_buffer=cols)

def many_samples():
    return lambda: fastconv.conv(one(4000, 32, 64, 64), one(1, 32, 3, 3), pad=1, **HOW)

def one_large_sample():
    return lambda: fastconv.conv(one(1, 512, 256, 256), one(256, 512, 3, 3), pad=1, **HOW)

def one_filter():
    return lambda: fastconv.conv(one(8000, 256, 28, 28), one(1, 256, 1, 1), **HOW)

def deconv():
    return lambda: fastconv.deconv(one(4000, 1, 64, 64), one(1, 1, 31, 31), pad=15, **HOW)

def im2col_of_one_sample():
    return lambda: fastconv.im2col(one(1, 64, 1000, 1000), 3)

def col2im():
    return lambda: fastconv.col2im(one(100, 576, 2**14), (100, 64, 130, 130), 3)

def max_pool():
    return lambda: fastconv.max_pool_forward(one(16000, 32, 64, 64), 9, stride=8)

def avg_pool_backward():
    _, cache = fastconv.avg_pool_forward(one(1000, 32, 64, 64), 9)
    return lambda: fastconv.avg_pool_backward(one(1000, 32, 7, 7), cache)

def deformed():
    x, offset, w = one(400, 64, 64, 64), one(400, 18, 64, 64), one(1, 64, 3, 3)
    return lambda: fastconv.deform_conv_forward(x, offset, w, pad=1)

call = globals()[NAME]()
signal.signal(signal.SIGINT, signal.default_int_handler)
tracemalloc.start()
print("ready", flush=True)
try:
    call()
except KeyboardInterrupt:
    print("interrupted", flush=True)
else:
    print("finished", flush=True)
gc.collect()
print(tracemalloc.get_traced_memory()[0] < 2**20)
print(fastconv.conv(np.ones((1, 1, 3)), np.ones((1, 1, 2)))[0, 0])
"""
BY_ENGINE = [
    "many_samples", "one_large_sample", "one_filter", "deconv", "backward_w", "backward_b",
    "backward_w_of_one_large_sample", "backward_w_depthwise", "backward_x_of_large_kernels",
]  # fmt: skip
DEPTHWISE = ["depthwise", "backward_w_depthwise", "backward_x_depthwise"]
OTHERS = [
    "im2col_of_one_sample", "col2im", "step", "layer", "max_pool", "avg_pool_backward", "deformed",
]  # fmt: skip
LONG_CALLS = [
    *((name, engine, 1) for name in BY_ENGINE for engine in GENERAL),
    *((name, "fused", 2) for name in BY_ENGINE),
    *((name, "depthwise", workers) for name in DEPTHWISE for workers in (1, 2)),
    *((name, "winograd", n) for name in ("many_samples", "one_large_sample") for n in (1, 2)),
    *((name, "fft", n) for name in ("deconv", "one_large_sample") for n in (1, 2)),
    *((name, "auto", 1) for name in OTHERS),
]


@posix
@pytest.mark.parametrize(("name", "engine", "workers"), LONG_CALLS)
def test_ctrl_c_is_heard_within_a_second(name, engine, workers):
    chosen = f"NAME, ENGINE, WORKERS = {name!r}, {engine!r}, {workers}"
    if engine == "fft":
        chosen += "\nimport scipy.fft"  # its code is no leak
    with subprocess.Popen(
        [sys.executable, "-c", f"{chosen}\n{INTERRUPTED}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # as long on any machine
    ) as process:
        hang = threading.Timer(60, process.kill)
        hang.daemon = True
        hang.start()
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        time.sleep(0.15)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.stdout.readline() == "interrupted\n"
        seconds = time.monotonic() - start
        # not communicate(): it would miss what readline has read ahead
        rest, errors = process.stdout.read(), process.stderr.read()
        hang.cancel()
    assert rest == "True\n[2. 2.]\n", errors
    assert seconds < 1


@pytest.mark.parametrize("limit", [1, 50, 300])
@pytest.mark.parametrize("name", OPERATIONS)
def test_work_in_pieces_is_the_same(monkeypatch, name, limit):
    """The pieces between which Ctrl-C is heard, made so small that these arrays have several."""
    operation = OPERATIONS[name]
    rng = np.random.default_rng(0)
    given = {
        key: rng.integers(-4, 5, shape).astype(np.float32)
        for key, shape in operation.inputs.items()
    }
    wanted = operation.run(given, {})
    cut_small(monkeypatch, limit)
    for got, array in zip(operation.run(given, {}), wanted, strict=True):
        np.testing.assert_array_equal(got, array)


# --- memory that runs out -------------------------------------------------------------------------


def failures(call, check):
    """Let each allocation of a call fail in turn, and `check` what is left; return how many."""
    with FailingMemory() as memory:
        call()
    for fail_at in range(memory.count):
        with FailingMemory(fail_at), pytest.raises(MemoryError, match="no memory for") as info:
            call()
        assert info.type is MemoryError
        check()
    return memory.count


@pytest.mark.parametrize("form", ["plain", "in pieces", "big-endian"])
@pytest.mark.parametrize(
    "name",
    # `fft`, which SciPy needs memory for all along, has a test of its own
    [
        name
        for name in OPERATIONS
        if name != "im2col_blocks" and "Layer" not in name and "5x4" not in name
    ],
)
def test_an_allocation_that_fails_leaves_targets_whole_or_untouched(monkeypatch, name, form):
    cut_small(monkeypatch, 50)
    operation = OPERATIONS[name]
    given = operation.random(np.float32)
    starts = operation.starts(np.float32)
    plain_targets = {key: start.copy() for key, start in starts.items()}
    wanted = operation.run(given, plain_targets)
    states = {
        key: {start.tobytes(), array.tobytes()}
        for (key, start), array in zip(starts.items(), wanted, strict=True)
    }
    odd = {key: ODD.get(form, np.array)(array) for key, array in given.items()}
    targets = {key: WRITABLE[form](start) for key, start in starts.items()}

    def call():
        for key, target in targets.items():
            target[...] = starts[key]
        operation.run(odd, targets)

    def check():
        for key, target in targets.items():
            assert target.astype(np.float32).tobytes() in states[key]

    call()
    tracemalloc.start()
    failures(call, check)  # once, for what is made once
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    count = failures(call, check)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert count > 0 or form == "plain"
    assert after - before < 50_000
    call()
    for key, array in zip(targets, wanted, strict=True):
        assert_same_bits(np.asarray(targets[key], np.float32), array)


@pytest.mark.parametrize("name", ["conv", "deconv"])
@every_engine
def test_an_allocation_that_fails_in_a_call_without_targets(engine, name):
    operation = OPERATIONS[f"{name}, forward"]
    given = operation.random(np.float32)
    forward, backward = getattr(fastconv, f"{name}_forward"), getattr(fastconv, f"{name}_backward")
    out, cache = forward(**given, group=2, engine=engine, **WINDOW)
    call = lambda: forward(**given, group=2, engine=engine, **WINDOW)  # noqa: E731
    assert failures(call, lambda: None) >= 2
    backward(out, cache)  # once, for what is remembered
    assert failures(lambda: backward(out, cache), lambda: None) >= 5


def test_an_allocation_that_fails_in_lowering():
    x, cols = np.ones(X, ">f4"), np.ones(COLS, ">f4")
    assert failures(lambda: fastconv.im2col(x, KERNEL, **WINDOW), lambda: None) == 2
    assert failures(lambda: fastconv.col2im(cols, X, KERNEL, **WINDOW), lambda: None) == 2
    blocks = lambda: list(fastconv.im2col_blocks(x, KERNEL, **WINDOW, max_bytes=2000))  # noqa: E731
    assert failures(blocks, lambda: None) >= 2


@pytest.mark.parametrize("kind", [caffe.ConvolutionLayer, caffe.DeconvolutionLayer])
def test_an_allocation_that_fails_leaves_a_layer_usable(kind):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 4, 6, 5)).astype(np.float32)
    w = rng.standard_normal((4, 4, *KERNEL)).astype(np.float32)

    def train(layer, bottom, top):
        layer.setup(bottom, top)
        layer.forward(bottom, top)
        for blob in top:
            blob.diff[...] = blob.data
        layer.backward(top, [True, True], bottom)
        blobs = [*bottom, *top, *layer.blobs]
        return [array.copy() for blob in blobs for array in (blob.data, blob.diff)]

    def fresh():
        layer = kind(4, KERNEL, pad=1, stride=2)
        layer.blobs = [caffe.Blob(w), caffe.Blob(w[:, 0, 0, 0])]
        bottom = [caffe.Blob(x), caffe.Blob(x[::-1].copy())]
        return layer, bottom, [caffe.Blob(), caffe.Blob()]

    wanted = train(*fresh())
    arguments = fresh()
    with FailingMemory() as memory:
        train(*arguments)
    assert memory.count > 10
    for fail_at in range(memory.count):
        layer, bottom, top = fresh()
        with FailingMemory(fail_at), pytest.raises(MemoryError):
            train(layer, bottom, top)
        for blob in layer.blobs:  # what a call that failed has added, if it was whole
            blob.diff[...] = 0
        for got, array in zip(train(layer, bottom, top), wanted, strict=True):
            assert_same_bits(got, array)


@pytest.mark.parametrize("kind", [caffe.ConvolutionLayer, caffe.DeconvolutionLayer])
def test_a_layer_that_finds_no_memory_for_another_shape_serves_the_old_one(kind):
    layer, top = kind(2, 3, pad=1, bias_term=False), [caffe.Blob()]
    old, new = ([caffe.Blob(np.ones((1, 2, *spatial), np.float32))] for spatial in ((4, 5), (6, 7)))
    layer.setup(old, top)
    layer.blobs[0].data[...] = 1
    layer.forward(new, top)  # once, for what is made once
    layer.forward(old, top)
    wanted = top[0].data.copy()

    for fail_at in range(4):
        with FailingMemory(fail_at), pytest.raises(MemoryError, match="no memory for"):
            layer.forward(new, top)
        layer.forward(old, top)
        assert_same_bits(top[0].data, wanted)
    with FailingMemory() as memory:
        layer.forward(new, top)
    assert memory.count == 4


def test_a_backward_call_of_a_layer_that_finds_no_memory_adds_nothing():
    layer = caffe.ConvolutionLayer(3, 2)
    bottom, top = [caffe.Blob(np.ones((2, 2, 4), np.float32)) for _ in range(2)], []
    top = [caffe.Blob(), caffe.Blob()]
    layer.setup(bottom, top)
    layer.forward(bottom, top)
    top[0].diff[...] = 1
    diffs = [blob.diff for blob in layer.blobs]

    def check():
        for blob, diff in zip(layer.blobs, diffs, strict=True):
            assert blob.diff is diff
            assert not diff.any()

    def call():
        for diff in diffs:
            diff.fill(0)
        for blob in (*bottom, top[1]):
            blob._diff = None
        layer.backward(top, [True, True], bottom)

    assert failures(call, check) >= 3


# --- leaks ----------------------------------------------------------------------------------------

X_SMALL, W_SMALL = np.ones((1, 2, 5), np.float32), np.ones((3, 2, 2), np.float32)
OUT_SMALL, CACHE = fastconv.conv_forward(X_SMALL, W_SMALL)
REFUSED = {
    "a parameter": lambda: fastconv.conv(X_SMALL, W_SMALL, stride=0),
    "a type": lambda: fastconv.conv(X_SMALL, W_SMALL, pad=1.0),
    "a size": lambda: fastconv.conv(X_SMALL, W_SMALL, pad=2**62),
    "a dtype": lambda: fastconv.conv(X_SMALL, W_SMALL.astype(int)),
    "a shape": lambda: fastconv.deconv(X_SMALL, W_SMALL),
    "a target": lambda: fastconv.conv(X_SMALL, W_SMALL, out=X_SMALL),
    "an engine": lambda: fastconv.conv(X_SMALL, W_SMALL, engine="quick"),
    "a dict": lambda: fastconv.conv(X_SMALL, W_SMALL, None, {"step": 1}),
    "a gradient": lambda: fastconv.conv_backward(X_SMALL, CACHE),
    "a cache": lambda: fastconv.deconv_backward(OUT_SMALL, CACHE),
    "columns": lambda: fastconv.col2im(X_SMALL, (1, 2, 5), 2),
    "a window": lambda: fastconv.im2col(X_SMALL, 9),
    "a step": lambda: caffe.weight_gemm(X_SMALL[0], OUT_SMALL[0], X_SMALL),
    "memory": lambda: fastconv.conv(X_SMALL, W_SMALL, pad=2**47),
}


@pytest.mark.parametrize("name", REFUSED)
def test_ten_thousand_refused_calls_leave_nothing(name):
    call = REFUSED[name]
    arrays = (X_SMALL, W_SMALL, OUT_SMALL, CACHE, CACHE.x, np.dtype(np.float32))

    def refuse(times):
        for _ in range(times):
            try:
                call()
            except (ValueError, TypeError, MemoryError):
                continue
            raise AssertionError("not refused")

    def held():
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    refuse(300)
    held()
    counts = [sys.getrefcount(array) for array in arrays]
    tracemalloc.start()
    refuse(10)
    before = held()
    refuse(600)
    growth = held() - before
    tracemalloc.stop()  # it makes calls slow: the rest is counted in blocks
    blocks = sys.getallocatedblocks()
    refuse(10_000)
    gc.collect()
    assert growth < 8_000  # an object a call would be 600 times 28 bytes
    assert sys.getallocatedblocks() - blocks < 100
    assert [sys.getrefcount(array) for array in arrays] == counts


def test_calls_keep_no_hold_on_their_arguments():
    """But for what the cache refers to."""
    x, w = np.ones((1, 2, 5), np.float32), np.ones((3, 2, 2), np.float32)
    dw = np.zeros_like(w)
    counts = [sys.getrefcount(array) for array in (x, w, dw)]
    out, cache = fastconv.conv_forward(x, w)
    assert cache.x is x
    assert cache.w is w
    fastconv.conv_backward(out, cache, dw=dw)
    fastconv.col2im(fastconv.im2col(x, 2), x.shape, 2)
    for _ in fastconv.im2col_blocks(x, 2):
        break
    del cache
    gc.collect()
    assert [sys.getrefcount(array) for array in (x, w, dw)] == counts


def test_many_sizes_leave_no_growing_memory():
    """What is remembered of the sizes of calls is limited."""

    def run(sizes):
        for size in sizes:
            x = np.ones((1, 1, size), np.float32)
            out, cache = fastconv.conv_forward(x, W_SMALL[:, :1])
            fastconv.conv_backward(out, cache)
            fastconv.im2col(np.ones((1, 1, size), np.float32), 2)

    sizes = range(300, 1500)  # forgotten at the end of a run: 256 are remembered
    tracemalloc.start()
    for _ in range(2):
        run(sizes)
    before = tracemalloc.get_traced_memory()[0]
    run(sizes)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 50_000


# --- caches are ordinary objects ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["conv", "deconv"])
@pytest.mark.parametrize(
    "again",
    [
        copy.copy,
        copy.deepcopy,
        *(
            lambda cache, protocol=protocol: pickle.loads(pickle.dumps(cache, protocol))
            for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
        ),
    ],
    ids=["copy", "deepcopy"] + [f"pickle {n}" for n in range(2, pickle.HIGHEST_PROTOCOL + 1)],
)
@pytest.mark.parametrize("form", ["plain", "in pieces", "big-endian", "read-only map"])
@every_engine
def test_caches_can_be_copied_and_pickled(engine, kind, again, form):
    operation = OPERATIONS[f"{kind}, backward"]
    given = {
        key: ODD.get(form, np.array)(array) for key, array in operation.random(np.float32).items()
    }
    forward, backward = getattr(fastconv, f"{kind}_forward"), getattr(fastconv, f"{kind}_backward")
    params = {"group": 2, "workers": 2, "engine": engine, **WINDOW}
    _, cache = forward(given["x"], given["w"], given["b"], **params)
    twin = again(cache)
    assert twin.geometry == cache.geometry
    assert (twin.engine, twin.workers, twin.layout) == (cache.engine, cache.workers, cache.layout)
    wanted = backward(given["dout"], cache)
    for got, array in zip(backward(given["dout"], twin), wanted, strict=True):
        assert_same_bits(got, array)


def test_a_cache_serves_another_process():
    out, cache = fastconv.conv_forward(X_SMALL, W_SMALL, np.ones(3, np.float32))
    data = pickle.dumps((out, cache, fastconv.conv_backward(out, cache)))
    code = (
        "import pickle, sys; import fastconv;"
        "out, cache, wanted = pickle.load(sys.stdin.buffer);"
        "got = fastconv.conv_backward(out, cache);"
        "print(all((a == b).all() for a, b in zip(got, wanted)))"
    )
    assert child("-c", code, input=data).stdout.split() == [b"True"]
