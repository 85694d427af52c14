"""The extension modules; everything else stands in pyproject.toml."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup

compile_args: list[str] = []
link_args: list[str] = []
if sys.platform != "win32":
    # Without the second one gcc makes a call of memset or memcpy of each short loop of the kernels,
    # which costs im2col on layers of 14x14 a fifth of its speed. The third lets it compare and
    # select without jumps; the fourth keeps results the same in every build (but see OWN_FLAGS).
    # Python's own flags ask for debug information, nine tenths of a file and a third of the time.
    compile_args += [
        "-O3", "-fno-tree-loop-distribute-patterns", "-fno-trapping-math", "-ffp-contract=off",
        "-g0",
    ]  # fmt: skip
if os.environ.get("FASTCONV_SANITIZE"):  # `make sanitize`: a bad access stops the program
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    compile_args += ["-O1", "-g", "-fno-omit-frame-pointer", *flags]
    link_args += flags

KERNELS = "src/fastconv/_kernels"

# The builds of KERNELS/*.pyx beside the default one, and their flags.
BUILDS: dict[str, list[str]] = {}
if sys.platform != "win32" and sysconfig.get_platform().endswith("x86_64"):
    v3 = ["-mavx2", "-mfma", "-mbmi", "-mbmi2"]
    v4 = [f"-mavx512{part}" for part in ("f", "bw", "cd", "dq", "vl")]
    BUILDS = {"v3": v3, "v4": [*v3, *v4, "-mprefer-vector-width=512"]}


# What single kernels have besides: those of products fuse multiplication and addition.
OWN_FLAGS: dict[str, list[str]] = {}
if sys.platform != "win32":
    products = ("depthwise", "fused", "winograd", "winograd_gradient")
    OWN_FLAGS = {name: ["-ffp-contract=fast"] for name in products}


def extension(name: str, source: str, *more: str) -> Extension:
    """One module, with the flags that all have."""
    return Extension(
        f"fastconv.{name}",
        [source],
        include_dirs=[np.get_include(), KERNELS],
        depends=sorted(map(str, Path(KERNELS).glob("*.h"))),
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        extra_compile_args=[*compile_args, *more, *OWN_FLAGS.get(name.rpartition(".")[2], [])],
        extra_link_args=link_args,
    )


kernels = sorted(path.stem for path in Path(KERNELS).glob("*.pyx"))
modules = cythonize(
    [
        *(extension(name, f"src/fastconv/{name}.pyx") for name in ("_bell", "_im2col")),
        *(extension(f"_kernels.base.{name}", f"{KERNELS}/{name}.pyx") for name in kernels),
    ],
    build_dir="build/cython",
)
for module in modules[:]:
    package, _, name = module.name.rpartition(".")
    if package == "fastconv" or name == "cpu":
        continue
    for build, flags in BUILDS.items():  # a file each, so that their object files lie apart
        copy = Path("build/cython", build, f"{name}.c")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(module.sources[0], copy)
        modules.append(extension(f"_kernels.{build}.{name}", str(copy), *flags))

setup(ext_modules=modules, options={"build_ext": {"parallel": os.cpu_count() or 1}})
