"""cupynn analyse"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

from cupynn.cli.analyse_kinds import KINDS
from cupynn.cli.common import BAD_USE, CommandError, add_device, choose_device, expected, table
from cupynn.pictures import picture_bytes, save_picture

DESCRIPTION = "Look into networks and into their training: a table here, a picture and JSON on request."

EPILOG = """\
examples:
  cupynn analyse gradient-confusion runs/plain runs/ck --picture confusion.svg
  cupynn analyse landscape runs/plain --two --picture landscape.png --dark
  cupynn analyse do-conv runs/do --json h.json
  cupynn analyse KIND --help                                    what a kind measures, and its options

RUN is a folder that `cupynn train` wrote, or a file of weights; where a NETWORK will do, it may be a name of
`cupynn models` too. Nothing is written but what is asked for."""


def add_to(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "analyse",
        help="look into networks and their training: landscapes, gradients, hidden units, maps of weights",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(metavar="KIND", required=True)
    for name, kind in KINDS.items():
        own = kinds.add_parser(
            name,
            help=kind.help,
            description=kind.module.__doc__,
            epilog=f"example:\n  cupynn analyse {name} {kind.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        kind.add(own)
        output = own.add_argument_group("output")
        output.add_argument("--picture", metavar="FILE", help="draw it to a .png, .svg or .pdf")
        output.add_argument("--dark", action="store_true", help="draw it for a dark page")
        output.add_argument("--json", metavar="FILE", help="write all figures as JSON")
        add_device(own)
        own.set_defaults(command=run, kind=name)


def run(arguments: argparse.Namespace) -> None:
    if arguments.dark and not arguments.picture:
        raise CommandError("--dark is for --picture FILE", BAD_USE)
    for name in ("picture", "json"):
        path = getattr(arguments, name)
        if path and not (folder := pathlib.Path(path).parent).is_dir():
            raise CommandError(f"--{name} {path}: there is no folder {folder}")
    if arguments.picture:  # what is wrong with it is said before an analysis that may take long
        with expected(ModuleNotFoundError, ValueError):
            picture_bytes(lambda figure, theme: None, (1, 1), kind=pathlib.Path(arguments.picture).suffix[1:])
    choose_device(arguments.device)
    kind = KINDS[arguments.kind]
    with expected(ValueError, OSError, ImportError):
        found = kind.find(arguments)
    print(table(found.rows()))
    if arguments.json:
        with expected(OSError):
            pathlib.Path(arguments.json).write_text(json.dumps({"kind": arguments.kind, **found.record()}) + "\n")
        print(f"figures in {arguments.json}")
    if arguments.picture:
        with expected(OSError):
            save_picture(found.draw, arguments.picture, found.size, arguments.dark)
        print(f"picture in {arguments.picture}")
