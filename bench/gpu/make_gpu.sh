#!/bin/sh
# `make gpu`: everything that needs a GPU, on this computer's NVIDIA GPU. What fails does not stop what comes after it;
# the status at the end tells. PYTHON and VENV come from the Makefile.
#
# The Python: PYTHON itself where its CuPy works on the GPU and what the tests need is installed, so that nothing is
# installed or downloaded; else the Makefile's venv, with the CuPy that fits the driver (cupynn/cli/cuda_extra.py).
set -u
python=${PYTHON:-python3}
venv=${VENV:-.venv}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" # PYTHON need not have cupynn installed, and tests work in other folders

if ! "$python" -m bench.gpu.found numpy safetensors pytest hypothesis >/dev/null 2>&1; then
  if [ -z "$("$python" cupynn/cli/cuda_extra.py)" ]; then
    echo "no NVIDIA GPU found: nvidia-smi shows none with driver 525 or newer" >&2
    exit 1
  fi
  make PYTHON="$python" VENV="$venv" "$venv/installed-dev" || exit 1
  python=$venv/bin/python
fi
"$python" -m bench.gpu.found || exit 1

failed=
workers=
"$python" -c 'import xdist' 2>/dev/null && workers='-n auto --maxprocesses 6'
"$python" -m pytest -q $workers || failed="$failed tests"
"$python" -m bench.gpu.sanitize || failed="$failed compute-sanitizer"
"$python" -m bench gpu || failed="$failed benchmarks"

[ -z "$failed" ] || { echo "make gpu: failed:$failed" >&2; exit 1; }
echo "make gpu: all is right"
