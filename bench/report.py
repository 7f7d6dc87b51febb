"""Tables for people, JSON for machines."""

from __future__ import annotations

import json
import pathlib
import platform
import sys

import numpy as np

from bench.timing import THREADS


def table(rows: list[dict], title: str) -> str:
    """Rows of equal keys as aligned text; numbers with three significant digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_text(row.get(name, "")) for name in names] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(names)]
    lines = [
        "  ".join(
            name.ljust(width) if i == 0 else name.rjust(width)
            for i, (name, width) in enumerate(zip(names, widths, strict=True))
        )
    ]
    for line in cells:
        lines.append(
            "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        )
    return "\n".join([title, "", *lines])


def _text(value) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def counted(number: int | str, noun: str) -> str:
    """ "1 thread", "2 threads"."""
    return f"{number} {noun}" if int(number) == 1 else f"{number} {noun}s"


def machine() -> dict:
    """What the figures were measured on."""
    import cupynn
    from cupynn.kernels.runtime import blas
    from cupynn.train.environment import processor

    versions = {"cupynn": cupynn.__version__, "numpy": np.__version__, "python": platform.python_version()}
    for name in ("torch", "cupy"):
        if name in sys.modules:
            versions[name] = sys.modules[name].__version__
    figures = {"processor": processor(), "system": platform.system(), "threads": int(THREADS), "versions": versions}
    return figures | {"openblas_core": core} if (core := blas.core()) else figures


def write(path: str, figures: dict) -> None:
    """Write figures as JSON."""
    pathlib.Path(path).write_text(json.dumps(figures, indent=2) + "\n")
