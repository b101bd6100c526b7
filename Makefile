# make demo    fifty simulated enterprises, whose classes are skewed, through `flwr run`: a table
# make test    linters, types and tests
# make bench   benchmarks (figures, no judgement)
# All make their own virtual environment in .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint format bench clean

demo: $(STAMP)
	$(BIN)/fgcif compare --engine flower --seeds 1 --enterprises 50 --rounds 20 \
		--set simulator.customers=300 --set simulator.label_skew=3.0 \
		--set training.local_epochs=5 --method fedavg --method fedavg+marginals \
		--method private+marginals --method centralized --method alone \
		--out runs/demo $(ARGS)

test: $(STAMP) lint
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python -m benchmarks.secagg --plain
	$(BIN)/python -m benchmarks.simulate
	$(BIN)/python -m benchmarks.noise
	$(BIN)/python -m benchmarks.canary
	$(BIN)/python -m benchmarks.privacy
	$(BIN)/python -m benchmarks.marginals
	$(BIN)/python -m benchmarks.ctgan
	$(BIN)/python -m benchmarks.generators
	$(BIN)/python -m benchmarks.segmentation
	$(BIN)/python -m benchmarks.online_retail
	$(BIN)/python -m benchmarks.features
	$(BIN)/python -m benchmarks.shim

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache

# torch first: with it in place no other package draws in a build for accelerators.
$(STAMP): pyproject.toml
	@echo "Installing into $(VENV): about 2 GB, some minutes the first time."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "torch>=2.6,<2.14"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@
