"""A Python with this folder on its PYTHONPATH finds a GPU: the stand-in for CuPy of tests/kernels/gpu, cuda:0, and of
CuPy what only benchmarks ask for. Launches are held against what a GPU takes, and run only with STAND_IN_RUNS=1; an
event's time is the host's clock. STAND_IN_FAILS=NAME makes every launch from NAME.cu fail as a broken kernel does."""

import os
import sys
import time
import types

import cupy
import fake_cublas
import fake_cupy
import fake_launch
from cupy_backends.cuda import libs

from cupynn.kernels.runtime import cublas as ours

fake_cupy._current[0] = fake_cupy.NUMBER = 0
fake = fake_cupy.module = fake_cupy.make(cupy)
fake.executes = os.environ.get("STAND_IN_RUNS") == "1"

PROPERTIES = {"name": b"Stand-in GPU", "major": 9, "minor": 0, "totalGlobalMem": 16 << 30, "l2CacheSize": 1 << 16}
RUNTIME = {"getDeviceProperties": lambda number: PROPERTIES | {"multiProcessorCount": 2}, "getDeviceCount": lambda: 1}
fake_cupy.Device.compute_capability = "90"
fake.cuda.runtime.__dict__.update(RUNTIME, memGetInfo=lambda: (8 << 30, 16 << 30))


class Event:
    def record(self):
        self.seconds = time.perf_counter()

    def synchronize(self):
        pass


class MemoryHook:
    def __enter__(self):
        self.malloc_postprocess(device_id=0, size=900, mem_size=1024, mem_ptr=1, pmem_id=1)
        return self

    def __exit__(self, *error):
        self.free_postprocess(device_id=0, mem_size=1024, mem_ptr=1, pmem_id=1)


fake.cuda.Event, fake.cuda.MemoryHook = Event, MemoryHook
fake.cuda.get_elapsed_time = lambda start, stop: 1e3 * (stop.seconds - start.seconds)
ours._library = fake_cublas.Cublas
fake.cuda.set_allocator = lambda allocator: None
pool = {"used_bytes": lambda: 0, "total_bytes": lambda: 4096, "free_all_blocks": lambda: None}
fake.get_default_memory_pool = lambda: types.SimpleNamespace(**pool)
fake_cupy.ndarray.fill = lambda self, value: self._host.fill(value)
cublas = types.ModuleType("cupy_backends.cuda.libs.cublas")
cublas.gemmEx = lambda *arguments: fake_launch.np.testing.assert_equal(len(arguments), 19)
libs.cublas = sys.modules[f"{libs.__name__}.cublas"] = cublas

check = fake_launch.Launch.check


def checked(launch, shared):
    if launch.name == os.environ.get("STAND_IN_FAILS"):
        raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered")
    check(launch, shared)


fake_launch.Launch.check = checked
sys.modules["cupy"] = fake
