"""The compiler and its cache: built once, shared by processes, mended when damaged, and clear when it fails."""

import _ctypes
import hashlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from cupynn.kernels import runtime
from cupynn.kernels.runtime import build, cpu

FLAGS = ("-std=c++17", "-O1")
ANSWER = 'extern "C" __attribute__((visibility("default"))) int answer() { return %d; }'


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder that this process uses while a test runs."""
    monkeypatch.setenv("CUPYNN_CACHE_DIR", str(tmp_path / "cache"))
    build.cache_folder.cache_clear()
    yield tmp_path / "cache"
    build.cache_folder.cache_clear()


@pytest.fixture
def compilations(monkeypatch):
    """The names of the libraries that were compiled rather than found."""
    names, compile_ = [], build._compile
    monkeypatch.setattr(build, "_compile", lambda path, name, *rest: (names.append(name), compile_(path, name, *rest)))
    return names


def library(number=42):
    return build.library("answer", ANSWER % number, FLAGS)


def replace_with(path, data, loaded):
    """Put other bytes in a library's place; unloaded first, or the loader would answer with what it has."""
    _ctypes.dlclose(loaded._handle)
    path.unlink()
    path.write_bytes(data)


def test_built_once(cache, compilations):
    assert library().answer() == library().answer() == 42
    assert compilations == ["answer"]
    assert [path.suffix for path in cache.iterdir()] == [".so"]  # nothing half-made stays


def test_the_key_covers_source_flags_compiler_and_processor(cache, compilations, monkeypatch):
    library()
    assert library(43).answer() == 43
    build.library("answer", ANSWER % 42, (*FLAGS, "-DX"))
    version = runtime.compiler_version() + " of another day"
    monkeypatch.setattr(build, "compiler_version", lambda: version)
    library()
    monkeypatch.setattr(build, "_processor", lambda: "another processor")
    library()
    assert len(compilations) == len(list(cache.iterdir())) == 5


def test_the_key_covers_headers(cache, compilations, tmp_path):
    text = '#include "number.cuh"\n' + ANSWER.replace("%d", "NUMBER")
    for number in (1, 2):
        (tmp_path / "number.cuh").write_text(f"#define NUMBER {number}\n")
        build.header_text.cache_clear()
        assert build.library("answer", text, FLAGS, tmp_path).answer() == number
    build.header_text.cache_clear()
    assert len(compilations) == 2


DAMAGES = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[: len(data) // 2],
    "cut by one byte": lambda data: data[:-1],
    "a byte changed": lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:],
    "no checksum": lambda data: data[:-32],
    "another file": lambda data: b"not a library at all" * 100,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_rebuilt(cache, compilations, damage):
    loaded = library()
    (path,) = cache.iterdir()
    replace_with(path, DAMAGES[damage](path.read_bytes()), loaded)
    assert library().answer() == 42
    assert compilations == ["answer", "answer"]
    assert build._is_whole(path)


def test_a_whole_file_that_does_not_load_is_rebuilt(cache, compilations):
    loaded = library()
    (path,) = cache.iterdir()
    rubbish = b"made for another system"
    replace_with(path, rubbish + hashlib.sha256(rubbish).digest(), loaded)
    assert library().answer() == 42
    assert compilations == ["answer", "answer"]


LAUNCH = """
import pathlib, sys, numpy as np
from cupynn.kernels import runtime
x = np.arange(12.0).reshape(3, 4)
y = np.empty_like(x)
runtime.launch(pathlib.Path(sys.argv[1]), "reverse_rows<double>", 3, 1, (x, y, 4), shared_bytes=32)
assert np.array_equal(y, x[:, ::-1])
print(runtime.cache_folder())
"""


def start(vocabulary, **environment):
    return subprocess.Popen(
        [sys.executable, "-W", "always", "-c", LAUNCH, str(vocabulary)],
        env={**os.environ, "CUPYNN_KERNELS": "compiled", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_that_build_the_same_kernel_at_once(vocabulary, tmp_path):
    processes = [start(vocabulary, CUPYNN_CACHE_DIR=str(tmp_path)) for _ in range(4)]
    answers = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, answers
    kernel, processor = sorted(tmp_path.iterdir(), reverse=True)
    assert kernel.name.startswith("vocabulary-") and processor.name.startswith("processor-")
    assert build._is_whole(kernel) and build._is_whole(processor)


def test_a_folder_that_cannot_be_written(vocabulary, tmp_path):
    (tmp_path / "file").write_text("")
    process = start(vocabulary, CUPYNN_CACHE_DIR=str(tmp_path / "file" / "cache"))
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert err.count("RuntimeWarning: cupynn: cannot write compiled kernels to") == 1
    assert not pathlib.Path(out.strip()).exists()  # the temporary folder went with the process


def test_the_platforms_own_folder(vocabulary, tmp_path, monkeypatch):
    monkeypatch.delenv("CUPYNN_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    build.cache_folder.cache_clear()
    assert runtime.cache_folder() == tmp_path / "cupynn"
    build.cache_folder.cache_clear()


def test_compile_errors_carry_the_compilers_message(cache, tmp_path):
    source = tmp_path / "wrong.cu"
    source.write_text('#include "cupynn.cuh"\n__global__ void wrong(float* x) {\n    x[0] = undeclared;\n}\n')
    with pytest.raises(runtime.KernelCompileError) as caught:
        runtime.launch(source, "wrong", 1, 1, (np.zeros(1, np.float32),))
    message = str(caught.value)
    assert message.startswith("wrong: the C++ compiler refused this kernel\n")
    assert "wrong.cu:3:" in message and "undeclared" in message
    with pytest.raises(runtime.KernelCompileError, match="no_such_kernel"):
        runtime.launch(source, "no_such_kernel", 1, 1, ())
    assert not [path for path in cache.iterdir() if path.name.startswith("wrong")]


def test_a_source_that_changes_is_compiled_again_in_a_new_process(tmp_path, cache):
    source = tmp_path / "one.cu"
    for value in (1, 2):
        source.write_text(f'#include "cupynn.cuh"\n__global__ void one(int* x) {{ x[0] = {value}; }}\n')
        cpu._kernels.clear()  # as a new process would
        x = np.zeros(1, np.int32)
        runtime.launch(source, "one", 1, 1, (x,))
        assert x[0] == value
