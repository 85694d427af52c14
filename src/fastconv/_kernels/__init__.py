"""The kernels, in the best of their builds that this processor can run.

Each `.pyx` here is compiled once for each instruction set, into the folders `base`, `v3` and `v4`.
Which build runs is chosen once, at import; the environment variable FASTCONV_ISA names another.
"""

import _thread
import importlib
import importlib.util
import os
from types import ModuleType
from typing import TYPE_CHECKING

from fastconv._kernels.base import cpu

# Held while a call imports something. A fork waits for that: its child would find a module that is
# half there, and wait for the thread that imports it, which has not come along.
importing = _thread.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=importing.acquire,
        after_in_parent=importing.release,
        after_in_child=importing.release,
    )

# Instruction sets and the folders of their builds, the best first. The last is everywhere.
FOLDERS = {"x86-64-v4": "v4", "x86-64-v3": "v3", cpu.COMPILED_FOR: "base"}


def load(name: str, instruction_set: str) -> ModuleType:
    """Import the build of a kernel for an instruction set, one of RUNNABLE."""
    return importlib.import_module(f"fastconv._kernels.{FOLDERS[instruction_set]}.{name}")


def _runnable() -> tuple[str, ...]:
    """Name the instruction sets that the processor has and the installation was built for."""
    found = []
    for name, folder in FOLDERS.items():
        built = importlib.util.find_spec(f"fastconv._kernels.{folder}.pool")
        if built and (folder == "base" or name in cpu.supported()):
            found.append(name)
    return tuple(found)


def _select(asked: str) -> str:
    """The instruction set of that name, or the best if the name is empty."""
    if not asked:
        return RUNNABLE[0]
    if asked not in RUNNABLE:
        raise ValueError(f"FASTCONV_ISA must be one of {RUNNABLE} on this machine, got {asked!r}")
    return asked


RUNNABLE = _runnable()
INSTRUCTION_SET = _select(os.environ.get("FASTCONV_ISA", "").strip())

if TYPE_CHECKING:
    from fastconv._kernels.base import deform as deform
    from fastconv._kernels.base import depthwise as depthwise
    from fastconv._kernels.base import fused as fused
    from fastconv._kernels.base import pool as pool
    from fastconv._kernels.base import winograd as winograd
    from fastconv._kernels.base import winograd_gradient as winograd_gradient
else:

    def __getattr__(name: str) -> ModuleType:
        """Load a kernel when it is first asked for: each takes half a millisecond."""
        if name not in ("deform", "depthwise", "fused", "pool", "winograd", "winograd_gradient"):
            raise AttributeError(f"no kernel {name!r}")
        with importing:
            globals()[name] = load(name, INSTRUCTION_SET)
        return globals()[name]
