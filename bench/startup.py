"""From nothing to the first training step of SmallNet-7: a fresh process, kernels compiled before.

Every stage is timed by the process itself, the first from the moment it is asked for; it runs once before it counts.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

from bench.command import read_options
from bench.report import counted, machine, table, write
from bench.timing import THREADS

BAR = 1.5  # seconds, to the end of the first step
STAGES = """
import json, sys, time
marks = [float(sys.argv[1]), time.time()]
import numpy as np
marks.append(time.time())
import cupynn
marks.append(time.time())
model = cupynn.models.create("smallnet")
optimiser = cupynn.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
rng = np.random.default_rng(0)
images = rng.standard_normal((int(sys.argv[2]), 3, 32, 32), dtype=np.float32)
labels = rng.integers(0, 10, len(images))
marks.append(time.time())
for _ in range(2):
    optimiser.zero_grad()
    cupynn.ops.cross_entropy(model(cupynn.Tensor(images)), labels).backward()
    optimiser.step()
    marks.append(time.time())
print(json.dumps([after - before for before, after in zip(marks, marks[1:])]))
"""
NAMES = ("Python starts", "import numpy", "import cupynn", "network, optimiser, batch", "first step", "second step")


def stages(batch: int) -> list[float]:
    """Seconds of each of NAMES in a fresh process."""
    command = [sys.executable, "-c", STAGES, repr(time.time()), str(batch)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main(arguments: list[str]) -> None:
    options = read_options("startup", __doc__, arguments, batch=128, rounds=9)
    stages(options.batch)
    runs = [stages(options.batch) for _ in range(options.rounds)]
    rows = [
        {"stage": name, "ms": 1e3 * statistics.median(seconds)}
        for name, seconds in zip(NAMES, zip(*runs, strict=True), strict=True)
    ]
    whole = statistics.median(sum(run[:-1]) for run in runs)
    rows.insert(-1, {"stage": "to the end of the first step", "ms": 1e3 * whole, "bar ms": 1e3 * BAR})
    print(table(rows, f"SmallNet-7, batch {options.batch}, {counted(THREADS, 'thread')}, {options.rounds} processes"))
    if options.json:
        kept = {"machine": machine(), "bench": "startup", "batch": options.batch, "rounds": options.rounds}
        write(options.json, {**kept, "rows": rows})
