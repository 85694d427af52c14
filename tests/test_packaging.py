"""What is shipped: the files of the installed package, of the sdist, and the C-level names."""

import compileall
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

import fastconv

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"

KERNELS = ("cpu", "deform", "depthwise", "fused", "pool", "winograd", "winograd_gradient")
SHIPPED = [
    "fastconv/__init__.pxd",
    "fastconv/_im2col.pxd",
    "fastconv/_im2col.pyi",
    "fastconv/_im2col.pyx",
    "fastconv/_kernels/simd.pxd",
    *(f"fastconv/_kernels/{name}.pyx" for name in KERNELS),
    *(f"fastconv/_kernels/base/{name}.pyi" for name in KERNELS),
    "fastconv/py.typed",
]


def installed_files() -> list[str]:
    files = [str(path) for path in importlib.metadata.files("fastconv") or []]
    if any(name.startswith("__editable__") for name in files):
        pytest.skip("an editable install has no files of its own; `make test` installs the wheel")
    return files


@pytest.mark.parametrize("name", SHIPPED)
def test_wheel_holds(name):
    assert name in installed_files()


def test_wheel_holds_no_generated_or_foreign_files():
    for name in installed_files():
        assert not name.endswith((".c", ".h", ".html")), name
        assert name.startswith(("fastconv/", "fastconv-")), name


def test_runtime_dependency_is_numpy_alone():
    needs = importlib.metadata.requires("fastconv") or []
    assert [need for need in needs if "extra ==" not in need] == ["numpy>=2.0"]
    extras = importlib.metadata.metadata("fastconv").get_all("Provides-Extra") or []
    assert {"test", "bench", "examples"} <= set(extras)


def test_sdist_holds_the_sources():
    archives = sorted(DIST.glob("fastconv-*.tar.gz"))
    if not archives:
        pytest.skip("no sdist in dist/: `make test` builds one")
    with tarfile.open(archives[-1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in SHIPPED} <= names
    headers = ("depthwise", "simd", "winograd", "winograd_gradient")
    assert {f"src/fastconv/_kernels/{name}.h" for name in headers} <= names
    assert {"setup.py", "pyproject.toml", "LICENSE", "README.md", "Makefile"} <= names
    written = {"benchmarks/peak.c"}  # by hand; every other .c is generated
    assert not [name for name in names - written if name.endswith((".c", ".so"))]


CONSUMER = '''
# cython: language_level=3
from fastconv cimport Lowering, col2im_f32, col2im_f64, im2col_f32, im2col_f64


def windows(const float[::1] x, Py_ssize_t kernel, float[:, ::1] cols, float[::1] back):
    """1-D windows of x into cols, and their sum back."""
    cdef Py_ssize_t in_shape = x.shape[0]
    cdef Py_ssize_t out_shape = in_shape - kernel + 1
    cdef Py_ssize_t one = 1
    cdef Py_ssize_t zero = 0
    cdef Lowering sizes
    sizes.samples = sizes.channels = sizes.rank = 1
    sizes.in_shape = &in_shape
    sizes.kernel_size = &kernel
    sizes.stride = sizes.dilation = sizes.axis_stride = &one
    sizes.pad = &zero
    sizes.out_shape = &out_shape
    sizes.sample_stride = sizes.channel_stride = in_shape
    sizes.begin = 0
    sizes.end = out_shape
    with nogil:
        im2col_f32(&sizes, &x[0], &cols[0, 0])
        col2im_f32(&sizes, &cols[0, 0], &back[0])


def windows_2d(const double[:, ::1] x, Py_ssize_t kernel, double[:, ::1] cols, double[:, ::1] back):
    """The same for square windows in two dimensions, in double precision."""
    cdef Py_ssize_t[2] in_shape = [x.shape[0], x.shape[1]]
    cdef Py_ssize_t[2] kernel_size = [kernel, kernel]
    cdef Py_ssize_t[2] out_shape = [x.shape[0] - kernel + 1, x.shape[1] - kernel + 1]
    cdef Py_ssize_t[2] one = [1, 1]
    cdef Py_ssize_t[2] zero = [0, 0]
    cdef Py_ssize_t[2] axis_stride = [x.shape[1], 1]
    cdef Lowering sizes
    sizes.samples = sizes.channels = 1
    sizes.rank = 2
    sizes.in_shape = in_shape
    sizes.kernel_size = kernel_size
    sizes.stride = sizes.dilation = one
    sizes.pad = zero
    sizes.out_shape = out_shape
    sizes.axis_stride = axis_stride
    sizes.sample_stride = sizes.channel_stride = x.shape[0] * x.shape[1]
    sizes.begin = 0
    sizes.end = out_shape[0] * out_shape[1]
    with nogil:
        im2col_f64(&sizes, &x[0, 0], &cols[0, 0])
        col2im_f64(&sizes, &cols[0, 0], &back[0, 0])
'''

BUILD = """
import sys
from Cython.Build import cythonize
from setuptools import Extension, setup

setup(
    name="consumer",
    ext_modules=cythonize([Extension("consumer", ["consumer.pyx"])], include_path=[sys.argv.pop()]),
    script_args=["-q", "build_ext", "--inplace"],
)
"""


@pytest.fixture(scope="module")
def consumer(tmp_path_factory):
    """A module of somebody else's, compiled against the installed package's .pxd."""
    folder = tmp_path_factory.mktemp("consumer")
    (folder / "consumer.pyx").write_text(CONSUMER)
    (folder / "build.py").write_text(BUILD)
    site = str(Path(fastconv.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "build.py", site],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "CFLAGS": "-O1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    try:
        import consumer
    finally:
        sys.path.remove(str(folder))
    return consumer


def test_an_outside_consumer_compiles_and_runs(consumer):
    x = np.arange(6, dtype=np.float32)
    cols, back = np.empty((3, 4), np.float32), np.zeros(6, np.float32)
    consumer.windows(x, 3, cols, back)
    np.testing.assert_array_equal(cols, np.lib.stride_tricks.sliding_window_view(x, 4))
    np.testing.assert_array_equal(back, x * [1, 2, 3, 3, 2, 1])


def test_an_outside_consumer_in_double_precision(consumer):
    x = np.arange(12, dtype=np.float64).reshape(3, 4)
    cols, back = np.empty((4, 6)), np.zeros((3, 4))
    consumer.windows_2d(x, 2, cols, back)
    views = np.lib.stride_tricks.sliding_window_view(x, (2, 3)).reshape(4, 6)
    np.testing.assert_array_equal(cols, views)
    np.testing.assert_array_equal(back, x * [[1, 2, 2, 1], [2, 4, 4, 2], [1, 2, 2, 1]])


def test_import_adds_little_to_numpy(tmp_path):
    """Less than 20 ms over `import numpy`: the least of several runs, as a machine may be busy."""
    shutil.copytree(Path(fastconv.__file__).parent, tmp_path / "fastconv")
    assert compileall.compile_dir(tmp_path, quiet=1)
    code = (
        "import time, numpy; start = time.perf_counter(); import fastconv;"
        "print(time.perf_counter() - start, fastconv.__file__)"
    )
    seconds = []
    for _ in range(9):
        seconds_text, _, file = run_python(code, PYTHONPATH=str(tmp_path)).partition(" ")
        assert file.startswith(str(tmp_path))
        seconds.append(float(seconds_text))
    assert min(seconds) < 0.020, seconds


def run_python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    return done.stdout
