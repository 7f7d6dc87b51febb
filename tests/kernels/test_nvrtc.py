"""Every kernel compiles to machine code for GPUs, on a computer without one, and what it takes of a GPU is bounded."""

import pathlib
import re

import pytest

from cupynn.kernels import launches
from cupynn.kernels.runtime import KernelCompileError, nvrtc
from cupynn.kernels.runtime.occupancy import occupancy

pytest.importorskip("cupy", reason="CuPy is not installed")

ARCHITECTURES = (70, 80, 90, 100)
MOST_REGISTERS = 255  # what a thread can have on each of them
KERNELS = nvrtc.kernel_names()

# Bytes of local memory, of instantiations whose name begins so; all others have none.
STACK = {
    "whe.forward<float, 0": (128, "a group of any size up to 32: arrays of 32 channels with an index not known before"),
    "whe.forward<double, 0": (256, "the same"),
    "whe.backward<float, 0": (256, "the same, of channels and of their gradients"),
    "whe.backward<double, 0": (512, "the same"),
}

# Least occupancy, likewise; of all others 0.5. Those of 7.0, which has 96 KB of shared memory, are the lowest.
OCCUPANCY = {
    "batch_norm.gradient_sums_in_rows<double": (0.25, "five numbers of each channel in shared memory: 40 KB"),
    "contract.multiply<": (0.25, "4 x 4 strips of sums in registers, 40 KB of factors in shared memory"),
    "conv_tc.convolve<": (0.25, "a warp's tile of sums in registers: 64 of the 128 that 16 warps can have"),
    "conv_tc.convolve<float, 4, 2, 2>": (0.1875, "the same, and more pixels to copy for each thread: 168 of 12 warps"),
    "conv_tc.weight_gradient<": (0.25, "as conv_tc.convolve"),
    "conv.convolve<": (0.125, "8 x 4 sums in registers, 40 KB of images in shared memory"),
    "conv.weight_gradient<": (0.125, "24 sums in registers, 40 KB of images in shared memory"),
    "conv_scaled.": (0.125, "8 x 4 sums in registers, two tiles of channels in shared memory"),
    "depthwise.convolve<": (0.125, "four rows of sums and, of 7x7, seven rows of weights in registers"),
    "depthwise.weight_gradient<": (0.125, "up to 25 sums in registers, as many per thread in shared memory"),
    "depthwise.weight_gradient<double": (0.06, "the same, twice as wide"),
    "depthwise.weight_gradient<float, 1, 0": (0.09, "9x9 sums of each thread in shared memory"),
    "depthwise.weight_gradient<double, 1, 0": (0.03, "the same: 32 KB for one warp"),
    "pointwise.convolve<": (0.125, "8 x 4 sums in registers, 43 KB of images in shared memory"),
    "pointwise.weight_gradient<": (0.125, "the same, 34 KB"),
    "whe.forward<": (0.125, "strips of a whole group of channels in registers"),
    "whe.forward<double, 0": (0.04, "the weights of a group of 32 in shared memory: 32 KB"),
    "whe.backward<": (0.125, "strips of a group in registers, tiles of it in shared memory"),
    "whe.backward<float, 0": (0.06, "weights and tiles of a group of 32 in shared memory: 33 KB"),
    "whe.backward<double, 0": (0.015, "the same: 50 KB for one warp"),
    "winograd.convolve<": (0.125, "4 x 4 strips of sums in registers, 36 KB of transformed tiles in shared memory"),
    "winograd.weight_gradient<": (0.125, "the same, 31 KB"),
    "winograd.weight_gradient<double": (0.06, "the same, 62 KB"),
}


def allowed(table, kernel, otherwise):
    """The entry of the longest key that the kernel's name begins with, where 16 bits are named as float."""
    kernel = launches.as_float(kernel)
    keys = [key for key in table if kernel.startswith(key)]
    return table[max(keys, key=len)][0] if keys else otherwise


def test_every_kernel_file_is_tested():
    assert KERNELS
    assert all(nvrtc.instantiations(name) for name in KERNELS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", KERNELS)
def test_what_a_kernel_takes_of_a_gpu(name, architecture):
    if architecture < nvrtc.least_architecture(name):
        pytest.skip(f"it needs compute capability {nvrtc.least_architecture(name) / 10}")
    if architecture not in nvrtc._library().getSupportedArchs():  # CUDA 13's has left 7.0 behind
        pytest.skip(f"this NVRTC does not know {architecture}")
    expressions = nvrtc.instantiations(name)
    # Kernels of 16 bits and of double are those of float with other loads and stores, or more registers: each is
    # compiled for one of the architectures. Those of tensor cores have products of their own.
    others = [one for one in expressions if re.search("double|Half|BFloat16", one) and name != "conv_tc"]
    share = others[ARCHITECTURES.index(architecture) :: len(ARCHITECTURES)]
    expressions = [expression for expression in expressions if expression not in others] + share
    for expression, figures in nvrtc.compile_kernel(name, architecture, expressions).items():
        kernel = f"{name}.{expression}"
        launch = launches.typical(name, expression)
        share = occupancy(architecture, figures.registers, figures.shared + launch.shared, launch.threads)
        what = f"{kernel} for {architecture}: {figures}, occupancy {share:.3f} of {launch}"
        print(what)
        assert figures.spill_stores == figures.spill_loads == 0, what
        assert figures.registers <= MOST_REGISTERS, what
        assert figures.stack <= allowed(STACK, kernel, 0), what
        assert share >= allowed(OCCUPANCY, kernel, 0.5), what


@pytest.mark.parametrize("table", [STACK, OCCUPANCY])
def test_every_exception_is_of_a_kernel(table):
    kernels = [f"{name}.{expression}" for name in KERNELS for expression in nvrtc.instantiations(name)]
    assert not [key for key in table if not any(kernel.startswith(key) for kernel in kernels)]


def test_the_runtimes_test_kernels_are_plain_cuda():
    """What tests/kernels/runtime runs on the CPU is CUDA: NVRTC takes the same file."""
    source = (pathlib.Path(__file__).parent / "runtime" / "vocabulary.cu").read_text()
    plain = re.findall(r"^__global__ void (?!_)(\w+)\(", source, re.MULTILINE)
    expressions = [*plain, "affine<double>", "reverse_rows<float>", "block_reductions<float>", "shuffles<double>"]
    expressions += ["atomics<float>", "integer_atomics<unsigned long long>", "strips<float, 16>"]
    assert [*nvrtc.compile_source(source, "vocabulary.cu", 80, expressions)] == expressions


def test_the_compiler_finds_spills_and_shared_memory():
    """The figures above can fail: 300 live values do not fit in 255 registers."""
    source = """
    extern "C" __global__ void many(const float* x, float* y) {
        __shared__ float staged[100];
        staged[threadIdx.x % 100] = x[threadIdx.x];
        float v[300];
        #pragma unroll
        for (int i = 0; i < 300; ++i) v[i] = x[i * blockDim.x + threadIdx.x];
        __syncthreads();
        #pragma unroll
        for (int i = 0; i < 300; ++i) y[i * blockDim.x + threadIdx.x] = v[299 - i] * v[i] + staged[i / 3];
    }"""
    figures = nvrtc.compile_source(source, "many.cu", 80, ["many"])["many"]
    assert figures.spill_stores > 0 and figures.spill_loads > 0 and figures.stack > 0
    assert figures.registers == 255 and figures.shared == 400


def test_a_refused_source_and_an_unknown_architecture():
    with pytest.raises(KernelCompileError, match=r"(?s)bad.cu: NVRTC refused it for architecture 80.*undefined"):
        nvrtc.compile_source("__global__ void k(int* x) { x[0] = y; }", "bad.cu", 80, ["k"])
    with pytest.raises(KernelCompileError, match=r"knows no architecture 35; it knows .*90"):
        nvrtc.compile_source("", "none.cu", 35, [])
