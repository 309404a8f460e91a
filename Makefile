# Commands for contributors. All of them use .venv, which the first one makes from the lock files.
# `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
# Tests mostly wait for servers, so two cores get five processes; each has a Redis of its own.
WORKERS ?= $(shell echo $$(($(CORES) < 8 ? 5 * $(CORES) / 2 : 16)))
# Images of containers often set it. Then each process of a test run compiles all its libraries:
# a worker takes 1.3 s of CPU to start, not 0.5.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin

.PHONY: help demo test test-quick coverage test-celery test-servers fuzz chaos chaos-short bench lint format readme manifests schema lock wheel smoke clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.* ## /\1|/p' Makefile | while IFS='|' read -r name text; do \
		printf '  make %-11s %s\n' "$$name" "$$text"; done

demo: .venv/.demo ## stream a prompt through a broker, a worker and a stand-in upstream
	@$(BIN)/berlin demo

test: .venv/.dev ## every test, in parallel and random order
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal --ignore tests/chaos
	@$(MAKE) chaos-short

# Not a part of `make test`: on Python 3.11 a measured test takes twice the CPU, or more.
coverage: .venv/.dev ## branch coverage by the same tests without the chaos ones; fails below 97 %
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal --ignore tests/chaos --cov --cov-report=term-missing:skip-covered

test-quick: .venv/.dev ## unit and contract tests that start no server, in under a minute
	@$(BIN)/pytest -n $$(($(WORKERS) + 1)) --dist worksteal -q -p no:schemathesis --quick

fuzz: .venv/.dev ## 10,000 items of garbage in Redis and on the queue, beside a worker: make fuzz [ITEMS=n]
	@BERLIN_FUZZ_ITEMS=$(or $(ITEMS),10000) \
		$(BIN)/pytest -v --timeout 3600 tests/fuzz/test_fuzz.py tests/fuzz/test_fuzz_queue.py

# Not among the other tests: these count seconds, so a fault needs the machine for itself.
chaos: .venv/.dev ## kill, cut, fill and restart everything, at full size: make chaos [TOPOLOGY=cluster] [PART=1/3]
	@$(if $(TOPOLOGY)$(PART)$(CHAOS),,rm -f chaos.json)
	@status=0; for kind in $(or $(TOPOLOGY),single sentinel cluster); do \
		BERLIN_CHAOS=full BERLIN_CHAOS_REPORT=chaos.json $(BIN)/pytest -v -n 2 --dist loadgroup \
			--topology $$kind $(if $(PART),--part $(PART)) $(or $(CHAOS),tests/chaos) || status=1; \
	done; $(BIN)/python -m tests.support.chaos_report chaos.json; exit $$status

chaos-short: .venv/.dev ## the chaos tests at a small size, some two minutes, six at a time
	@$(BIN)/pytest -n 6 --dist loadgroup --durations=8 tests/chaos

test-celery: .venv/.dev ## Celery's and kombu's own suites on our pool and transport: make test-celery [SUITES=tasks]
	@$(BIN)/python -m tests.celery_suites $(SUITES)

test-servers: .venv/.dev ## the LiteLLM proxy and llama.cpp through the queue: make test-servers [SERVERS=litellm]
	@$(BIN)/python -m tests.servers $(SERVERS)

bench: .venv/.dev ## ours beside eight ways to do the same, half an hour: make bench [BENCH='--size quick']
	@$(BIN)/python -m tests.benchmarks $(BENCH)

lint: .venv/.dev ## formatting, ruff, mypy --strict, and who may import whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: .venv/.dev ## format the code and fix what ruff can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

readme: .venv/.dev ## write the tables of settings and capacity into deploy/README.md
	@$(BIN)/python -m berlin_worker.settings | awk 'NR == FNR { rows = rows $$0 "\n"; next } \
		/<!-- \/settings -->/ { inside = 0 } !inside; \
		/<!-- settings -->/ { printf "%s", rows; inside = 1 }' - deploy/README.md > deploy/README.md.new
	@mv deploy/README.md.new deploy/README.md
	@$(BIN)/python -m tests.benchmarks.capacity --readme

RULES := deploy/kubernetes/overlays/prometheus-operator/prometheusrule.yaml
manifests: ## write the alerts into the manifest of the Prometheus Operator
	@{ printf '%s\n' '# Written by `make manifests` from deploy/prometheus/alerts.yml: change it there.' \
		'apiVersion: monitoring.coreos.com/v1' 'kind: PrometheusRule' 'metadata:' '  name: berlin-worker' 'spec:'; \
		sed -n '/^groups:/,$$ { s/^./  &/; p; }' deploy/prometheus/alerts.yml; } > $(RULES)

schema: .venv/.dev ## write the AsyncAPI document and the JSON Schemas into schemas/
	@$(BIN)/berlin schema --write schemas

wheel: .venv/.dev ## build sdist and wheel into dist/
	@$(BIN)/python -m build --no-isolation --outdir dist .

smoke: .venv/.dev ## build the wheel and try it with the source tree out of the way
	@tests/smoke/run

# Extras and groups are resolved for every platform and Python from 3.11, with the hashes
# of every file. The second lock has the versions of the first, so one .venv serves both.
COMPILE = $(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --quiet --custom-compile-command 'make lock'

lock: .venv/.dev ## lock anew: make lock [UPGRADE=--upgrade]
	@$(COMPILE) $(UPGRADE) --group dev --output-file requirements-dev.lock
	@$(COMPILE) --group build --constraint requirements-dev.lock --output-file requirements.lock

clean: ## remove the environment and everything that was built
	@rm -rf .venv .suites .servers .bench/envs build dist .coverage .coverage.* .hypothesis .*_cache
	@find schemas worker tests -name __pycache__ -prune -exec rm -rf {} +

# --- The environment ---------------------------------------------------------

# uv takes 2 s, pip 11, mostly for index pages. If uv cannot be installed or reaches no index (for
# instance a mirror that only the configuration of pip names), pip installs all.
# $(1): requirements, of which the lock files pin every dependency.
install = $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(1) 2>/dev/null || { \
	$(BIN)/python -m ensurepip >/dev/null && $(BIN)/python -m pip install --quiet --no-deps $(1); }

define install-locked
@echo 'Installing $(1)'
@$(call install,--require-hashes -r $(1))
@$(call install,--no-build-isolation --editable .)
@touch $@
endef

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.venv/.demo: requirements.lock pyproject.toml | .venv/pyvenv.cfg
	$(call install-locked,requirements.lock)

.venv/.dev: requirements-dev.lock pyproject.toml | .venv/pyvenv.cfg
	$(call install-locked,requirements-dev.lock)
	@touch .venv/.demo

# pip runs from the wheel that Python contains, to fetch uv: to install pip takes 4 s.
PIP_WHEEL = $(if $(PYTHON),$(shell $(PYTHON) -c 'import ensurepip, pathlib, sysconfig; \
	place = sysconfig.get_config_var("WHEEL_PKG_DIR") or pathlib.Path(ensurepip.__file__).with_name("_bundled"); \
	print(*pathlib.Path(place).glob("pip-*.whl"))' 2>/dev/null))

.venv/pyvenv.cfg:
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or later is needed; if it has another name: make PYTHON=/path/to/python' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || { echo "$(PYTHON) comes without ensurepip: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --without-pip .venv
	@sed -n '/^uv==/,/# via/p' requirements-dev.lock | \
		$(BIN)/python $(PIP_WHEEL)/pip install --quiet --no-deps --require-hashes -r /dev/stdin 2>/dev/null || true
