# `make demo` and `make test` need nothing but this folder, make and Python 3.11 or newer; PYTHON=... names another one.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCK := requirements/lock.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Arguments for unmask demo and for pytest, for example: make test ARGS="-k masking -x"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test weblibs lint types check docs dist dist-check lock clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP)  ## train a small encoder on the documentation of this Python, into runs/demo
	$(BIN)/unmask demo $(ARGS)

# One process for each core, each with one thread of torch.
test: $(STAMP)  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal $(ARGS)

lint: $(STAMP)  ## check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

weblibs: $(STAMP)  ## download the JavaScript libraries that the tests of exports for the web need
	$(BIN)/python -c "from unmask.exporting.libraries import *; keep_archives(Path('build/web-libraries'))"

types: $(STAMP)  ## check types
	$(BIN)/mypy

check: lint types test  ## lint, types and test

# The wheel is built from the sdist, which thereby proves to be complete.
dist: $(STAMP)  ## build the wheel and the sdist into dist/, and check what is in them
	rm -rf dist
	mkdir -p build
	$(BIN)/python -m build --no-isolation --outdir dist >build/dist.log || { cat build/dist.log; exit 1; }
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tests/distribution.py contents dist

# Other versions: make dist-check VERSIONS=requirements/oldest.txt; the newest that pyproject.toml allows: VERSIONS=
VERSIONS ?= $(LOCK) requirements/torch.txt
EXTRAS ?= serve
dist-check: dist  ## install the wheel into a new environment, and use it: demo, train, fill, serve
	$(BIN)/python tests/distribution.py install dist build/dist-check --extras "$(EXTRAS)" --versions $(VERSIONS)

# The generator of the site has an environment of its own: it is no part of what unmask runs or is tested with.
SITE := build/site
docs: $(STAMP) $(SITE)/venv/.installed  ## build the documentation site, into build/site/html
	$(BIN)/python docs/reference.py $(SITE)/pages
	$(SITE)/venv/bin/zensical build --clean --strict

$(SITE)/venv/.installed: requirements/docs.txt
	$(PYTHON) -m venv --clear $(SITE)/venv
	$(SITE)/venv/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes --no-deps -r $<
	@touch $@

# A changed lock or pyproject.toml is newer than the stamp, so it installs again. The lock is installed before torch, so
# that shared dependencies are there already, with checked hashes, and torch adds only its CUDA packages.
$(STAMP): pyproject.toml $(LOCK) requirements/torch.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "unmask needs Python 3.11 or newer and there is no '$(PYTHON)': make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || $(call new_enough,$(PYTHON),make PYTHON=/path/to/a/newer/python3)
	@test -x $(BIN)/python || $(PYTHON) -m venv --clear $(VENV)
	@$(call new_enough,$(BIN)/python,remove the folder $(VENV) and run make again)
	$(PIP) install --quiet --require-hashes --no-deps -r $(LOCK)
	$(PIP) install --quiet -r requirements/torch.txt
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $(STAMP)

# $(call new_enough,PYTHON,what to do): fails with one line if that Python is too old.
define new_enough
$(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
  echo "unmask needs Python 3.11 or newer, but $(1) is $$($(1) -V 2>&1): $(2)" >&2; exit 1; }
endef

# Keeps the pinned versions that pyproject.toml allows; UPGRADE=--upgrade takes the newest of everything.
UPGRADE ?=
UV := build/lock/bin/uv
lock:  ## write requirements/lock.txt and docs.txt anew
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip --disable-pip-version-check install --quiet uv==0.13.9
	cp $(LOCK) build/lock/lock.txt
	$(UV) pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --quiet \
	  --no-header $(UPGRADE) --output-file build/lock/lock.txt
	( sed -n '/^#/!q;p' $(LOCK); \
	  awk '/^[^ #]/ { keep = !/^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==/ } keep' build/lock/lock.txt \
	) > build/lock/new.txt
	mv build/lock/new.txt $(LOCK)
	cp requirements/docs.txt build/lock/docs.txt
	$(UV) pip compile requirements/docs.in --universal --python-version 3.11 --generate-hashes --quiet \
	  --no-header $(UPGRADE) --output-file build/lock/docs.txt
	( sed -n 1p requirements/docs.txt; cat build/lock/docs.txt ) > build/lock/new.txt
	mv build/lock/new.txt requirements/docs.txt

clean:  ## remove caches and build files; .venv and runs/ stay
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
