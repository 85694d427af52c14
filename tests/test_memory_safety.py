"""No kernel touches memory outside its arrays: unreadable pages stand on both sides of each."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("guarded.py")


def run(what: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), what], capture_output=True, text=True, timeout=300
    )


@pytest.mark.sanitize
@pytest.mark.skipif(sys.platform == "win32", reason="mprotect is POSIX")
def test_kernels_stay_within_their_arrays():
    done = run("all")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10_000


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect is POSIX")
@pytest.mark.skipif("FASTCONV_SANITIZE" in os.environ, reason="the sanitizer takes the signal")
@pytest.mark.parametrize("what", ["before", "after"])
def test_the_guard_stops_a_program(what):
    assert run(what).returncode == -signal.SIGSEGV


@pytest.mark.sanitize
@pytest.mark.skipif("FASTCONV_SANITIZE" not in os.environ, reason="would spoil the heap unseen")
def test_the_sanitizer_stops_a_program():
    code = (
        "import numpy as np; from fastconv import _im2col;"
        "sizes = np.array([[9], [1], [1], [0], [1], [9]], np.intp);"
        "_im2col.im2col(np.ones((1, 1, 9)), np.empty((1, 1, 8)), sizes, 0, 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGABRT
    assert "heap-buffer-overflow" in done.stderr
