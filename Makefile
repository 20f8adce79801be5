# Every recipe is short; what needs thought is in scripts/.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A file's tests stay together: they share their servers and their browser. tests/conftest.py says which file is first.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# Compiled modules are kept: each process that the tests start would compile them anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup check fix test test-all tables kill soak fuzz cover bench demo lab voila pictures docs binder build clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

# The environment is made anew when what it needs changes.
$(VENV)/.dev: pyproject.toml scripts/environment.py
	$(PYTHON) scripts/environment.py $(VENV) dev

$(VENV)/.lab: pyproject.toml scripts/environment.py
	$(PYTHON) scripts/environment.py $(VENV) lab

$(VENV)/.demo: pyproject.toml scripts/environment.py
	$(PYTHON) scripts/environment.py $(VENV) demo

$(VENV)/.docs: pyproject.toml scripts/environment.py
	$(PYTHON) scripts/environment.py $(VENV) docs

setup: $(VENV)/.dev ## make the environment and the commit hook
	@if [ -d .git ]; then $(BIN)/pre-commit install; fi

check: $(VENV)/.dev ## format, lint, types, floors, spelling; changes nothing
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/mypy && PATH=$(BIN):$$PATH $(BIN)/lint-imports
	$(BIN)/codespell

fix: $(VENV)/.dev ## format, and mend what the linter can
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

test: $(VENV)/.dev ## run the tests, some on a second Python too (OTHER=); installs a browser, mail servers and strace where it may
	@$(BIN)/python scripts/system_packages.py
	@$(BIN)/python scripts/node_packages.py
	$(PYTEST) -m "not slow"
	@$(BIN)/python scripts/other.py $(OTHER)

test-all: $(VENV)/.dev ## run the tests, the long ones too
	@$(BIN)/python scripts/system_packages.py
	@$(BIN)/python scripts/node_packages.py
	$(PYTEST)

tables: $(VENV)/.dev ## write the tables of the documentation that tests make
	@$(BIN)/python scripts/system_packages.py
	@$(BIN)/python scripts/node_packages.py
	$(PYTEST) -m "not slow" --tables $$(grep -l "^from tables import" tests/test_*.py)

kill: $(VENV)/.dev ## kill merges, watches and clusters at SEEDS random moments, resume, and count copies; JOURNAL=postgresql for that one
	cd tests && ../$(BIN)/python kill.py --seeds $(or $(SEEDS),200) --journal $(or $(JOURNAL),sqlite)
	cd tests && ../$(BIN)/python kill_watch.py --seeds $(or $(SEEDS),200)
	cd tests && ../$(BIN)/python kill_cluster.py --seeds $(or $(SEEDS),200)

soak: $(VENV)/.dev ## send COUNT mails to a Postfix that fails in every way, over MINUTES, and count copies
	@$(BIN)/python scripts/system_packages.py
	@$(BIN)/python scripts/soak.py --minutes $(or $(MINUTES),30) --count $(or $(COUNT),100000) $(ARGS)

fuzz: $(VENV)/.dev ## try inputs of every kind for SECONDS in all, and show what is found
	cd tests && nice ../$(BIN)/python fuzz.py --seconds $(or $(SECONDS),3600) --seed $(or $(SEED),0)

cover: $(VENV)/.dev ## run the tests and say what they do not reach
	$(PYTEST) -m "not slow" --cov --cov-report=term-missing:skip-covered

bench: $(VENV)/.dev ## compare the speed with peers, on loopback; ARGS=--quick tries it, --full adds a million rows
	@$(BIN)/python scripts/system_packages.py bench
	@$(BIN)/python benchmarks/environment.py
	@$(BIN)/python benchmarks/run.py $(ARGS)

demo: $(VENV)/.demo ## mail 250 leads through real SMTP on loopback, and show the report
	@$(BIN)/python scripts/demo.py

lab: $(VENV)/.lab ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

voila: $(VENV)/.lab ## serve the form of a merge as a page without code
	$(BIN)/voila notebooks/voila-merge-form.ipynb $(ARGS)

pictures: $(VENV)/.dev ## write the pictures of mails and forms below docs/
	@$(BIN)/python scripts/system_packages.py
	@$(BIN)/python scripts/gallery.py
	@$(BIN)/python scripts/screens.py

docs: $(VENV)/.docs ## build the documentation below build/docs, without the network; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -n -b html docs build/docs

binder: $(VENV)/.dev ## build what Binder would build, run a notebook there, and open the badge's in a browser
	$(BIN)/python scripts/emulate_binder.py

build: $(VENV)/.dev ## build sdist and wheel, and try the wheel in an empty environment
	$(BIN)/python scripts/build.py

clean: ## remove build products
	rm -rf build dist .venv-other .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
