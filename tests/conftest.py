"""Tests of results run on every build of the kernels that the machine can run."""

import gc
import os

import pytest

from fastconv import _kernels, _pooling, _sampling
from fastconv._engines import depthwise, fused, lanes, planes, plans

# Modules whose tests compare what convolutions compute. test_fused.py chooses builds itself;
# test_kernels.py shows that pools and deformable samples have the same bits in all of them.
RESULTS = {"test_convolution", "test_properties"}
USERS = [
    (depthwise, "kernel", "depthwise"),
    (planes, "kernel", "depthwise"),
    (fused, "kernel", "fused"),
    (lanes, "kernel", "fused"),
    (plans, "kernel", "fused"),
    (_pooling, "pool", "pool"),
    (_sampling, "deform", "deform"),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__ in RESULTS:
        # the sanitizers see the other builds in the engines' own tests
        builds = _kernels.RUNNABLE[: 1 if os.environ.get("FASTCONV_SANITIZE") else None]
        metafunc.fixturenames.append("every_build")
        metafunc.parametrize("every_build", builds, indirect=True, scope="module")


@pytest.fixture(scope="module", autouse=True)
def without_old_objects():
    """Spare the garbage collector 30,000 tests and their reports, which take it 0.3 s a turn."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def every_build(request):
    """Each build in turn, in place of the one that was chosen at import."""
    remembered = [
        value
        for engine in (depthwise, fused)
        for value in vars(engine).values()
        if hasattr(value, "cache_clear")
    ]
    with pytest.MonkeyPatch.context() as patch:
        for module, name, kernel in USERS:
            patch.setattr(module, name, _kernels.load(kernel, request.param))
        for function in remembered:
            function.cache_clear()
        yield
    for function in remembered:
        function.cache_clear()
