"""How the time of a training step grows with the work: images in the batch, threads, pixels, the expansion rate.

"time x" is how many times as long a step takes as the one a row above, "expected x" what that would be if time followed
the work alone. Batch and pixels: in proportion, once they outweigh what a step costs with next to no data. Threads: the
inverse. Rate: in proportion to multiply-accumulates; those of the contracted network are the plain one's for every
image, and once in a step the contraction's.
"""

from __future__ import annotations

from bench.timing import take_turns  # first: it sets the threads' environment

# isort: split

import argparse
import os
from itertools import pairwise

import cupynn
from bench.networks import ask
from bench.networks.cases import IMAGE, batch_of
from bench.networks.steps import training_step
from bench.report import counted, machine, table, write
from bench.timing import THREADS
from cupynn.kernels import contract
from cupynn.nn import ExpandedConv2d
from cupynn.ops.contraction import contraction_order
from cupynn.reparam.expansion import expanded_layers

BATCH, LARGEST, ROUNDS = 128, 1024, 5
BATCHES, SIDES, RATES = (1, 4, 16, 64, 256, 1024), (32, 64, 128, 224), (1, 2, 4, 8, 16)
OF_SIDES = 8  # images of growing sides
NETWORKS = {"SmallNet-7": "smallnet", "ResNet-20": "cifar_resnet"}
Series = dict[int, tuple[float, float]]  # {size: (seconds, work)}


def timed(steps: dict, work: dict, rounds: int) -> Series:
    """The steps take turns."""
    return {size: (times.median, work[size]) for size, times in take_turns(steps, rounds).items()}


def batches(builder: str, largest: int, rounds: int) -> Series:
    counts = [count for count in BATCHES if count <= largest]
    model = cupynn.models.create(builder)
    return timed({n: training_step(model, *batch_of(n)) for n in counts}, {n: n for n in counts}, rounds)


def sides(builder: str, images: int, rounds: int) -> Series:
    steps = {}
    for side in SIDES:
        options = {"image_size": side} if builder == "smallnet" else {}
        steps[side] = training_step(cupynn.models.create(builder, **options), *batch_of(images, side))
    return timed(steps, {side: side**2 for side in SIDES}, rounds)


def rates(composition: str, images: int, rounds: int) -> Series:
    """SmallNet-7 with CK."""
    plain = cupynn.models.count(cupynn.models.create("smallnet"), IMAGE).macs
    steps, work = {}, {}
    for rate in RATES:
        model = cupynn.models.create("smallnet", expand="ck", rate=rate, composition=composition)
        work[rate] = images * (plain if composition == "kernel" else cupynn.models.count(model, IMAGE).macs)
        if composition == "kernel":
            work[rate] += sum(map(contraction_macs, expanded_layers(model)))
        steps[rate] = training_step(model, *batch_of(images))
    return timed(steps, work, rounds)


def contraction_macs(layer: ExpandedConv2d) -> int:
    """Multiply-accumulates of one contraction."""
    shapes, macs = [each.weight.shape for each in layer.layers], 0
    channels = (shapes[0][1], *(shape[0] for shape in shapes))
    for first, second in contraction_order(channels, tuple(shape[2:] for shape in shapes)):
        macs += contract.cost(shapes[first], shapes[second])["forward"][1] // 2
        size = (a + b - 1 for a, b in zip(shapes[first][2:], shapes[second][2:], strict=True))
        shapes.append((shapes[second][0], shapes[first][1], *size))
    return macs


def threads(name: str, images: int, rounds: int) -> Series:
    """1, 2, 4, ... threads, each number in a process of its own."""
    series, count = {}, 1
    while count <= (os.cpu_count() or 1):
        answer = ask("time", str(count), name=name, batch=images, rounds=rounds, libraries=["cupynn"])
        if isinstance(answer, str):
            raise RuntimeError(f"growth: {name} was not timed with {count} threads: {answer}")
        series[count], count = (answer["training"]["seconds"]["cupynn"], 1 / count), 2 * count
    return series


def measure(largest: int, rounds: int) -> dict[str, dict[str, Series]]:
    """{what grows: {network: series}}"""
    images = min(largest, BATCH)
    few = min(largest, OF_SIDES)
    return {
        "images in the batch": {name: batches(builder, largest, rounds) for name, builder in NETWORKS.items()},
        f"threads, batch {images}": {name: threads(name, images, rounds) for name in NETWORKS},
        f"image side, batch {few}": {name: sides(builder, few, rounds) for name, builder in NETWORKS.items()},
        f"expansion rate, batch {images}": {
            "SmallNet-7+CK, contracted": rates("kernel", images, rounds),
            "SmallNet-7+CK, layer by layer": rates("feature", images, rounds),
        },
    }


def rows_of(what: str, name: str, series: Series) -> list[dict]:
    rows = [{"what grows": what, "network": name, "size": size, "ms": t * 1e3} for size, (t, _) in series.items()]
    for row, ((before, less), (after, more)) in zip(rows[1:], pairwise(series.values()), strict=True):
        row |= {"time x": after / before, "expected x": more / less}
    return rows


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"turns of each size (default {ROUNDS})")
    parser.add_argument("--batch", type=int, default=LARGEST, help=f"the largest batch (default {LARGEST})")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--picture", help="draw them to this file, .svg or .png; needs matplotlib")
    options = parser.parse_args(arguments)
    figures = measure(options.batch, options.rounds)
    rows = [
        row for what, each in figures.items() for name, series in each.items() for row in rows_of(what, name, series)
    ]
    how = f"A training step, float32, {counted(THREADS, 'thread')} but where they grow"
    how += f", {counted(options.rounds, 'round')}"
    print(table(rows, how))
    if options.json:
        kept = {"machine": machine(), "bench": "growth", "batch": options.batch, "rounds": options.rounds}
        write(options.json, {**kept, "rows": rows})
    if options.picture:
        from bench.growth_picture import draw

        draw(figures, options.picture)
