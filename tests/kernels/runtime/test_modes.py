"""Modes: compiled, reference, checked; and a computer without a compiler."""

import os
import subprocess
import sys

import numpy as np
import pytest

from cupynn.kernels import runtime

ASK = """
import numpy as np
from cupynn.kernels import runtime
x = np.zeros(3, np.float32)
print(runtime.mode(), runtime.compiled_for(x), runtime.compiled_for(x))
"""


def ask(**environment):
    """(what ASK prints, what it warns) in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "CXX"} | environment
    command = [sys.executable, "-W", "always", "-c", ASK]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return process.stdout.strip(), process.stderr


@pytest.mark.parametrize("mode, compiled", [("compiled", True), ("checked", True), ("reference", False)])
def test_the_environment_chooses(mode, compiled):
    assert ask(CUPYNN_KERNELS=mode) == (f"{mode} {compiled} {compiled}", "")


def test_the_default_is_compiled():
    assert ask(CUPYNN_KERNELS="") == ("compiled True True", "")


def test_an_unknown_mode():
    out, err = ask(CUPYNN_KERNELS="fast")
    assert out == "" and "ValueError: CUPYNN_KERNELS: expected one of compiled, reference, checked; got 'fast'" in err
    before = runtime.mode()
    with pytest.raises(ValueError, match="got 'fast'"):
        runtime.set_mode("fast")
    assert runtime.mode() == before


def test_without_a_compiler_one_warning_then_the_reference(tmp_path):
    out, err = ask(CUPYNN_KERNELS="compiled", PATH=str(tmp_path))
    assert out == "compiled False False"
    assert err.count("RuntimeWarning: cupynn: no working C++ compiler found") == 1
    assert ask(CUPYNN_KERNELS="reference", PATH=str(tmp_path)) == ("reference False False", "")


def test_a_compiler_that_does_not_work_is_none(tmp_path):
    out, err = ask(CUPYNN_KERNELS="compiled", CXX="false", CUPYNN_CACHE_DIR=str(tmp_path))
    assert out == "compiled False False"
    assert err.count("RuntimeWarning: cupynn: no working C++ compiler found") == 1


def test_set_mode():
    x = np.zeros(3)
    runtime.set_mode("reference")
    assert runtime.mode() == "reference" and not runtime.compiled_for(x)
    runtime.set_mode("compiled")
    assert runtime.mode() == "compiled" and runtime.compiled_for(x)
