# The commands of this project. Each does the set-up that it needs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PY := .venv/bin/python
JOBS ?= $(shell nproc)
# What was compiled in one folder is found again from another one: an sdist is built in a folder of its own.
export CCACHE_BASEDIR ?= /
export CCACHE_NOHASHDIR ?= 1
# pip names the compiler g++, and ccache tells compilers apart by their names.
export CXX
STAMPS := .stamps
SOURCES := $(shell find cpp bindings python CMakeLists.txt pyproject.toml -type f ! -name '*.pyc' 2>/dev/null)
CXX_FILES := $(shell find cpp bindings tests/cpp tests/fuzz -name '*.cpp' -o -name '*.hpp' 2>/dev/null)
# Processes of their own: these measure coverage, and those are slower beside what other tests have loaded.
SIMULATION_TESTS := tests/property/test_simulation.py
WORKFLOW_TESTS := $(wildcard tests/unit/test_workflow*.py)
.DEFAULT_GOAL := help
.PHONY: help docs run test validate test-local check lower-bounds wheel bench chaos fuzz sanitize cpp-test install clean format checkov

help:
	@echo "make run     set up, build, and run the main job (headgate demo)"
	@echo "make test    set up, build, and run every C++ and Python test"
	@echo "make validate, make test-local: the same as make check, make test"
	@echo "make check   format, lint, types, stubs, layering"
	@echo "make wheel   wheels for Python 3.11, 3.12 and 3.13 in dist/, repaired and tried"
	@echo "make docs    the documentation site, in build/site"
	@echo "make bench | chaos | fuzz | sanitize | format | clean"

$(STAMPS)/build: tools/setup tools/locks/build.txt
	tools/setup build
	@mkdir -p $(STAMPS) && touch $@
$(STAMPS)/dev: tools/setup tools/locks/build.txt tools/locks/dev.txt $(wildcard tools/java/*)
	tools/setup dev
	@mkdir -p $(STAMPS) && touch $@ $(STAMPS)/build
# Building in the environment (no isolation) keeps the build folder, so that a rebuild compiles only what changed.
$(STAMPS)/installed: $(SOURCES) | $(STAMPS)/build
	CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --force-reinstall .
	@touch $@
install: $(STAMPS)/installed

run: $(STAMPS)/build $(STAMPS)/installed
	.venv/bin/headgate demo

test: $(STAMPS)/dev $(STAMPS)/installed cpp-test sanitize
	$(PY) -m pytest -n $(JOBS) --cov=headgate.workflow --cov-report= --cov-fail-under=90 $(WORKFLOW_TESTS)
	$(PY) -m pytest -n $(JOBS) $(SIMULATION_TESTS)
	$(PY) -m pytest -n $(JOBS) --dist loadgroup -m "not chaos" $(addprefix --ignore=,$(WORKFLOW_TESTS) $(SIMULATION_TESTS))
	$(PY) -m pytest -m chaos

cpp-test: $(STAMPS)/dev
	cmake --preset dev >/dev/null && cmake --build --preset dev -j $(JOBS) && ctest --preset dev -j $(JOBS)
sanitize: $(STAMPS)/dev
	cmake --preset asan >/dev/null && cmake --build --preset asan -j $(JOBS) && ctest --preset asan -j $(JOBS)
	cmake --preset tsan >/dev/null && cmake --build --preset tsan -j $(JOBS) && ctest --preset tsan -j $(JOBS)

# The names of specification 001's task list.
validate: check
test-local: test

check: $(STAMPS)/dev $(STAMPS)/installed
	tools/check
# The linter of infrastructure; it takes minutes, and an environment of its own.
checkov: $(STAMPS)/dev $(STAMPS)/installed
	tools/checkov
# The lowest version of each requirement in pyproject.toml, installed and tried.
lower-bounds: $(STAMPS)/dev $(STAMPS)/installed
	$(PY) tools/lower_bounds
format: $(STAMPS)/dev
	clang-format -i $(CXX_FILES)
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

wheel: $(STAMPS)/build
	$(PY) tools/make_wheels.py $(if $(WHEEL_TESTS),--tests)
	$(PY) tools/make_sbom.py dist/headgate.cdx.json

# Needs the source of the Python package only, not the built one. Links are checked: a broken one is an error.
docs: $(STAMPS)/build
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r tools/locks/docs.txt
	$(PY) tools/make_docs.py
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --strict

bench: $(STAMPS)/build $(STAMPS)/installed
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r tools/locks/bench.txt
	$(PY) bench/run.py
chaos: $(STAMPS)/dev $(STAMPS)/installed
	HEADGATE_CHAOS_SEEDS=25 $(PY) -m pytest -m chaos
	HEADGATE_SIMULATION_SEEDS=1000 $(PY) -m pytest -n $(JOBS) $(SIMULATION_TESTS)
fuzz: $(STAMPS)/dev
	cmake --preset fuzz >/dev/null && cmake --build --preset fuzz -j $(JOBS)
	tools/fuzz
clean:
	rm -rf build .stamps
