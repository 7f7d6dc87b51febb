"""Running programs that find a GPU: `stand_in/`."""

import os
import pathlib
import subprocess
import sys

import pytest

from cupynn.kernels import runtime

ROOT = pathlib.Path(__file__).parents[3]
FOLDERS = (ROOT / "tests" / "bench" / "gpu" / "stand_in", ROOT / "tests" / "kernels" / "gpu", ROOT)


@pytest.fixture
def on_stand_in():
    """Run `python *arguments` with a stand-in for a GPU; variables are environment variables."""
    pytest.importorskip("cupy", reason="CuPy is not installed")
    if runtime.mode() != "compiled":
        pytest.skip("a GPU has compiled kernels only")

    def run(*arguments, **variables):
        path = os.pathsep.join(map(str, FOLDERS))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    return run
