# make demo   sets up an environment and makes a picture with the embedded checkpoint
# make test   sets up an environment and runs the tests
# make check  lint and types;  make parity  compares with diffusers, live (large download)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROMPT ?= a red tent in the center on green grass, under a clear day sky

.PHONY: demo test check parity clean

demo: $(VENV)/.run
	$(BIN)/python -m mlx_sd.generate "$(PROMPT)" --deepcache 3 --output demo.png

test: $(VENV)/.dev
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

parity: $(VENV)/.reference
	$(BIN)/python -m pytest tests/parity

# Each stamp is an installed set of extras; cpu adds a fast BLAS on Linux and nothing elsewhere.
$(VENV)/.run: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[cpu]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[cpu,dev]'
	@touch $@

$(VENV)/.reference: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[cpu,dev,reference]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
