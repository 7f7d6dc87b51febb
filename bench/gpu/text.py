"""The figures of a result file as tables for the terminal, and as what a page in Markdown says of them.

`python -m bench.gpu.text` prints the latter of the newest file.
"""

from __future__ import annotations

import json
import pathlib

from bench.page import markdown_table
from bench.report import table

RESULTS = pathlib.Path(__file__).parents[1] / "results"
NOT_YET = "GPU figures are still to be measured"


def tables(figures: dict) -> str:
    """Everything that was measured."""
    gpu = figures["machine"]["gpu"]
    head = f"{gpu['name']}, driver {gpu['driver']}, CUDA {gpu['cuda']}, batch {figures['batch']}. {figures['how']}"
    parts = [table(_ceilings(figures["ceilings"]), f"Ceilings. {head}")] if figures["ceilings"] else []
    if figures["kernels"]:
        parts.append(table(_kernels(figures["kernels"]), "Kernels. Times in microseconds; ratios are ours to theirs"))
    if figures["networks"]:
        title = "A training step. Times in milliseconds, memory in MiB; ratios are ours to theirs"
        parts.append(table(_networks(figures["networks"]), title))
    return "\n\n".join(parts)


def _ceilings(rows: list[dict]) -> list[dict]:
    units = {"bytes": ("GB/s", 1e9), "operations": ("TFLOP/s", 1e12)}
    found = []
    for row in rows:
        line = {"ceiling": row["name"]}
        if "failed" in row:
            found.append(line | {"note": row["failed"]})
        else:
            unit, scale = units[row["unit"]]
            found.append(line | {"rate": row["per_second"] / scale, "unit": unit})
    return found


def _kernels(rows: list[dict]) -> list[dict]:
    found = []
    for row in rows:
        line = {key: row[key] for key in ("kernel", "pass", "dtype", "shape")}
        if "seconds" in row:
            line |= {"us": row["seconds"] * 1e6}
            line |= {"floor": row["floor_seconds"] * 1e6, "of floor": row["of_floor"]} if "of_floor" in row else {}
        found.append(line | _peers(row, 1e6))
    return found


def _networks(rows: list[dict]) -> list[dict]:
    found = []
    for row in rows:
        line = {key: row[key] for key in ("network", "precision", "image")}
        if "seconds" in row:
            line |= {"ms": row["seconds"] * 1e3, "images/s": round(row["images_per_second"])}
        for key, name in (("peak_bytes", "MiB"), ("eager_peak_bytes", "eager MiB")):
            line |= {name: row[key] / 2**20} if key in row else {}
        found.append(line | _peers(row, 1e3))
    return found


def _peers(row: dict, scale: float) -> dict:
    """Times and ratios of PyTorch's ways; why there are none."""
    line, notes = {}, [row["failed"]] if "failed" in row else []
    for key, name in (("captured", "captured"), ("eager", "eager"), ("compile", "compiled")):
        if f"{key}_seconds" in row:
            line |= {name: row[f"{key}_seconds"] * scale, f"to {name}": row[f"to_{key}"]}
        elif key in row:
            notes.append(f"{name}: {row[key]}")
    return line | ({"note": "; ".join(notes)} if notes else {})


def measured(folder: pathlib.Path = RESULTS) -> dict | None:
    """The newest result file of a GPU, or None."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("gpu-*.json"))]
    return max(found, key=lambda figures: figures["date"], default=None)


def statement(folder: pathlib.Path = RESULTS) -> str:
    """What README says: on which GPU and when the figures were measured, or that they are not."""
    figures = measured(folder)
    return NOT_YET if figures is None else f"measured on {figures['machine']['gpu']['name']} on {figures['date']}"


def readme_table(figures: dict) -> str:
    """Training steps in Markdown: one line for each network and precision that was timed."""
    rows = []
    for row in figures["networks"]:
        if "seconds" not in row:
            continue
        line = {"network": row["network"], "precision": row["precision"], "cupynn": f"{row['seconds'] * 1e3:.1f} ms"}
        for key, name in (("eager", "PyTorch"), ("compile", "torch.compile")):
            timed = f"{key}_seconds" in row
            line[name] = f"{row[f'{key}_seconds'] * 1e3:.1f} ms" if timed else "-"
            line[f"to {name}"] = f"{row[f'to_{key}']:.2f}" if timed else "-"
        both = "peak_bytes" in row and "eager_peak_bytes" in row
        line["memory, ratio"] = f"{row['peak_bytes'] / row['eager_peak_bytes']:.2f}" if both else "-"
        rows.append(line)
    return markdown_table(rows) if rows else NOT_YET


if __name__ == "__main__":
    print(statement())
    if newest := measured():
        print(readme_table(newest))
