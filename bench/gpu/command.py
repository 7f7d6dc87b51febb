"""Every kernel and whole training steps on an NVIDIA GPU, beside what the device can do, PyTorch and torch.compile.

Parts: the device's ceilings; each family of kernels, forward and backward; networks, in float32 and with float16 and
bfloat16 storage, with the memory that they take. All end within the budget: first every part runs once without being
timed, several at a time, which fills the compilers' caches; then one after another is timed in a process of its own.
What there is no time for is skipped, and said. The file is written after every row.

PyTorch takes part where it is installed with CUDA, eager and torch.compile, in the same arithmetic as ours: float32
without TF32, TF32 beside TF32, autocast beside 16-bit storage. torch.compile takes part where it has several operations
to join and was done compiling in time.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import signal
import sys

from bench.gpu import parts, text
from bench.gpu.found import Gpu, find
from bench.gpu.results import Results

BATCH, ROUNDS, BUDGET, RESERVE = 128, 25, 540.0, 15.0
SECONDS = {"ceilings": 2.0, "kernels": 1.0, "network": 2.5}  # of the rounds of what takes turns
MOST_AT_ONCE, MEMORY_EACH = 8, 16 << 30


def main(arguments: list[str]) -> None:
    options = read_options(arguments)
    gpu = find()
    if isinstance(gpu, str):
        print(gpu, file=sys.stderr)
        sys.exit(1)
    print(f"GPU: {gpu}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # children are ended, too
    path = pathlib.Path(options.json) if options.json else text.RESULTS / f"gpu-{gpu.file_name}.json"
    results = Results(path, gpu, options.batch, options.budget)
    measure(options, gpu, results)
    print(text.tables(results.figures))
    print(f"\nwritten to {path}, {results.figures['seconds']:.0f} s")
    picture(results.figures, path)
    told = {"Not compiled ahead": results.uncompiled, "No time was left for": results.unfinished}
    for heading, lines in {**told, "FAILED": results.faults}.items():
        if lines:
            print(f"\n{heading}\n" + "\n".join(f"  {line}" for line in lines))
    if results.faults:
        sys.exit(1)


def measure(options: argparse.Namespace, gpu: Gpu, results: Results) -> None:
    """All parts, as far as the budget goes."""
    budget = parts.Budget(options.budget - min(RESERVE, options.budget / 10))
    todo = [part for part in parts.parts() if options.parts is None or part.name in options.parts]
    compiled, states = [], []
    if options.compile:
        print(f"compiling, {at_once(gpu)} parts at a time ...", flush=True)
        compiled, states = parts.warm(todo, at_once(gpu), parts.WARM_SHARE * budget.left, options.batch)
    results.figures["compiling"] = states
    results.write()
    while todo:
        share = todo[0].weight / sum(part.weight for part in todo)
        part, seconds = todo.pop(0), budget.left * share
        if seconds < parts.LEAST:
            seconds = min(parts.LEAST, budget.left)
        if seconds < parts.LEAST:
            results.ended({"part": part.name, "state": "skipped", "seconds": 0.0, "why": "the budget was used up"})
            continue
        print(f"{part.name} ...", flush=True)
        given = {"batch": options.batch, "rounds": options.rounds, "limit": SECONDS[part.kind], "compiled": compiled}
        results.ended(parts.run(part, seconds, results.add, **given))


def at_once(gpu: Gpu) -> int:
    """How many parts compile at a time: so many as the cores and the device's memory have room for."""
    return max(1, min(MOST_AT_ONCE, (os.cpu_count() or 1) // 2, gpu.memory // MEMORY_EACH))


def picture(figures: dict, path: pathlib.Path) -> None:
    """The roofline beside the result file, on a light and on a dark ground, where matplotlib is installed."""
    from bench.gpu import roofline

    try:
        for file in roofline.save(figures, path):
            print(f"drawn in {file}")
    except (ModuleNotFoundError, ValueError) as error:
        print(f"no roofline: {error}")


def read_options(arguments: list[str]) -> argparse.Namespace:
    names = [part.name for part in parts.parts()]
    parser = argparse.ArgumentParser(
        prog="python -m bench gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", help=f"of {', '.join(names)}; joined by commas (default: all)")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"images per batch (default {BATCH})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"turns of each contender, at most ({ROUNDS})")
    parser.add_argument("--budget", type=float, default=BUDGET, help=f"seconds for all of it ({BUDGET:g})")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave out torch.compile")
    parser.add_argument("--json", help="write the figures to this file (default bench/results/gpu-NAME.json)")
    options = parser.parse_args(arguments)
    if options.parts is not None:
        options.parts = options.parts.split(",")
        if unknown := [name for name in options.parts if name not in names]:
            parser.error(f"there is no part {unknown[0]!r}; there are {', '.join(names)}")
    return options
