# Both commands need nothing but Python 3.11-3.13 and the package index; each sets itself up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test bench torture fuzz soak elsewhere audit clean

demo: $(VENV)/.installed
	$(BIN)/fcr demo

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive caption recsys pipelines
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

bench: $(VENV)/.installed-dev
	$(BIN)/python tests/benchmarks/bench_caption_metrics.py
	$(BIN)/python tests/benchmarks/bench_meteor.py
	$(BIN)/python tests/benchmarks/bench_metrics.py
	$(BIN)/python tests/benchmarks/bench_similarity.py
	$(BIN)/python tests/benchmarks/bench_recsys.py --scale 0.01 0.1
	$(BIN)/python tests/benchmarks/bench_vbpr.py
	$(BIN)/python tests/benchmarks/bench_captions.py
	$(BIN)/python tests/benchmarks/bench_training.py
	$(BIN)/python tests/benchmarks/bench_experiment.py
	$(BIN)/python tests/benchmarks/bench_engine.py
	$(BIN)/python tests/benchmarks/bench_far.py --vectors 1000000

# Faults at random points of every stage: kill -9, damaged files, full disk, short memory ...
torture: $(VENV)/.installed-dev
	$(BIN)/python tests/torture.py

# Readers, config and tokenizer under inputs that nobody wrote; atheris has wheels for Linux.
fuzz: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet -c constraints.txt atheris
	$(BIN)/python tests/fuzz.py --seconds 60 --examples 3000

# The demo again and again in one process: memory, files and threads stay flat.
soak: $(VENV)/.installed-dev
	$(BIN)/python tests/soak.py

# The suite in Turkish, a day ahead, in a path with spaces, without a home to write to.
elsewhere: $(VENV)/.installed-dev
	$(BIN)/python tests/elsewhere.py --numprocesses auto --maxprocesses 4 --dist loadfile

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

# Known vulnerabilities of the pinned versions; asks the package index's advisory service.
audit: $(VENV)/.installed-dev
	$(BIN)/python tests/audit.py $(AUDIT)

clean:
	rm -rf $(VENV) runs build dist
