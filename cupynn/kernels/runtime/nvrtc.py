"""Compile a kernel to a GPU's machine code on a computer without one, and read what the assembler says of it.

Driven through `cupy.cuda.nvrtc`, because CuPy's own compile functions ask the device for its architecture.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from . import build, gpu
from .errors import KernelCompileError

REMEDY = "pip install 'cupynn[nvrtc]' brings NVRTC on Linux; it needs no GPU"


class Figures(NamedTuple):
    """What one thread, or for `shared` one block, of a compiled kernel takes, in registers of 32 bits or in bytes."""

    registers: int
    shared: int  # static shared memory
    spill_stores: int  # bytes of registers written to local memory because there are too few of them, and read back
    spill_loads: int
    stack: int  # local memory: spills, and arrays whose index is not known when compiling


def kernel_names() -> list[str]:
    """NAME of every `cupynn/kernels/NAME.cu`."""
    return sorted(path.stem for path in build.KERNELS.glob("*.cu"))


def instantiations(name: str) -> list[str]:
    """The instantiations of `NAME.cu` that the library may launch on a GPU, as its face lists them."""
    return importlib.import_module(f"cupynn.kernels.{name}").instantiations()


def least_architecture(name: str) -> int:
    """The oldest architecture that `NAME.cu` compiles for: its face's LEAST_ARCHITECTURE, else 70."""
    return getattr(importlib.import_module(f"cupynn.kernels.{name}"), "LEAST_ARCHITECTURE", 70)


def compile_kernel(name: str, architecture: int, expressions: Sequence[str] | None = None) -> dict[str, Figures]:
    """The figures of instantiations of `NAME.cu` (default: all) for an architecture: 80 is compute capability 8.0."""
    source = (build.KERNELS / f"{name}.cu").read_text()
    return compile_source(
        source, f"{name}.cu", architecture, instantiations(name) if expressions is None else expressions
    )


def compile_source(source: str, name: str, architecture: int, expressions: Sequence[str]) -> dict[str, Figures]:
    """The figures of each instantiation of a CUDA source. `name` is what messages call the source.

    Raises KernelCompileError with the compiler's message, and where NVRTC is missing or does not know the architecture.
    """
    nvrtc = _library()
    if architecture not in nvrtc.getSupportedArchs():
        known = ", ".join(map(str, nvrtc.getSupportedArchs()))
        version = ".".join(map(str, nvrtc.getVersion()))
        raise KernelCompileError(f"NVRTC {version} knows no architecture {architecture}; it knows {known}")
    program = nvrtc.createProgram(source, name, [], [])
    try:
        for expression in expressions:
            nvrtc.addNameExpression(program, expression)
        try:
            nvrtc.compileProgram(program, [*gpu.OPTIONS, f"-arch=sm_{architecture}", "--ptxas-options=-v"])
        except nvrtc.NVRTCError:
            log = nvrtc.getProgramLog(program)
            raise KernelCompileError(f"{name}: NVRTC refused it for architecture {architecture}\n{log}") from None
        log = nvrtc.getProgramLog(program)
        lowered = {nvrtc.getLoweredName(program, expression): expression for expression in expressions}
    finally:
        nvrtc.destroyProgram(program)
    figures = {}
    for part in log.split("Compiling entry function '")[1:]:
        symbol = part.partition("'")[0]
        if symbol in lowered:
            figures[lowered[symbol]] = _figures(part)
    if missing := set(expressions) - figures.keys():
        raise KernelCompileError(f"{name}: the assembler's log says nothing of {', '.join(sorted(missing))}\n{log}")
    return {expression: figures[expression] for expression in expressions}


def _figures(part: str) -> Figures:
    """Figures from the assembler's lines on one kernel."""
    frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
    registers = re.search(r"Used (\d+) registers", part)
    if not frame or not registers:
        raise KernelCompileError(f"the assembler's log is not as expected:\n{part}")
    shared = re.search(r"(\d+) bytes smem", part)
    stack, stores, loads = map(int, frame.groups())
    return Figures(int(registers[1]), int(shared[1]) if shared else 0, stores, loads, stack)


def _library():
    """`cupy.cuda.nvrtc`, once it is known to work."""
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except ImportError as error:
        raise KernelCompileError(f"CuPy, which brings the way to NVRTC, is not installed ({error}): {REMEDY}") from None
    except RuntimeError as error:
        raise KernelCompileError(f"NVRTC cannot be loaded ({error}): {REMEDY}") from None
    return nvrtc
