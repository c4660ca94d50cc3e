# make demo    train plain and residual networks at three depths on embedded images, and draw what came out
# make test    run the tests, on up to four workers of about 2.5 GB each
# make setup   only make the environment; EXTRA=cuda12, cuda13 or tpu adds an accelerator's packages
# make lint    style and types
# make lock    renew requirements.lock (needs uv)
# make clean   remove the environment and caches, but no runs

EXTRA ?=
BIN := .venv/bin
STAMP := .venv/installed$(if $(EXTRA),-$(EXTRA))
DEMO := runs/demo
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test setup lint lock clean help

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
	@$(BIN)/normres sweep --config=configs/degradation.py:demo --workdir=$(DEMO)
	@$(BIN)/normres report --experiment=experiments/degradation.py --workdir=$(DEMO)

test: setup
	@$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.12 --generate-hashes \
		--no-emit-index-url --no-header --upgrade -o requirements.lock

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
