"""Launching on the GPU: what CuPy is asked for (with a recorder in its place), and on a GPU the same answers."""

import contextlib
import pathlib
import sys
import types

import numpy as np
import pytest

from cupynn.kernels import runtime
from cupynn.kernels.runtime import build, gpu


class FakeArray:
    """Enough of a `cupy.ndarray` for a launch."""

    def __init__(self, host, device=0):
        self.dtype, self.shape, self.strides = host.dtype, host.shape, host.strides
        self.flags, self.device = host.flags, types.SimpleNamespace(id=device)


class FakeFunction:
    max_dynamic_shared_size_bytes = 48 * 1024

    def __init__(self):
        self.calls = []

    def __call__(self, grid, block, args, *, shared_mem=0):
        self.calls.append((grid, block, args, shared_mem))


class CompileError(Exception):
    pass


@pytest.fixture
def cupy(monkeypatch):
    """A stand-in for CuPy that records the modules it is asked to compile, and their launches."""
    modules, entered = [], []

    @contextlib.contextmanager
    def use(number):
        entered.append(number)
        yield

    class RawModule:
        def __init__(self, **options):
            modules.append(self)
            self.options, self.function = options, FakeFunction()

        def get_function(self, name):
            if "refused" in name:
                raise CompileError("identifier is undefined")
            assert name in self.options["name_expressions"]
            return self.function

    fake = types.SimpleNamespace(
        ndarray=FakeArray,
        RawModule=RawModule,
        modules=modules,
        entered=entered,
        cuda=types.SimpleNamespace(Device=use, compiler=types.SimpleNamespace(CompileException=CompileError)),
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(gpu, "_functions", {})
    return fake


def test_a_launch(cupy, vocabulary):
    x, y = FakeArray(np.zeros(8, np.float32)), FakeArray(np.zeros(8, np.float32))
    args = (x, None, y, np.float32(2), 8, np.int64(1), False, np.uint32(3))
    runtime.launch(vocabulary, "affine<float>", 4, (32, 2), args, outputs=(y,))
    (module,) = cupy.modules
    assert module.options["code"].startswith(pathlib.Path(vocabulary).read_text())
    assert module.options["name_expressions"] == ("affine<float>",)
    assert module.options["options"] == ("-std=c++17", f"-I{build.KERNELS}", f"-I{vocabulary.parent}")
    ((grid, block, given, shared),) = module.function.calls
    assert (grid, block, shared) == ((4, 1, 1), (32, 2, 1), 0)
    assert given[0] is x and given[2] is y
    kinds = [type(value) for value in (given[1], *given[3:])]
    assert kinds == [np.uint64, np.float32, np.int32, np.int64, np.bool_, np.uint32]  # a null pointer first
    assert [*map(int, (given[1], *given[3:]))] == [0, 2, 8, 1, 0, 3]


def test_a_changed_header_changes_what_cupy_caches(cupy, tmp_path):
    """CuPy's own cache looks at the source only."""
    source = tmp_path / "one.cu"
    source.write_text('#include "one.cuh"\n')
    for number in (1, 2):
        (tmp_path / "one.cuh").write_text(f"__global__ void one(int* x) {{ x[0] = {number}; }}\n")
        build.header_text.cache_clear()
        gpu._functions.clear()
        runtime.launch(source, "one", 1, 1, (FakeArray(np.zeros(1, np.int32)),))
    build.header_text.cache_clear()
    first, second = cupy.modules
    assert first.options["code"] != second.options["code"]


def test_an_empty_grid_does_nothing(cupy, vocabulary):
    runtime.launch(vocabulary, "coordinates", (3, 0), 1, (FakeArray(np.zeros(6, np.int32)),))
    assert not cupy.modules


def test_the_kernel_runs_where_its_arrays_are(cupy, vocabulary):
    for number in (1, 0, 1):
        x = FakeArray(np.zeros(8), device=number)
        runtime.launch(vocabulary, "reverse_rows<double>", 1, 8, (x, x, 8), shared_bytes=64)
    assert cupy.entered == [1, 0, 1]
    assert [len(module.function.calls) for module in cupy.modules] == [2, 1]  # compiled once for each device


def test_compiled_once_and_large_shared_memory_is_asked_for(cupy, vocabulary):
    x = FakeArray(np.zeros(8))
    for shared in (32, 100 * 1024, 64):
        runtime.launch(vocabulary, "reverse_rows<double>", 1, 8, (x, x, 8), shared_bytes=shared)
    (module,) = cupy.modules
    assert [call[3] for call in module.function.calls] == [32, 100 * 1024, 64]
    assert module.function.max_dynamic_shared_size_bytes == 100 * 1024


@pytest.mark.parametrize(
    "value, error, message",
    [
        (FakeArray(np.zeros((4, 4))[:, 0]), ValueError, "argument 1 wants a C-contiguous array; got strides"),
        (FakeArray(np.zeros(4), device=1), ValueError, "argument 1 lies on cuda:1; the kernel runs on cuda:0"),
        (np.zeros(4), ValueError, "argument 1 is a NumPy array of shape (4,), the others are on the GPU"),
        (1.5, TypeError, "argument 1 is 1.5; a kernel takes arrays, None, int and NumPy scalars"),
        (2**31, OverflowError, "argument 1 is an int, and 2147483648 does not fit"),
    ],
)
def test_wrong_arguments(cupy, vocabulary, value, error, message):
    with pytest.raises(error) as caught:
        runtime.launch(vocabulary, "reverse_rows<double>", 1, 8, (FakeArray(np.zeros(4)), value, 4))
    assert str(caught.value).startswith(f"vocabulary.cu: reverse_rows<double>: {message}")


def test_a_refused_kernel(cupy, vocabulary):
    with pytest.raises(runtime.KernelCompileError, match=r"vocabulary: NVRTC refused refused<float>\nidentifier"):
        runtime.launch(vocabulary, "refused<float>", 1, 1, (FakeArray(np.zeros(1)),))


def test_questions_about_gpu_arrays(cupy):
    x, elsewhere = FakeArray(np.zeros(4)), FakeArray(np.zeros(4), device=1)
    assert runtime.is_gpu(x) and runtime.compiled_for(x, None, x) and runtime.ctype(x) == "double"
    assert not runtime.compiled_for(x, elsewhere) and not runtime.compiled_for(x, np.zeros(4))
    assert runtime.threads(x, gpu=128) == 128 and runtime.vector_bytes(x) == 16


@pytest.mark.gpu
@pytest.mark.parametrize("block", [1, 33, 256])
def test_the_same_answers_on_a_gpu(vocabulary, block):
    cupy = pytest.importorskip("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("no GPU here")
    x = np.random.default_rng(3).integers(-9, 9, (3, 500)).astype(np.float32)  # sums of small integers are exact

    def reductions(x, xp):
        sums, largest = xp.empty((2, 3, block), np.float32)
        runtime.launch(vocabulary, "block_reductions<float>", 3, block, (x, sums, largest, 500))
        y = xp.empty_like(x)
        runtime.launch(vocabulary, "reverse_rows<float>", 3, block, (x, y, 500), shared_bytes=2000)
        values = xp.arange(block, dtype=np.int32)
        runtime.launch(vocabulary, "rotate", 1, block, (values, 3))
        return sums, largest, y, values

    for ours, gpus in zip(reductions(x, np), reductions(cupy.asarray(x), cupy), strict=True):
        np.testing.assert_array_equal(ours, gpus.get())
