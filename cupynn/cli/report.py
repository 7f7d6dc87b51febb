"""cupynn report"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

from cupynn.cli.common import CommandError, add_device, choose_device, expected
from cupynn.report import report

EPILOG = """\
examples:
  cupynn report runs/ck                          writes runs/ck/report.html
  cupynn report runs/ck --out ck.html --data-dir data/cifar-10-batches-py

The page holds the run's curves, its networks with accuracy and speed beside what they contract to, the confusion
matrix, the proof of the contraction, where the time of a training step goes, the tape as a picture, settings and
environment. It is one file, light or dark as its reader's screen is. Accuracy, speed, proof and profile are measured
anew, here; what is missing for them is said. Nothing else is written."""


def add_to(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "report",
        help="a run as one page: curves, accuracy, proof, profile",
        description="Write one HTML page on a run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", metavar="RUN", help="run folder")
    parser.add_argument("--out", metavar="FILE", help="default: report.html in the run folder")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data (default: where the run had it)")
    add_device(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    out = pathlib.Path(arguments.out or pathlib.Path(arguments.path, "report.html"))
    if arguments.out and not out.parent.is_dir():
        raise CommandError(f"--out {out}: there is no folder {out.parent}")
    choose_device(arguments.device)
    with expected(ModuleNotFoundError, OSError, ValueError):
        report(arguments.path, arguments.data_dir).save(out)
    print(f"report in {out}")
