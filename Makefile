# streamrec: `make demo` shows everything at work, `make test` proves it. Needs Python 3.11 to 3.13 and make; the rest comes by itself.
#
#   make demo [DATA=PATH] [MAP=user=COLUMN,…] [BROKER=auto|embedded|local|HOST:PORT] [MAX_EVENTS=N] [NAME=RUN] [FOREVER=1]
#   make dev [CONFIG=FILE] [STATE=ADDRESS]   everything on this machine, waiting for your events
#   make test [TEST_PROCESSES=2]   the quick tier      make test-all   the quick and the slow tier, and what is for releases
#   make lint         ruff, mypy, import order  make bench      every benchmark, --quick
#   make docs         the documentation as a site, dist/docs
#   make wheel        dist/*.whl   make sbom   dist/sbom.json   make licences   docs/licences.md   make audit   known holes in what is pinned
#   make chaos [KILLS=200] [SEED=N] [SECONDS=N]   kill the loop again and again and compare with an undisturbed run
#   make fuzz         bytes that nobody thought of, for FUZZ_S=60 seconds
#   make clean        removes .venv and caches; runs/ stays
#
# PYTHON=python3.13 chooses the interpreter of a new .venv.

supported = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3 python; do \
	"$$name" -c '$(supported)' 2>/dev/null && echo "$$name" && break; done)

BIN := .venv/bin
UVX := $$(command -v uvx || echo $(BIN)/uvx) --quiet
INSTALLED := .venv/.installed
BENCHMARKS := $(basename $(notdir $(wildcard benchmarks/[!_]*.py)))
PYTEST_ARGS ?=
TEST_MARKS ?= not slow
TEST_PROCESSES ?= 2
FUZZ_S ?= 60
BENCH_ARGS ?= --quick
DIST ?= dist

export RAY_USAGE_STATS_ENABLED = 0
# Threads of torch that spin while they wait cost ten times their work when other processes want the cores.
export OMP_WAIT_POLICY = PASSIVE

.PHONY: demo dev test test-all lint bench chaos fuzz docs wheel sbom licences audit clean install

demo: $(INSTALLED)
	@$(BIN)/python -m jobs.demo $(if $(DATA),--data "$(DATA)") $(if $(MAP),--map "$(MAP)") $(if $(BROKER),--broker "$(BROKER)") \
		$(if $(MAX_EVENTS),--max-events "$(MAX_EVENTS)") $(if $(NAME),--name "$(NAME)") $(if $(FOREVER),--forever)

dev: $(INSTALLED)
	@$(BIN)/python -m jobs.dev $(if $(CONFIG),--config "$(CONFIG)") $(if $(STATE),--state "$(STATE)")

test: $(INSTALLED)
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) -m "$(TEST_MARKS)" $(PYTEST_ARGS)

test-all: test
	@$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

bench: $(INSTALLED)
	@for name in $(BENCHMARKS); do echo "$$name"; $(BIN)/python -m benchmarks.$$name $(BENCH_ARGS) || exit 1; done

chaos: $(INSTALLED)
	@$(BIN)/python -m streamrec.testing.chaos $(if $(KILLS),--kills "$(KILLS)") $(if $(SEED),--seed "$(SEED)") $(if $(SECONDS),--seconds "$(SECONDS)")

fuzz: $(INSTALLED)
	@$(BIN)/python tests/fuzz/fuzz_decoders.py -max_total_time=$(FUZZ_S)

docs: $(INSTALLED)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --clean -f docs/site/mkdocs.yml -d "$(abspath $(DIST))/docs"

wheel: $(INSTALLED)
	@$(BIN)/python -m build --wheel --no-isolation --outdir "$(DIST)" .

# What is installed, with licences and addresses, in CycloneDX. The tool has an environment of its own: of what it brings, jsonschema takes a validator
# that makes a process five times as slow to import Ray.
sbom: $(INSTALLED)
	@mkdir -p "$(DIST)"
	@$(UVX) --constraints constraints.txt --from cyclonedx-bom cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --no-validate \
		--output-format JSON --output-file "$(DIST)/sbom.json" $(BIN)/python

licences: $(INSTALLED)
	@$(BIN)/python docs/site/licences.py

# Asks the advisory database of PyPI, so it needs a network; run it before a release.
audit: $(INSTALLED)
	@$(UVX) pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

install: $(INSTALLED)

clean:
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Bytecode is compiled here, once: a process that imports Ray and torch for the first time starts five times faster with it.
$(INSTALLED): pyproject.toml constraints.txt
	@set -e; \
	if [ -z "$(PYTHON)" ]; then echo "Python: none of 3.11 to 3.13 found, install one or say PYTHON=/path/to/python3.11" >&2; exit 1; fi; \
	uv=$$(command -v uv || true); \
	if [ -n "$$uv" ]; then \
		test -x $(BIN)/python || "$$uv" venv --quiet --python "$$("$(PYTHON)" -c 'import sys; print(sys.executable)')" .venv; \
	else \
		if [ ! -x $(BIN)/python ]; then \
			"$(PYTHON)" -m venv .venv >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear --without-pip .venv; \
		fi; \
		if [ ! -x $(BIN)/uv ]; then \
			if $(BIN)/python -m pip --version >/dev/null 2>&1; then pip="$(BIN)/python -m pip"; \
			else pip="$(PYTHON) -m pip --python $(BIN)/python"; fi; \
			$$pip install --quiet --disable-pip-version-check -c constraints.txt uv || { \
				echo "uv: pip can't install it, install uv or Python's own pip and venv, then run make again" >&2; exit 1; }; \
		fi; \
		uv=$(BIN)/uv; \
	fi; \
	echo "installing what constraints.txt pins"; \
	"$$uv" pip install --quiet --python $(BIN)/python --compile-bytecode -c constraints.txt -e ".[dev,java]"; \
	touch $(INSTALLED)
