SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

export PYTHON ?= python3
# pip would leave out of .venv what lies on the caller's own path, and our tests would run with it.
unexport PYTHONPATH PYTHONHOME
ARGS ?=
# The pinned kilo, unless the caller names another one.
export GASTOWN_KILO_BIN ?= $(CURDIR)/.tools/kilo/bin/kilo

ENVIRONMENT := .venv/.environment-made
INSTALLED := .venv/.gastown-installed
KILO := .tools/.kilo-installed
PYTHON_FOLDERS = $(wildcard src tests bench tools deploy)
DEPLOY_TOOLS := .tools/.deploy-installed
DEPLOY_CHECKED := .tools/.deploy-checked
DEPLOYED = Dockerfile .hadolint.yaml $(shell find deploy tools/deploy -type f -not -path '*/node_modules/*')
ASYNC_OFF := ASYNC114,ASYNC124,ASYNC128,ASYNC9

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

.PHONY: setup
setup: $(INSTALLED) $(KILO) ## make .venv and .tools from the locks; does nothing when they are newer

$(ENVIRONMENT): requirements.lock tools/python-env
	@tools/needs
	@tools/python-env
	@touch $@

$(INSTALLED): $(ENVIRONMENT) pyproject.toml src/gastown/__init__.py
	@echo "setup: gastown itself, editable"
	@.venv/bin/pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(KILO): tools/kilo/package.json tools/kilo/package-lock.json tools/kilo/install
	@tools/needs
	@tools/kilo/install
	@touch $@

$(DEPLOY_TOOLS): tools/deploy/install tools/deploy/requirements.lock $(wildcard tools/deploy/package*.json deploy/cloudflare/package*.json)
	@tools/deploy/install
	@touch $@

$(DEPLOY_CHECKED): $(DEPLOY_TOOLS) $(DEPLOYED)
	tools/deploy/check
	@touch $@

.PHONY: up
up: setup ## a town on this machine: make up ARGS='--help'
	@exec .venv/bin/gastown up $(ARGS)

.PHONY: picture
picture: setup ## boot a town once and draw its waterfall into docs/boot.svg
	@.venv/bin/python bench/picture.py docs/boot.svg

.PHONY: test
test: setup ## all tests, in two processes: make test ARGS='-k gate', or ARGS='--numprocesses 0 --pdb'
	@tools/system-packages
	@# A process that a hanging test has ended is not replaced: the scheduler then loses tests, and waits for them for ever.
	@.venv/bin/pytest --numprocesses 2 --max-worker-restart 0 $(ARGS)

.PHONY: soak
soak: setup ## agents started, messaged, stopped and crashed at random: make soak SECONDS=300 ARGS='--seed 1'
	@.venv/bin/python -m bench.soak --seconds $(or $(SECONDS),300) $(ARGS)

.PHONY: fuzz
fuzz: setup ## the searches of tests/fuzz, twenty times as long and at random: make fuzz FUZZ_FACTOR=100
	@# A search may take an hour; the time after which a test counts as hanging follows.
	@FUZZ_FACTOR=$(or $(FUZZ_FACTOR),20) .venv/bin/pytest tests/fuzz -o faulthandler_timeout=7200 $(ARGS)

.PHONY: coverage
coverage: setup ## which lines the unit, http and git tests run; fails below the floor in pyproject.toml
	@tools/system-packages
	@.venv/bin/coverage run -m pytest tests/unit tests/http tests/git $(ARGS)
	@.venv/bin/coverage report

.PHONY: mutants
mutants: setup ## small changes to the code, drawn at random: which do the tests notice? make mutants COUNT=30 SEED=1 ARGS='--help'
	@tools/system-packages
	@.venv/bin/python -m tools.mutants $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: lint
lint: lint-python $(DEPLOY_CHECKED) ## make lint-python, and what reads deploy/ (500 MB of tools, the first time)

.PHONY: lint-python
lint-python: setup ## ruff, flake8-async, mypy, pyright, the project table and the changelog's fragments
	.venv/bin/validate-pyproject pyproject.toml
	.venv/bin/towncrier build --draft --version next >/dev/null
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	@# ASYNC114 wants a list of our startables here; ASYNC124: an async method of a protocol or a route need not wait;
	@# ASYNC128: two startables hand task_status on; ASYNC9xx: a checkpoint in every function. What only tests and
	@# the benchmark do is a bounded poll of a real process (ASYNC110) and a short command before one (ASYNC221).
	find src -name '*.py' -print0 | xargs -0 -P 2 -n 40 .venv/bin/flake8-async --disable=$(ASYNC_OFF)
	find tests bench -name '*.py' -print0 | xargs -0 -P 2 -n 40 .venv/bin/flake8-async --disable=$(ASYNC_OFF),ASYNC110,ASYNC221
	.venv/bin/mypy
	.venv/bin/pyright src

.PHONY: architecture
architecture: setup ## record the tree of tasks of an open town into docs/explanation/architecture.md
	@.venv/bin/python -m tools.site.architecture

.PHONY: docs
docs: setup ## build the documentation into site/; a broken link is an error
	@.venv/bin/python -m tools.site

.PHONY: image-root
image-root: setup ## as root: runs the Dockerfile's steps in a Debian root and tries a town in it; ARGS='--help'
	@tools/image-root $(ARGS)

.PHONY: bench
bench: setup ## all benchmarks as one table, against the baseline, into docs/explanation/benchmarks.md; ARGS=--accept makes it the baseline
	@.venv/bin/python -m bench.table $(ARGS)

.PHONY: bench-boot bench-events bench-git bench-memory bench-drain bench-broker bench-store
bench-boot: ## a boot, its gate and its agents; each part of make bench alone: make bench-boot ARGS='--help'
bench-events: ## events a second to websockets and to the worker
bench-git: ## a polecat's start on a repository, and git's part of it
bench-memory: ## the control process with 0, 10 and 50 agents
bench-drain: ## how long a container takes to leave
bench-broker: ## what the broker adds to a streamed answer
bench-store: ## what the hall's store costs on a board of 1,000 beads
bench-boot bench-events bench-git bench-memory bench-drain bench-broker bench-store: bench-%: setup
	@.venv/bin/python -m bench.$* $(ARGS)

.PHONY: bench-pairs
bench-pairs: setup ## this checkout against another revision, in turn: make bench-pairs BASE=REV ARGS='events --pairs 5'
	@.venv/bin/python -m bench.pairs --base $(BASE) $(ARGS)

.PHONY: dist
dist: setup ## wheel and sdist in dist/, the same bytes each time
	@rm -rf dist
	@.venv/bin/hatchling build --target sdist --target wheel
	@.venv/bin/check-wheel-contents dist/*.whl

.PHONY: changelog
changelog: setup ## shows what the next release changes; ARGS=--yes moves it into CHANGELOG.md
	@.venv/bin/towncrier build $(or $(ARGS),--draft)

.PHONY: notices
notices: setup ## write THIRD-PARTY-NOTICES again, after make lock
	@.venv/bin/python tools/notices.py

.PHONY: lock
lock: ## remake the locks: make lock ARGS=--upgrade
	@tools/lock $(ARGS)

.PHONY: clean
clean: ## remove what setup, tests and tools have made
	rm -rf .venv .tools .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage .mutants dist site
	find $(PYTHON_FOLDERS) -name __pycache__ -type d -prune -exec rm -rf {} +
