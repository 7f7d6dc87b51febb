"""cupynn contract"""

from __future__ import annotations

import argparse
from typing import Any

import cupynn
from cupynn import models
from cupynn.cli.common import CommandError, expected, image_shape, load_network, table, weights_file
from cupynn.reparam.expansion import expanded_layers
from cupynn.reparam.verification import contract_and_verify

EPILOG = """\
examples:
  cupynn contract runs/ck                            writes runs/ck/compact.safetensors
  cupynn contract net.safetensors --output small.safetensors

Every expanded layer becomes the one plain layer that computes the same. Before anything is written, the logits of both
networks on 8 random images are compared, the expanded one run layer after layer: the largest difference must be under
1e-4 in float32 and, both networks cast to float64 before contraction, under 1e-10."""


def add_to(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "contract",
        help="turn a trained expanded network into the compact one, and prove it equal",
        description="Contract a trained expanded network to the compact one it is equal to, and prove that.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", metavar="RUN_OR_FILE", help="run folder, or file of weights")
    parser.add_argument("--output", metavar="FILE", help="default: compact.safetensors beside the weights")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    expanded = load_network(arguments.path)
    if not any(expanded_layers(expanded)):
        raise CommandError(f"{weights_file(arguments.path)} has no expanded layers: there is nothing to contract")
    shape = image_shape(arguments.path, expanded)
    with expected(ValueError):
        compact, proofs = contract_and_verify(expanded, shape)
    output = arguments.output or weights_file(arguments.path).with_name("compact.safetensors")
    with expected(OSError):
        cupynn.save(compact, output)
    rows = [["", "parameters", "MACs"]]
    for name, model in {"expanded": expanded, "compact": compact}.items():
        count = models.count(model, shape)
        rows.append([name, f"{count.parameters:,}", f"{count.macs:,}"])
    print(table(rows))
    for proof in proofs:
        print(f"largest difference in logits, {proof.dtype}: {proof.absolute:.1e}")
    print(f"wrote {output}")
