# Each target makes what it needs: `make demo` and `make test` work in a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Two test processes: the suite is sized for two cores, and three took a tenth longer on them. One that dies ends the
# run and is named: in its place pytest-xdist 3.8 starts another, which then waits for ever (its issue #1323).
JOBS ?= 2

.PHONY: install demo test test-cluster lint format bench clean

install: $(INSTALLED)

# torch first: the others only ask whether it is there. DS_BUILD_OPS=0: no DeepSpeed op is compiled.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/bertpipe demo

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadgroup --max-worker-restart 0

# A real SLURM of two nodes, a real tracking server, a real browser: as root on Debian, which apt can add to.
test-cluster: $(INSTALLED)
	$(BIN)/python -m pytest tests/cluster

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Each prints a ratio against a named peer measured in the same run. Time to a loss wants a corpus and hours.
bench: $(INSTALLED)
	for script in $(filter-out benchmarks/time_to_loss.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
