"""`import cupynn` is quick and pulls in nothing heavy."""

import subprocess
import sys

import pytest

HEAVY = ("cupy", "matplotlib", "scipy", "mlxtend", "sklearn", "skimage", "PIL", "pandas")


def python(script: str) -> str:
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.parametrize("module", ["cupynn", "cupynn.train", "cupynn.cli"])
def test_imports_nothing_heavy(module):
    script = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    assert python(script).strip() == "[]"


def test_adds_less_than_a_third_of_a_second_to_numpy():
    """Processor time, which other programs on the computer do not lengthen; the least of three."""
    script = "import numpy, time; t = time.process_time(); import cupynn; print(time.process_time() - t)"
    assert min(float(python(script)) for _ in range(3)) < 0.3


def test_works_without_cupy():
    script = """
import sys
sys.modules["cupy"] = None  # importing it now raises ImportError
import cupynn, numpy
from cupynn.device import cuda_available
assert not cuda_available()
print(cupynn.models.create("smallnet")(cupynn.tensor(numpy.zeros((2, 3, 32, 32), "float32"))).shape)
"""
    assert python(script).strip() == "(2, 10)"


def test_the_public_names():
    import cupynn

    fixed = (
        "Tensor tensor no_grad manual_seed expand contract verify_contraction save load nn ops optim models autograd"
    )
    for name in [*fixed.split(), "data"]:
        assert name in cupynn.__all__ and hasattr(cupynn, name), name
