# `make` without a target lists the targets with the text after `##`.
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
PLUGINS := plugins/vqvae plugins/vqgan plugins/judge plugins/diffusion plugins/targets plugins/latent
EXAMPLES := docs/examples/zoo-vae docs/examples/zoo-gan
MODELS := $(dir $(wildcard models/*/pyproject.toml))
PROJECTS := pyproject.toml $(PLUGINS:%=%/pyproject.toml)

# Where this file and .ci/ install the stacks of the targets.
STACKS := NODE_PATH=$(CURDIR)/.venv/node/node_modules ONNXRUNTIME_INCLUDE=$(CURDIR)/.venv/onnxruntime/usr/include/onnxruntime \
  ZOO_TRITON_PYTHON=$(CURDIR)/.venv/triton/bin/python

.PHONY: help demo test quick lint generate docs wheels targets deploy hooks

help: ## prints this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s%s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: .venv/.core ## draws a picture with only the core and one model installed (no PyTorch), on the GPU if there is one
	@$(BIN)/zoo run ddpm-fashion generate --label sneaker -n 16 --seed 7 --out demo.png

test: .venv/.all .venv/.examples .venv/.node ## installs everything and runs all tests
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# Every published model on every target; the table of docs/targets.md.
targets: .venv/.all .venv/.node ## runs every model on every target, and writes the table in docs/targets.md
	$(STACKS) $(BIN)/python bench/targets.py --write

# Sizes and speeds of two models on every target: the other table there. Run it only on an otherwise idle machine.
deploy: .venv/.all .venv/.node ## measures size and speed of the targets, and writes the table in docs/targets.md
	$(STACKS) $(BIN)/python bench/deploy.py --write

quick: .venv/.all .venv/.examples ## runs the tests that take under two seconds each
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow"

lint: .venv/.all ## checks style, format, types, layers, and the files that hosting platforms read
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m check_jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/python -m check_jsonschema --quiet --builtin-schema vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(BIN)/python -m check_jsonschema --quiet --builtin-schema vendor.citation-file-format --default-filetype yaml CITATION.cff

generate: .venv/.all ## writes the pages of docs/ that are generated from the code
	$(BIN)/python docs/generate.py

# Strict: fails on a broken link, a page that nothing links to or a public name without a docstring. Needs no network.
docs: generate ## builds the site in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/index.html"

wheels: | .venv/bin/python ## builds the wheels of the core and of every model in build/wheels
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheels . $(MODELS:%=./%)

hooks: .venv/.all ## installs the checks of .pre-commit-config.yaml before every commit
	$(BIN)/pre-commit install

# The extra with ONNX Runtime: `cuda` where an NVIDIA driver offers a GPU, else `cpu`; empty if .venv has another build of
# it, which stays, since two overwrite each other's files.
RUNTIME = $(shell $(BIN)/python -c 'from zoo.system.installation import runtime_to_add; print(runtime_to_add())')

# Only a changed pyproject.toml installs again.
.venv/.core: pyproject.toml models/ddpm-fashion/pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.$(RUNTIME:%=[%])'
	$(BIN)/python -m pip install --quiet ./models/ddpm-fashion
	@touch $@

.venv/.all: $(PROJECTS) | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[build,test,docs,dev$(RUNTIME:%=,%)]' $(PLUGINS:%=--editable %)
	@touch $@ .venv/.core

# Installed as a third party installs them: a change to any of their files installs again.
.venv/.examples: .venv/.all $(shell find $(EXAMPLES) -name '*.py' -o -name '*.yaml' -o -name pyproject.toml)
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall $(EXAMPLES)
	@touch $@

# What the hosts on Node are tested with; without npm, their tests are skipped and named. Its post-install step would
# fetch CUDA files from outside the package registry.
.venv/.node: tests/plugins/targets/package.json | .venv/bin/python
	@mkdir -p .venv/node && cp $< .venv/node/
	@if command -v npm >/dev/null; then cd .venv/node && npm install --onnxruntime-node-install=skip --no-audit --no-fund; else echo "no npm: the tests of Node and browsers will be skipped"; fi
	@touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("zoo needs Python 3.11 or newer; this is " + sys.version.split()[0] + ": make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
