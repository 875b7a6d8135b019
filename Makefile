# make demo   set everything up and run both kernels here as Kaggle would, offline, to a checked submission
# make test   set everything up and run the fast tests, for every commit: under 4 minutes on two cores
# make check  set everything up and run all tests, the slow ones too: before work counts as done
# make check-next  the same in .venv-next, under the versions that Kaggle's image may have next
PYTHON ?= python3
CONSTRAINTS := constraints.txt
VENV := .venv
BIN := $(VENV)/bin
# Without torch (the neural models and their tests are then left out): make EXTRAS=boosted,nltk,parquet,kaggle,figures,serve,test test
EXTRAS ?= torch,quantised,boosted,nltk,parquet,kaggle,figures,serve,test
comma := ,
INSTALLED := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

.PHONY: demo test check check-next lint setup sandbox kernels clean

setup: $(INSTALLED)

$(INSTALLED): setup.py pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "humanpref needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)$(if $(findstring torch,$(EXTRAS)),: about 2 GB to download: several minutes)"
	$(if $(findstring torch,$(EXTRAS)),$(BIN)/python -m pip install --constraint $(CONSTRAINTS) torch==2.13.0)
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) --editable '.[$(EXTRAS)]'
	touch $@

sandbox:
	@command -v bwrap >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get -qq update && apt-get -qq install -y bubblewrap >/dev/null; } \
		|| echo "bubblewrap is not here and could not be installed: the dry run will run without isolation"

demo: setup sandbox
	$(BIN)/humanpref kaggle dry-run --out dry-run

# Tests of one file run in one process, so that what they share is made once.
# Some tests wait, so that one process more than there are cores is quicker.
WORKERS = $$(( $$(nproc) < 4 ? $$(nproc) + 1 : 4 ))
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadscope
# Tests on a GPU that the CPU plays change torch for the life of their processes. They are few and
# never wait: a process more than there are cores would cost more imports than it saves.
GPU = --numprocesses $$(( $$(nproc) < 4 ? $$(nproc) : 4 )) --dist worksteal tests/gpu
PYTEST_GPU = $(if $(findstring torch,$(EXTRAS)),$(PYTEST) $(GPU),true)

test: setup sandbox lint
	$(PYTEST) -m 'not slow'
	$(PYTEST_GPU) -m 'not slow'

check: setup sandbox lint
	$(PYTEST)
	$(PYTEST_GPU)

check-next:
	$(MAKE) CONSTRAINTS=constraints-next.txt VENV=.venv-next check

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# What is pushed: kernel/train.py and kernel/infer.py, each with kernel/bootstrap.py in one file.
kernels: setup
	$(BIN)/python kernel/build.py

clean:
	rm -rf .venv .venv-next build dist dry-run src/*.egg-info .pytest_cache .ruff_cache
