# Every target makes the environment that it needs, from nothing. `make app` and `make test` are all a newcomer types.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
# Two threads a process on a machine that is shared by test workers cost more than they bring.
WORKERS ?= 2

BROWSER := tests/ui/test_browser.py tests/ui/test_accessibility.py
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: app test lint bench clean

app: $(READY)
	$(BIN)/python app.py

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(BROWSER:%=--ignore %) $(ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 $(BROWSER) # alone: a browser takes a core of its own

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.evidence
	$(BIN)/python -m benchmarks.decoding
	$(BIN)/python -m benchmarks.media
	$(BIN)/python -m benchmarks.alignment
	$(BIN)/python -m benchmarks.tuning
	$(BIN)/python -m benchmarks.second_turn

# torch first, in the version that is tested. On Linux its default build brings several GB of CUDA:
# TORCH=torch==2.13.0+cpu, with PIP_EXTRA_INDEX_URL on PyTorch's own index, takes the one without.
$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[app,mcp,world,mesh,quant,dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
