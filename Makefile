# One verb each; every recipe prints the command it runs. PYTHON is an environment with `pip install '.[dev,test,demo]'`.
PYTHON ?= python3
TORCH ?= $(PYTHON)
export PATH := $(dir $(realpath $(shell command -v $(PYTHON)))):$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)

.PHONY: build test test-parity bench bench-media bench-peers lint format asan tsan tidy stress fuzz wheel sdist vendor clean

build:        # editable install; also rebuilds the library
	SKBUILD_CMAKE_DEFINE=GGEMBED_BUILD_TESTS=ON $(PYTHON) -m pip install --no-build-isolation --no-deps -e .

test: build   # the fast levels
	$(PYTHON) -m pytest -m "not slow" --ignore=tests/parity

test-parity: build
	$(PYTHON) -m pytest tests/parity

bench: build
	$(PYTHON) benchmarks/bench.py

bench-peers: build   # TORCH as below; what the peers need is built the first time, some 20 minutes on two cores
	$(PYTHON) benchmarks/bench_peers.py --quick --torch $(TORCH)

bench-media: build   # TORCH is a Python with torch and transformers, which are left out without one
	$(PYTHON) benchmarks/bench_media.py --quick --torch $(TORCH)

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

# Half an hour: 64 threads for 5 minutes under each sanitizer, 200 processes that are killed, forked, closed and
# interrupted, and 10 minutes of mixed load.
STRESS_SECONDS ?= 300
STRESS_TRIALS ?= 200
SOAK_SECONDS ?= 600
STRESS_MODELS = build/stress/bert-mean.gguf build/stress/qwen3-last.gguf
stress: build
	$(PYTHON) tests/parity/make_tiny_models.py build/stress bert-mean qwen3-last
	$(foreach preset,asan tsan,cmake --preset $(preset) && cmake --build build/$(preset) --target stress_engines && \
	GGEMBED_TEST_MODEL=$$(echo $(STRESS_MODELS) | tr ' ' :) build/$(preset)/tests/stress_engines $(STRESS_SECONDS) &&) true
	$(PYTHON) tests/stress/chaos.py $(firstword $(STRESS_MODELS)) --trials $(STRESS_TRIALS)
	MALLOC_ARENA_MAX=2 $(PYTHON) tests/stress/soak.py $(STRESS_MODELS) --seconds $(SOAK_SECONDS)

# New inputs go to build/fuzz/found, those that break something to build/fuzz/TARGET-crash-*. A failed load leaks inside
# upstream, and what a damaged file asks for may be refused, so two of libFuzzer's checks are off for model_load.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= texts limits encode submit media model_load
FUZZ_OMNI = build/fuzz/omni/demo-omni-small
FUZZ_FLAGS_model_load = -detect_leaks=0 -malloc_limit_mb=2000000 -max_len=65536
fuzz:
	cmake --preset fuzz
	cmake --build --preset fuzz
	$(PYTHON) tests/parity/make_tiny_models.py build/fuzz/models bert-mean qwen3-last llama-last t5encoder-mean
	$(PYTHON) -c "from ggembed import demo_omni as d; d.write_models('$(dir $(FUZZ_OMNI))', min_pixels=4096, max_pixels=16384)"
	$(foreach t,$(FUZZ_TARGETS),mkdir -p build/fuzz/found/$t && \
	GGEMBED_TEST_MODEL=$$(echo build/fuzz/models/*.gguf | tr ' ' :) \
	GGEMBED_TEST_OMNI=$(FUZZ_OMNI)-F16.gguf:$(FUZZ_OMNI)-vision-mmproj-F16.gguf:$(FUZZ_OMNI)-audio-mmproj-F16.gguf \
	build/fuzz/fuzz/fuzz_$t -max_total_time=$(FUZZ_SECONDS) \
	  -timeout=30 -artifact_prefix=build/fuzz/$t- $(FUZZ_FLAGS_$t) build/fuzz/found/$t tests/fuzz/corpus/$t && ) true

wheel:
	$(PYTHON) -m pip wheel --no-deps -w dist .

sdist:
	$(PYTHON) -m build --sdist

vendor:       # unpack and patch llama.cpp, check that every patch applies
	cmake -P vendor/llama.cpp/unpack.cmake
	$(PYTHON) vendor/llama.cpp/patch.py check

clean:
	rm -rf build dist
