"""Every example in the documentation runs and says what comes out."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import fastconv

ROOT = Path(__file__).parent.parent
# Not the kernels' builds: a processor that lacks their instructions cannot even import them.
MODULES = [
    "fastconv",
    *(
        module.name
        for module in pkgutil.walk_packages(fastconv.__path__, "fastconv.")
        if not module.name.startswith(("fastconv._kernels.v3", "fastconv._kernels.v4"))
    ),
]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", ["README.md", "docs/recipes.md"])
def test_pages(name):
    failed, attempted = doctest.testfile(str(ROOT / name), module_relative=False)
    assert attempted > 10
    assert failed == 0


@pytest.mark.parametrize("name", ["conv_forward", "deconv_forward", "im2col", "col2im"])
def test_the_main_functions_show_an_example(name):
    assert ">>> " in getattr(fastconv, name).__doc__
