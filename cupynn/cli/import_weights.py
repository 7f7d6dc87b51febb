"""cupynn import-weights"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import cupynn
from cupynn.cli import networks
from cupynn.cli.common import BAD_USE, CommandError, expected

EPILOG = """\
examples:
  cupynn import-weights resnet resnet18.safetensors net.safetensors
  cupynn import-weights mobilenet_v2 theirs.safetensors net.safetensors --option classes=10 --partial

WEIGHTS is a safetensors file with PyTorch's state names, as safetensors.torch.save_file(model.state_dict(), FILE)
writes it. Names of resnet (v1b), mobilenet_v2 and shufflenet_v2 are torchvision's. FILE is what `cupynn evaluate`,
`export`, `contract` and cupynn.load take. Nothing is written where a name or a shape does not match, unless --partial:
then what does not keeps its random weights."""


def add_to(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "import-weights",
        help="make a network with weights that PyTorch trained",
        description="Make a network, fill it with the weights of a safetensors file, and save it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="network: a name or id of `cupynn models`")
    parser.add_argument("weights", metavar="WEIGHTS", help="safetensors file with PyTorch's names")
    parser.add_argument("output", metavar="FILE", help="file to write; one that is there is replaced")
    networks.add_network(parser)
    parser.add_argument("--partial", action="store_true", help="load what matches, leave the rest")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    output = pathlib.Path(arguments.output)
    if output.resolve() == pathlib.Path(arguments.weights).resolve():
        raise CommandError(f"FILE must be another file than WEIGHTS; got {output} for both", BAD_USE)
    model = networks.create(arguments)
    with expected(ValueError, OSError):
        report = cupynn.load_weights(model, arguments.weights, strict=not arguments.partial)
        cupynn.save(model, output)
    print(report)
    print(f"wrote {output}")
