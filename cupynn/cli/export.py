"""cupynn export"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import cupynn
from cupynn.cli.common import BAD_USE, CommandError, expected, image_shape, load_network, run_config
from cupynn.export.onnx_file import COMPARED, OPSET

EPILOG = """\
examples:
  cupynn export runs/ck net.onnx                       for images of the size that the run was trained on
  cupynn export net.safetensors net.onnx --size 144    any file that cupynn.save wrote

Expanded layers are contracted, and batch norms behind a convolution become part of it. The file's input "images" is
(N, C, H, W) for any N, float32, normalised as in training: metadata of a run's file say "mean" and "std". Its output
is "logits". Constants have the names that the compact network's state has. Before FILE is there, onnx's checker reads
it, and where onnxruntime is installed the logits of both are compared on random images. Needs cupynn[onnx]."""


def add_to(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "export",
        help="write a network as ONNX, and compare it with onnxruntime",
        description="Write a trained network as an ONNX file, contracted, and prove that it computes the same.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", metavar="RUN_OR_FILE", help="run folder, or file of weights")
    parser.add_argument("output", metavar="FILE", help="file to write, NAME.onnx; one that is there is replaced")
    parser.add_argument(
        "--size", type=int, metavar="N", help="pixels of an image's edge (default: the run's, else the network's own)"
    )
    parser.add_argument("--keep-batch-norm", action="store_true", help="leave every batch norm a node of its own")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    output = pathlib.Path(arguments.output)
    if output.suffix != ".onnx":
        raise CommandError(f"FILE must end in .onnx; got {output}", BAD_USE)
    if arguments.size is not None and arguments.size < 1:
        raise CommandError(f"--size must be at least 1; got {arguments.size}", BAD_USE)
    model = load_network(arguments.path)
    config = run_config(arguments.path)
    shape = image_shape(arguments.path, model)
    normalisation = config.get("normalisation", {})
    if arguments.size is not None:
        shape = (shape[0], arguments.size, arguments.size)
    with expected(ValueError, OSError, ModuleNotFoundError):
        written = cupynn.export_onnx(model, output, shape, not arguments.keep_batch_norm, normalisation)
    nodes = ", ".join(f"{count} {operator}" for operator, count in written.nodes.most_common())
    print(f"{sum(written.nodes.values())} nodes of opset {OPSET}: {nodes}")
    if written.difference is None:
        print("onnxruntime is not installed: the file was checked, and not run")
    else:
        counts = " and ".join(map(str, COMPARED))
        print(
            f"onnxruntime on {counts} random images: the logits differ by {written.difference:.1e} of the largest "
            f"(bound {written.bound:.1e})"
        )
    if normalisation:
        mean, std = normalisation["mean"], normalisation["std"]
        print(f"pixels of 0..1 are normalised with mean {mean} and std {std}, which the metadata say")
    print(f"wrote {output}, {output.stat().st_size:,} bytes, for images of {' x '.join(map(str, shape))}")
