"""cupynn models"""

from __future__ import annotations

import argparse
from typing import Any

from cupynn import models
from cupynn.cli.common import input_shape, table

STRATEGIES = ("cl", "ck", "fc", "do", "ac")


def add_to(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "models",
        help="the networks, their parameters and multiply-accumulates",
        description="List the networks with their default options, and each as it is trained with every expansion that "
        "fits it. Multiply-accumulates (MACs) are those of one image, in convolutions and linear layers; of an "
        "expanded network layer after layer. Contracted, or trained with --composition kernel, it costs what the "
        "plain one does.",
    )
    parser.add_argument("--rate", type=float, default=4, help="of the expansions (default: 4)")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    rows = [["network", "images", "parameters", "MACs"]]
    for name in models.names():
        for strategy in (None, *STRATEGIES):
            try:
                model = models.create(name, expand=strategy, rate=arguments.rate)
            except ValueError:  # no layer of the network fits this expansion
                continue
            shape = input_shape(model)
            count = models.count(model, shape)
            label = name if strategy is None else f"  --expand {strategy} --rate {arguments.rate:g}"
            rows.append([label, "x".join(map(str, shape)), f"{count.parameters:,}", f"{count.macs:,}"])
    print(table(rows))
