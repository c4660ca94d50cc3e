# make demo    train plain and residual networks at two depths, four seeds each, on embedded images, and draw it all
# make test    run the tests, on up to four workers of about 2.5 GB each; norms, layers, models and training without cpu/
# make test-plain   the other tests in a copy from which normres/cpu is deleted
# make test-oldest  the subject's tests and one training with the oldest JAX, Flax, Optax and Orbax that are supported
# make test-browser  a report's page in headless Chromium, if there is one on PATH
# make test-all     all of these, slurm-test (as root it installs Slurm) and chaos
# make chaos   twelve small runs and two workers, disturbed by dice for five minutes: everything must end as undisturbed
# make slurm-test  a sweep and a run of two processes on a real Slurm of one node (root, Debian or Ubuntu), 4 minutes
# make docs    the documentation as a site, docs/_build/index.html, with a page for each set of results
# make results draw docs/results.md and its figures from the records in results/
# make reproduce RESULT=degradation-short DATA=PATH SEEDS=1   run a set of results again; ends with a certificate
# make accelerator  after make setup EXTRA=..., or with PYTHON=python3: what only a GPU or TPU can say, into device.json
# make setup   only make the environment; EXTRA=cuda12, cuda13 or tpu adds an accelerator's packages
# make lint    style and types
# make lock    renew requirements.lock (needs uv)
# make clean   remove the environments and caches, but no runs

## Of the environment that is there, until EXTRA says otherwise.
EXTRA ?= $(patsubst .venv/installed-%,%,$(firstword $(wildcard .venv/installed-*)))
BIN := .venv/bin
STAMP := .venv/installed$(if $(EXTRA),-$(EXTRA))
DEMO := runs/demo
OLDEST := .venv-oldest
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
## Tests of what knows nothing of processors: they run with normres/cpu blocked.
SUBJECT := tests/norms tests/layers tests/models tests/training
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-plain test-oldest test-browser test-all chaos slurm-test docs results reproduce accelerator setup lint
.PHONY: lock clean help

help:
	@sed -n 's/^# //p' Makefile

setup: $(STAMP)

$(STAMP): pyproject.toml requirements.lock
	@python=$$(scripts/find-python) || exit 1; \
	echo "setting up .venv with $$python (about a minute)"; \
	if [ "$$python" = uv ]; then uv venv --quiet --clear --seed --python '>=3.12,<3.15' .venv; \
	else "$$python" -m venv --clear .venv; fi
	@$(BIN)/python -m pip install --quiet --quiet --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --quiet --no-deps --no-build-isolation -e .
	@if [ -n "$(EXTRA)" ]; then $(BIN)/python -m pip install --quiet --quiet --no-build-isolation -e ".[$(EXTRA)]"; fi
	@touch $@

demo: setup
	@$(BIN)/normres sweep --config=degradation:demo --seeds=4 --workdir=$(DEMO)
	@$(BIN)/normres report --experiment=degradation --workdir=$(DEMO)

test: setup
	@$(PYTEST) $(addprefix --ignore=,$(SUBJECT))
	@NORMRES_WITHOUT_CPU=1 $(PYTEST) $(SUBJECT)

test-plain: setup
	@copy=$$(mktemp -d) && trap 'rm -rf "$$copy"' EXIT && git ls-files -z | xargs -0 cp -d --parents -t "$$copy" && \
	rm -r "$$copy/normres/cpu" "$$copy/tests/cpu" && cd "$$copy" && \
	PYTHONPATH="$$copy" "$(CURDIR)"/$(PYTEST) $(addprefix --ignore=,$(SUBJECT))

test-all: export NORMRES_TEST_ALL := 1
test-all: test test-plain test-oldest test-browser slurm-test chaos

test-browser: setup
	@$(BIN)/python -m pip install --quiet --quiet --no-build-isolation -e ".[browser]"
	@NORMRES_TEST_ALL=1 $(PYTEST) tests/report/test_browser.py

slurm-test: setup
	@PYTHON="$(CURDIR)/$(BIN)/python" scripts/slurm-test

chaos: setup
	@$(BIN)/python scripts/chaos.py

test-oldest: $(OLDEST)/installed
	@NORMRES_WITHOUT_CPU=1 $(OLDEST)/bin/python -m pytest -n auto --maxprocesses=4 --dist=loadfile $(SUBJECT)
	@$(OLDEST)/bin/python -m pytest -q tests/test_cli.py -k whole_story

$(OLDEST)/installed: pyproject.toml requirements-oldest.txt
	@python=$$(scripts/find-python) || exit 1; \
	echo "setting up $(OLDEST) (about a minute)"; \
	if [ "$$python" = uv ]; then uv venv --quiet --clear --seed --python '>=3.12,<3.15' $(OLDEST); \
	else "$$python" -m venv --clear $(OLDEST); fi
	@$(OLDEST)/bin/python -m pip install --quiet --quiet -r requirements-oldest.txt -e . \
		pytest pytest-xdist hypothesis
	@touch $@

## PYTHON has jax for the accelerator; it needs nothing of .venv.
accelerator:
	@PYTHONPATH="$(CURDIR)" $(or $(PYTHON),$(BIN)/python) -m normres bench device --json=device.json --path="$(DATA)"

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

docs: setup
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs docs/_build
	@$(BIN)/normres report --all results --output=docs/_build/sets > docs/_build/sets.txt
	@echo docs/_build/index.html

results: setup
	@$(BIN)/python scripts/make_results.py

reproduce: setup
	@$(BIN)/python scripts/reproduce.py "$(RESULT)" "$(DATA)" $(or $(SEEDS),1)

lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.12 --generate-hashes \
		--no-emit-index-url --no-header --upgrade -o requirements.lock

clean:
	rm -rf .venv $(OLDEST) .pytest_cache .mypy_cache .ruff_cache
