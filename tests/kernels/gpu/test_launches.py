"""`cupynn/kernels/launches.py` says how the faces launch: held against what they ask a GPU for."""

import math
import re

import numpy as np
import pytest
import typical_calls

from cupynn.kernels import launches
from cupynn.kernels.runtime import nvrtc


def launched(log, dtype):
    """kernel -> the launch with most shared memory, of the typical calls."""
    log.clear()
    typical_calls.call_all(dtype)
    found = {}
    for launch in log.launches:
        kernel = f"{launch.name}.{launch.expression}"
        found.setdefault(kernel, []).append((launch.shared, math.prod(launch.block)))
    return {kernel: launches.Launch(*reversed(max(each))) for kernel, each in found.items()}


def lines(found):
    """The table's lines for these launches: the shortest beginnings of names that tell them apart."""
    table, found = {}, {launches.as_float(kernel): launch for kernel, launch in found.items()}
    for kernel, launch in sorted(found.items()):
        for end in [match.end() for match in re.finditer(r"<|, |>", kernel)]:
            alike = {other for name, other in found.items() if name.startswith(kernel[:end])}
            if len(alike) == 1:
                table[kernel[:end]] = launch
                break
    return "\n".join(f'    "{key}": Launch{tuple(launch)},' for key, launch in table.items() if launch != (256, 0))


def test_the_table_holds_what_the_faces_launch(recorded):
    found = launched(recorded, np.float32) | launched(recorded, np.float64) | launched(recorded, np.float16)
    wrong = {kernel for kernel, launch in found.items() if launches.typical(*kernel.split(".", 1)) != launch}
    assert not wrong, f"{sorted(wrong)}: the table should be\n{lines(found)}"


@pytest.mark.parametrize("dtype, name", [(np.float32, "float"), (np.float64, "double"), (np.float16, "Half")])
def test_nothing_is_listed_that_no_face_launches(recorded, dtype, name):
    found = launched(recorded, dtype)
    files = {kernel.partition(".")[0] for kernel in found}
    listed = {
        f"{file}.{one}" for file in files for one in nvrtc.instantiations(file) if re.match(rf"\w+<{name}\b", one)
    }
    assert not listed - found.keys()
