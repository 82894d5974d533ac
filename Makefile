# Everything a newcomer types. `make` alone lists it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
# One more than there are cores: many tests wait for servers, jobs and pages.
TESTERS ?= $(shell expr $$(nproc) + 1)

.PHONY: help demo test test-images check compiled lab notebooks lock system-deps clean

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 16

$(BIN)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"sfxlab needs Python 3.11 to 3.13, and $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

install: $(BIN)/.installed ## the environment in .venv, from requirements.lock

compiled: $(BIN)/.compiled ## the kernels, compiled ahead of time

# Once, by two processes; else each process of the demo and of the tests would compile for itself.
$(BIN)/.compiled: $(BIN)/.installed
	$(BIN)/sfxlab compile
	@touch $@

demo: $(BIN)/.compiled ## simulate, process and merge a data set with known truth
	$(BIN)/python -m sfxlab.demo $(DEMO)

test: check $(BIN)/.compiled ## lint, types, import contract, tests and notebooks
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder \
	  --nbval --nbval-sanitize-with tests/nbval_sanitize.cfg tests notebooks

test-images: $(BIN)/.installed ## build the container images with podman and run them; takes minutes and a network
	$(BIN)/python -m pytest -m images tests/images

check: $(BIN)/.installed ## lint, types, import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lab: $(BIN)/.installed ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=notebooks --allow-root

notebooks: $(BIN)/.installed ## run the notebooks and keep their outputs anew
	$(BIN)/jupyter nbconvert --to notebook --inplace --execute --ExecutePreprocessor.record_timing=False \
	  --ExecutePreprocessor.store_widget_state=False notebooks/*.ipynb
	$(BIN)/jupyter nbconvert --to notebook --inplace --TagRemovePreprocessor.enabled=True \
	  --TagRemovePreprocessor.remove_all_outputs_tags=nbval-ignore-output notebooks/*.ipynb

lock: ## write requirements.lock anew from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	  --generate-hashes --no-header -o requirements.lock

system-deps: ## Debian packages that some tests want
	.ci/system-deps

clean: ## remove the environment and the demo
	rm -rf $(VENV) $(DEMO)
