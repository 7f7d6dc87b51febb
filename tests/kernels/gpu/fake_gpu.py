"""A plugin for pytest: every test that needs a GPU runs on the fake one, cuda:0.

PYTHONPATH=tests/kernels/gpu python -m pytest -p fake_gpu -m gpu
"""

import sys

import cupy
import fake_cublas
import fake_cupy

from cupynn.kernels.runtime import cublas


def pytest_configure():
    fake_cupy._current[0] = fake_cupy.NUMBER = 0
    cublas._library = fake_cublas.Cublas
    fake_cupy.module = sys.modules["cupy"] = fake_cupy.make(cupy)
