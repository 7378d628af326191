# The two commands: `make book` and `make test`. What they do stands in tools/run.py, which also runs
# where there is no make. Everything lives in .venv, node_modules, _build.
PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000
JOBS ?= 2
# Seconds without the end of a cell after which a notebook is given up.
STALL ?= 3600
# 1: `make book` makes no book where a notebook or a claim fails.
STRICT ?=
# 1: the notebooks of `make class` carry the outputs that `make book` has kept.
EXECUTED ?=
export VENV PORT JOBS STALL STRICT EXECUTED

.DEFAULT_GOAL := help
.PHONY: help book test check lab edit class serve claims release clean environment

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

book: ## build the book and print the page to open (STRICT=1: a missed claim fails it)
	@$(PYTHON) tools/run.py book

test: ## package tests, notebooks, and the site in a real browser
	@$(PYTHON) tools/run.py test

check: ## style, import rules, types and notebooks, without running anything
	@$(PYTHON) tools/run.py check

lab: ## open the chapters in JupyterLab (folder notebooks; your changes are kept)
	@$(PYTHON) tools/run.py lab

edit: ## open the sources of the chapters in JupyterLab, for authors
	@$(PYTHON) tools/run.py edit

class: ## make the class kit: student and instructor notebooks, slides (EXECUTED=1)
	@$(PYTHON) tools/run.py class

serve: ## build the book and serve it on http://localhost:8000 (PORT=...)
	@$(PYTHON) tools/run.py serve

claims: ## measure every claim under other roundings and seeds (hours; goes on where it stopped)
	@$(PYTHON) tools/run.py claims

release: ## wheel, notebooks, site and PDF of a built book, with checksums, in _build/release
	@$(PYTHON) tools/run.py release

clean: ## remove everything that was built, except the environment
	@$(PYTHON) tools/run.py clean

environment: ## make the environment and stop
	@$(PYTHON) tools/run.py environment
