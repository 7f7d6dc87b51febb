"""cupynn graph"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import cupynn
from cupynn.cli import networks
from cupynn.cli.common import BAD_USE, CommandError, add_device, choose_device, expected
from cupynn.graph import draw
from cupynn.reparam.expansion import expanded_layers

EPILOG = """\
examples:
  cupynn graph smallnet --expand ck --rate 4 --out smallnet.svg    expanded, and contracted beside it
  cupynn graph "ResNet-18" --depth 2 --out resnet.svg              a box for each block
  cupynn graph cifar_resnet --out resnet.html                      with a table of all records
  cupynn graph smallnet --out smallnet.dot                         for Graphviz

The network runs on random images in training mode. A box is one record of the tape: the operation and the time of its
forward pass, the shortest of five; its layer; the shape of its output and the bytes it keeps for backward; the bar is
its time beside the longest. A box with a thick border is a whole module, a dashed one holds the parameters that an
operation reads. Elementwise operations that follow each other share a box."""


def add_to(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "graph",
        help="draw the tape of a network, expanded and contracted side by side",
        description="Draw the tape of a network: operations, layers, shapes, time, and bytes kept for backward.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="NETWORK", help="a name of `cupynn models`, or a family")
    parser.add_argument("--out", required=True, metavar="FILE", help="what to write, an .svg, .html or .dot")
    parser.add_argument(
        "--depth",
        type=int,
        metavar="N",
        help="one box for each module whose name has N parts (default: the most detail that 40 boxes can show)",
    )
    networks.add_network(parser)
    networks.add_images(parser.add_argument_group("images"), batch=8)
    add_device(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    if arguments.depth is not None and arguments.depth < 1:
        raise CommandError(f"--depth must be at least 1; got {arguments.depth}", BAD_USE)
    if not (folder := pathlib.Path(arguments.out).parent).is_dir():
        raise CommandError(f"--out {arguments.out}: there is no folder {folder}")
    choose_device(arguments.device)
    model, shape = networks.create_for_images(arguments)
    drawn = {arguments.model: model}
    if any(expanded_layers(model)):
        drawn = {f"{arguments.model}, expanded": model, f"{arguments.model}, contracted": cupynn.contract(model)}
    with expected(ValueError):
        drawing = draw(
            *drawn.values(), input_shape=shape, batch=arguments.batch, depth=arguments.depth, titles=list(drawn)
        )
    with expected(ValueError, status=BAD_USE), expected(OSError):
        drawing.save(arguments.out)
    for graph in drawing.graphs:
        print(f"{graph.title}: {', '.join(graph.totals)}")
    print(f"drawn in {arguments.out}")
