"""cupynn demo: the whole story in a minute."""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any

import cupynn
from cupynn import data, models
from cupynn.cli.common import BAD_USE, CommandError, add_device, choose_device, expected, load_data, table
from cupynn.cli.networks import resolve
from cupynn.nn import init
from cupynn.reparam.expansion import layer_by_layer
from cupynn.reparam.verification import contract_and_verify
from cupynn.train import Diverged, RunFolder, Settings, draw_curves, evaluate, fit, throughput
from cupynn.train.run_folder import CURVES

EPILOG = """\
SmallNet with 7x7 kernels is trained twice with one recipe on 4000 handwritten digits: plainly, and as an ExpandNet (CK,
rate 4: every 7x7 convolution a chain of three 3x3 ones, 4 times wider). The expanded network is then contracted to
SmallNet's own size, and the two are proved equal.

Another network for images of 32 x 32 pixels, a NAME of `cupynn models`, is trained plainly and with the expansion of
that name, or with DO-Conv where it has none.

written to the run folder, whose earlier contents of these names are replaced:
  config.json, metrics.jsonl (both networks), plain.safetensors, model.safetensors (the expanded network),
  compact.safetensors (the contracted one), curves.png"""

SETTINGS = Settings(epochs=10, batch_size=64, lr=0.05, schedule="cosine", crop=2, seed=0, keep=0)
OTHERS_EPOCHS = 2  # of networks a hundred times as costly
DATA = {"name": "digits", "folder": None, "pad_to": 32}
SPEED_BATCH = 128
EXPANSION = {"expand": "ck", "rate": 4}
HEADER = ["", "parameters", "MACs", "test accuracy", "training images/s", "inference images/s", "logits differ by"]


def add_to(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="train plain and expanded, contract, prove, compare: one table",
        description="Show what cupynn is for, on handwritten digits that lie inside an installed package.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", default="smallnet", metavar="NAME", help="network (default: %(default)s)")
    parser.add_argument("--run", dest="folder", default="runs/demo", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--epochs", type=int, help=f"default: {SETTINGS.epochs} for smallnet, else {OTHERS_EPOCHS}")
    add_device(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    start = time.perf_counter()
    builder, plain, expansion = _networks(arguments.model)
    epochs = arguments.epochs
    if epochs is None:
        epochs = SETTINGS.epochs if builder == "smallnet" else OTHERS_EPOCHS
    with expected(ValueError):
        settings = dataclasses.replace(SETTINGS, epochs=epochs)
    device = choose_device(arguments.device)
    train_set, test_set = load_data(**DATA)
    with expected(OSError):
        folder = RunFolder(arguments.folder, overwrite=True)
        folder.add_config(data={"load": DATA})
    how = expansion["expand"].upper() + (f", rate {expansion['rate']}" if "rate" in expansion else "")
    titles = {"plain": f"{arguments.model}, plain", "model": f"{arguments.model}, {how}"}
    networks = {}
    for network, options in {"plain": plain, "model": {**plain, **expansion}}.items():
        print(f"\n{titles[network]}, on {device}", flush=True)
        cupynn.manual_seed(settings.seed)
        networks[network] = models.create(builder, **options)
        with expected(Diverged, OSError):
            fit(networks[network], train_set, test_set, settings, folder, network)

    shape = train_set.image_shape
    compact, proofs = contract_and_verify(networks["model"], shape)
    cupynn.save(compact, folder.path / "compact.safetensors")
    draw_curves(folder.metrics(), folder.path / CURVES, titles, "One recipe, trained plainly and expanded")

    images, labels = next(iter(data.batches(train_set, SPEED_BATCH)))
    rows = [HEADER]
    logits = " / ".join(f"{proof.absolute:.0e}" for proof in proofs)
    for name, network, trains, difference in (
        ("compact, trained plainly", networks["plain"], True, "-"),
        ("expanded, before contraction", networks["model"], True, "-"),
        ("compact, contracted from it", compact, False, logits),
    ):
        count = models.count(network, shape)
        rows.append(
            [
                name,
                f"{count.parameters:,}",
                f"{count.macs:,}",
                f"{evaluate(network, test_set).accuracy:.1%}",
                f"{throughput(network, images, labels):,.0f}" if trains else "-",
                f"{throughput(network, images):,.0f}",
                difference,
            ]
        )
    with layer_by_layer(networks["model"]):
        slow = throughput(networks["model"], images, labels)
    print(f"\n{table(rows)}\n")
    print(f"Speed at batch {SPEED_BATCH}. Logits: float32 / float64, bounds 1e-4 / 1e-10.")
    print("The expanded network computes through its contracted kernels. Layer after layer, as the papers' code does,")
    print(f"it trains {slow:,.0f} images/s here; the MACs of CL, CK and FC are those of that way.")
    print(f"\n{time.perf_counter() - start:.0f} s in all. The run folder {folder.path} holds:")
    for file in sorted(folder.path.iterdir()):
        print(f"  {file.name:<20} {file.stat().st_size:>9,} bytes")


def _networks(name: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What `models.create` takes: a name, the plain network's options, and those that expand it."""
    builder, options = resolve(name)
    own = models.takes(builder)
    options |= {"in_channels": 1, "classes": 10} | ({"cifar": True} if "cifar" in own else {})
    plain = {option: value for option, value in options.items() if option in own}
    with init.shapes_only():
        shape = models.create(builder, **plain).input_shape
    if shape[1:] != (32, 32):
        raise CommandError(f"demo: {name} takes images of {shape[1]} x {shape[2]}; the digits are 32 x 32", BAD_USE)
    expansion = {option: value for option, value in options.items() if option not in own}
    return builder, plain, expansion or (EXPANSION if builder == "smallnet" else {"expand": "do"})
