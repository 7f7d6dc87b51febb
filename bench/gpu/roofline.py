"""The roofline of a result file: how fast each kernel computes over how much it computes per byte, under the roof that
this device's copy and multiply-adds make. `python -m bench.gpu.roofline bench/results/gpu-NAME.json` draws it again.

[Williams, Waterman and Patterson 2009]
"""

from __future__ import annotations

import json
import math
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from bench.gpu.results import rates
from cupynn.pictures import Theme, save_picture

SIZE = (11, 7.5)
NAMED = ("forward", "step")
MARKERS = {"forward": "o", "backward": "s", "input gradient": "^", "weight gradient": "v", "step": "D"}
TENSOR = {"TF32": ("TF32 product",), "16 bits": ("float16 product", "bfloat16 product")}


def save(figures: dict, path: pathlib.Path) -> list[pathlib.Path]:
    """Draw NAME-roofline.svg and NAME-roofline-dark.svg beside NAME.json. Raises ValueError where there is nothing."""
    points(figures)
    files = [path.with_name(f"{path.stem}-roofline{ground}.svg") for ground in ("", "-dark")]
    for file in files:
        save_picture(lambda figure, theme: draw(figure, theme, figures), file, SIZE, dark="dark" in file.stem)
    return files


def points(figures: dict) -> list[dict]:
    """The fastest method of each kernel in float32, and what runs on tensor cores: name, layer, pass, intensity
    (operations per byte), rate (operations per second).

    Raises ValueError where ceilings or kernels are missing.
    """
    if not {"bytes", "operations"} <= rates(figures["ceilings"]).keys():
        raise ValueError("the device's ceilings are not known")
    best: dict[tuple, dict] = {}
    for row in figures["kernels"]:
        if "seconds" not in row or not row["operations"] or not (row["dtype"] == "float32" or "peak" in row):
            continue
        layer = row["layer"], row["shape"], row["dtype"], row["pass"]
        if layer not in best or row["seconds"] < best[layer]["seconds"]:
            best[layer] = row
    if not best:
        raise ValueError("no kernel was timed")
    return [
        {
            "name": _named(row),
            "layer": (row["layer"], row["shape"], row["dtype"]),
            "pass": row["pass"],
            "intensity": row["operations"] / row["bytes"],
            "rate": row["operations"] / row["seconds"],
        }
        for row in best.values()
    ]


def _named(row: dict) -> str:
    """The kernel, and of maps (N, C, H, W) the channels and the side."""
    sizes, name = row["shape"].split("x"), row["kernel"]
    if len(sizes) == 4 and sizes[2] == sizes[3]:
        name += f" {sizes[1]}@{sizes[2]}"
    return name if row["dtype"] == "float32" else f"{name} {row['dtype']}"


def draw(figure: Any, theme: Theme, figures: dict) -> None:
    """Axes, roof, points and their names, none of which lies on another."""
    found, ceilings = points(figures), rates(figures["ceilings"])
    bandwidth, peak = ceilings["bytes"], ceilings["operations"]
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_yscale("log")
    ridge = peak / bandwidth
    intensities, speeds = [point["intensity"] for point in found], [point["rate"] for point in found]
    left, right = min(*intensities, ridge) / 3, max(*intensities, ridge) * 6
    known = {row["name"]: row["per_second"] for row in figures["ceilings"] if "per_second" in row}
    rates_of = {name: [known[each] for each in products if each in known] for name, products in TENSOR.items()}
    tensor = {name: max(each) for name, each in rates_of.items() if each}
    axes.set_xlim(left, right)
    axes.set_ylim(min(speeds) / 3, 3 * max(peak, *tensor.values()) if tensor else 3 * peak)
    axes.plot([left, ridge, right], [left * bandwidth, peak, peak], color=theme.ink, lw=1.6)
    named = []
    named.append(_roof(axes, theme, right, peak, f"float32 {peak / 1e12:.1f} TFLOP/s"))
    for name, rate in tensor.items():
        axes.plot([rate / bandwidth, right], [rate, rate], color=theme.faint, lw=1.2, ls="--")
        named.append(_roof(axes, theme, right, rate, f"{name} {rate / 1e12:.0f} TFLOP/s"))
    if tensor:  # the slope goes on to the highest roof
        top = max(tensor.values())
        axes.plot([ridge, top / bandwidth], [peak, top], color=theme.faint, lw=1.2, ls="--")
    roofs = [line.get_xydata() for line in axes.lines]
    for layer in {point["layer"]: None for point in found}:  # a thin line from forward to what goes back
        passes = [(point["intensity"], point["rate"]) for point in found if point["layer"] == layer]
        axes.plot(*zip(*passes, strict=True), color=theme.faint, lw=0.8, zorder=2)
    for number, (which, marker) in enumerate(MARKERS.items()):
        here = [point for point in found if point["pass"] == which]
        if here:
            place = [point["intensity"] for point in here], [point["rate"] for point in here]
            axes.scatter(*place, marker=marker, s=26, color=theme.lines[number], label=which, zorder=3)
    axes.set_xlabel("operations per byte that must be moved")
    axes.set_ylabel("operations per second")
    gpu = figures["machine"]["gpu"]["name"]
    axes.set_title(f"{figures.get('sample', '')}{gpu}: kernels, copy {bandwidth / 1e9:.0f} GB/s, ridge {ridge:.1f}")
    axes.legend(loc="lower right")
    figure.canvas.draw()  # where everything is, is known now
    _names(figure, axes, theme, found, named, roofs)


def _roof(axes: Any, theme: Theme, right: float, rate: float, text: str) -> Any:
    return axes.annotate(
        text, (right, rate), (-4, 3), textcoords="offset points", ha="right", fontsize=7.5, color=theme.ink
    )


def _names(figure: Any, axes: Any, theme: Theme, found: list[dict], named: list, roofs: list) -> None:
    """Write the names of forward passes and steps, each at the nearest place that is free."""
    from matplotlib.path import Path

    renderer, unit = figure.canvas.get_renderer(), figure.dpi / 72
    taken = [each.get_window_extent(renderer).extents for each in (*named, axes.get_legend())]
    places = [axes.transData.transform((point["intensity"], point["rate"])) for point in found]
    for roof in roofs:
        places.extend(Path(axes.transData.transform(roof)).interpolated(200).vertices)
    margin = 4 * unit
    taken = np.array([*taken, *((x - margin, y - margin, x + margin, y + margin) for x, y in places)])
    firsts = [pair for pair in zip(found, places, strict=False) if pair[0]["pass"] in NAMED]
    for point, place in sorted(firsts, key=lambda pair: -pair[1][1]):
        text = axes.annotate(
            point["name"],
            (point["intensity"], point["rate"]),
            (0, 0),
            textcoords="offset points",
            fontsize=6.5,
            color=theme.ink,
            arrowprops={"arrowstyle": "-", "color": theme.faint, "lw": 0.5, "shrinkA": 0, "shrinkB": 2},
        )
        size = text.get_window_extent(renderer).size
        around = ((shift, place + unit * np.array(shift)) for shift in _around(*size / unit))
        boxes = ((shift, np.array([*corner, *corner + size])) for shift, corner in around)
        free = next(((shift, box) for shift, box in boxes if _free(box, axes.get_window_extent().extents, taken)), None)
        if free is None:  # no room: the point stays without a name
            text.remove()
            continue
        text.set_position(free[0])
        taken = np.vstack([taken, free[1]])


def _around(width: float, height: float) -> Iterator[tuple[float, float]]:
    """Places of a text's lower left corner relative to its point, in points of length: on rings, near ones first. The
    side that looks at the point is as far from it as the ring is wide."""
    for radius in range(6, 260, 4):
        for turn in range(24):
            x, y = math.cos(turn * math.pi / 12), math.sin(turn * math.pi / 12)
            yield radius * x - width * (1 - x) / 2, radius * y - height * (1 - y) / 2


def _free(box: np.ndarray, frame: np.ndarray, taken: np.ndarray) -> bool:
    """Whether a box (left, bottom, right, top) lies within the frame and on none that are taken."""
    if not ((frame[:2] < box[:2]).all() and (box[2:] < frame[2:]).all()):
        return False
    return not ((taken[:, :2] < box[2:] + 1) & (box[:2] < taken[:, 2:] + 1)).all(axis=1).any()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        given = pathlib.Path(name)
        for file in save(json.loads(given.read_text()), given):
            print(file)
