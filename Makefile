# One verb each; every recipe prints the command it runs. PYTHON is an environment with `pip install '.[dev,test,demo]'`.
PYTHON ?= python3
export PATH := $(dir $(realpath $(shell command -v $(PYTHON)))):$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)

.PHONY: build test test-parity bench lint format asan tsan tidy fuzz wheel sdist vendor clean

build:        # editable install; also rebuilds the library
	SKBUILD_CMAKE_DEFINE=GGEMBED_BUILD_TESTS=ON $(PYTHON) -m pip install --no-build-isolation --no-deps -e .

test: build   # the fast levels
	$(PYTHON) -m pytest -m "not slow" --ignore=tests/parity

test-parity: build
	$(PYTHON) -m pytest tests/parity

bench: build
	$(PYTHON) benchmarks/bench.py

lint:
	ruff check .
	ruff format --check .
	mypy
	clang-format --dry-run --Werror $$(git ls-files '*.c' '*.cpp' '*.h')
	codespell
	cmake --workflow --preset tidy

format:
	ruff check --fix .
	ruff format .
	clang-format -i $$(git ls-files '*.c' '*.cpp' '*.h')

asan tsan tidy:
	cmake --workflow --preset $@

fuzz:
	cmake --preset fuzz
	cmake --build --preset fuzz

wheel:
	$(PYTHON) -m pip wheel --no-deps -w dist .

sdist:
	$(PYTHON) -m build --sdist

vendor:       # unpack and patch llama.cpp, check that every patch applies
	cmake -P vendor/llama.cpp/unpack.cmake
	$(PYTHON) vendor/llama.cpp/patch.py check

clean:
	rm -rf build dist
