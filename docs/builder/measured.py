"""Tables of bench/results: every figure with the machine it was measured on."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any

RESULTS = pathlib.Path(__file__).parents[2] / "bench" / "results"


def result(bench: str) -> dict[str, Any]:
    """What `python -m bench NAME` wrote."""
    return json.loads((RESULTS / f"cpu-{bench}.json").read_text())


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as a Markdown table, without the bars that a benchmark is held to."""
    kept = [{name: text(value) for name, value in row.items() if "bar" not in name.split()} for row in rows]
    names = list(dict.fromkeys(name for row in kept for name in row))
    return markdown([{name: row.get(name, "") for name in names} for row in kept])


def markdown(rows: list[dict[str, str]]) -> str:
    """Rows of equal keys as a Markdown table; columns of figures are aligned to the right."""
    figures = [all(re.fullmatch(r"[-+\d,.eKMG% ]*", row[name]) for row in rows) for name in rows[0]]
    rule = ["--:" if figure else ":--" for figure in figures]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (rows[0], rule, *(row.values() for row in rows)))


def text(value: Any) -> str:
    """A figure with three digits."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def how(bench: str) -> str:
    """One paragraph: on what a benchmark was measured, and the command that measures it again."""
    found = result(bench)
    machine = found["machine"]
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    parts = [f"Measured: {machine['processor']}, {threads}, float32, batch {found['batch']} ({versions})."]
    if ceilings := found.get("ceilings"):
        copies, products = ceilings["bytes_per_second"] / 1e9, ceilings["operations_per_second"] / 1e9
        parts.append(
            f"The floor is the least time at this machine's rates, {copies:.0f} GB/s of copying and {products:.0f} "
            "GFLOP/s of multiply-adds, taken in the same run."
        )
    if note := found.get("note"):
        parts.append(note)
    parts.append(f"Again: `python -m bench {bench}`.")
    return " ".join(parts)


def chosen(bench: str, pick: Callable[[dict[str, Any]], bool] = lambda row: True, part: str = "rows") -> str:
    """The table of those rows of a benchmark that `pick` takes, under the line that says how they were measured."""
    rows = [row for row in result(bench)[part] if pick(row)]
    if not rows:
        raise ValueError(f"site: no row of {bench} was picked")
    return f"{how(bench)}\n\n{table(rows)}\n"
