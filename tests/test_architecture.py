"""The house: imports run downward only, and the package's parts are what ARCHITECTURE.md says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv

PACKAGE = Path(fastconv.__file__).parent

# Each row may import from the rows below it, and from its own row what stands further left in it.
LAYERS = [
    ["fastconv"],
    ["fastconv.cs231n"],
    [
        "fastconv.conv",
        "fastconv.deconv",
        "fastconv.deform",
        "fastconv.pool",
        "fastconv.lowering",
        "fastconv.caffe",
        "fastconv.prepared",
        "fastconv._config",
        "fastconv._explain",
    ],
    ["fastconv.reference"],
    ["fastconv._calls"],
    ["fastconv._engines"],
    ["fastconv._engines.extended"],
    ["fastconv._sampling"],
    ["fastconv._engines.depthwise", "fastconv._engines.winograd", "fastconv._engines.fft"],
    ["fastconv._engines.winograd_gradient"],
    ["fastconv._engines.fused"],
    ["fastconv._engines.overlap"],
    ["fastconv._engines.limits", "fastconv._engines.forms"],
    ["fastconv._engines.caffe"],
    ["fastconv._engines.lanes"],
    ["fastconv._engines.plans"],
    ["fastconv._engines.planes"],
    ["fastconv._engines.taps"],
    ["fastconv._pooling"],
    ["fastconv._columns"],
    ["fastconv._memory"],
    ["fastconv._geometry"],
    ["fastconv._layout", "fastconv._workers"],
    ["fastconv._validation"],
    ["fastconv._kernels"],
    ["fastconv._bell", "fastconv._im2col"],
]
RANK = {name: row for row, names in enumerate(LAYERS) for name in names}


def module_name(path: Path) -> str:
    parts = ("fastconv", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def row_of(name: str) -> int:
    """The row of a module; the files of a package that is one entry have the package's row."""
    while name not in RANK:
        name = name.rpartition(".")[0]
    return RANK[name]


def imported_modules(path: Path) -> set[str]:
    """Every module of the package that a file imports, however it spells the import."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = whole in RANK or (PACKAGE / whole.replace(".", "/")[9:]).exists()
                found.add(whole if is_module else str(node.module))
    return {name for name in found if name.split(".")[0] == "fastconv"}


SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_every_module_has_a_row():
    assert {row_of(module_name(path)) for path in SOURCES} == set(range(len(LAYERS) - 1))


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_run_downward(path):
    name = module_name(path)
    for imported in imported_modules(path):
        same_package = imported.startswith(name) or imported.rpartition(".")[0] in name
        downward = row_of(imported) > row_of(name)
        assert downward or (same_package and row_of(imported) == row_of(name)), (name, imported)


def test_init_holds_names_only():
    body = ast.parse((PACKAGE / "__init__.py").read_text()).body
    docstring, *imports, for_types, names, getattr_, dir_ = body
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(node, ast.Import | ast.ImportFrom) for node in imports)
    assert isinstance(for_types, ast.If)
    assert isinstance(names, ast.Assign)
    assert [getattr_.name, dir_.name] == ["__getattr__", "__dir__"]


def test_modules_come_when_they_are_asked_for():
    code = (
        "import sys, fastconv; before = 'fastconv.caffe' in sys.modules;"
        "print(before, fastconv.caffe.Blob.__name__, sorted(dir(fastconv)) == fastconv.__all__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False Blob True\n"
    with pytest.raises(AttributeError, match="module 'fastconv' has no attribute 'pools'"):
        _ = fastconv.pools


def test_every_public_name_is_documented():
    for name in fastconv.__all__:
        assert getattr(fastconv, name).__doc__, name


def test_runtime_needs_numpy_alone():
    code = "import sys, fastconv; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split())
    outside = {"scipy", "Cython", "setuptools", "pytest", "hypothesis", "matplotlib", "sklearn"}
    assert "numpy" in loaded
    assert not loaded & outside
