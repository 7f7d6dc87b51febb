import os
import subprocess
import sys

import pytest

from cupynn.cli import cuda_extra
from cupynn.cli.cuda_extra import choose


@pytest.mark.parametrize(
    ("answer", "extra"),
    [
        (None, None),  # no nvidia-smi
        ("", None),
        ("No devices were found\n", None),
        ("Failed to initialize NVML: Driver/library version mismatch\n", None),
        ("[N/A], [N/A]\n", None),
        ("580.65.06, 9.0\n", "cuda13"),
        ("580.65.06, 7.5\n", "cuda13"),
        ("580.65.06, 7.0\n", "cuda12"),  # V100: CUDA 13 has left it behind
        ("579.99, 9.0\n", "cuda12"),
        ("525.60.13, 8.0\n", "cuda12"),
        ("524.00, 8.0\n", None),
        ("580.65.06, 12.0\n", "cuda13"),  # 12.0 is more than 7.5, as numbers
        ("580.65.06, 9.0\n580.65.06, 7.0\n", "cuda12"),  # every GPU counts
        ("600.10, 9.0\r\n", "cuda13"),
    ],
)
def test_which_extra_fits(answer, extra):
    assert choose(answer) == extra


def test_an_installed_wheel_is_kept_where_the_driver_allows():
    assert choose("580.65.06, 9.0\n", ["cupy-cuda12x"]) == "cuda12"
    assert choose("580.65.06, 9.0\n", ["cupy-cuda13x"]) == "cuda13"
    assert choose("550.10, 9.0\n", ["cupy-cuda13x"]) == "cuda12"
    assert choose(None, ["cupy-cuda12x"]) is None


def nvidia_smi_that(folder, script):
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for nvidia-smi is a shell script")
@pytest.mark.parametrize(
    ("script", "printed"),
    [("echo 530.30.02, 8.6", "cuda12"), ("echo no driver; exit 9", ""), (None, "")],
)
def test_runs_by_its_path_with_the_standard_library_alone(tmp_path, script, printed):
    if script is not None:
        nvidia_smi_that(tmp_path, script)
    command = [sys.executable, "-I", "-S", cuda_extra.__file__]  # no site-packages, no cupynn
    environment = {**os.environ, "PATH": str(tmp_path)}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (answer.stdout.strip(), answer.returncode) == (printed, 0), answer.stderr
