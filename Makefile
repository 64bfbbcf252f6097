# The front door. Without an active virtual environment everything happens in .venv.
#
#   make            build in place              make test       C tests, then pytest
#   make demo       a real model, steered       make test-c     C tests alone
#   make asan       the whole suite under ASan  make tsan       threads under TSan
#   make test-neon  Arm kernels under qemu      make lint       layers, headers, style
#   make fuzz       mutated GGUF files          make clean
#   make bench      result files, README table  make hf         torch and transformers
#   make docs       the site, in build/site     make wheels     sdist, wheels, tried
#   make test-exact mode exact against naive on a real model, 40 items
#   make types      mypy, and the core against its stub

ifdef VIRTUAL_ENV
PYTHON := $(VIRTUAL_ENV)/bin/python
else ifdef CONDA_PREFIX
PYTHON := $(CONDA_PREFIX)/bin/python
else
PYTHON := $(CURDIR)/.venv/bin/python
endif

CC ?= gcc
BUILD := build/c
C_FLAGS := -std=c11 -O2 -g -Wall -Wextra -Wshadow -Wconversion -Icsrc -Itests/c
CORE_SRC := $(filter-out csrc/python/%,$(wildcard csrc/*/*.c))
CORE_HDR := $(wildcard csrc/*/*.h) $(wildcard tests/c/*.h)
C_TESTS := $(patsubst tests/c/%.c,$(BUILD)/%,$(wildcard tests/c/test_*.c))
BLAS = $(shell $(PYTHON) -c 'import scipy_openblas32 as b; print(b.get_$(1)_dir())')
BLAS_CFLAGS = -DDEAL_SCIPY_OPENBLAS -I$(call BLAS,include)
BLAS_LIBS = -L$(call BLAS,lib) -lscipy_openblas -Wl,-rpath,$(call BLAS,lib)
MACHINE := $(shell uname -m)
ifeq ($(MACHINE),x86_64)
ISA_avx2 := -mavx2 -mfma -mf16c
ISA_avxvnni := $(ISA_avx2) -mavxvnni
ISA_avx512 := $(ISA_avx2) -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni \
    -mprefer-vector-width=512
else ifneq ($(filter aarch64 arm64,$(MACHINE)),)
ISA_neon := -march=armv8.2-a+dotprod -fno-schedule-insns -fno-trapping-math
endif
# C++ libraries throw through libasan, which looks for libstdc++ when it is loaded.
SHARED_ASAN = $(foreach lib,libasan.so libstdc++.so.6,$(shell $(CC) -print-file-name=$(lib)))

.SECONDARY:  # objects are kept between runs
.PHONY: all test test-c test-exact test-neon test-py demo model hf lint types asan tsan fuzz bench docs wheels clean

all: build/.installed

$(CURDIR)/.venv/bin/python:
	python3 -m venv .venv

# Editable install: builds the extension in place and pulls what the tests need.
build/.installed: $(PYTHON) pyproject.toml setup.py $(wildcard csrc/*/*.[ch])
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@mkdir -p build && touch $@

# --- C tests -------------------------------------------------------------------------

$(BUILD)/core/kernels/kernels_%.o: csrc/kernels/kernels_%.c $(CORE_HDR)
	@mkdir -p $(@D)
	$(CC) $(C_FLAGS) -O3 -ffp-contract=fast $(SANITIZE) $(ISA_$*) -c $< -o $@

$(BUILD)/core/%.o: csrc/%.c $(CORE_HDR)
	@mkdir -p $(@D)
	$(CC) $(C_FLAGS) $(SANITIZE) $(BLAS_CFLAGS) -c $< -o $@

CORE_OBJ = $(patsubst csrc/%.c,$(BUILD)/core/%.o,$(CORE_SRC))
TEST_SRC = $(addprefix tests/c/,table_lm.c toy_reward.c toy_constraint.c)
LINK_TEST = $(CC) $(C_FLAGS) $(SANITIZE) $< $(TEST_SRC) $(CORE_OBJ) -o $@ \
	    $(BLAS_LIBS) -lm -pthread

$(BUILD)/test_%: tests/c/test_%.c $(CORE_OBJ) $(TEST_SRC) $(CORE_HDR)
	$(LINK_TEST)

# What tests/unit/test_search_twin.py runs.
$(BUILD)/search_table: tests/c/search_table.c $(CORE_OBJ) $(TEST_SRC) $(CORE_HDR)
	$(LINK_TEST)

test-c: build/.installed
	@$(MAKE) --no-print-directory --jobs=$$(nproc) $(C_TESTS) $(BUILD)/search_table
	@for t in $(C_TESTS); do $$t || exit 1; done
	@for isa in plain avx2 avxvnni; do \
	    DEAL_ISA=$$isa $(BUILD)/test_session || exit 1; \
	    DEAL_ISA=$$isa $(BUILD)/test_controls || exit 1; done
	@for core in Nehalem Sandybridge Haswell Zen; do \
	    OPENBLAS_CORETYPE=$$core $(BUILD)/test_gemm || exit 1; done

# The kernels for Arm, built on another machine and run in emulation; without OpenBLAS.
NEON_CC ?= aarch64-linux-gnu-gcc
QEMU ?= qemu-aarch64
NEON_TESTS := $(addprefix build/neon/test_,kernels panels quant session kv parallel rng)

test-neon:
	@echo 'int main(void) { return 0; }' | $(NEON_CC) -static -xc - -o /dev/null && \
	    $(QEMU) --version >/dev/null || { \
	    echo 'test-neon: needs $(NEON_CC) and $(QEMU); on Debian: apt-get install' \
	        'gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user'; exit 1; }
	@$(MAKE) --no-print-directory $(NEON_TESTS) BUILD=build/neon CC=$(NEON_CC) MACHINE=aarch64 \
	    BLAS_CFLAGS= BLAS_LIBS=-static TEST_SRC='$(TEST_SRC) tests/c/gemm_stub.c' \
	    CORE_SRC='$(filter-out csrc/kernels/gemm_cblas.c,$(CORE_SRC))'
	@for t in $(NEON_TESTS); do $(QEMU) $$t || exit 1; done
	@$(QEMU) build/neon/test_kernels | grep -q '^kernels: neon'
	@echo 'with DEAL_ISA=plain, then on a processor without the dot product:'
	@for t in $(NEON_TESTS); do DEAL_ISA=plain $(QEMU) $$t || exit 1; done
	@for t in kernels session; do \
	    $(QEMU) -cpu cortex-a53 build/neon/test_$$t || exit 1; done

# --- Python --------------------------------------------------------------------------

model: build/.installed
	$(PYTHON) -m deal models --fetch smollm2-135m-instruct

# What the tests of deal.hf and of lm-eval's model type "hf" need, and skip without. One
# pinned torch, and that first: an open range may bring gigabytes for a GPU that nothing
# here uses.
TORCH := torch==2.13.0
TRANSFORMERS := transformers==5.24.0 accelerate==1.15.0

hf: build/.hf

build/.hf: build/.installed
	$(PYTHON) -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check $(TRANSFORMERS)
	@touch $@

test-py: build/.installed $(BUILD)/search_table model
	$(PYTHON) -m pytest -q --numprocesses=$$(nproc) --dist=loadfile

# Mode exact against naive on a real model: 40 CommonGen items at two settings, and a
# long search within a budget. Minutes; DEAL_COMMONGEN names the data's file.
test-exact: build/.installed model
	DEAL_EXACT_ITEMS=40 $(PYTHON) -m pytest -q -s tests/parity/test_exact_smollm2.py

test: test-c lint types test-py

demo: $(PYTHON)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check .
	$(dir $(PYTHON))deal demo

lint: build/.installed
	$(PYTHON) tools/lint.py

# The package, and that the stub of the core says what the core does.
types: build/.installed
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy.stubtest deal._core --mypy-config-file pyproject.toml

asan:
	$(MAKE) test-c BUILD=build/asan SANITIZE='-fsanitize=address,undefined -fno-sanitize-recover=undefined'
	DEAL_SANITIZE=address,undefined $(PYTHON) setup.py --quiet build_ext --inplace --force
	DEAL_SEARCH_TABLE=build/asan/search_table \
	    ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$(SHARED_ASAN)" PYTHONMALLOC=malloc \
	    $(PYTHON) -m pytest -q -m 'not slow' --numprocesses=$$(nproc) --dist=loadfile \
	    tests/unit; code=$$?; \
	    $(PYTHON) setup.py --quiet build_ext --inplace --force && exit $$code

tsan:
	$(MAKE) $(addprefix build/tsan/,test_parallel test_batch test_session test_controls) \
	    BUILD=build/tsan SANITIZE=-fsanitize=thread
	build/tsan/test_parallel && build/tsan/test_batch && build/tsan/test_session && build/tsan/test_controls

fuzz: build/.installed
	@mkdir -p build/fuzz
	$(CC) $(C_FLAGS) -fsanitize=address,undefined -fno-sanitize-recover=undefined \
	    -DDEAL_FUZZ_MAIN tests/fuzz/fuzz_gguf.c csrc/model/gguf.c csrc/model/gguf_hparams.c \
	    csrc/model/hparams.c csrc/model/tensor.c csrc/model/mapped_file.c csrc/kernels/quant.c csrc/common/*.c \
	    -o build/fuzz/fuzz_gguf -lm -pthread
	build/fuzz/fuzz_gguf

bench: build/.installed model
	$(PYTHON) -m benchmarks.commongen --data $${DEAL_SHARED:-../shared}/data/commongen/dev.jsonl \
	    -n 24 --top-k 5 --lookahead 16 --reward-weight 4 --json benchmarks/results/commongen.json
	$(PYTHON) -m benchmarks.fidelity --json benchmarks/results/fidelity.json
	$(PYTHON) tools/make_results_table.py

# Warnings are errors: a broken link, a parameter that is documented and does not exist.
docs: build/.installed
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet
	@echo 'docs: build/site/index.html'

# An sdist and manylinux wheels, each tried in a clean environment without a compiler.
# With pyenv: PYENV_VERSION=3.10.13:3.11.7:... make wheels
wheels: $(PYTHON)
	$(PYTHON) tools/build_wheels.py $(PYTHONS)

clean:
	rm -rf build dist .venv *.egg-info deal/_core*.so deal/include/deal
