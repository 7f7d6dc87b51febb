"""What every benchmark's command has in common: its options, PyTorch if it is installed, the report."""

from __future__ import annotations

import argparse
from types import ModuleType

from bench.floors import Ceilings
from bench.report import counted, machine, table, write
from bench.timing import THREADS


def read_options(name: str, doc: str, arguments: list[str], batch: int, rounds: int) -> argparse.Namespace:
    """The options of `python -m bench NAME`: rounds, batch, json."""
    parser = argparse.ArgumentParser(prog=f"python -m bench {name}", description=doc)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"turns of each contender (default {rounds})")
    parser.add_argument("--batch", type=int, default=batch, help=f"images per batch (default {batch})")
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args(arguments)
    options.name = name
    return options


def find_torch() -> ModuleType | None:
    """PyTorch with the threads of this run; None, and a line that says so, where it is not installed."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: no peer is timed (pip install torch)")
        return None
    torch.set_num_threads(int(THREADS))
    return torch


def report(
    options: argparse.Namespace,
    what: str,
    rows: list[dict],
    ceilings: Ceilings | None = None,
    precision: str = "float32",
) -> None:
    """Print the table, under a line that says how it was measured; write the JSON that was asked for."""
    how = f"{what}, {precision}, {counted(THREADS, 'thread')}, {counted(options.rounds, 'round')}"
    print(table(rows, how if ceilings is None else f"{how}, {ceilings}"))
    if options.json:
        figures = {"machine": machine(), "bench": options.name, "batch": options.batch, "rounds": options.rounds}
        if ceilings is not None:
            figures["ceilings"] = vars(ceilings)
        write(options.json, {**figures, "rows": rows})
