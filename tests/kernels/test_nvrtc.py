"""Every kernel compiles to machine code for GPUs, on a computer without one, and spills no register.

Driven through `cupy.cuda.nvrtc`, because CuPy's own compile functions ask the device for its architecture.
"""

import importlib
import pathlib
import re

import pytest

from cupynn.kernels.runtime import build, gpu

nvrtc = pytest.importorskip("cupy", reason="CuPy is not installed").cuda.nvrtc

ARCHITECTURES = ("sm_70", "sm_80", "sm_90")
MOST_REGISTERS = 255  # what a thread can have on all three
KERNELS = sorted(path.stem for path in build.KERNELS.glob("*.cu"))


def compile_for(architecture: str, source: str, name: str, expressions: list[str]) -> dict[str, dict[str, int]]:
    """Compile to a cubin; what the assembler says of each kernel: registers, stack, spill_stores, spill_loads."""
    program = nvrtc.createProgram(source, name, [], [])
    try:
        for expression in expressions:
            nvrtc.addNameExpression(program, expression)
        options = [*gpu.OPTIONS, f"-arch={architecture}", "--ptxas-options=-v"]
        try:
            nvrtc.compileProgram(program, options)
        except nvrtc.NVRTCError:
            pytest.fail(f"{name} for {architecture}:\n{nvrtc.getProgramLog(program)}")
        assert nvrtc.getCUBIN(program)[:4] == b"\x7fELF"
        log = nvrtc.getProgramLog(program)
        lowered = {nvrtc.getLoweredName(program, expression): expression for expression in expressions}
    finally:
        nvrtc.destroyProgram(program)
    report = {}
    for part in log.split("Compiling entry function '")[1:]:
        found = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers = re.search(r"Used (\d+) registers", part)
        keys = ("stack", "spill_stores", "spill_loads", "registers")
        numbers = map(int, (*found.groups(), registers.group(1)))
        report[lowered[part.partition("'")[0]]] = dict(zip(keys, numbers, strict=True))
    assert report.keys() == set(expressions), log
    return report


def test_every_kernel_file_is_tested():
    assert KERNELS
    for name in KERNELS:
        assert importlib.import_module(f"cupynn.kernels.{name}").instantiations()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", KERNELS)
def test_compiles_without_spills(name, architecture):
    source = (build.KERNELS / f"{name}.cu").read_text()
    expressions = importlib.import_module(f"cupynn.kernels.{name}").instantiations()
    # Kernels of 16 bits differ from those of float in loads and stores: each is compiled for one of the architectures.
    narrow = [expression for expression in expressions if "Half" in expression or "BFloat16" in expression]
    share = narrow[ARCHITECTURES.index(architecture) :: len(ARCHITECTURES)]
    expressions = [expression for expression in expressions if expression not in narrow] + share
    for expression, figures in compile_for(architecture, source, f"{name}.cu", expressions).items():
        print(f"{architecture} {name}.cu {expression}: {figures}")
        assert figures["spill_stores"] == figures["spill_loads"] == 0, f"{expression} for {architecture}: {figures}"
        assert figures["registers"] <= MOST_REGISTERS


def test_the_runtimes_test_kernels_are_plain_cuda():
    """What tests/kernels/runtime runs on the CPU is CUDA: NVRTC takes the same file."""
    source = (pathlib.Path(__file__).parent / "runtime" / "vocabulary.cu").read_text()
    plain = re.findall(r"^__global__ void (?!_)(\w+)\(", source, re.MULTILINE)
    expressions = [*plain, "affine<double>", "reverse_rows<float>", "block_reductions<float>", "shuffles<double>"]
    expressions += ["atomics<float>", "integer_atomics<unsigned long long>", "strips<float, 16>"]
    compile_for("sm_80", source, "vocabulary.cu", expressions)


def test_the_compiler_finds_spills():
    """The figures above can fail: 300 live values do not fit in 255 registers."""
    source = """
    extern "C" __global__ void many(const float* x, float* y) {
        float v[300];
        #pragma unroll
        for (int i = 0; i < 300; ++i) v[i] = x[i * blockDim.x + threadIdx.x];
        __syncthreads();
        #pragma unroll
        for (int i = 0; i < 300; ++i) y[i * blockDim.x + threadIdx.x] = v[299 - i] * v[i];
    }"""
    figures = compile_for("sm_80", source, "many.cu", ["many"])["many"]
    assert figures["spill_stores"] > 0 and figures["spill_loads"] > 0
