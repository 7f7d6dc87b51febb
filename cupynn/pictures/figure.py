"""Figures with matplotlib, drawn without a display, on a light or a dark ground."""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Callable
from typing import Any

from cupynn.pictures.theme import DARK, LIGHT, Theme

Draw = Callable[[Any, Theme], None]  # puts axes and their content into an empty matplotlib Figure


def draw_figure(draw: Draw, size: tuple[float, float], theme: Theme = LIGHT) -> Any:
    """A matplotlib Figure of `size` inches that `draw(figure, theme)` fills; text, axes and legends have theme's ink.

    Raises ModuleNotFoundError with the pip command where matplotlib is missing.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("pictures: needs matplotlib: pip install 'cupynn[demo]'", name=error.name) from None
    with matplotlib.rc_context(_settings(theme)):
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        FigureCanvasAgg(figure)  # draws without a display, whatever backend pyplot has
        draw(figure, theme)
        figure.canvas.draw()  # ticks and legends take their colours when they are made, which is now
    return figure


def save_picture(draw: Draw, path: str | os.PathLike, size: tuple[float, float], dark: bool = False) -> None:
    """Write the figure to a file; the kind is that of its suffix: .png, .svg, .pdf.

    Raises ValueError for another suffix, FileNotFoundError for a folder that is not there.
    """
    path = pathlib.Path(path)
    path.write_bytes(picture_bytes(draw, size, DARK if dark else LIGHT, path.suffix.removeprefix(".")))


def picture_bytes(draw: Draw, size: tuple[float, float], theme: Theme = LIGHT, kind: str = "svg") -> bytes:
    """The figure as a file's content. Two calls give the same bytes: no date, ids counted from a fixed salt."""
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"pictures: a file's name must end with .png, .svg or .pdf; it ends with {f'.{kind}'!r}")
    figure = draw_figure(draw, size, theme)
    import matplotlib

    with matplotlib.rc_context(_settings(theme)):
        stream = io.BytesIO()
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}[kind]
        figure.savefig(stream, format=kind, metadata=metadata)
    return stream.getvalue()


def _settings(theme: Theme) -> dict[str, Any]:
    from cycler import cycler

    ink = {f"{name}.color": theme.ink for name in ("text", "xtick", "ytick")}
    grounds = {f"{name}.facecolor": theme.background for name in ("figure", "axes", "savefig")}
    return {
        **ink,
        **grounds,
        "axes.edgecolor": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.titlecolor": theme.ink,
        "axes.prop_cycle": cycler(color=theme.lines),
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": theme.ink,
        "grid.alpha": 0.18,
        "grid.linewidth": 0.6,
        "image.cmap": theme.sequential,
        "legend.frameon": False,
        "legend.fontsize": "small",
        "svg.hashsalt": "cupynn",
    }
