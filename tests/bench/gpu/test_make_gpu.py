"""The shell of `make gpu`, with stand-ins for Python, make and nvidia-smi that write down what they were asked."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell script")

# Every call is written to $LOG; one whose words hold $FAILS fails, and so does what is asked before $READY is there.
PYTHON = """#!/bin/sh
echo "$0 $*" >> "$LOG"
case "$*" in
  *cuda_extra.py*) exec "$REAL" "$@" ;;
  "-m bench.gpu.found numpy"*) test -e "$READY" ;;
  "-m bench.gpu.found") echo "GPU: a GPU" ;;
  *"${FAILS:-nothing}"*) exit 1 ;;
esac
"""
MAKE = """#!/bin/sh
echo "make $*" >> "$LOG"
mkdir -p "$HERE/venv/bin" && cp "$HERE/python" "$HERE/venv/bin/python"
"""


@pytest.fixture
def make_gpu(tmp_path):
    """Run the script: ready says whether PYTHON has all that it needs, smi what nvidia-smi prints."""

    def run(ready=True, smi=None, **variables):
        programs = {"python": PYTHON, "make": MAKE}
        if smi is not None:
            programs["nvidia-smi"] = f"#!/bin/sh\necho '{smi}'\n"
        for name, program in programs.items():
            (tmp_path / name).write_text(program)
            (tmp_path / name).chmod(0o755)
        if ready:
            (tmp_path / "ready").touch()
        for tool in ("sh", "cp", "mkdir"):
            if not (tmp_path / tool).exists():
                (tmp_path / tool).symlink_to(shutil.which(tool))
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        environment = {"PATH": str(tmp_path), "HERE": str(tmp_path), "LOG": str(log), "READY": str(tmp_path / "ready")}
        environment |= {"REAL": sys.executable, "PYTHON": str(tmp_path / "python"), "VENV": str(tmp_path / "venv")}
        command = ["sh", "bench/gpu/make_gpu.sh"]
        done = subprocess.run(
            command, cwd=ROOT, env=environment | variables, capture_output=True, text=True, check=False
        )
        calls = [line.replace(f"{tmp_path}{os.sep}", "") for line in log.read_text().splitlines()]
        return done, calls

    return run


PARTS = ["-m pytest -q -n auto --maxprocesses 6", "-m bench.gpu.sanitize", "-m bench gpu"]


def test_a_python_that_has_all_is_used_as_it_is(make_gpu):
    done, calls = make_gpu()
    assert done.returncode == 0 and done.stdout.splitlines() == ["GPU: a GPU", "make gpu: all is right"]
    assert calls[-3:] == [f"python {part}" for part in PARTS]
    assert not [call for call in calls if call.startswith("make") or "cuda_extra" in call]


@pytest.mark.parametrize(
    "fails, named", [("pytest", "tests"), ("sanitize", "compute-sanitizer"), ("gpu", "benchmarks")]
)
def test_what_fails_does_not_stop_the_rest(make_gpu, fails, named):
    fails = {"gpu": "bench gpu"}.get(fails, fails)
    done, calls = make_gpu(FAILS=fails)
    assert done.returncode == 1 and done.stderr.strip() == f"make gpu: failed: {named}"
    assert calls[-3:] == [f"python {part}" for part in PARTS]


def test_without_cupy_the_venv_is_made(make_gpu, tmp_path):
    done, calls = make_gpu(ready=False, smi="580.65.06, 9.0")
    assert done.returncode == 0, done.stderr
    assert "make PYTHON=python VENV=venv venv/installed-dev" in calls
    assert calls[-3:] == [f"venv/bin/python {part}" for part in PARTS]


@pytest.mark.parametrize("smi", [None, "No devices were found", "470.10, 8.0"])
def test_without_a_gpu_it_says_so_and_installs_nothing(make_gpu, smi):
    done, calls = make_gpu(ready=False, smi=smi)
    assert done.returncode == 1 and "no NVIDIA GPU found" in done.stderr
    assert not [call for call in calls if call.startswith("make") or "-m pytest" in call]


def test_make_runs_the_script():
    if shutil.which("make") is None:
        pytest.skip("no make here")
    asked = ["make", "--no-print-directory", "-n", "gpu", "PYTHON=some-python"]
    alone = {name: value for name, value in os.environ.items() if "MAKE" not in name}  # this may run under make
    printed = subprocess.run(asked, cwd=ROOT, env=alone, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "PYTHON='some-python' VENV='.venv' sh bench/gpu/make_gpu.sh"
