# make run: the daemon in the foreground.  make test: every test that needs no root.  make check: lint, types, layers.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run install test test-system check nightly bench bench-consensus lock clean
.DELETE_ON_ERROR:

run: $(STAMP)
	$(BIN)/quorumd

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "quorumd needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3"; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) can't make environments; on Debian: apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

test: $(STAMP)
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -m "not box and not nightly"
	@$(BIN)/python -m coverage combine -q && $(BIN)/python -m coverage report

test-system: $(STAMP)
	@[ "$$(id -u)" = 0 ] || { echo "make test-system needs root: it boots a systemd in namespaces of its own (nothing outside changes)"; exit 2; }
	$(BIN)/python -m pytest -m box tests/end_to_end

nightly: $(STAMP)
	$(BIN)/python -m pytest -m nightly

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# As root; docs/install.md tells what comes next. Without a network: PIP_FLAGS="--no-index --find-links DIR".
install: export PREFIX ?= /opt/quorumd
install: export LIBDIR ?= /usr/local/lib
install: export BINDIR ?= /usr/local/bin
install: export MANDIR ?= /usr/local/share/man
install: export DESTDIR ?=
install: export PIP_FLAGS ?=
install: export PYTHON := $(PYTHON)
install:
	@systemd/install.sh

bench: $(STAMP)
	$(BIN)/python bench/run.py

bench-consensus: $(STAMP)
	cd bench && PYTHONPATH=.. ../$(BIN)/python -m consensus

# Needs pip-tools; run when dependencies in pyproject.toml change.
lock:
	pip-compile --quiet --extra dev --generate-hashes --allow-unsafe --no-emit-index-url --no-emit-find-links --no-header \
	  --strip-extras --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache .hypothesis
