# make demo   train, contract, prove, compare on handwritten digits; on a GPU where there is one; MODEL=cifar_resnet for
#             another network of `cupynn models`
# make test   lint and the whole test suite; make test-modes runs it with references, under the checker, and
#             what needs a GPU on a stand-in for one
# make docs   the documentation site, docs/_build/html/index.html
# make gpu    tests, compute-sanitizer and benchmarks on an NVIDIA GPU; figures in bench/results/gpu-NAME.json
# They make .venv and install what they need. Another Python: make demo PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-modes lint docs gpu clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed-demo
	$(BIN)/python -m cupynn demo $(if $(MODEL),'$(MODEL)')

test: $(VENV)/installed-dev lint
	$(BIN)/python -m pytest -n auto

# The same tests with the other two implementations of every kernel: references everywhere, the checker where kernels are.
test-modes: $(VENV)/installed-dev
	CUPYNN_KERNELS=reference $(BIN)/python -m pytest -n auto
	CUPYNN_KERNELS=checked $(BIN)/python -m pytest -n auto tests/kernels tests/ops tests/nn tests/reparam
	@# The tests that need a GPU, on a stand-in for CuPy that runs every launch under the checker with a GPU's blocks.
	PYTHONPATH=tests/kernels/gpu $(BIN)/python -m pytest -n auto -p fake_gpu -m gpu tests/autograd tests/kernels \
	  tests/ops tests/nn tests/optim tests/train

# PYTHON itself is used where its CuPy works on the GPU and has what the tests need: nothing is installed then. A Python
# that has PyTorch with CUDA is worth naming: make gpu PYTHON=/path/to/python, for then it is timed, too.
gpu:
	@PYTHON='$(PYTHON)' VENV='$(VENV)' sh bench/gpu/make_gpu.sh

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(VENV)/installed-dev
	$(BIN)/python docs/build.py

clean:
	rm -rf $(VENV) docs/_build

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "cupynn needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1 | head -n 1)." \
	    "Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp per set of extras, remade when pyproject.toml changes.
$(VENV)/installed-demo: EXTRAS := demo
$(VENV)/installed-dev: EXTRAS := dev,nvrtc
$(VENV)/installed-demo $(VENV)/installed-dev: pyproject.toml | $(VENV)/pyvenv.cfg
	@# Tests compile for old GPUs with CUDA 12, whose CuPy wheel and CUDA 13's exclude each other.
	@case $(EXTRAS) in *nvrtc*) $(BIN)/python -m pip uninstall -qq --yes cupy-cuda13x 2>/dev/null || true; esac
	$(BIN)/python -m pip install --quiet -e '.[$(EXTRAS)]'
	@# Then what makes CuPy run on this computer's GPU, where there is one.
	@extra=$$($(BIN)/python cupynn/cli/cuda_extra.py); if [ -n "$$extra" ]; then \
	  echo "NVIDIA GPU: installing cupynn[$$extra]"; $(BIN)/python -m pip install --quiet -e ".[$$extra]"; fi
	@touch $@
