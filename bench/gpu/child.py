"""One part of the measurements, in a process of its own: `python -m bench.gpu.child TASK`, TASK as JSON.

A line of JSON for each row, as soon as it is known: {"row": ...}.
"""

from __future__ import annotations

from bench.timing import THREADS  # noqa: F401  first: it sets the threads' environment

# isort: split

import json
import sys
from collections.abc import Iterator
from types import ModuleType

from bench.gpu import ceilings, found, steps, timed
from bench.gpu.layer import allow_tf32
from cupynn import device


def rows_of(task: str, given: dict) -> Iterator[dict]:
    """The rows of a task: "ceilings", "kernels", "network"; "warm kernels" and "warm network" only compile."""
    if task == "ceilings":
        return ceilings.measure(found.find(), given["rounds"], given["limit"])
    torch, module = cuda_torch(), timed if task.endswith("kernels") else steps
    if task.startswith("warm"):
        return module.warm(given["name"], given["batch"], torch)
    measured = given["rounds"], given["limit"], torch, given["compiled"]
    return module.rows(given["name"], given["batch"], *measured)


def cuda_torch() -> ModuleType | None:
    """PyTorch, where it is installed and works on this GPU: float32 is float32, and cuDNN tries its algorithms."""
    try:
        import torch

        if not torch.cuda.is_available():
            return None
    except Exception:  # an installation that does not load is none
        return None
    torch.backends.cudnn.benchmark = True
    allow_tf32(torch, False)
    return torch


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    device.set_default_device("cuda")
    for row in rows_of(given.pop("task"), given):
        print(json.dumps({"row": row}), flush=True)
