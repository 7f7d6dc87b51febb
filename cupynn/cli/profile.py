"""cupynn profile"""

from __future__ import annotations

import argparse
import json
import pathlib
from dataclasses import asdict
from typing import Any

from cupynn import device
from cupynn.cli import networks
from cupynn.cli.common import BAD_USE, CommandError, add_device, choose_device, expected, table
from cupynn.profile import Profile, chain_overhead, profile, trace
from cupynn.profile.floors import Ceilings, measure_where_kernels_run
from cupynn.profile.steps import TINY, inference, training
from cupynn.profile.tables import layers_text
from cupynn.train.environment import threads

EPILOG = """\
examples:
  cupynn profile smallnet                                 a training step at batch 128
  cupynn profile smallnet --expand ck --batch 32          the expanded network
  cupynn profile "ResNet-18" --batch 4 --inference        a network of `cupynn models`, forward only
  cupynn profile cifar_resnet --trace step.json           look at it in ui.perfetto.dev or chrome://tracing

A step on random images is run plainly and watched; every time is a median over the watched steps, without the
watching. An operation's time holds its kernels. A kernel's floor is the least time in which this machine can move the
bytes, or do the operations, that its Python face states (`cost`), at rates measured in the same run; matrix products
are those of BLAS. A cost is that of a pass, and goes to the kernel in which the pass spends most; Winograd's
convolutions do with fewer operations than are stated. "array operations" is what operations do with NumPy outside of
kernels; the Python in them is what they take with two images. On a GPU every launch is waited for.

Nothing is written but the files that are asked for."""

MOST = 25  # rows of a table; --json has them all
DIFFERS = 0.2  # from here on the watched and the plain step do not tell of the same thing


def add_to(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "profile",
        help="where the time of a training step goes, by operation and by kernel",
        description="Show where the time of a step goes: by operation, by kernel beside its floor, and what is Python.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="NETWORK", help="a name of `cupynn models`, or a family")
    networks.add_network(parser)
    step = parser.add_argument_group("step")
    networks.add_images(step, batch=128)
    step.add_argument("--inference", action="store_true", help="forward only, in evaluation mode, without the tape")
    step.add_argument("--steps", type=int, default=7, metavar="N", help="steps that are watched (default: 7)")
    add_device(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--trace", metavar="FILE", help="write the step for chrome://tracing and ui.perfetto.dev")
    output.add_argument("--json", metavar="FILE", help="write all figures, times in seconds")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    if arguments.steps < 1:
        raise CommandError(f"--steps must be at least 1; got {arguments.steps}", BAD_USE)
    for name in ("trace", "json"):
        path = getattr(arguments, name)
        if path and not (folder := pathlib.Path(path).parent).is_dir():
            raise CommandError(f"--{name} {path}: there is no folder {folder}")
    where = choose_device(arguments.device)
    model, shape = networks.create_for_images(arguments)
    make = inference if arguments.inference else training
    with expected(ValueError):
        found = profile(make(model, shape, arguments.batch), make(model, shape, TINY), arguments.steps)
    ceilings = measure_where_kernels_run()
    chain = chain_overhead()
    title = f"{arguments.model}, {'inference' if arguments.inference else 'training'}, batch {arguments.batch}"
    title += f", images {'x'.join(map(str, shape))}"
    with expected(OSError):
        if arguments.trace:
            _write(arguments.trace, trace(found, f"cupynn: {title}"))
        if arguments.json:
            _write(arguments.json, _record(title, found, ceilings, chain))
    print(f"{title}, float32, on {where}" + (f", threads: {threads()}" if where == "cpu" else ""))
    _show(found, ceilings, chain)


def _show(found: Profile, ceilings: Ceilings | None, chain: float) -> None:
    print(
        f"{_ms(found.seconds)} ms a step, median of {found.steps} ({_ms(found.plain_seconds)} ms where nobody "
        f"watched), {found.records} records"
    )
    if abs(found.plain_seconds / found.seconds - 1) > DIFFERS and device.default_device() == "cpu":
        print("the two differ: other programs ran meanwhile, or the step is so short that watching it changes it")
    saved = "" if found.saved_bytes is None else f"{_mib(found.saved_bytes)} MiB saved for backward, "
    print(f"{saved}{_mib(found.peak_bytes)} MiB allocated at once")
    if ceilings is not None:
        print(ceilings)
    if device.default_device() != "cpu":
        print(
            "every launch and operation was waited for: the parts are true, the whole is longer than it is; "
            "ceilings are measured on the CPU only, so there are no floors"
        )
    print("\nWhere the time goes")
    shares = found.shares()
    rows = [[name, _ms(seconds), f"{shares[name]:.1%}"] for name, seconds in found.categories().items()]
    print(table([["", "ms", "share"], *rows]))
    places = ", ".join(f"{name} {_ms(seconds)}" for name, seconds in found.python().items())
    print(f"Python, ms: {places}")
    if found.python_in_operations is None:
        print("(the Python inside of operations is part of array operations: two images went another way)")
    print(
        f"modules and tape: {1e6 * found.python_per_record:.1f} us a record here, between kernels that take the "
        f"caches; {1e6 * chain:.1f} us in a chain of additions to one number"
    )
    _show_kernels(found, ceilings)
    _show_operations(found, ceilings)


def _show_kernels(found: Profile, ceilings: Ceilings | None) -> None:
    rows = [["kernel", "launches", "ms", "share", "MB", "GFLOP", "floor ms", "of floor"]]
    for row in found.kernels(ceilings):
        moved = "" if row.bytes is None else f"{row.bytes / 1e6:.1f}"
        computed = "" if row.operations is None else f"{row.operations / 1e9:.3f}"
        of_floor = "" if row.of_floor is None else f"{row.of_floor:.0%}"
        rows.append(
            [row.name, str(row.launches), _ms(row.seconds), f"{row.seconds / found.seconds:.1%}", moved, computed]
            + [_ms(row.floor), of_floor]
        )
    print("\nBy kernel")
    print(table(rows) if len(rows) > 1 else "no kernel ran: references of NumPy alone")


def _show_operations(found: Profile, ceilings: Ceilings | None) -> None:
    heads = ["operation", "pass", "shapes", "layer", "calls", "ms", "share", "in kernels", "MB", "floor ms"]
    rows = [heads]
    every = found.operations(ceilings)
    for row in every[:MOST]:
        shapes = " ".join("x".join(map(str, shape)) for shape in row.shapes[:2])
        shapes += " ..." if len(row.shapes) > 2 else ""
        times = [str(row.calls), _ms(row.seconds), f"{row.seconds / found.seconds:.1%}"]
        inside = f"{row.kernel_seconds / row.seconds:.0%}" if row.seconds else ""
        figures = [inside, f"{row.bytes / 1e6:.1f}", _ms(row.floor)]
        rows.append([row.name, row.which, shapes, layers_text(row.layers), *times, *figures])
    print("\nBy operation and shape")
    print(table(rows, left=4))
    if rest := every[MOST:]:
        seconds = sum(row.seconds for row in rest)
        print(
            f"and {len(rest)} more, {_ms(seconds)} ms together, {seconds / found.seconds:.1%}; --json FILE has them all"
        )


def _record(title: str, found: Profile, ceilings: Ceilings | None, chain: float) -> dict[str, Any]:
    return {
        "title": title,
        "device": device.default_device(),
        "steps": found.steps,
        "seconds": found.seconds,
        "plain_seconds": found.plain_seconds,
        "records": found.records,
        "saved_bytes": found.saved_bytes,
        "peak_bytes": found.peak_bytes,
        "ceilings": None if ceilings is None else vars(ceilings),
        "categories": found.categories(),
        "python": found.python(),
        "python_per_record": found.python_per_record,
        "python_per_record_of_a_chain": chain,
        "kernels": [asdict(row) | {"of_floor": row.of_floor} for row in found.kernels(ceilings)],
        "operations": [asdict(row) for row in found.operations(ceilings)],
    }


def _write(path: str, values: dict[str, Any]) -> None:
    with open(path, "w") as file:
        json.dump(values, file)


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.3f}"


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f}"
