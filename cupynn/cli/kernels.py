"""cupynn kernels"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pathlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

from cupynn.cli.common import BAD_USE, CommandError, expected, table
from cupynn.kernels import launches
from cupynn.kernels.runtime import KernelCompileError, nvrtc
from cupynn.kernels.runtime.occupancy import LIMITS, occupancy

EPILOG = """\
examples:
  cupynn kernels                                    every instantiation that a GPU may be given
  cupynn kernels --compile                          compile each for compute capability 8.0, 9.0 and 10.0
  cupynn kernels --compile --arch 70 --filter conv  one architecture, the kernels whose name holds the word
  cupynn kernels --compile --json kernels.json      the same report as JSON, too

The columns, per instantiation and architecture:
  registers   of a thread, at most 255
  shared      bytes of shared memory of a block, static + dynamic
  spilled     bytes of registers stored to and loaded from local memory, stores/loads
  stack       bytes of local memory of a thread: spills, and arrays with an index that is not known when compiling
  threads     of a block
  occupancy   the share of a multiprocessor's warps that fit at once; registers, shared memory or blocks limit it

Threads and dynamic shared memory are those of a typical launch (cupynn/kernels/launches.py): 16 maps of 64 channels of
32 x 32 pixels. No GPU is needed. All of an architecture's kernels take some
20 seconds of one core; every core compiles."""


class Row(NamedTuple):
    """One instantiation for one architecture."""

    kernel: str
    instantiation: str
    architecture: int
    registers: int
    static_shared: int
    dynamic_shared: int
    spill_stores: int
    spill_loads: int
    stack: int
    threads: int
    occupancy: float


def add_to(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "kernels",
        help="compile every kernel for GPUs, without one: registers, spills, occupancy",
        description="List the kernels that a GPU may be given, and compile them with NVRTC.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--compile", action="store_true", help="compile them and show what they take of a GPU")
    parser.add_argument(
        "--arch",
        nargs="+",
        type=int,
        default=[80, 90, 100],
        metavar="CC",
        help="compute capabilities, times ten (default: 80 90 100)",
    )
    parser.add_argument(
        "--filter", action="append", default=[], metavar="WORD", help="only kernels whose NAME.instantiation holds it"
    )
    parser.add_argument("--json", metavar="FILE", help="with --compile: write the report there as JSON, too")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    chosen = {name: _filtered(name, arguments.filter) for name in nvrtc.kernel_names()}
    chosen = {name: expressions for name, expressions in chosen.items() if expressions}
    if not chosen:
        raise CommandError(f"no kernel's name holds {' and '.join(map(repr, arguments.filter))}", BAD_USE)
    if unknown := [architecture for architecture in arguments.arch if architecture not in LIMITS]:
        raise CommandError(f"--arch {unknown[0]}: known are {', '.join(map(str, LIMITS))}", BAD_USE)
    if arguments.json and not arguments.compile:
        raise CommandError("--json goes with --compile", BAD_USE)
    count = sum(map(len, chosen.values()))
    if not arguments.compile:
        print("\n".join(f"{name}.{expression}" for name in chosen for expression in chosen[name]))
        print(f"{count} instantiations; --compile shows what they take of a GPU")
        return
    tasks = [(name, architecture, chosen[name]) for name in chosen for architecture in arguments.arch]
    older = [task for task in tasks if task[1] < nvrtc.least_architecture(task[0])]
    tasks = [task for task in tasks if task not in older]
    left_out = [
        f"{name} is not for {architecture}: it needs {nvrtc.least_architecture(name)}"
        for name, architecture, _ in older
    ]
    if not tasks:
        raise CommandError("; ".join(left_out), BAD_USE)
    with expected(KernelCompileError):
        rows = list(report(tasks))
    print(_table(rows))
    for line in left_out:
        print(line)
    spilling = sum(row.spill_stores + row.spill_loads > 0 for row in rows)
    on_stack = sum(row.stack > 0 for row in rows)
    least = min(rows, key=lambda row: row.occupancy)
    print(
        f"{count} instantiations for {len(arguments.arch)} architectures: {spilling} spill registers, {on_stack} have "
        f"arrays in local memory; the least occupancy is {least.occupancy:.2f} ({least.kernel}.{least.instantiation})"
    )
    if arguments.json:
        with expected(OSError):
            pathlib.Path(arguments.json).write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n")


def report(tasks: Sequence[tuple[str, int, Sequence[str]]]) -> Iterator[Row]:
    """Compile (kernel file, architecture, instantiations), one after the other. Raises KernelCompileError."""
    processes = min(os.cpu_count() or 1, len(tasks))
    if processes == 1:
        yield from (row for task in tasks for row in compiled(*task))
        return
    # Threads would wait for each other: NVRTC compiles one program at a time in a process.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for rows in pool.map(compiled, *zip(*tasks, strict=True)):
            yield from rows


def compiled(name: str, architecture: int, expressions: Sequence[str]) -> list[Row]:
    """A row for each instantiation of `NAME.cu`."""
    rows = []
    for expression, figures in nvrtc.compile_kernel(name, architecture, expressions).items():
        launch = launches.typical(name, expression)
        share = occupancy(architecture, figures.registers, figures.shared + launch.shared, launch.threads)
        used = figures.registers, figures.shared, launch.shared, *figures[2:]
        rows.append(Row(name, expression, architecture, *used, launch.threads, round(share, 3)))
    return rows


def _filtered(name: str, words: Sequence[str]) -> list[str]:
    return [one for one in nvrtc.instantiations(name) if all(word in f"{name}.{one}" for word in words)]


def _table(rows: Sequence[Row]) -> str:
    head = ["kernel", "arch", "registers", "shared", "spilled", "stack", "threads", "occupancy"]
    lines = [
        [
            f"{row.kernel}.{row.instantiation}",
            str(row.architecture),
            str(row.registers),
            f"{row.static_shared}+{row.dynamic_shared}",
            f"{row.spill_stores}/{row.spill_loads}",
            str(row.stack),
            str(row.threads),
            f"{row.occupancy:.2f}",
        ]
        for row in rows
    ]
    return table([head, *lines])
