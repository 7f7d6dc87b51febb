"""The tables of whole networks, and the lines under them."""

from __future__ import annotations

import math
import statistics

PEERS = {"eager": "eager", "compile": "compiled"}


def rows_of(figures: dict[str, dict], batch: int) -> dict[str, list[dict]]:
    """A row for each network in each table. Where a peer has no figure, "-"."""
    tables = {"training": [], "inference": []}
    shares = []
    for name, measured in figures.items():
        if "failed" in measured:
            tables["training"].append({"network": name, "note": f"not timed: {measured['failed']}"})
            continue
        shares.append({"network": name, **_shares(measured["shares"])})
        for passes, rows in tables.items():
            times = measured[passes]
            ours = times["seconds"]["cupynn"]
            row = {"network": name}
            if passes == "training":
                row["parameters"] = measured["parameters"]
            row |= {"cupynn ms": ours * 1e3, "images/s": round(batch / ours)}
            for library, heading in PEERS.items():
                if library in times["seconds"]:
                    row[f"{heading} ms"] = times["seconds"][library] * 1e3
                    row[f"of {heading}"] = times["ratios"][library]
                elif library in measured:  # why not
                    row[f"{heading} ms"] = row[f"of {heading}"] = "-"
            if "layers" in times["seconds"]:
                row["of layers"] = times["ratios"]["layers"]
            if passes == "training":
                row |= _memory(measured.get("memory", {}))
                if "compile" in measured:
                    row["note"] = f"compiled: {measured['compile']}"
            rows.append(row)
    return {**tables, "shares": shares}


def _shares(answer: dict | str) -> dict:
    return {"note": answer} if isinstance(answer, str) else answer


def _memory(memory: dict) -> dict:
    """Columns of the memory, in MiB."""
    row = {}
    for library, answer in memory.items():
        row["MiB" if library == "cupynn" else f"{library} MiB"] = (
            answer["bytes"] / 2**20 if isinstance(answer, dict) else "-"
        )
    if all(isinstance(row.get(name), float) for name in ("MiB", "eager MiB")):
        row["of eager's"] = row["MiB"] / row["eager MiB"]
    return row


def summary(rows: dict[str, list[dict]]) -> list[str]:
    """What the tables come to, in lines."""
    lines = []
    for passes, of in (("training", "a training step"), ("inference", "inference")):
        for heading in PEERS.values():
            lines += _mean(rows[passes], f"of {heading}", f"{of}, of PyTorch {heading}")
    lines += _mean(rows["training"], "of eager's", "a training step's memory, of PyTorch eager's")
    for family in ("+CL", "+CK", "DelugeNet", "SeqResNet", "+WHE", "+DO-Conv", "MobileNet"):
        found = [row for row in rows["training"] if family in row["network"]]
        parts = [
            f"{column} {_span([row[column] for row in found if isinstance(row.get(column), float)])}"
            for column in ("of eager", "of compiled", "of eager's")
            if any(isinstance(row.get(column), float) for row in found)
        ]
        if parts:
            lines.append(f"{family.lstrip('+')}, a training step: {', '.join(parts)}".replace("of eager's", "memory"))
    return lines


def _mean(rows: list[dict], column: str, what: str) -> list[str]:
    """Geometric mean and the worst, which is the largest."""
    ratios = {row["network"]: row[column] for row in rows if isinstance(row.get(column), float)}
    if not ratios:
        return []
    mean = math.exp(statistics.fmean(map(math.log, ratios.values())))
    worst = max(ratios, key=ratios.get)
    return [f"{what}: geometric mean {mean:.3g} of {len(ratios)} networks, worst {ratios[worst]:.3g} ({worst})"]


def _span(ratios: list[float]) -> str:
    least, most = min(ratios), max(ratios)
    return f"{least:.3g}" if len(ratios) == 1 else f"{least:.3g} to {most:.3g}"


def check_rows(answers: dict[str, dict | str]) -> list[dict]:
    """A row for each network; parameters here and of the peer."""
    rows = []
    for name, answer in answers.items():
        if isinstance(answer, str):
            rows.append({"network": name, "parameters": answer})
            continue
        ours, theirs = answer["parameters"]
        parts = {key: f"{answer[key]:.1e}" for key in ("evaluation", "contracted", "training", "gradient")}
        rows.append({"network": name, "parameters": ours, "peer's": theirs, **parts})
    return rows
