# Everything happens in .venv, inside of this folder; `make help` lists what there is.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000

VENV := .venv
RUN := $(VENV)/bin/python
# What is installed is known by the folder too: one that was moved or copied is set up anew.
HERE := $(shell pwd -P | cksum | cut -d' ' -f1)
DEV := $(VENV)/.has-dev-$(HERE)
EXAMPLES := $(VENV)/.has-examples-$(HERE)

# What is set outside (another environment, a user install) must not reach into .venv.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_USER PIP_TARGET PIP_PREFIX
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help serve test lint types check fuzz fuzz-api fuzz-sockets idle slow-senders soak chaos kills bench-core lab clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

serve: $(EXAMPLES)  ## serve the handwritten digits on 127.0.0.1:8000 until Ctrl-C (HOST=, PORT=)
	@exec $(RUN) -m zserve run digits --app-dir examples --host '$(HOST)' --port '$(PORT)'

test: $(DEV)  ## run the tests, two files at a time
	$(RUN) -m pytest --numprocesses 2 --dist loadfile

lint: $(DEV)  ## ruff
	$(RUN) -m ruff check .

types: $(DEV)  ## mypy, strict
	$(RUN) -m mypy

check: lint types test  ## lint, types and test

fuzz: $(DEV)  ## bytes that are nearly HTTP, against a gateway (N=100000 connections, SEED= for those of an earlier run)
	@seed=$${SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; echo "seed $$seed"; \
	ZSERVE_FUZZ_CONNECTIONS=$${N:-100000} ZSERVE_FUZZ_SEED=$$seed \
	    $(RUN) -m pytest tests/integration/test_http_strict.py -k any_bytes

fuzz-api: $(DEV)  ## requests that schemathesis draws from an OpenAPI description (N=200 of each kind, SEED=1)
	@$(RUN) -m pip install --quiet 'schemathesis>=4.0'
	ZSERVE_FUZZ_EXAMPLES=$${N:-200} ZSERVE_FUZZ_SEED=$${SEED:-1} $(RUN) -m pytest tests/clients/test_openapi.py -rs

chaos: $(DEV)  ## kill, stop, partition and restart nodes under load, then check every request (SEED=, SECONDS=180, PNG=)
	@$(RUN) -m tools.chaos --seconds '$(or $(SECONDS),180)' $(if $(SEED),--seed '$(SEED)') --png '$(or $(PNG),chaos.png)'

kills: $(DEV)  ## kill -9 of replicas under load (KILLS=1000, REQUESTS=200000)
	@$(RUN) -m tools.chaos.kills --kills '$(or $(KILLS),1000)' --requests '$(or $(REQUESTS),200000)'

fuzz-sockets: $(DEV)  ## what no node sends, to every ZeroMQ socket that listens (N=1000000 messages, SEED=)
	@seed=$${SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; echo "seed $$seed"; \
	ZSERVE_FUZZ_MESSAGES=$${N:-1000000} ZSERVE_FUZZ_SEED=$$seed \
	    $(RUN) -m pytest tests/integration/test_sockets_fuzz.py -s

idle: $(DEV)  ## idle connections on one gateway, and what each of them costs (N=10000)
	ZSERVE_IDLE_CONNECTIONS=$${N:-10000} $(RUN) -m pytest tests/integration/test_exhaustion.py -k idle -s

slow-senders: $(DEV)  ## what slow senders cost those who are not slow (SENDERS=2000, RATE=500 good requests a second)
	@$(RUN) -m tools.strain.slow --senders '$(or $(SENDERS),2000)' --rate '$(or $(RATE),500)'

soak: $(DEV)  ## a steady load for long: memory, descriptors, missed wake-ups of each process (MINUTES=20, PNG=soak.png)
	@$(RUN) -m tools.strain.soak --minutes '$(or $(MINUTES),20)' --png '$(or $(PNG),soak.png)'

bench-core: $(DEV)  ## how fast the cores decide, without any network
	$(RUN) -m benchmarks.core

lab: $(DEV)  ## several hosts as network namespaces: cut cables, partition, heal (needs root on Linux, else skipped)
	@$(RUN) -m tools.lab

clean:  ## remove .venv and everything else that was made here
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment --------------------------------------------------------------------------------------------------
# The stamp is the last thing written, so that a set-up which was interrupted is not taken for a good one: .unfinished
# lies in .venv while something is installed, and an environment that has it (or that cannot run pip, or was made in a
# folder of another name) is made anew.

define set_up
	@set -e; here=$$(pwd -P); \
	if [ -e $(VENV) ] && { [ -e $(VENV)/.unfinished ] || ! $(RUN) -m pip --version >/dev/null 2>&1 || \
	    { [ -e $(VENV)/.made-in ] && [ "$$(cat $(VENV)/.made-in)" != "$$here" ]; }; }; then \
	    echo "$(VENV) is not complete: making it anew"; rm -rf $(VENV); \
	fi; \
	if [ ! -e $(VENV) ]; then \
	    python=; \
	    for candidate in '$(PYTHON)' python3.14 python3.13 python3.12 python3.11; do \
	        if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	            python=$$candidate; break; \
	        fi; \
	    done; \
	    if [ -z "$$python" ]; then \
	        echo "zserve needs Python 3.11 or newer; '$(PYTHON)' is $$('$(PYTHON)' --version 2>&1 || true)." \
	             "Name another one: make PYTHON=/path/to/python3" >&2; exit 1; \
	    fi; \
	    echo "Making $(VENV) with $$("$$python" --version)"; \
	    mkdir $(VENV); touch $(VENV)/.unfinished; \
	    "$$python" -m venv $(VENV) || { rm -rf $(VENV); \
	        echo "'$$python -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	    printf '%s\n' "$$here" > $(VENV)/.made-in; \
	fi; \
	echo "Installing what is needed into $(VENV) (only now and when pyproject.toml changes)"; \
	touch $(VENV)/.unfinished; \
	$(RUN) -m pip install --quiet --editable '.[$(1)]'; \
	rm $(VENV)/.unfinished
endef

comma := ,

$(DEV): pyproject.toml
	$(call set_up,dev$(comma)examples)
	@touch $(DEV) $(EXAMPLES)

$(EXAMPLES): pyproject.toml
	$(call set_up,examples)
	@touch $(EXAMPLES)
