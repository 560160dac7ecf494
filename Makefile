# Two commands on a fresh machine with Python 3.11, pip and make:  make demo  and  make test  (the long rest: make test-slow)

PYTHON ?= $(shell command -v python3.11 || command -v python3)
LIGHT := .venv
FULL := .venv-all
PIP_FLAGS := --quiet --disable-pip-version-check

.PHONY: demo test test-slow lint types tests docs format clean

demo: $(LIGHT)/installed
	$(LIGHT)/bin/headstart demo

# Types are checked beside the tests, which now and then wait for a process or a clock.
test: lint
	$(MAKE) --no-print-directory --jobs 2 types tests

# What starts whole programs or trains for long: every example of the documentation, interruptions, int8, clusters, fuzzing of the service.
test-slow: $(FULL)/installed
	$(PYTEST) -m slow

lint: $(FULL)/installed
	$(FULL)/bin/ruff check .
	$(FULL)/bin/ruff format --check .

types: $(FULL)/installed
	$(FULL)/bin/mypy

# One test process a core; linear algebra must not multiply that by threads of its own. A file goes to one process, which prepares what
# it needs once. A process that dies ends the run and its test is named: another in its place would have the run wait for ever.
PYTEST := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(FULL)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

tests: $(FULL)/installed
	$(PYTEST) -m "not slow"

docs: $(FULL)/installed
	$(FULL)/bin/python docs/make_reference.py

format: $(FULL)/installed
	$(FULL)/bin/ruff check --fix .
	$(FULL)/bin/ruff format .

$(LIGHT)/installed: pyproject.toml
	$(PYTHON) -m venv $(LIGHT)
	$(LIGHT)/bin/python -m pip install $(PIP_FLAGS) -e .
	touch $@

$(FULL)/installed: pyproject.toml
	$(PYTHON) -m venv $(FULL)
	$(FULL)/bin/python -m pip install $(PIP_FLAGS) -e '.[all,dev]'
	touch $@

clean:
	rm -rf $(LIGHT) $(FULL) headstart-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
