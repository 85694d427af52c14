"""What this installation runs on."""

import platform
from typing import Any

import numpy as np

from fastconv._engines import engines
from fastconv._kernels import INSTRUCTION_SET
from fastconv._workers import default_workers


def config() -> dict[str, Any]:
    """Say what this installation runs on, for bug reports and benchmarks.

    Returns
    -------
    dict
        ``"instruction_set"``, that of the build of the kernels that runs: the best that the
        processor has, or the one that the environment variable FASTCONV_ISA names;
        ``"workers"``, the threads of a call that names no number; ``"engines"``, as `engines()`;
        ``"versions"``, of fastconv, NumPy and Python.

    Raises
    ------
    ValueError
        If the environment variable FASTCONV_NUM_THREADS is not an integer of at least 1.
    """
    from importlib.metadata import version  # takes 15 ms, too long for `import fastconv`

    return {
        "instruction_set": INSTRUCTION_SET,
        "workers": default_workers(),
        "engines": engines(),
        "versions": {
            "fastconv": version("fastconv"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
