"""`ranks`: runs one of `rank_programs` on several processes."""

import pathlib

import numpy as np
import pytest
from launching import start

PROGRAMS = pathlib.Path(__file__).with_name("rank_programs.py")


@pytest.fixture
def ranks(tmp_path):
    """ranks(size, program, *arguments) -> what each rank's program returned, a dict of arrays."""
    runs = iter(range(100))

    def run(size: int, program: str, *arguments: object) -> list[dict[str, np.ndarray]]:
        folder = tmp_path / f"run{next(runs)}"
        folder.mkdir()
        process = start(size, str(PROGRAMS), program, str(folder), *map(str, arguments))
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        return [dict(np.load(folder / f"{rank}.npz")) for rank in range(size)]

    return run
