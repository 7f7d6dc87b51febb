"""Draws the README's picture: `python docs/pictures/draw.py` writes overview.svg beside this file."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from pictures.kernels import BLUE, DRAWINGS, GREEN, ORANGE  # noqa: E402
from pictures.shapes import Drawing  # noqa: E402

from cupynn.pictures import DARK, LIGHT, Theme, picture_bytes  # noqa: E402

SIZE = (11.5, 3.4)


def overview(figure: Any, theme: Theme) -> None:
    """Train wide, ship compact; one kernel source, two processors."""
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    d = Drawing(left, theme, 6.9, 3.9)
    left.set_title("Train wide, ship compact", fontsize=12, loc="left")
    for i, (words, height) in enumerate([("3x3\n8 to 32", 1.1), ("3x3\n32 to 64", 1.7), ("3x3\n64 to 16", 1.1)]):
        d.box(0.2 + 1.3 * i, 2.3 - height / 2, 1.05, height, words, BLUE, 10)
    d.text(2.03, 3.5, "what is trained", 9)
    d.arrow((4.0, 2.3), (5.4, 2.3))
    d.text(4.7, 2.5, "contract")
    d.text(4.7, 2.1, "exact")
    d.box(5.55, 1.75, 1.05, 1.1, "7x7\n8 to 16", GREEN, 10)
    d.text(6.08, 3.5, "what is shipped", 9)
    d.box(1.5, 0.15, 4.0, 0.72, "training runs the contracted kernel:\nthe gradient goes back through it", ORANGE, 8.5)
    d.arrow((6.08, 1.7), (5.55, 0.62))
    d.arrow((1.45, 0.62), (0.8, 1.7))

    d = Drawing(right, theme, 6.3, 3.9)
    right.set_title("One kernel source, two processors", fontsize=12, loc="left")
    d.box(0.1, 1.45, 1.9, 1.1, "conv.cu\nplain CUDA C++", BLUE, 10)
    for height in (3.0, 2.0, 1.0):
        d.arrow((2.1, 2.0), (3.8, height))
    d.text(2.75, 2.75, "NVRTC", align="right")
    d.text(3.15, 2.2, "g++, clang++")
    d.text(2.75, 1.2, "instrumented", align="right")
    d.box(3.9, 2.65, 2.3, 0.7, "GPU", GREEN, 10)
    d.box(3.9, 1.65, 2.3, 0.7, "CPU: vectors, cores", GREEN, 10)
    d.box(3.9, 0.65, 2.3, 0.7, "checked: races,\noverruns, barriers", ORANGE)


def write_all(folder: pathlib.Path) -> set[str]:
    """NAME-light.svg and NAME-dark.svg of the overview and of every kernel that has a drawing; returns their names."""
    for name, (draw, size) in {"overview": (overview, SIZE), **DRAWINGS}.items():
        for theme in (LIGHT, DARK):
            (folder / f"{name}-{theme.name}.svg").write_bytes(picture_bytes(draw, size, theme))
    return set(DRAWINGS)


if __name__ == "__main__":
    (HERE / "overview.svg").write_bytes(picture_bytes(overview, SIZE))
