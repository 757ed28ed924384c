# Two commands set everything up on a fresh Debian 12 as root: `make demo` and `make test`. Both install what is
# missing and cost nothing when nothing is. `make check` needs neither root nor Open vSwitch.
SHELL := /bin/sh
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test soak bench check fmt docs manifests lock shim deb rpm packages kubectl helm clean

VENV := .venv
BIN := $(VENV)/bin
# The tests start Python thousands of times; without its cache of compiled modules each start costs a quarter more.
unexport PYTHONDONTWRITEBYTECODE
SHIM := build/k8s-ovs-cni
MINUTES ?= 20
SOURCES := src tests

# Sockets need short paths, so the tests' files are in the system's temporary directory; nothing of them stays.
# Three workers on two cores, because half of an end-to-end test is waiting; each has labs of its own. In the given order, the
# long files early: by default xdist keeps files of few tests for the end, where one worker would wait.
define pytest
tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT INT TERM && TMPDIR="$$tmp" $(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder --basetemp="$$tmp/t" $(1)
endef

LONG := tests/functional/packages tests/functional/image tests/e2e

# What is installed (runtime) and what builds it have locks of their own, at the versions that are tested.
compile = $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
    --no-header

help: ## Show the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

demo: packages .stamps/venv kubectl $(SHIM) ## Every feature on three nodes, with real output, in under a minute
	@$(BIN)/k8s-ovs lab demo

test: packages check kubectl helm $(SHIM) ## All tests; needs root
	@$(call pytest,$(LONG) $(filter-out $(LONG) %/__pycache__,$(wildcard tests/functional/*)) tests/contract)

soak: packages .stamps/venv kubectl $(SHIM) ## Random changes and kills for MINUTES=20, and what else takes longer; needs root
	@export K8S_OVS_SOAK_MINUTES=$(MINUTES); $(call pytest,-n 0 -s tests/e2e/test_e2e_soak.py)
	@export K8S_OVS_TEST_CHANGES=50 K8S_OVS_TEST_KILLS=50 K8S_OVS_TEST_POINTS=0 K8S_OVS_TEST_OUTAGES=long; \
	    $(call pytest,$(addprefix tests/e2e/test_e2e_,matrix_changes.py attach.py crash_points.py outages.py))

bench: packages .stamps/venv kubectl $(SHIM) ## The figures of the pages in docs/, as Markdown; needs root, takes minutes
	@$(BIN)/python bench/tenants.py
	@$(BIN)/python bench/bandwidth.py
	@$(BIN)/python bench/services.py
	@$(BIN)/python bench/survival.py
	@$(BIN)/python bench/switch.py
	@$(BIN)/python bench/leaks.py

check: .stamps/venv ## Lint, types, layers and the fast tests: no root, no Open vSwitch, no network
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(call pytest,tests/unit)

fmt: .stamps/venv ## Format the code
	@$(BIN)/ruff check --fix -q $(SOURCES)
	@$(BIN)/ruff format -q $(SOURCES)

docs: .stamps/venv ## Write the generated pages again (docs/pipeline.md, metrics.md, configuration.md)
	@$(BIN)/python -m k8s_ovs.flows.docs > docs/pipeline.md
	@$(BIN)/python -m k8s_ovs.cli.reference metrics > docs/metrics.md
	@$(BIN)/python -m k8s_ovs.cli.reference configuration > docs/configuration.md

manifests: helm ## Render the chart into deploy/*.yaml again
	@$(BIN)/python tools/gen-manifests.py

lock: .stamps/venv ## Resolve the Python dependencies anew
	@$(compile) --upgrade --group dev pyproject.toml -o requirements.lock
	@$(compile) --upgrade -c requirements.lock pyproject.toml -o requirements-runtime.lock
	@$(compile) --upgrade -c requirements.lock --group build -o requirements-build.lock

shim: $(SHIM) ## Build the static CNI executable

$(SHIM): src/k8s_ovs/cni/shim.c src/k8s_ovs/cni/json_scan.h tools/build-shim.sh
	tools/build-shim.sh $@

deb: packages ## Build the Debian package into dist/
	@tools/build-deb.sh

rpm: $(if $(wildcard /etc/debian_version),packages) ## Build the RPM into dist/
	@tools/build-rpm.sh

packages:
	@tools/install-packages.sh

.stamps/venv: pyproject.toml requirements.lock
	@mkdir -p $(@D)/tmp
	@test -x $(BIN)/uv || { python3 -m venv $(VENV) && $(BIN)/python -m pip install -q "uv>=0.5,<1"; }
	@TMPDIR="$(CURDIR)/$(@D)/tmp" $(BIN)/uv pip sync -q --compile-bytecode --require-hashes requirements.lock
	@TMPDIR="$(CURDIR)/$(@D)/tmp" $(BIN)/uv pip install -q --no-deps -e .
	@rm -rf $(@D)/tmp && touch $@

kubectl: .stamps/venv ## Get a kubectl into build/bin if the PATH has none of 1.32 or newer
	@$(BIN)/python tools/get-kubectl.py >/dev/null

helm: .stamps/venv ## Get a helm into build/bin if the PATH has none of 4.1 or newer: the tests of deploy/ use it
	@$(BIN)/python tools/get-kubectl.py helm >/dev/null

clean: ## Remove what the build made
	rm -rf $(VENV) .stamps build dist
