# make demo      sets up an environment and makes a picture with the embedded checkpoint
# make test      sets up an environment and runs the tests, in minutes
# make test-all  the same, then the slow tests and every property with all its examples; PART=0/3: a third of these
# make proof     proofs that are run once (full size, soaks, hundreds of kills); results go to tests/proofs
# make browser   drives the page of the Studio in Chromium, which must be installed
# make swift     builds the Swift package, runs its tests and lints it; needs Swift 6, and says how to get it
# make parity    compares with diffusers, live (large download); PART=0/3: a third of it
# make coreai-torch  compares with Apple's coreai-torch, live, in an environment of its own (Python 3.11, Linux x86-64)
# make check     lint and types
# make docs      builds the documentation into site/
# make figures   measures again what is measured on the embedded checkpoint, for hours; continues where it stopped
# make adapters  trains and measures the adapters for the embedded checkpoint, for hours; continues where it stopped
# make wheel     builds the wheel, installs it into a clean environment of each of PYTHONS and makes a picture

# Processes that tests start load what the one before has compiled, whatever the variable is outside.
export PYTHONDONTWRITEBYTECODE :=
PYTHON ?= python3
PYTHONS ?= $(PYTHON)
WORKERS ?= logical
SHARE ?= 1
PART ?= 0/1
VENV := .venv
APPLE := .venv-coreai-torch
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal
PROMPT ?= a red tent in the center on green grass, under a clear day sky

.PHONY: demo test test-all proof browser swift parity coreai-torch check docs figures adapters wheel clean

demo: $(VENV)/.run
	$(BIN)/python -m mlx_sd.generate "$(PROMPT)" --seed 0 --deepcache 3 --output demo.png

test: $(VENV)/.dev
	$(PYTEST)

test-all: test
	$(PYTEST) -m "slow or (hypothesis and not proof)" --hypothesis-profile full --part $(PART) --durations 40 --durations-min 5

proof: $(VENV)/.dev
	$(BIN)/python -m pytest -m proof --share $(SHARE)

# Where there is no Chromium, the tests are skipped with this reason.
browser: $(VENV)/.browser
	$(BIN)/python -m pytest -m browser -rs tests/studio/browser

# Nothing is installed, unless SWIFT names a folder to install it into: otherwise this says how to get it.
swift: $(VENV)/.dev
	$(BIN)/python -m tests.support.swift_toolchain test $(if $(SWIFT),--install $(SWIFT))
	$(if $(SWIFT),MLXSD_SWIFT_ROOT=$(SWIFT)) $(BIN)/python -m pytest -m swift -rs

# torch and diffusers warn, and their warnings are no errors of ours.
parity: $(VENV)/.reference
	$(PYTEST) -W default --part $(PART) tests/parity

coreai-torch: $(APPLE)/.installed
	$(APPLE)/bin/python -m pytest -W default tests/parity/test_coreai_torch.py

check: $(VENV)/.dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

docs: $(VENV)/.docs
	$(BIN)/python -m mkdocs build --strict

# CONTRIBUTING.md has what to do before and after. build/figures keeps what is finished of the long ones.
RESULTS := bench/results
RANKS ?= 2
# One thread for each rank: the ranks together have as many as there are cores.
DEAL := MKL_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/mlx.launch -n $(RANKS) -- $(abspath $(BIN))/python -m bench
figures: $(VENV)/.reference
	mkdir -p build/figures
	$(BIN)/python -m tests.support.previews
	$(DEAL) truth --sheet build/figures/false.png --json $(RESULTS)/truth-tiny-cpu.json
	$(DEAL) truth --captions 200 --sampler ddim --steps 50 --json $(RESULTS)/truth-tiny-ddim-cpu.json
	$(DEAL) truth --sampler dpmpp_2m --json $(RESULTS)/truth-tiny-dpmpp_2m-cpu.json
	for speed in fast fastest; do $(DEAL) truth --captions 200 --speed $$speed \
		--json $(RESULTS)/truth-tiny-$$speed-cpu.json || exit; done
	$(DEAL) truth --captions 200 --deepcache 3 --json $(RESULTS)/truth-tiny-deepcache-cpu.json
	$(DEAL) truth --captions 200 --quantize 8 --json $(RESULTS)/truth-tiny-8bit-cpu.json
	$(DEAL) curves --images 16 --work build/figures/curves --json $(RESULTS)/curves-tiny-cpu.json
	$(DEAL) solvers --work build/figures/solvers --json $(RESULTS)/solvers-tiny-cpu.json
	$(DEAL) tokens --model tiny-tokens --continuous tiny --images 16 --work build/figures/tokens \
		--json $(RESULTS)/tokens-tiny-cpu.json
	$(BIN)/python -m bench ays --prompts bench/landscapes.txt --work build/figures/ays \
		--out bench/schedules/tiny-dpmpp_2m-10.json --json $(RESULTS)/ays-tiny-cpu.json
	$(BIN)/python -m bench policies --sampler dpmpp_2m --json $(RESULTS)/policies-tiny.json
	$(BIN)/python -m bench quantization --json $(RESULTS)/quantization-tiny-cpu.json
	$(BIN)/python -m bench bits --picture docs/pictures/bits.png --json $(RESULTS)/bits-tiny-cpu.json
	$(BIN)/python -m bench latency --model tiny --steps 30 --loop 2 --loop 3 --loop 5 --loop 10 --loop 3:1 --loop 3:2 \
		--peer diffusers --json $(RESULTS)/latency-tiny-cpu.json
	$(BIN)/python -m bench latency --model tiny --steps 30 --guided --profile --loop 3 --loop tgate:10 \
		--loop 3/tgate:10 --loop 5/tgate:10 --json $(RESULTS)/latency-tiny-guided-cpu.json
	$(BIN)/python -m bench batches --json $(RESULTS)/batches-tiny-cpu.json
	$(BIN)/python -m bench showcase docs/landscapes.png
	$(BIN)/python -m bench pages
	$(BIN)/python -m bench report --write

# A folder of another checkpoint's adapters is refused: remove build/adapters first.
adapters: $(VENV)/.dev
	$(BIN)/python -m bench adapters --out build/adapters --json $(RESULTS)/adapters-tiny-cpu.json
	cp build/adapters/*.safetensors mlx_sd/tiny_adapters/

wheel: $(VENV)/.dev
	$(BIN)/python -m tests.support.wheel $(PYTHONS)

# Each stamp is an installed set of extras; cpu adds a fast BLAS on Linux and nothing elsewhere.
$(VENV)/.run: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -e '.[cpu]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) install --quiet -e '.[cpu,coreai,dev]' || $(PIP) install --quiet -e '.[cpu,dev]'
	@touch $@

$(VENV)/.browser: $(VENV)/.dev
	$(PIP) install --quiet -e '.[cpu,dev,browser]'
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	$(PIP) install --quiet -e '.[cpu,dev,docs]'
	@touch $@

$(VENV)/.reference: $(VENV)/.dev
	$(PIP) install --quiet torch==2.13.0
	$(PIP) install --quiet -e '.[cpu,dev,reference]'
	@touch $@

# It pins coreai-core and torch, by its own lights; no other environment has to follow.
$(APPLE)/.installed: pyproject.toml
	$(PYTHON) -m venv $(APPLE)
	$(APPLE)/bin/python -m pip --disable-pip-version-check install --quiet torch==2.13.0
	$(APPLE)/bin/python -m pip --disable-pip-version-check install --quiet -e '.[cpu,coreai,dev]' coreai-torch==0.4.3
	@touch $@

clean:
	rm -rf $(VENV) $(APPLE) build site *.egg-info
