"""cupynn kernel"""

from __future__ import annotations

import argparse
import itertools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from cupynn.cli import kernel_examples
from cupynn.cli.common import BAD_USE, CommandError, expected, table
from cupynn.kernels import conv_direct
from cupynn.kernels.runtime import KernelCheckError, KernelCompileError, find_compiler
from cupynn.trace import METHOD, Block, Launch, launches, lines, page, trace
from cupynn.trace.recording import ATOMIC, BARRIER, KINDS, WARP

EPILOG = """\
examples:
  cupynn kernel whe                          what a small example of the kernel launches on a GPU
  cupynn kernel whe --trace                  one block of the first launch, line by line of the source
  cupynn kernel whe --trace --launch 1       of the backward pass
  cupynn kernel whe --trace --steps 0 33     and every step of two of the block's threads
  cupynn kernel whe --html whe.html          a page to step through in a browser

The block runs on the CPU, without a GPU, but with the threads and strips of a GPU's launch; every access is watched.
Accesses of threads are put together to those of warps, 32 threads: the k-th time that the threads come to the same
instruction is one access. The columns, per place of the source, kind of access and array:
  bytes      of one thread
  accesses   of warps
  threads    of a warp that take part, on average
  sectors    of 32 bytes of global memory that a warp's access touches, on average
  least      sectors that hold the bytes asked for: where sectors are more, bytes are moved that nobody asked for
  lines      of 128 bytes
  conflict   the most words of one bank of shared memory that a warp wants at once: 1 is none, n takes n times as long

All is computed from addresses; nothing is measured."""


def add_to(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "kernel",
        help="one kernel explained by running it: who reads and writes what, coalescing, bank conflicts",
        description="Run one block of a kernel with a GPU's threads on the CPU, and show what each warp does.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="a file of cupynn/kernels, without .cu")
    parser.add_argument("--trace", action="store_true", help="run one block and show its accesses")
    parser.add_argument(
        "--launch",
        type=int,
        metavar="N",
        help="which launch (default: the first of NAME.cu, if there is with shared memory)",
    )
    parser.add_argument(
        "--block", type=_triple, default=(0, 0, 0), metavar="X,Y,Z", help="which block (default: 0,0,0)"
    )
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        metavar="THREAD",
        help="show every step of these threads of the block, counted along x first",
    )
    parser.add_argument("--html", metavar="FILE", help="write the trace as a page for a browser")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    name = arguments.name
    if name not in kernel_examples.EXAMPLES:
        known = ", ".join(kernel_examples.EXAMPLES)
        raise CommandError(f"there is no example of a kernel {name!r}; there are {known}", BAD_USE)
    if find_compiler() is None:
        raise CommandError("a trace runs the kernel on the CPU, which takes a C++ compiler: install g++ or clang++")
    if arguments.html and not (folder := pathlib.Path(arguments.html).parent).is_dir():
        raise CommandError(f"--html {arguments.html}: there is no folder {folder}")
    call = example(name)
    known = launches(call)
    if not (arguments.trace or arguments.steps or arguments.html):
        _show_launches(known)
        return
    number = first(name, known) if arguments.launch is None else arguments.launch
    if not 0 <= number < len(known):
        raise CommandError(f"--launch {number}: the example has launches 0 to {len(known) - 1}", BAD_USE)
    with expected(ValueError, status=BAD_USE), expected(KernelCompileError, KernelCheckError):
        block = trace(call, number, arguments.block)
    for thread in arguments.steps or ():
        if not 0 <= thread < block.launch.threads:
            raise CommandError(f"--steps {thread}: a block has threads 0 to {block.launch.threads - 1}", BAD_USE)
    _show(block)
    for thread in arguments.steps or ():
        _show_steps(block, thread)
    if arguments.html:
        with expected(OSError):
            page(block).save(arguments.html)


def example(name: str) -> Callable[[], Any]:
    """A small call that launches the kernel on a GPU, with arrays of NumPy."""
    normal = kernel_examples._normal_numbers()
    if name == "conv":  # a GPU is given another method for the shapes of its example
        return kernel_examples._method(normal, conv_direct, 2, (8, 8, 16, 16), (16, 8, 5, 5), (16,), (8, 16, 16, 16))
    return kernel_examples.EXAMPLES[name](normal)


def first(name: str, known: list[Launch]) -> int:
    """The launch that is traced unless another is asked for: of NAME.cu, with shared memory if there is one."""
    own = [number for number, launch in enumerate(known) if launch.name == name]
    return next((number for number in own if known[number].shared_bytes), own[0])


def _triple(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) > 3 or not all(part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"expected X, X,Y or X,Y,Z, whole numbers from 0; got {text}")
    return (*map(int, parts), 0, 0)[:3]


def _show_launches(known: list[Launch]) -> None:
    rows = [["", "kernel", "grid", "block", "shared bytes", "arrays"]]
    for number, launch in enumerate(known):
        shapes = " ".join("x".join(map(str, a.shape)) or "1" for a in launch.args if isinstance(a, np.ndarray))
        sizes = [_dimensions(launch.grid), _dimensions(launch.block), str(launch.shared_bytes)]
        rows.append([str(number), str(launch), *sizes, shapes])
    print(table(rows, left=2))
    print("--trace shows a block of one of them, --launch N says of which")


def _dimensions(sizes: tuple[int, int, int]) -> str:
    return "x".join(map(str, sizes)).removesuffix("x1").removesuffix("x1")


def _show(block: Block) -> None:
    launch = block.launch
    warps, grid = -(-launch.threads // WARP), _dimensions(launch.grid)
    print(f"{launch}, block {','.join(map(str, block.place))} of {grid}")
    print(f"{_dimensions(launch.block)} threads, {warps} warps; {launch.shared_bytes} bytes of dynamic shared memory")
    for shared, where in ((False, "arrays"), (True, "shared memory")):
        named = [f"{a.name} {a.dtype}[{', '.join(map(str, a.shape))}]" for a in block.arrays if a.shared == shared]
        print(f"{where}: {', '.join(named) or 'none'}")
    print(METHOD)
    if lines.find_tool() is None:
        print(lines.MISSING)
    if block.left_out:
        print(f"{block.left_out} threads did more than is kept: of each only the first {block.most} steps are shown")
    heads = ["access", "bytes", "accesses", "threads", "sectors", "least", "lines", "conflict"]
    cells = [[_access(row.kind, row.array), *_figures(row)] for row in block.rows]
    head, *rows = table([["  " + heads[0], *heads[1:]], *([f"  {access}", *rest] for access, *rest in cells)]).split(
        "\n"
    )
    print(f"\n{head}")
    source, shown = launch.source.read_text().splitlines(), ()
    for row, text in zip(block.rows, rows, strict=True):
        same = _alike(row.lines, shown)
        for depth in range(same, len(row.lines)):
            print(f"{row.lines[depth]:4d}{'  ' * depth}  {source[row.lines[depth] - 1].strip()}")
        shown = row.lines
        print(text)
    sectors, least = block.sectors.sum(), block.least.sum()
    print(f"all accesses of global memory: {sectors} sectors, least {least}", end="")
    passes, least = block.passes.sum(), block.least_passes.sum()
    print(f"; of shared memory: {passes} passes over the banks, least {least}" if passes else "")


def _alike(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many lines both begin with."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _access(kind: int, array: str) -> str:
    return f"{KINDS[kind]} {array}".rstrip()


def _figures(row: Any) -> list[str]:
    figures = [str(row.size) if row.kind <= ATOMIC else "", str(row.count), f"{row.lanes:.3g}"]
    figures += ["" if value is None else f"{value:.3g}" for value in (row.sectors, row.least, row.cache_lines)]
    return [*figures, "" if row.degree is None else f"{row.degree}"]


def _show_steps(block: Block, thread: int) -> None:
    print(f"\nthread {thread}, step by step")
    for event in np.flatnonzero(block.events["thread"] == thread).tolist():
        chain, kind = block.chains[block.site_of[event]], int(block.events["kind"][event])
        if kind <= ATOMIC:
            what = f"{KINDS[kind]} {block.element(event)} = {block.value(event)}"
        else:
            what = KINDS[kind] + (f" with lane {block.events['offset'][event]}" if kind > BARRIER else "")
        print(f"{' > '.join(map(str, chain)):>12}  {what}")
