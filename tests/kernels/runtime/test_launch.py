"""Launching on the CPU: arguments are held against the kernel's signature; cores, forks and threads."""

import os
import pathlib
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

from cupynn.kernels import runtime

HERE = pathlib.Path(__file__).parent


def affine_arguments(n=8):
    x = np.arange(n, dtype=np.float32)
    return [x, None, np.empty_like(x), np.float32(2), n, np.int64(1), False, np.uint32(0)]


def launch_affine(vocabulary, arguments, mode="compiled"):
    runtime.set_mode(mode)
    runtime.launch(vocabulary, "affine<float>", 1, 1, arguments)


READ_ONLY = np.zeros(8, np.float32)
READ_ONLY.flags.writeable = False
UNALIGNED = np.zeros(33, np.uint8)[1:].view(np.float32)


@pytest.mark.parametrize("mode", ["compiled", "checked"])
@pytest.mark.parametrize(
    "position, value, error, message",
    [
        (0, np.arange(8.0), TypeError, "argument 0 is `const float*`, so it takes a float32 array; got float64"),
        (0, [1.0], TypeError, "argument 0 is `const float*`, so it takes a NumPy array or None; got list"),
        (0, np.float32(1), TypeError, "argument 0 is `const float*`, so it takes a NumPy array or None; got float32"),
        (0, np.zeros((8, 2), np.float32)[:, 0], ValueError, "argument 0 is `const float*`: wants a C-contiguous array"),
        (0, UNALIGNED, ValueError, "argument 0 is `const float*`: wants an aligned array"),
        (2, READ_ONLY, ValueError, "argument 2 is `float*`: the kernel writes to it, but the array of shape (8,)"),
        (3, 2.0, TypeError, "argument 3 is `float`, so it takes float32; got float 2.0"),
        (3, np.float64(2), TypeError, "argument 3 is `float`, so it takes float32; got float64"),
        (4, 8.0, TypeError, "argument 4 is `int`, so it takes int or int32; got float 8.0"),
        (4, 2**40, OverflowError, "argument 4 is `int`, and 1099511627776 does not fit"),
        (5, 1, TypeError, "argument 5 is `long long`, so it takes int64; got int 1"),
        (6, 1, TypeError, "argument 6 is `bool`, so it takes bool; got int 1"),
        (7, 3, TypeError, "argument 7 is `unsigned int`, so it takes uint32; got int 3"),
    ],
)
def test_wrong_arguments(vocabulary, position, value, error, message, mode):
    arguments = affine_arguments()
    arguments[position] = value
    with pytest.raises(error) as caught:
        launch_affine(vocabulary, arguments, mode)
    assert str(caught.value).startswith(f"vocabulary.cu: affine<float>: {message}")


def test_wrong_number_of_arguments(vocabulary):
    with pytest.raises(TypeError, match=r"affine<float>: takes 8 arguments \(const float\*, .*\); got 7"):
        launch_affine(vocabulary, affine_arguments()[:-1])


def test_a_parameter_of_unknown_type(tmp_path):
    source = tmp_path / "unknown.cu"
    source.write_text('#include "cupynn.cuh"\nstruct S {};\n__global__ void unknown(int n, const S* s) {}\n')
    with pytest.raises(TypeError, match=r"unknown.cu: unknown: parameter 1 must be a number, or a pointer to numbers"):
        runtime.launch(source, "unknown", 1, 1, (1, None))


def test_read_only_arrays_may_be_read(vocabulary):
    arguments = affine_arguments()
    arguments[0] = READ_ONLY
    launch_affine(vocabulary, arguments)
    np.testing.assert_array_equal(arguments[2], np.zeros(8))


@pytest.mark.parametrize("block", [0, 1025, (32, 33)])
def test_a_block_has_at_most_1024_threads(vocabulary, block):
    with pytest.raises(RuntimeError, match="coordinates: a block has 1 to 1024 threads"):
        runtime.launch(vocabulary, "coordinates", 1, block, (np.zeros(1, np.int32),))


@pytest.mark.parametrize("mode", ["compiled", "checked"])
def test_an_empty_grid_does_nothing(vocabulary, mode):
    runtime.set_mode(mode)
    out = np.full(6, 7, np.int32)
    runtime.launch(vocabulary, "coordinates", (3, 0), 1, (out,))
    np.testing.assert_array_equal(out, np.full(6, 7))


@pytest.mark.parametrize("mode", ["compiled", "checked"])
@pytest.mark.parametrize("block", [1, 4])
def test_too_much_shared_memory(vocabulary, block, mode):
    runtime.set_mode(mode)
    x = np.zeros(4)
    runtime.launch(vocabulary, "reverse_rows<double>", 1, block, (x, x, 4), shared_bytes=1 << 20)
    with pytest.raises(RuntimeError, match="more dynamic shared memory was asked for"):
        runtime.launch(vocabulary, "reverse_rows<double>", 1, block, (x, x, 4), shared_bytes=(1 << 20) + 1)


def test_launches_from_several_threads(vocabulary):
    """Each Python thread has its own blocks, fibers and shared memory."""
    x = np.random.default_rng(7).standard_normal((40, 64))
    wrong = []

    def work(block):
        for _ in range(20):
            y = np.empty_like(x)
            runtime.launch(vocabulary, "reverse_rows<double>", 40, block, (x, y, 64), shared_bytes=512)
            if not np.array_equal(y, x[:, ::-1]):
                wrong.append(block)

    workers = [threading.Thread(target=work, args=(block,)) for block in (1, 3, 64, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_launches(vocabulary):
    """The child has none of the parent's OpenMP threads and must not wait for them."""
    x = np.arange(400.0).reshape(100, 4)
    y = np.empty_like(x)
    runtime.launch(vocabulary, "reverse_rows<double>", 100, 1, (x, y, 4), shared_bytes=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks with threads: our point
        child = os.fork()
    if child == 0:
        y[...] = 0
        runtime.launch(vocabulary, "reverse_rows<double>", 100, 1, (x, y, 4), shared_bytes=32)
        os._exit(0 if np.array_equal(y, x[:, ::-1]) else 1)
    assert os.waitpid(child, 0)[1] == 0


COUNT_THREADS = """
import os, pathlib, sys
import numpy as np
from cupynn.kernels import runtime
def launch(grid, block=1):
    x = np.random.default_rng(5).standard_normal((grid, 64))
    y = np.empty_like(x)
    args = (x, y, 64)
    runtime.launch(pathlib.Path(sys.argv[1]), "reverse_rows<double>", grid, block, args, shared_bytes=512)
    assert np.array_equal(y, x[:, ::-1])
    return len(os.listdir("/proc/self/task"))
before = len(os.listdir("/proc/self/task"))
print(launch(1) - before, launch(100) - before, launch(100, block=33) - before)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_spread_over_as_many_threads_as_asked(vocabulary, threads):
    environment = {**os.environ, "CUPYNN_KERNELS": "compiled"}
    environment |= {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", COUNT_THREADS, str(vocabulary)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    # One block wakes nobody; a hundred use threads - 1 helpers.
    assert answer == ["0", str(threads - 1), str(threads - 1)]


def test_small_questions():
    x, y = np.zeros(3, np.float32), np.zeros(3)
    assert runtime.ctype(x) == "float" and runtime.ctype(y) == "double" and runtime.ctype(np.float64) == "double"
    half = np.zeros(3, np.float16)
    assert runtime.ctype(half) == "Half" and type(runtime.scalar(half.dtype, 0.5)) is np.float32
    with pytest.raises(TypeError, match="kernels take float16, bfloat16, float32 and float64; got int16"):
        runtime.ctype(np.zeros(1, np.int16))
    assert type(runtime.scalar(x.dtype, 0.5)) is np.float32 and type(runtime.scalar(np.float64, 1)) is np.float64
    assert runtime.compiled_for(x, None, y) and not runtime.compiled_for(x, np.zeros(3, np.int32))
    assert not runtime.compiled_for(half) and runtime.compiled_for(x, half, narrow=True) and not runtime.is_gpu(x)
    assert runtime.threads(x, gpu=128) == 1
    assert runtime.vector_bytes(x) in (16, 32, 64)
    runtime.set_mode("checked")
    assert runtime.compiled_for(x) and 4 <= runtime.threads(x, gpu=128) <= 32 and runtime.threads(x, gpu=8) == 8
