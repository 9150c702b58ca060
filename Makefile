# didact: `make demo` and `make test` need Python 3.11 or newer and make, nothing else.

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.didact-ready
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

# PyTorch's own index of CPU builds, asked when pip finds no CPU build by itself. For a GPU see the README.
CPU_INDEX := https://download.pytorch.org/whl/cpu
TORCH_INDEX ?= $(CPU_INDEX)
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)

# Threads that wait by spinning make torch ten times slower as soon as another program wants the cores.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help env demo reproduce test test-full check bench-peers clean

help:
	@echo "make demo        the whole job on the embedded world, into ./demo (again: resumes)"
	@echo "make demo-images  a model that learns to see: a tower, LLaVA's two stages, an audit, into ./demo-images"
	@echo "make test        the tests, in minutes"
	@echo "make test-full   every repetition; goes on where it stopped"
	@echo "make check       lint, types, import contracts, static gates"
	@echo "make reproduce   published findings again in miniature; goes on where it stopped"
	@echo "make bench-NAME  a benchmark of benchmarks/ (bench-peers: the environments of other systems)"
	@echo "make clean       removes the demo, builds and caches; the environment stays"

env: $(READY)

# torch goes first and by itself, so that nothing else pulls a build of gigabytes that this machine cannot use.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or give make PYTHON=/path/to/python" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv --clear $(VENV); }
	@$(BIN)/python -c 'import importlib.metadata as m, sys; sys.exit(m.version("torch").split("+")[0] != "$(TORCH)")' 2>/dev/null \
	|| { [ "$(TORCH_INDEX)" = "$(CPU_INDEX)" ] && echo "installing torch $(TORCH): a CPU build that pip finds" \
		&& $(PIP) --no-deps "torch==$(TORCH)+cpu" 2>/dev/null; } \
	|| { echo "installing torch $(TORCH) from $(TORCH_INDEX)" \
		&& $(PIP) --no-deps --index-url "$(TORCH_INDEX)" --timeout 10 --retries 1 "torch==$(TORCH)"; } \
	|| { [ "$(TORCH_INDEX)" = "$(CPU_INDEX)" ] \
		&& echo "warning: no CPU build was found; the default build may bring about 3 GB of GPU libraries" >&2 \
		&& $(PIP) "torch==$(TORCH)"; }
	@echo "installing didact and the tested versions of what it needs"
	@$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	@$(BIN)/didact run recipes/demo.yaml --out demo

reproduce: $(READY)
	@$(BIN)/didact reproduce all

# Each part is kept: again, it goes on where it stopped.
EYES := build/eyes
# One thread: steps of eight short rows are over before a second thread has begun.
demo-images: export OMP_NUM_THREADS ?= 1
demo-images: $(READY)
	@test -d $(EYES)/tower || $(BIN)/didact starter eyes $(EYES)/tower
	@test -d $(EYES)/starter || $(BIN)/didact join $(EYES)/starter --vision $(EYES)/tower --language starter
	@$(BIN)/didact tune recipes/images-align.yaml --out $(EYES)/aligned
	@$(BIN)/didact run recipes/demo-images.yaml --out demo-images

test: $(READY)
	$(BIN)/python -m pytest -m "not slow"

# A test file that passed is not run again until the code or the tests change.
test-full: $(READY)
	@key=$$(find src tests recipes -type f -not -name '*.pyc' | LC_ALL=C sort | xargs cat | $(BIN)/python -c \
		'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])'); \
	done=build/test-full/$$key; mkdir -p $$done; \
	for file in $$(find tests -name 'test_*.py' | LC_ALL=C sort); do \
		stamp=$$done/$$(echo $$file | tr / -); \
		if [ -e $$stamp ]; then echo "passed before: $$file"; continue; fi; \
		echo "$$file"; $(BIN)/python -m pytest $$file --timeout 7200 || [ $$? -eq 5 ] || exit 1; touch $$stamp; \
	done; echo "all test files passed with every repetition"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/test_imports.py

# The peers that a benchmark is put beside; without them its figures of them are null.
PEERS_generate := data distilabel
PEERS_engine := trl llamafactory
PEERS_images_speed := trl llamafactory
PEERS_templates := data

bench-%: $(READY)
	@test -e benchmarks/$*.py || { echo "no benchmark $*; there are: $$(ls benchmarks | sed -n 's/\.py$$//p' | xargs)" >&2; exit 2; }
	@test -n "$$DIDACT_PEERS" || $(MAKE) --no-print-directory bench-peers PEERS="$(PEERS_$*)"
	@$(BIN)/python benchmarks/$*.py

# Each peer system lives in its own environment: benchmarks/peers/NAME.txt -> .venv-NAME
PEERS ?= $(basename $(notdir $(wildcard benchmarks/peers/*.txt)))
bench-peers:
	@for name in $(PEERS); do file=benchmarks/peers/$$name.txt; \
		test -e .venv-$$name/.ready && continue; echo "making .venv-$$name"; \
		$(PYTHON) -m venv .venv-$$name && { ! grep -q ^torch== $$file \
			|| .venv-$$name/bin/python -m pip install -q --no-deps "$$(grep ^torch== $$file)+cpu" 2>/dev/null || true; } \
		&& .venv-$$name/bin/python -m pip install -q -r $$file \
		&& .venv-$$name/bin/python -m pip uninstall -q -y torchvision torchaudio 2>/dev/null && touch .venv-$$name/.ready \
		|| echo "$$name could not be installed; its figures will be null" >&2; \
	done

clean:
	rm -rf demo demo-images build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
