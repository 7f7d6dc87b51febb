"""Which implementation runs: compiled kernels, the reference, or kernels under the checker."""

from __future__ import annotations

import os
import warnings

from . import build
from .errors import KernelCompileError

MODES = ("compiled", "reference", "checked")

_mode: str | None = None  # None: not read yet
_compiler_found: bool | None = None


def mode() -> str:
    """The mode in use: `"compiled"`, `"reference"` or `"checked"`; read from CUPYNN_KERNELS at first use."""
    if _mode is None:
        set_mode(os.environ.get("CUPYNN_KERNELS") or "compiled")
    return _mode


def set_mode(name: str) -> None:
    """Choose the mode for this process. Raises ValueError for a name that is none."""
    global _mode
    if name not in MODES:
        raise ValueError(f"CUPYNN_KERNELS: expected one of {', '.join(MODES)}; got {name!r}")
    _mode = name


def compiler_found() -> bool:
    """True where a C++ compiler is at hand; otherwise says so once and the references run."""
    global _compiler_found
    if _compiler_found is None:
        _compiler_found = build.find_compiler() is not None and _compiles()
        if not _compiler_found:
            warnings.warn(
                "cupynn: no working C++ compiler found (g++, clang++ or the one named in CXX), so kernels run as NumPy "
                "references, which are slow; install one, or set CUPYNN_KERNELS=reference to silence this",
                RuntimeWarning,
                stacklevel=3,
            )
    return _compiler_found


def _compiles() -> bool:
    """Whether the compiler makes a library of the few lines that ask it for the processor's vector width."""
    try:
        build.target()
    except (KernelCompileError, OSError):
        return False
    return True
