"""From a kernel's source to a loaded library: the C++ compiler, its flags, and the cache of what it made.

A library's name in the cache is a hash of everything it was made from. The file ends with a SHA-256 of what comes
before, so half a file is never loaded; it is written beside and renamed, so that parallel processes never see one.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings

from .errors import KernelCompileError

HEADERS = pathlib.Path(__file__).parent
KERNELS = HEADERS.parent

FLAGS = (
    "-std=c++17",
    "-O3",
    "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native",
    "-fno-math-errno",  # sqrt sets no errno ...
    "-fno-trapping-math",  # ... and no exception flags are read: both stand in the way of vector code
    "-ffp-contract=fast",  # a * b + c in one rounding, as NVRTC does by default
)
COMMON = ("-shared", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-w")


@functools.cache
def find_compiler() -> tuple[str, ...] | None:
    """The command of the C++ compiler: CXX, else g++, clang++ or c++; None where there is none."""
    for command in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        words = shlex.split(command or "")
        if words and shutil.which(words[0]):
            return tuple(words)
    return None


@functools.cache
def compiler_version() -> str:
    """The first line of what the compiler says about itself."""
    answer = subprocess.run([*find_compiler(), "--version"], capture_output=True, text=True, check=False)
    return (answer.stdout or answer.stderr).partition("\n")[0]


def is_clang() -> bool:
    return "clang" in compiler_version()


@functools.cache
def _processor() -> str:
    """What -march=native depends on: a cache folder may be shared by computers that differ."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(
            sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU"))})
        )
    except OSError:
        return platform.processor() + platform.platform()


@functools.cache
def header_text(folder: pathlib.Path) -> str:
    """All that a kernel may include from a folder, to be part of a cache's key."""
    return "".join(path.read_text() for path in sorted(folder.iterdir()) if path.suffix in (".h", ".cuh", ".cpp"))


@functools.cache
def cache_folder() -> pathlib.Path:
    """Where compiled kernels are kept: CUPYNN_CACHE_DIR, else the platform's cache folder, made if need be."""
    named = os.environ.get("CUPYNN_CACHE_DIR")
    home = pathlib.Path.home()
    if named:
        folder = pathlib.Path(named)
    elif sys.platform == "darwin":
        folder = home / "Library" / "Caches" / "cupynn"
    elif sys.platform == "win32":
        folder = pathlib.Path(os.environ.get("LOCALAPPDATA", home)) / "cupynn"
    else:
        folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "cupynn"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        temporary = pathlib.Path(tempfile.mkdtemp(prefix="cupynn-"))
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        warnings.warn(
            f"cupynn: cannot write compiled kernels to {folder} ({error.strerror}); this process keeps them in "
            f"{temporary}; set CUPYNN_CACHE_DIR to a folder that can be written",
            RuntimeWarning,
        )
        return temporary


def library(
    name: str, text: str, flags: tuple[str, ...], folder: pathlib.Path = KERNELS, *, everywhere: bool = False
) -> ctypes.CDLL:
    """The loaded library made from the C++ `text`; compiled unless the cache holds it.

    `name` begins the file's name, `folder` is one more place for headers, and `everywhere` lets libraries that are
    loaded later see what this one defines. Raises KernelCompileError.
    """
    flags = (*flags, f"-I{HEADERS}", f"-I{KERNELS}", f"-I{folder}")
    compiler = find_compiler()
    if compiler is None:
        raise KernelCompileError(f"{name}: no C++ compiler found: install g++ or clang++, or name one in CXX")
    headers = map(header_text, (HEADERS, KERNELS, folder))
    parts = (text, *headers, *COMMON, *flags[:-3], *compiler, compiler_version(), _processor())
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    path = cache_folder() / f"{name}-{key}.so"
    mode = ctypes.RTLD_GLOBAL if everywhere else ctypes.RTLD_LOCAL
    if _is_whole(path):
        try:
            return _load(path, mode)
        except OSError:  # made by a computer whose C library this one does not have
            pass
    _compile(path, name, text, flags)
    return _load(path, mode)


def _is_whole(path: pathlib.Path) -> bool:
    try:
        data = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(data[:-32]).digest() == data[-32:]


def _compile(path: pathlib.Path, name: str, text: str, flags: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="making-") as folder:
        made = pathlib.Path(folder) / path.name
        # g++ would look for a constructor of `extern thread_local shared_memory`, which has none.
        extra = () if is_clang() else ("-fno-extern-tls-init",)
        command = [*find_compiler(), "-x", "c++", "-", *COMMON, *extra, *flags, "-o", str(made)]
        answer = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            raise KernelCompileError(
                f"{name}: the C++ compiler refused this kernel\n{shlex.join(command)}\n{answer.stderr}"
            )
        with made.open("r+b") as file:
            data = file.read()
            file.write(hashlib.sha256(data).digest())
        os.replace(made, path)


@functools.cache
def target() -> tuple[tuple[str, ...], int]:
    """(the compiler's flags for kernels, bytes of a vector register of the processor they are for).

    Without OpenMP's library (macOS has none unless it was installed) kernels are vectorised but run on one core.
    """
    text = """
    #ifdef _OPENMP
    #include <omp.h>
    #endif
    extern "C" __attribute__((visibility("default"))) int vector_bytes() { return __BIGGEST_ALIGNMENT__; }
    """
    try:
        flags = (*FLAGS, "-fopenmp")
        return flags, library("processor", text, flags).vector_bytes()
    except KernelCompileError:
        flags = (*FLAGS, "-fopenmp-simd")
        return flags, library("processor", text, flags).vector_bytes()


def _load(path: pathlib.Path, mode: int) -> ctypes.CDLL:
    """Load a library, and with the first kernel OpenMP's, whose idle threads shall sleep unless the user has chosen.

    By default they spin for milliseconds, on cores that OpenBLAS's threads or other programs want. Measured on two
    cores, a launch of 8 blocks between matrix products: 52 microseconds when threads sleep, 100 with GOMP_SPINCOUNT
    1000, 540 with 10,000, 4,800 with 100,000; the products took equally long.
    """
    settings = {} if {"OMP_WAIT_POLICY", *_SLEEP} & os.environ.keys() else _SLEEP
    os.environ.update(settings)
    try:
        return ctypes.CDLL(str(path), mode)
    finally:
        for name in settings:  # read once, at loading; other libraries' own copies of OpenMP keep their defaults
            del os.environ[name]


_SLEEP = {"GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}  # of g++'s and of clang++'s OpenMP
