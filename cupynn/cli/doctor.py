"""cupynn doctor"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from cupynn import device
from cupynn.cli import blas_core, convolution_choices, kernel_examples
from cupynn.cli.common import add_device, choose_device, table
from cupynn.cli.cuda_extra import nvidia_smi
from cupynn.kernels import runtime
from cupynn.kernels.runtime import blas
from cupynn.train.environment import gpu_name, processor, threads, versions

EPILOG = """\
Every kernel is compiled, or taken from the cache, run on a small example, and held against its reference in NumPy.
With CUPYNN_TUNE=1 all methods of convolution are timed for each shape. Exit status 1 where a kernel is wrong.

Where OpenBLAS runs kernels for an older processor than this one, other settings are tried, in other processes; one
that makes products faster and leaves them right is named.

Nothing is written but compiled kernels, to the cache folder."""


def add_to(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "doctor",
        help="what this computer can do, and whether every kernel is right on it",
        description="Show device, compiler, BLAS, cache and versions, and check every kernel.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_device(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    choose_device(arguments.device)
    print(table([[f"{name}:", text] for name, text in facts()], left=2))
    states = [kernel_examples.check(name) for name in kernel_examples.EXAMPLES]
    if remedy := blas_core.remedy():
        print(f"\nmatrix products: {remedy}")
    print(f"\nkernels on {device.default_device()} (a small example of each; mode {runtime.mode()})")
    print(_kernel_table(states))
    print(f"\nconvolutions at batch {convolution_choices.BATCH}, and the method that computes them")
    print(_convolution_table())
    wrong = [state.name for state in states if not state.right]
    if wrong:
        print(f"cupynn doctor: error: wrong or not running: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


def facts() -> Iterator[tuple[str, str]]:
    """What this computer is, a name and a line each."""
    yield "processor", processor()
    yield "GPU", _gpus()
    if runtime.find_compiler():
        yield "C++ compiler", runtime.compiler_version()
        yield "vector width", _vector_width()
    else:
        yield "C++ compiler", "none: on the CPU kernels run as NumPy references, which are slow; install g++"
    yield "threads", threads()
    yield "BLAS", _blas()
    yield "kernel cache", _cache()
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions().items())


def _vector_width() -> str:
    try:
        bits = 8 * runtime.vector_bytes(np.empty(0))
    except runtime.KernelCompileError:
        return "unknown: the compiler does not work"
    return f"{bits} bits, {bits // 32} float32 at once"


def _gpus() -> str:
    lines = (nvidia_smi() or "").splitlines()
    driver = f"driver {lines[0].partition(',')[0]}" if lines else "no NVIDIA driver"
    try:
        import cupy
    except ImportError:
        return f"{driver}; CuPy is not installed"
    found = f"CuPy {cupy.__version__}"
    if not device.cuda_available():
        return f"none; {driver}, {found}"
    runtime_version = cupy.cuda.runtime.runtimeGetVersion()
    cuda = f"CUDA {runtime_version // 1000}.{runtime_version % 1000 // 10}"
    names = (f"cuda:{i} {gpu_name(i)}" for i in range(cupy.cuda.runtime.getDeviceCount()))
    return f"{'; '.join(names)}; {driver}, {found}, {cuda}"


def _blas() -> str:
    built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    text = f"{built.get('name')} {built.get('version')}"
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return f"{text}, kernels for {core}" if (core := blas.core()) else text
    loaded = (pool for pool in threadpool_info() if pool["user_api"] == "blas")
    return "; ".join(
        [text, *(f"{p['num_threads']} threads, kernels for {p.get('architecture', 'any processor')}" for p in loaded)]
    )


def _cache() -> str:
    folder = runtime.cache_folder()
    sizes = [entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()]
    return f"{folder}, {len(sizes)} files, {sum(sizes) / 2**20:.1f} MiB"


def _kernel_table(states: list[kernel_examples.KernelState]) -> str:
    rows = [["kernel", "state", "difference", "first call, ms", "then, ms", "reference, ms"]]
    for state in states:
        if state.difference is None:
            rows.append([state.name, f"does not run: {state.fault.splitlines()[0]}", "-", "-", "-", "-"])
            continue
        times = (state.first_seconds, state.seconds, state.reference_seconds)
        verdict = "equals its reference" if state.right else "DIFFERS from its reference"
        rows.append([state.name, verdict, f"{state.difference:.0e}", *(f"{1e3 * seconds:.2f}" for seconds in times)])
    return table(rows, left=2)


def _convolution_table() -> str:
    shapes = list(convolution_choices.geometries())
    if runtime.mode() == "reference":
        return "the reference runs"
    if os.environ.get("CUPYNN_TUNE") != "1":
        rows = [[name, convolution_choices.chosen(geometry)] for name, geometry in shapes]
        return table(rows, left=2) + "\nnot measured: CUPYNN_TUNE=1 times every method"
    rows = [["", *convolution_choices.PASSES]]
    rows += [[name, *map(_fastest, convolution_choices.measured(geometry))] for name, geometry in shapes]
    return table(rows, left=4)


def _fastest(seconds: dict[str, float]) -> str:
    """direct 1.20 ms (im2col 2.31)"""
    best, *others = sorted(seconds, key=seconds.get)
    slower = ", ".join(f"{name} {1e3 * seconds[name]:.2f}" for name in others)
    return f"{best} {1e3 * seconds[best]:.2f} ms ({slower})"
