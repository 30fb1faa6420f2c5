# Everything that is done here, by hand or in CI. Needs Python 3.11+, git and make; gets the rest.

BIN := .venv/bin
# For what a program of ours looks up by name; pyright, for one, looks for Python.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Images for containers set it. The tests start hundreds of processes, each of which would compile
# all that it imports.
unexport PYTHONDONTWRITEBYTECODE
# Material for MkDocs advertises its successor on every build.
export NO_MKDOCS_2_WARNING := true

.DEFAULT_GOAL := help
.PHONY: help demo quick test check soak bench docs servers static surface sync lock twins

help:  ## Show what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

demo: sync  ## Run the shop while its worker is killed (ARGS="--orders 300 --kills 3 --seed 7")
	$(BIN)/python -m examples.shop $(ARGS)

test: servers static  ## Check everything, then run all tests against real servers (ARGS="-k saga")
	$(BIN)/pytest --numprocesses 2 --dist loadgroup $(ARGS)

quick: sync  ## In two minutes: lint, types, and the tests without servers, crashes and long runs
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy $(wildcard src examples tests/typing)
	# Two more than there are processors: many of these tests wait.
	$(BIN)/pytest --quiet --numprocesses 4 -m "not (server or crash or slow)" $(ARGS)

check: static  ## Format, lint, types, layers, file lengths; build the docs and run their code
	$(BIN)/pytest --quiet --numprocesses 2 tests/docs

static: sync
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy $(wildcard src examples tests/typing)
	$(BIN)/pyright
	$(BIN)/python tools/public_types.py
	$(BIN)/python tools/blocking_twins.py --check
	$(BIN)/lint-imports
	$(BIN)/python tools/import_circles.py
	$(BIN)/python tools/file_lengths.py
	$(BIN)/python tools/index_addresses.py
	$(BIN)/mkdocs build --quiet --strict

soak: servers sync  ## What takes long: load, faults, many seeds (ARGS="--list" tells the parts, "--minutes 60")
	$(BIN)/python -m tests.soak $(ARGS)

bench:  ## Measure against other libraries, in the same run (ARGS=…)
	@scripts/sync dev bench
	$(BIN)/python -m benchmarks $(ARGS)

docs: sync  ## Build the documentation into site/
	$(BIN)/mkdocs build --strict

surface: sync  ## Accept the public names and signatures as they are now
	@$(BIN)/python tools/public_surface.py

twins: sync  ## Write the classes for sync code anew, from the async ones
	@$(BIN)/python tools/blocking_twins.py

servers:  ## Install PostgreSQL, PgBouncer and Redis for the tests, if they are missing
	@scripts/install-servers

sync:
	@scripts/sync dev

# The files name no index, so that each machine takes the one that it is set to.
COMPILE := scripts/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" $(ARGS)

lock:  ## Choose the packages' versions for what pyproject.toml asks (ARGS=--upgrade: the newest)
	$(COMPILE) pyproject.toml --all-extras --group dev --output-file requirements/dev.txt
	$(COMPILE) --constraint requirements/dev.txt --group bench --output-file requirements/bench.txt
