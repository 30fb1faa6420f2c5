# Everything that is done here, by hand or in CI. Needs Python 3.11+, git and make; gets the rest.

UV := scripts/uv
RUN := $(UV) run --quiet
export UV_FROZEN := 1
# Material for MkDocs advertises its successor on every build.
export NO_MKDOCS_2_WARNING := true

.DEFAULT_GOAL := help
.PHONY: help demo test check bench docs servers static sync

help:  ## Show what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

demo: sync  ## Run the shop while its worker is killed (ARGS="--orders 300 --kills 3 --seed 7")
	$(RUN) python -m examples.shop $(ARGS)

test: servers static  ## Check everything, then run all tests against real servers (ARGS="-k saga")
	$(RUN) pytest --numprocesses 2 --dist loadgroup $(ARGS)

check: static  ## Format, lint, types, layers, file lengths; build the docs and run their code
	$(RUN) pytest --quiet --numprocesses 2 tests/docs

static: sync
	$(RUN) ruff format --check
	$(RUN) ruff check
	$(RUN) mypy $(wildcard src examples tests/typing)
	$(RUN) pyright
	$(RUN) python tools/public_types.py
	$(RUN) lint-imports
	$(RUN) python tools/file_lengths.py
	$(RUN) mkdocs build --quiet --strict

bench: sync  ## Measure against other libraries, in the same run (ARGS=…)
	$(UV) run --quiet --group bench python -m benchmarks $(ARGS)

docs: sync  ## Build the documentation into site/
	$(RUN) mkdocs build --strict

servers:  ## Install PostgreSQL and Redis for the tests, if they are missing
	@scripts/install-servers

sync:
	@$(UV) sync --quiet
