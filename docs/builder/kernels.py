"""A page for every `cupynn/kernels/NAME.cu`: header, picture, face in Python, floor, times, source."""

from __future__ import annotations

import importlib
import inspect
import pathlib
import re
import shutil
from collections.abc import Callable
from types import ModuleType
from typing import Any

from builder import images, measured, text

FOLDER = pathlib.Path(__file__).parents[2] / "cupynn" / "kernels"
GROUPS = {
    "Layers of the papers": ("whe", "contract", "cross_layer", "conv_scaled"),
    "Convolutions": ("conv", "winograd", "pointwise", "depthwise", "im2col"),
    "What stands between them": ("batch_norm", "activations", "pool", "dropout", "cross_entropy", "sgd"),
}
# The benchmark that has a kernel's figures, and which of its rows.
BENCHES: dict[str, tuple[str, Callable[[dict[str, Any]], bool]]] = {
    "whe": ("whe", lambda row: True),
    "contract": ("contraction", lambda row: True),
    "cross_layer": ("cross_layer", lambda row: True),
    "conv_scaled": ("seq_conv", lambda row: True),
    "depthwise": ("depthwise", lambda row: True),
    "batch_norm": ("batch_norm", lambda row: row["what"].startswith("batch norm")),
    "dropout": ("batch_norm", lambda row: row["what"].startswith("dropout")),
    "activations": ("batch_norm", lambda row: not row["what"].startswith(("batch norm", "dropout"))),
    "pool": ("kernels", lambda row: "pool" in row["kernel"]),
    "im2col": ("kernels", lambda row: "col" in row["kernel"]),
    "cross_entropy": ("kernels", lambda row: "entropy" in row["kernel"]),
    "sgd": ("kernels", lambda row: "SGD" in row["kernel"]),
}
METHODS = {"conv": "direct", "winograd": "winograd", "pointwise": "pointwise"}  # as `conv.method` calls them
CHOICE = "The shapes for which `cupynn.kernels.conv.method` chooses this kernel, for a part of the pass at least."
INNER = {"target", "takes", "fits", "check", "check_range", "dtype_key", "instantiations"}  # functions for other files
UNMEASURED = "" if any(measured.RESULTS.glob("gpu-*")) else "Not yet measured on a GPU."


def write(folder: pathlib.Path, pictures: set[str]) -> None:
    """The pages, and the sources that they show, into `folder`. pictures: the names of kernels that have one."""
    folder.mkdir(exist_ok=True)
    names = sorted(path.stem for path in FOLDER.glob("*.cu"))
    for name in names:
        shutil.copy2(FOLDER / f"{name}.cu", folder)
        (folder / f"{name}.md").write_text(page(name, name in pictures))
    headers = sorted(FOLDER.glob("*.cuh"))
    for path in headers:
        shutil.copy2(path, folder)
    (folder / "headers.md").write_text(_headers(headers))
    (folder / "index.md").write_text(_index(names))


def header(path: pathlib.Path) -> str:
    """The comment at a source's top."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("//"):
            break
        lines.append(line[3:])
    return "\n".join(lines)


def title(path: pathlib.Path) -> str:
    """The first sentence of that comment."""
    first = next(text.blocks(header(path)))[1]
    return re.split(r"(?<=[^.])\.(?:\s|$)", first)[0] + "."


def page(name: str, picture: bool) -> str:
    """One kernel's page, as MyST Markdown."""
    module = importlib.import_module(f"cupynn.kernels.{name}")
    parts = [f"# {name}.cu\n"]
    if picture:
        parts.append(images.drawn(f"../pictures/{name}", f"What a block and a thread of {name}.cu compute"))
    parts += [text.markdown(header(FOLDER / f"{name}.cu")), f"## Its face, {name}.py\n"]
    parts += [text.markdown(module.__doc__), _functions(module)]
    references = _named(module, lambda name: name.startswith("reference_"))
    if references:
        parts.append(
            "## The reference\n\nThe same in array code: the specification, and what runs without a compiler.\n"
        )
        parts += map(_source, references)
    if costs := _named(module, lambda name: name.endswith("cost")):
        parts.append(
            "## What a pass must cost\n\nIts floor is the longer of the time for the bytes and for the operations.\n"
        )
        parts += map(_source, costs)
    parts += ["## Measured\n", _measured(name), f"## The source\n\n{_listing(f'{name}.cu')}"]
    return "\n".join(parts)


def _functions(module: ModuleType) -> str:
    shown = _named(
        module, lambda name: not name.startswith("reference_") and not name.endswith("cost") and name not in INNER
    )
    lines = [f".. autofunction:: {module.__name__}.{function.__name__}" for function in shown]
    return "```{eval-rst}\n" + "\n\n".join(lines) + "\n```\n" if lines else ""


def _named(module: ModuleType, wanted: Callable[[str], bool]) -> list[Callable]:
    """A module's own public functions of some names, in the order in which they stand there."""
    own = [
        f for f in vars(module).values() if inspect.isfunction(inspect.unwrap(f)) and f.__module__ == module.__name__
    ]
    return [f for f in own if not f.__name__.startswith("_") and wanted(f.__name__)]


def _source(function: Callable) -> str:
    return f"```python\n{inspect.getsource(inspect.unwrap(function))}```\n"


def _listing(name: str) -> str:
    return f"```{{literalinclude}} {name}\n:language: cuda\n:linenos:\n```\n"


def _measured(name: str) -> str:
    if name in METHODS:
        table = measured.chosen("conv", lambda row: METHODS[name] in _methods(row))
        return f"{CHOICE}\n\n{table}\n{UNMEASURED}\n"
    if name in BENCHES:
        part = "A whole SeqConv layer, of which this kernel is a part.\n\n" if name == "conv_scaled" else ""
        return f"{part}{measured.chosen(*BENCHES[name])}\n{UNMEASURED}\n"
    return f"No benchmark has it alone. {UNMEASURED}\n"


def _methods(row: dict[str, Any]) -> set[str]:
    """Those that one pass of a shape of `bench conv` takes."""
    from bench.conv import SHAPES
    from cupynn.kernels import conv

    c, o, side, kernel, stride, padding = SHAPES[row["convolution"]]
    batch = measured.result("conv")["batch"]
    g = conv.geometry((batch, c, side, side), (o, c, kernel, kernel), stride, padding)
    passes = ("forward",) if row["pass"] == "forward" else ("input gradient", "weight gradient")
    return {conv.method(g, which=which) for which in passes if which != "input gradient" or c != 3}


def _headers(paths: list[pathlib.Path]) -> str:
    parts = ["# Shared headers\n"]
    for path in paths:
        parts += [f"## {path.name}\n", text.markdown(header(path)), _listing(path.name)]
    return "\n".join(parts)


def _index(names: list[str]) -> str:
    groups = {**GROUPS, "Others": tuple(name for name in names if name not in sum(GROUPS.values(), ()))}
    parts = [
        "# Kernels\n",
        "One file for each, which runs on a GPU and on a CPU. What they share is in [the headers](headers.md).\n",
    ]
    for heading, members in groups.items():
        if members:
            parts.append(f"## {heading}\n")
            parts += [
                f"- [{name}.cu]({name}.md): {text.markdown_line(title(FOLDER / f'{name}.cu'))}" for name in members
            ]
            parts.append("")
    tree = [name for members in groups.values() for name in members]
    parts.append("```{toctree}\n:hidden:\n\n" + "\n".join([*tree, "headers"]) + "\n```\n")
    return "\n".join(parts)
