"""The fake GPU: CuPy's stand-in while a test runs, and the default device."""

import sys

import fake_cublas
import fake_cupy
import fake_streams
import pytest

from cupynn import device
from cupynn.kernels import runtime
from cupynn.kernels.runtime import cublas, gpu


@pytest.fixture
def gpu_log(monkeypatch):
    """cuda:7, the fake GPU, is the default device; what happens there is recorded."""
    real = pytest.importorskip("cupy", reason="CuPy is not installed")
    if runtime.find_compiler() is None:
        pytest.skip("no C++ compiler here")
    fake_cupy.module = fake_cupy.module or fake_cupy.make(real)
    fake_cupy.module.executes = True
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.module)
    monkeypatch.setattr(gpu, "_functions", {})
    monkeypatch.setattr(cublas, "_library", fake_cublas.Cublas)
    before = runtime.mode()
    runtime.set_mode("compiled")
    fake_cupy.log.clear()
    fake_streams.reset()
    with device.use_device(f"cuda:{fake_cupy.NUMBER}"):
        yield fake_cupy.log
    runtime.set_mode(before)


@pytest.fixture
def recorded(gpu_log):
    """The fake GPU, whose kernels are checked and recorded but do not run."""
    fake_cupy.module.executes = False
    return gpu_log
