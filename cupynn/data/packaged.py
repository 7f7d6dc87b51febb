"""Read a file that ships inside another installed package, without importing that package."""

from __future__ import annotations

import gzip
import importlib.util
import io
import zlib
from pathlib import Path

import numpy as np


def missing_package(data_set: str, package: str, extra: str) -> ModuleNotFoundError:
    """The error for a package that a data set needs and that is not installed."""
    return ModuleNotFoundError(
        f"{data_set}: needs the package {package}, which is not installed: pip install 'cupynn[{extra}]'", name=package
    )


def packaged_file(data_set: str, package: str, path: str, extra: str) -> Path:
    """Where `path` lies inside the installed `package`.

    The package is found, not imported: importing scikit-learn or scikit-image costs most of a second.
    Raises ModuleNotFoundError with the pip command where the package is missing, FileNotFoundError where the file is.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise missing_package(data_set, package, extra)
    file = Path(spec.submodule_search_locations[0], path)
    if not file.is_file():
        raise FileNotFoundError(f"{data_set}: expected the file {file} inside the installed package {package}")
    return file


def read_pixel_table(data_set: str, file: Path, rows: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (rows, pixels) uint8 and labels (rows,) int64 from a gzipped CSV: one image per line, its label last.

    Raises ValueError for a damaged file, and for one with other rows, columns or labels than ten classes.
    """
    wanted = f"{data_set}: {file}: expected gzipped CSV, {rows} rows of {pixels} pixels from 0 to 255 and a label 0..9"
    try:
        table = np.loadtxt(io.BytesIO(gzip.decompress(file.read_bytes())), delimiter=",", dtype=np.uint8, ndmin=2)
    except (OSError, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise ValueError(f"{wanted}; reading it failed: {error}") from error
    if table.shape != (rows, pixels + 1):
        raise ValueError(f"{wanted}; found {table.shape[0]} rows of {table.shape[1]} numbers")
    labels = table[:, -1].astype(np.int64)
    if set(labels.tolist()) != set(range(10)):
        raise ValueError(f"{wanted}; found the labels {sorted(set(labels.tolist()))[:12]}")
    return table[:, :-1], labels
