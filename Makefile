# `make demo` and `make test` need only Python 3.10 or newer.
PYTHON ?= python3
PIP := .venv/bin/pip --disable-pip-version-check --quiet

.PHONY: demo test check clean

demo: .venv/installed
	.venv/bin/grpo train

test: .venv/installed-dev
	.venv/bin/python -m pytest -n 2 --dist loadfile

check: .venv/installed-dev
	scripts/check

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("grpo needs Python 3.10 or newer: make PYTHON=python3.11 …" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv (torch is large; a few minutes the first time) …"
	$(PIP) install --constraint constraints.txt --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "Installing what the tests need …"
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv
