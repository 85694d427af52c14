# Everything runs in environments of its own, made here and thrown away by `make clean`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SANITIZED := .venv-sanitize
EXTENSIONS := fastconv._bell fastconv._im2col $(addprefix fastconv._kernels.base.,cpu deform depthwise fused pool winograd winograd_gradient)
SOURCES := pyproject.toml setup.py MANIFEST.in $(shell find src/fastconv -name '*.py' -o -name '*.py[xi]' -o -name '*.px[di]' -o -name '*.h')

.PHONY: help demo test lint bench sanitize clean

help:
	@echo "make demo      train a network on handwritten digits and filter a photograph"
	@echo "make test      build the sdist and the wheel, install the wheel, run the tests on it"
	@echo "make sanitize  run the kernels' tests on an AddressSanitizer + UBSan build"
	@echo "make lint      ruff, cython-lint, mypy, stubtest"
	@echo "make bench     the speed table (ARGS='--threads 2 --dtype float64 --layer NAME', pytest's options)"
	@echo "make clean     remove what the others made"

demo: $(VENV)/examples.done
	$(BIN)/python examples/digits.py
	$(BIN)/python examples/photo.py

test: $(VENV)/test.done $(VENV)/examples.done
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/lint.done $(VENV)/test.done $(VENV)/examples.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(abspath $(BIN)):$$PATH" cython-lint src
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest $(EXTENSIONS) --allowlist tests/stubtest_allowlist.txt

bench: $(VENV)/bench.done
	$(BIN)/python -m pytest benchmarks $(ARGS)

# gcc's sanitizers must be loaded before the interpreter, which is not built with them; its own
# leaks are not ours. The products of NumPy are not instrumented, the kernels are.
sanitize: $(SANITIZED)/sanitize.done
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 \
	FASTCONV_SANITIZE=1 PYTHONMALLOC=malloc \
	$(SANITIZED)/bin/python -m pytest -m sanitize $(ARGS)

clean:
	rm -rf $(VENV) $(SANITIZED) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
	rm -rf .hypothesis .benchmarks

# --- environments

%/env.done:
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --quiet --upgrade "pip>=25.1" build "setuptools>=77" "cython>=3.1" "numpy>=2.0"
	touch $@

# The wheel is built from the sdist, and the tests run on the wheel, never on src/.
$(VENV)/wheel.done: $(VENV)/env.done $(SOURCES)
	rm -rf dist build
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps dist/*.whl
	touch $@

$(VENV)/test.done: $(VENV)/wheel.done
	$(BIN)/python -m pip install --quiet "$$(ls dist/*.whl)[test]"
	touch $@

$(VENV)/examples.done: $(VENV)/wheel.done
	$(BIN)/python -m pip install --quiet "$$(ls dist/*.whl)[examples]"
	touch $@

$(VENV)/bench.done: $(VENV)/wheel.done
	$(BIN)/python -m pip install --quiet "$$(ls dist/*.whl)[bench]"
	touch $@

$(VENV)/lint.done: $(VENV)/env.done pyproject.toml
	$(BIN)/python -m pip install --quiet --group lint
	touch $@

$(SANITIZED)/sanitize.done: $(SANITIZED)/env.done $(SOURCES)
	rm -rf build
	FASTCONV_SANITIZE=1 $(SANITIZED)/bin/python -m pip install --quiet --no-build-isolation --force-reinstall --no-deps .
	$(SANITIZED)/bin/python -m pip install --quiet pytest hypothesis scipy
	touch $@
