"""The figures of one run of `bench gpu`, and the file that holds them, written anew after every row.

machine    GPU (found.Gpu), processor, versions; date, batch, budget and the seconds that were used; how it was timed
ceilings   rows {name, unit: "bytes" or "operations", per_second}, or {name, failed}
kernels    rows {kernel, layer, pass, dtype, shape, bytes, operations, seconds, floor_seconds, of_floor, bound}: the
           kernel is the layer and the method that computes it; eager_seconds, to_eager, compile_seconds, to_compile
           where PyTorch was timed; "failed", "eager" or "compile" say why there is no time
networks   rows {network, precision, batch, image, parameters, seconds, images_per_second, peak_bytes, pool_bytes}, and
           captured_... (as one CUDA graph), eager_..., compile_... as for kernels
parts      how each part ended: done, failed, stopped (it took too long), skipped (no time was left)
compiling  the same of the first pass over all parts, which only compiles
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import pathlib
import time
from typing import Any

from bench.gpu.clock import HOW
from bench.gpu.found import Gpu
from bench.report import machine

KEYS = {  # what names a row among its kind
    "ceilings": ("name",),
    "kernels": ("kernel", "dtype", "shape", "pass"),
    "networks": ("network", "precision"),
}


class Results:
    def __init__(self, path: pathlib.Path, gpu: Gpu, batch: int, budget: float) -> None:
        self.path, self._begin = path, time.monotonic()
        here = machine() | {"gpu": dataclasses.asdict(gpu)}
        here["versions"] |= {"cupy": gpu.cupy, "cuda": gpu.cuda}
        for package in ("torch", "triton"):
            try:
                here["versions"][package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        self.figures: dict[str, Any] = {"bench": "gpu", "machine": here, "date": datetime.date.today().isoformat()}
        self.figures |= {"batch": batch, "budget_seconds": budget, "seconds": 0.0, "how": HOW}
        self.figures |= {kind: [] for kind in (*KEYS, "parts", "compiling")}

    def add(self, row: dict) -> None:
        """A row of whatever kind; one that was there before is replaced."""
        kind = next(kind for kind, keys in KEYS.items() if keys[0] in row)
        rows, name = self.figures[kind], [row[key] for key in KEYS[kind]]
        rows[:] = [each for each in rows if [each[key] for key in KEYS[kind]] != name] + [row]
        self.write()

    def ended(self, state: dict) -> None:
        """How a part ended."""
        self.figures["parts"].append(state)
        self.write()

    def write(self) -> None:
        """Put the floors in and write the file, beside and renamed."""
        ceilings = rates(self.figures["ceilings"])
        for row in self.figures["kernels"]:
            row |= beside_floor(row, ceilings)
        self.figures["seconds"] = round(time.monotonic() - self._begin, 1)
        beside = self.path.with_name(f".{self.path.name}.new")
        beside.write_text(json.dumps(self.figures, indent=1) + "\n")
        beside.replace(self.path)

    @property
    def faults(self) -> list[str]:
        """What failed, in lines: parts, and rows of ours."""
        lines = [f"{each['part']}: {each['why']}" for each in self.figures["parts"] if each["state"] == "failed"]
        for kind, keys in KEYS.items():
            for row in self.figures[kind]:
                if "failed" in row:
                    lines.append(f"{' '.join(str(row[key]) for key in keys)}: {row['failed']}")
        return lines

    @property
    def unfinished(self) -> list[str]:
        """What there was no time for, in lines."""
        short = [each for each in self.figures["parts"] if each["state"] in ("skipped", "stopped")]
        return [f"{each['part']}: {each['state']}, {each['why']}" for each in short]

    @property
    def uncompiled(self) -> list[str]:
        """Which parts were not compiled ahead, in lines: torch.compile is not timed, or not for all of them."""
        short = [each for each in self.figures["compiling"] if each["state"] != "done"]
        return [f"{each['part']}: {each['state']}, {each['why']}" for each in short]


def rates(ceilings: list[dict]) -> dict[str, float]:
    """What is known of {"bytes": the copy's rate, "operations": the higher one of float32}, and ceilings by name."""
    known = {row["name"]: row["per_second"] for row in ceilings if "per_second" in row}
    plain = [known[name] for name in ("multiply-add", "float32 product") if name in known]
    found = {"bytes": known["copy"]} if "copy" in known else {}
    return known | found | ({"operations": max(plain)} if plain else {})


def beside_floor(row: dict, rates: dict[str, float]) -> dict:
    """What a kernel's row says of its floor: the longer of bytes at the copy's rate and operations at float32's, or at
    that of the row's `peak`, where it multiplies on tensor cores."""
    most = rates.get(row.get("peak", "operations"))
    if "seconds" not in row or most is None or "bytes" not in rates:
        return {}
    each = {"bytes": row["bytes"] / rates["bytes"], "operations": row["operations"] / most}
    bound = max(each, key=each.get)
    return {"floor_seconds": each[bound], "of_floor": each[bound] / row["seconds"], "bound": bound}
