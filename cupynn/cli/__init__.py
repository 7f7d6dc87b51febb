"""The command `cupynn`: one file per subcommand, each with `add_to(subparsers)` and `run(arguments)`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import cupynn
from cupynn.cli import (
    analyse,
    contract,
    demo,
    doctor,
    evaluate,
    export,
    graph,
    import_weights,
    kernel,
    kernels,
    models,
    profile,
    report,
    runs,
    train,
)
from cupynn.cli.common import CommandError
from cupynn.train import Interrupted

COMMANDS = (
    train,
    evaluate,
    runs,
    report,
    analyse,
    contract,
    export,
    import_weights,
    models,
    graph,
    kernel,
    kernels,
    profile,
    doctor,
    demo,
)

DESCRIPTION = "Train networks wide, contract them exactly, ship them compact."

EXAMPLES = """\
examples:
  cupynn demo                                       the whole story on handwritten digits, in about a minute
  cupynn train smallnet --data digits --pad-to 32 --expand ck --rate 4 --epochs 10 --crop 2 --run runs/ck
  cupynn evaluate runs/ck                           loss and accuracy on the test set
  cupynn runs runs                                  all runs as a table; --picture FILE draws their curves
  cupynn report runs/ck                             one page: curves, accuracy, proof, profile
  cupynn analyse landscape runs/ck --picture l.png  the loss round the weights; `cupynn analyse --help` has all kinds
  cupynn contract runs/ck                           writes runs/ck/compact.safetensors, proved equal
  cupynn export runs/ck net.onnx                    the compact network for onnxruntime, compared with it at once
  cupynn profile smallnet --expand ck               where the time of a training step goes
  cupynn graph smallnet --expand ck --out net.svg   the tape as a picture, expanded beside contracted
  cupynn kernel whe --html whe.html                 step through one block of a kernel with a GPU's threads
  cupynn kernels --compile                          what every kernel takes of a GPU; needs none
  cupynn doctor                                     what this computer can do, and whether every kernel is right

environment:
  CUPYNN_KERNELS=reference   NumPy references instead of compiled kernels;  =checked runs them under the race checker
  CUPYNN_CACHE_DIR           where compiled kernels are kept
  CUPYNN_TUNE=1              measure once per shape which convolution method is faster
  CUPYNN_TF32=1              let a GPU's tensor cores round the factors of float32 convolutions to TF32
  OMP_NUM_THREADS            cores that kernels use

Exit status: 0 done; 1 it could not be done, with one line on stderr; 2 bad use; 130 stopped by Ctrl-C."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    whole = Parser(
        prog="cupynn",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"cupynn {cupynn.__version__}")
    subparsers = whole.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_to(subparsers)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parsed = parser().parse_args(arguments)
    try:
        return parsed.command(parsed) or 0
    except CommandError as error:
        print(f"cupynn: error: {error}", file=sys.stderr)
        return error.status
    except Interrupted as stopped:
        print(f"cupynn: {stopped}", file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print("cupynn: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
