# make demo   find objects in a frame with a freshly exported model
# make test   every check that CI runs
# Both make .venv themselves. PYTHON=python3.12 picks another interpreter, VENV=... another place.

VENV ?= .venv
BIN := $(VENV)/bin
IMAGE ?=
CALIB ?=
NATIVE_SOURCES := $(wildcard rs4d_edge/native/*.cpp rs4d_edge/native/*.h rs4d_edge/native/build.py)
.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format types clean

help:
	@echo "make demo [IMAGE=path]  export the shipped model, prove it against the reference, find objects in a frame"
	@echo "     ... [CALIB=path]   in int8, calibrated on these photographs: faster, in a third of the size"
	@echo "make test               lint, types, tests and the built wheel: what CI runs"
	@echo "make test-all           the same with the slow tests"
	@echo "make lint | types       one check alone"
	@echo "make format             put the code into shape"
	@echo "make clean              remove .venv and everything built or written by the above"

$(VENV)/.ready-%: pyproject.toml setup.py .ci/make-venv
	@PYTHON="$(PYTHON)" .ci/make-venv "$(VENV)" "$*"

# Last of all, because the OpenVINO extension builds against the installed wheel.
$(VENV)/.ready-native: $(NATIVE_SOURCES)
	@.ci/build-native "$(VENV)"

demo: $(VENV)/.ready-$(if $(CALIB),quantize,export)
	@$(MAKE) --no-print-directory -s $(VENV)/.ready-native
	@$(BIN)/python -m rs4d_edge.commands.demo $(if $(IMAGE),--image "$(IMAGE)") $(if $(CALIB),--calib "$(CALIB)")

test: $(VENV)/.ready-dev
	@$(MAKE) --no-print-directory -s $(VENV)/.ready-native
	@.ci/check "$(VENV)" -m "not slow"

test-all: $(VENV)/.ready-dev
	@$(MAKE) --no-print-directory -s $(VENV)/.ready-native
	@.ci/check "$(VENV)"

lint: $(VENV)/.ready-dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(VENV)/.ready-dev
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

types: $(VENV)/.ready-dev
	@$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	rm -f rs4d_edge/native/*.so rs4d_edge/native/*.fatbin rs4d_edge/native/*.ptx
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
