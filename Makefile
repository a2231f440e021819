# Everything that is done with astfast, on a fresh machine and in CI alike. `make help` lists it.
PYTHON ?= python3
VENV := .venv
DEMO := .venv-demo
BIN := $(VENV)/bin
LINKS := .gpu
TRITON_36 := .triton-3.6
GPU_SCRIPT := run_gpu
SOURCES := pyproject.toml setup.py astfast/_native.pyi $(wildcard csrc/*)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export ASTFAST_REQUIRE_NATIVE ?= 1
# Tests by two processes side by side: most are single-threaded, and so is PyTorch then.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

.PHONY: help setup demo lint typecheck test test-slow gpu gpu-tune gpu-profile bench wheel clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(VENV)/.installed ## .venv with astfast (editable) and everything that the tests need

$(VENV)/.installed: $(SOURCES)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@

demo: $(DEMO)/.installed ## five real recordings tagged by the built-in model
	@$(DEMO)/bin/python samples/demo.py

# No torch on a CPU-only machine; with an NVIDIA GPU, what its kernels need.
$(DEMO)/.installed: $(SOURCES)
	test -d $(DEMO) || $(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install --quiet -e '.$(if $(wildcard /dev/nvidia0),[cuda])'
	touch $@

lint: setup ## ruff and clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --style=file:csrc/.clang-format --dry-run --Werror \
		$(wildcard csrc/*.cpp csrc/*.h csrc/cuda/*.cu tests/backends/cpu/*.cpp tests/emulation/*.cpp tests/emulation/*.h)

typecheck: setup ## mypy --strict on the package
	$(BIN)/mypy

test: lint typecheck ## the tests of every day, under 15 minutes with the installation
	$(PYTEST) --durations=15

test-slow: setup $(TRITON_36)/.installed ## the rest: every kernel and configuration, real sizes, soak
	$(PYTEST) -m 'slow and not gpu and not network' --durations=15
	PYTHONPATH=$(TRITON_36) $(PYTEST) -m 'not gpu' -k 'not slow or planted or beforehand or 90 and not clip' \
		tests/kernels tests/benchmarks/test_run_gpu.py

# The Triton of PyTorch 2.10 and 2.11. Its interpreter can't convert an array of one element since NumPy 2.4.
$(TRITON_36)/.installed: Makefile
	rm -rf $(TRITON_36)
	$(BIN)/pip install --quiet --no-deps --target $(TRITON_36) 'triton==3.6.0' 'numpy<2.4'
	touch $@

# Links in place of an installation: it needs no pip, only the machine's own Python with torch and transformers.
# GPU_OPTIONS=--dry-run goes through the script on a CPU.
gpu: ## on a machine with a GPU, offline: kernel checks, then throughput against transformers
	rm -rf $(LINKS) && mkdir $(LINKS) && cp -rs $(CURDIR)/astfast $(LINKS)
	ln -sfn $(CURDIR)/kernels $(LINKS)/astfast/kernels
	ln -s $(CURDIR)/benchmarks $(CURDIR)/tests $(CURDIR)/samples $(LINKS)
	cd $(LINKS) && PYTHONPATH=. $(PYTHON) -m benchmarks.$(GPU_SCRIPT) $(if $(OUT),--also $(abspath $(OUT))) $(GPU_OPTIONS)

gpu-tune: ## on a machine with a GPU: a timed sweep of tile sizes, and the source of its tile table
	$(MAKE) gpu GPU_OPTIONS="--plan tune $(GPU_OPTIONS)"

gpu-profile: ## on a machine with a GPU: what limits four kernels (ncu), their memory accesses (compute-sanitizer)
	$(MAKE) gpu GPU_SCRIPT=profile_gpu

bench: setup ## CPU benchmarks against every peer; run nothing else meanwhile
	$(BIN)/pip install --quiet -e '.[bench]'
	$(BIN)/python -m benchmarks.run_ops
	$(BIN)/python -m benchmarks.run_model
	$(BIN)/python -m benchmarks.run_pipeline
	$(BIN)/python -m benchmarks.run_decoding
	$(BIN)/python -m benchmarks.run_process
	$(BIN)/python -m benchmarks.run_scaling
	$(BIN)/python -m benchmarks.run_latency
	$(BIN)/python -m benchmarks.run_merging
	$(BIN)/python -m pytest -q benchmarks/test_ops_benchmark.py
	$(BIN)/python -m benchmarks.report

wheel: setup ## a wheel under dist/
	$(BIN)/python -m build --wheel

clean: ## everything that can be made again
	rm -rf build dist $(VENV) $(DEMO) $(LINKS) $(TRITON_36) *.egg-info astfast/_native*.so
