# Everything a person types here. `make help` lists it; scripts/setup.sh does the installing.
# PYTHON=python3.12 chooses a Python, OFFLINE=1 installs and fetches nothing, KEEP=1 leaves the demo running,
# ARGS="..." goes to the command behind a target.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PYTHON OFFLINE KEEP
ifeq ($(OFFLINE),1)
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
endif

.PHONY: help setup demo demo-recalibrate evaluate test engine-life lint faults fuzz chaos chaos-quick soak format bench bench-gpu bench-gpus test-gpu ci lock clean devstack-up devstack-status devstack-down

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' Makefile

setup: ## Make .venv and bring Java and Kafka's jars
	@scripts/setup.sh services >/dev/null

demo: ## Run the whole of Assay on this machine and write demo-report/index.html
	@python=$$(scripts/setup.sh services); exec "$$python" -m demo $(ARGS)

demo-recalibrate: ## Fit the demo's score calibration anew (renders 11,232 photographs the first time)
	@python=$$(scripts/setup.sh services); exec "$$python" -m demo.recalibrate

evaluate: ## Judge 2,000 jobs of unseen SKUs by the real worker and write docs/measurements/verdicts.*; ARGS=--quick tries
	@python=$$(scripts/setup.sh dev services); exec "$$python" -m demo.evaluate $(ARGS)

test: ## Run every test but those of make engine-life, make faults and make chaos, on real services
	@python=$$(scripts/setup.sh dev services); \
	"$$python" -X faulthandler -m pytest --ignore=tests/chaos $(addprefix --ignore=,$(FAULTS) $(ENGINES)) $(ARGS) || scripts/explain_death.sh $$?

engine-life: ## Take engines through their whole life on real workers under load: made, swapped, tried, promoted, taken back
	@python=$$(scripts/setup.sh dev services); exec "$$python" -X faulthandler -m pytest $(ENGINES) $(ARGS)

ENGINES := $(addprefix tests/acceptance/test_engine_,life.py space_process.py swap_process.py trial_process.py crash_process.py)

faults: ## Cut, delay and lose what goes to Kafka, and stop workers for seconds; minutes, and not yet steady on a busy machine
	@python=$$(scripts/setup.sh dev services); exec "$$python" -m pytest $(FAULTS) $(ARGS)

FAULTS := tests/integration/test_network_faults.py tests/integration/test_kafka_faults.py tests/acceptance/test_frozen.py

fuzz: ## Give the worker hostile images, messages, addresses and engines, and print how each ended
	@python=$$(scripts/setup.sh dev); exec "$$python" -m tests.fuzz $(ARGS)

lint: ## Check style, formatting and types
	@python=$$(scripts/setup.sh dev); \
	"$$python" -m ruff check . && "$$python" -m ruff format --check . && "$$python" -m mypy

chaos-quick: ## Kill, freeze and cut off everything for some minutes, and prove that no job was lost or told twice
	@python=$$(scripts/setup.sh dev services); exec "$$python" -m tests.chaos quick $(CHAOS) $(ARGS)

chaos: ## The same at full length, about an hour; MINUTES=n and SEED=n choose
	@python=$$(scripts/setup.sh dev services); exec "$$python" -m tests.chaos full $(CHAOS) $(ARGS)

soak: ## A steady load with an occasional fault for MINUTES=10: does memory, or anything, grow? A table and a plot
	@python=$$(scripts/setup.sh dev services); exec "$$python" -m tests.chaos.soak $(CHAOS) $(ARGS)

CHAOS := $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

format: ## Format the code and apply safe fixes
	@python=$$(scripts/setup.sh dev); "$$python" -m ruff check --fix . ; "$$python" -m ruff format .

bench: ## Measure the worker against a plain loop on this machine
	@python=$$(scripts/setup.sh dev services); exec "$$python" -m benchmarks $(ARGS)

bench-gpu: ## Measure the GPU path on this machine's GPU; ARGS="engines-resnet50 e2e" chooses sections, ARGS=--dry tries them
	@python=$$(scripts/setup.sh services); exec "$$python" -m benchmarks.gpu $(ARGS)

bench-gpus: ## One worker a GPU: throughput of 1, 2 and 4
	@python=$$(scripts/setup.sh services); exec "$$python" -m benchmarks.gpu gpus $(ARGS)

test-gpu: ## Run the tests that need a GPU; without one they are skipped and say so
	@python=$$(scripts/setup.sh dev); exec "$$python" -m pytest -m gpu tests/gpu tests/contract $(ARGS)

ci: ## What continuous integration runs
	@.ci/run

lock: ## Write the requirements*.lock files anew (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv: pip install uv" >&2; exit 1; }
	$(UV_COMPILE) --extra devstack --extra s3 --extra otel --extra registry --extra reference \
	  pyproject.toml -o requirements.lock
	$(UV_COMPILE) --extra devstack --extra s3 --extra otel --extra registry --extra reference --group dev \
	  -c requirements.lock pyproject.toml -o requirements-dev.lock
	python3 scripts/lock_rest.py requirements.lock requirements-dev.lock
	$(UV_COMPILE) -c requirements.lock -c requirements-dev.lock --no-strip-extras -o requirements-build.lock - <<< $$'hatchling>=1.27\neditables'

UV_COMPILE := uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url

clean: ## Remove caches, reports and build outputs; .venv and the services' data stay
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist demo-report benchmarks/out
	find . -name .venv -prune -o -type d -name __pycache__ -exec rm -rf {} +

devstack-up: ## Start Kafka, PostgreSQL and Redis and leave them running
	@python=$$(scripts/setup.sh services); "$$python" -m worker.cli.devstack up

devstack-status: ## Show what runs and where
	@python=$$(scripts/setup.sh); "$$python" -m worker.cli.devstack status

devstack-down: ## Stop them; their data stays
	@python=$$(scripts/setup.sh); "$$python" -m worker.cli.devstack down
