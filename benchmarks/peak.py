"""The peak of one core: multiply-adds in registers, compiled for this processor in each run."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache, partial
from pathlib import Path

from .peers import Run, UnavailableError

SOURCE = Path(__file__).with_name("peak.c")
C_TYPES = {"float32": ("float", ctypes.c_float), "float64": ("double", ctypes.c_double)}
ROUNDS = 200_000  # some milliseconds at the most


@cache
def peak_run(dtype: str) -> tuple[Run, int]:
    """A call that does multiply-adds of this type, and how many operations it does.

    Raises
    ------
    UnavailableError
        Where there is no C compiler that can make it.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if not compiler:
        raise UnavailableError("no C compiler")
    name, number = C_TYPES[dtype]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "peak.so")
        options = ("-O3", "-march=native", "-shared", "-fPIC", f"-DFLOATING={name}")
        command = [compiler, *options, "-o", str(path), str(SOURCE)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise UnavailableError(f"{compiler} cannot compile {SOURCE.name}")
        library = ctypes.CDLL(str(path))
    library.run.argtypes, library.run.restype = (ctypes.c_long, number, number), number
    library.flop_per_round.restype = ctypes.c_long
    # The numbers settle at 2, far from what is slow or rounded away.
    return partial(library.run, ROUNDS, 0.5, 1), ROUNDS * library.flop_per_round()
