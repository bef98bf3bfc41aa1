# Two commands for a newcomer: `make demo` and `make test`. Both are safe to repeat.
# PYTHON chooses the interpreter (3.11 to 3.13), VENV where it is installed, WORKERS how many
# processes the tests run in (each takes about one core and 5 GB of memory).
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
VERSION := $(shell $(PYTHON) -c 'import sys; print("py%d%d" % sys.version_info[:2])' 2>/dev/null)
PINS := requirements/$(VERSION).txt

# Outside the clone, so that a second run is warm.
ANSATZ_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ansatz
export ANSATZ_CACHE
export JAX_COMPILATION_CACHE_DIR ?= $(ANSATZ_CACHE)/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.02

.PHONY: demo test install lint pins clean

demo: install
	$(RUN) -m experiments score_sde.digits --workdir runs/demo
	@echo "Report: $(CURDIR)/runs/demo/report.html"

test: install
	$(RUN) -m pytest --numprocesses $(WORKERS) --dist worksteal $(TESTS)

install: $(STAMP)

# The exact versions that the tests run with; setup.cfg holds the ranges.
$(STAMP): $(PINS) setup.cfg
	@test -n "$(VERSION)" || { echo "error: $(PYTHON) is no Python; set PYTHON=" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -r $(PINS)
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(PINS):
	@echo "error: $(PYTHON) has no tested versions in requirements/ (Python 3.11 to 3.13)" >&2; exit 2

lint: install
	$(RUN) -m ruff check . && $(RUN) -m ruff format --check .

# Resolve the pins anew: needs uv and the three interpreters.
pins:
	for pair in 3.11:0.10.2 3.12:0.11.2 3.13:0.12.0.1; do \
	  python=$${pair%%:*}; jax=$${pair##*:}; \
	  printf 'jax==%s\njaxlib==%s\n' $$jax $$jax | uv pip compile --quiet --upgrade setup.cfg requirements/build.in \
	    --extra test --extra bench --constraint - --python $$python --no-header --no-annotate \
	    --output-file requirements/py$$(echo $$python | tr -d .).txt || exit 1; \
	done

clean:
	rm -rf .venv .venv-* .cache build *.egg-info
