"""The extension module; everything else stands in pyproject.toml."""

import os
import sys

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup

compile_args: list[str] = []
link_args: list[str] = []
if sys.platform != "win32":
    # Without the second one gcc makes a call of memset or memcpy of each short loop of the kernels,
    # which costs im2col on layers of 14x14 a fifth of its speed.
    compile_args += ["-O3", "-fno-tree-loop-distribute-patterns"]
if os.environ.get("FASTCONV_SANITIZE"):  # `make sanitize`: a bad access stops the program
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    compile_args += ["-O1", "-g", "-fno-omit-frame-pointer", *flags]
    link_args += flags

setup(
    ext_modules=cythonize(
        [
            Extension(
                "fastconv._im2col",
                ["src/fastconv/_im2col.pyx"],
                include_dirs=[np.get_include()],
                define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
                extra_compile_args=compile_args,
                extra_link_args=link_args,
            )
        ],
        build_dir="build/cython",
    )
)
