# The two commands: `make book` and `make test`. Everything lives in .venv, node_modules, _build.
PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000
JOBS ?= 2
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help book test lab serve clean environment

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

book: $(STAMP) ## build the book and print the page to open
	@$(PY) tools/build_book.py --jobs $(JOBS)

test: $(STAMP) ## package tests, notebooks, and the site in a real browser
	@$(PY) tools/vendor.py || echo "!! going on without browser assets"
	OMP_NUM_THREADS=$$($(PY) -c 'import os; print(max(1, os.cpu_count() // $(JOBS)))') \
	  $(PY) -m pytest -n $(JOBS) --dist loadfile -rfEs --nbval-lax tests pkbook book

lab: $(STAMP) ## open the chapters in JupyterLab
	$(VENV)/bin/jupyter lab --notebook-dir=book

serve: book ## build the book and serve it on http://localhost:8000 (PORT=...)
	$(PY) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

clean: ## remove everything that was built, except the environment
	rm -rf _build node_modules book/_static/vendor .pytest_cache .ruff_cache
	find pkbook tests tools book -name __pycache__ -prune -exec rm -rf {} +

environment: $(STAMP)

# Re-made only when one of these files is newer; touched last, so a failed install is tried again.
$(STAMP): requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  f"Python 3.11 or newer is needed, {sys.executable} is {v.major}.{v.minor}; try make PYTHON=python3.12")'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt -c constraints.txt
	@touch $@
