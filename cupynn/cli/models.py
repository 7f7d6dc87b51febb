"""cupynn models"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

from cupynn import models
from cupynn.cli import networks
from cupynn.cli.common import CommandError, expected, table
from cupynn.models.count import LayerCount
from cupynn.models.entry import Entry, difference
from cupynn.nn import init
from cupynn.reparam.expansion import expanded_layers

EPILOG = """\
examples:
  cupynn models                                     every network of the papers, with the paper's own figures
  cupynn models --filter whe --filter resnet-20     those whose name holds both words
  cupynn models --differs                           where the paper prints another figure, and why
  cupynn models smallnet --expand ck                one network layer by layer, expanded and contracted side by side
  cupynn models "DelugeNet-146/cifar10"
  cupynn models --json

Multiply-accumulates (MACs) are those of one image, in convolutions, linear, WHE and cross-layer layers; of an expanded
network layer after layer. Contracted, or trained with --composition kernel, it costs what the plain one does.
Operations are counted as the paper counts them: thop adds biases, batch norm, and where said ReLU and pooling."""


def add_to(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "models",
        help="the networks, their parameters and multiply-accumulates",
        description="List the networks of the papers, or show one layer by layer.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", metavar="NAME", help="one network: a name of this list, or a family")
    networks.add_network(parser)
    listing = parser.add_argument_group("list")
    listing.add_argument("--filter", action="append", default=[], metavar="WORD", help="only names that hold the word")
    listing.add_argument("--differs", action="store_true", help="only where the paper prints another figure")
    listing.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    if arguments.model is not None:
        _show(arguments)
        return
    words = [word.lower() for word in arguments.filter]
    entries = [entry for entry in models.catalogue.ENTRIES.values() if all(word in entry.id.lower() for word in words)]
    counted = [(entry, entry.count()) for entry in entries]
    if arguments.differs:
        counted = [(entry, count) for entry, count in counted if any(_differences(entry, count))]
    if arguments.json:
        print(json.dumps([_record(entry, count) for entry, count in counted], indent=1))
    else:
        _list(counted)


def _record(entry: Entry, count: models.Count) -> dict[str, Any]:
    return {
        "id": entry.id,
        "name": entry.name,
        "options": dict(entry.options),
        "input": entry.input,
        "params": count.parameters,
        "macs": count.macs,
        "paper_params": entry.paper_params,
        "paper_operations": entry.paper_operations,
        "operations": entry.operations(count),
        "convention": entry.convention,
        "source": entry.source,
        "note": entry.note,
    }


def _differences(entry: Entry, count: models.Count) -> tuple[str, str]:
    """What our parameters and operations are more than the printed ones; "" where they round to them."""
    pairs = ((count.parameters, entry.paper_params), (entry.operations(count), entry.paper_operations))
    return tuple("" if printed is None else difference(value, printed) for value, printed in pairs)


def _list(counted: Iterable[tuple[Entry, models.Count]]) -> None:
    heads = (
        "network",
        "image",
        "parameters",
        "in paper",
        "differs",
        "MACs",
        "operations in paper",
        "differs",
        "counted as",
    )
    rows = [list(heads)]
    notes = {}
    for entry, count in counted:
        more = _differences(entry, count)
        mark = f" [{notes.setdefault(entry.note, len(notes) + 1)}]" if entry.note else ""
        size = "x".join(map(str, entry.input))
        rows.append(
            [
                entry.id + mark,
                size,
                f"{count.parameters:,}",
                entry.paper_params or "",
                more[0],
                f"{count.macs:,}",
                entry.paper_operations or "",
                more[1],
                entry.convention if entry.paper_operations else "",
            ]
        )
    print(table(rows))
    for note, number in notes.items():
        print(f"[{number}] {note}")


def _show(arguments: argparse.Namespace) -> None:
    """One network layer by layer; an expanded one beside what it contracts to."""
    if arguments.json or arguments.filter or arguments.differs:
        raise CommandError("--json, --filter and --differs are for the list, without a NAME", networks.BAD_USE)
    with init.shapes_only():
        model = networks.create(arguments)
        entry = models.catalogue.ENTRIES.get(arguments.model)
        shape = entry.input_shape if entry else model.input_shape
        with expected(ValueError):
            layers = models.count_layers(model, shape)
        if not any(expanded_layers(model)):
            print(table(_rows(layers), 2))
            return
        compact = models.count_layers(networks.plain(model), shape)
    print(table(_side_by_side(layers, compact), 2))


def _rows(layers: list[LayerCount]) -> list[list[str]]:
    rows = [["name", "layer", "output", "parameters", "MACs"]]
    rows += [[layer.name, layer.layer, _shape(layer), *_figures([layer])] for layer in layers]
    return [*rows, ["", "", "", *_figures(layers)]]


def _side_by_side(expanded: list[LayerCount], compact: list[LayerCount]) -> list[list[str]]:
    """Each layer of the compact network, and the figures of what it is trained as."""
    rows = [["name", "layer", "output", "parameters", "MACs", "expanded to", "parameters", "MACs"]]
    for layer in compact:
        parts = [part for part in expanded if part.name == layer.name or part.name.startswith(f"{layer.name}.")]
        trained_as = "" if parts[0].layer == layer.layer and len(parts) == 1 else " ".join(part.layer for part in parts)
        figures = _figures(parts) if trained_as else ["", ""]
        rows.append([layer.name, layer.layer, _shape(layer), *_figures([layer]), trained_as, *figures])
    return [*rows, ["", "", "", *_figures(compact), "", *_figures(expanded)]]


def _shape(layer: LayerCount) -> str:
    return "x".join(map(str, layer.output_shape))


def _figures(layers: list[LayerCount]) -> list[str]:
    counts = [layer.count for layer in layers]
    return [f"{sum(count.parameters for count in counts):,}", f"{sum(count.macs for count in counts):,}"]
