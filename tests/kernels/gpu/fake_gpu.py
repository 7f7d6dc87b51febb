"""A plugin for pytest: every test that needs a GPU runs on the fake one, cuda:0.

PYTHONPATH=tests/kernels/gpu python -m pytest -p fake_gpu -m gpu
"""

import sys

import cupy
import fake_cupy


def pytest_configure():
    fake_cupy._current[0] = fake_cupy.NUMBER = 0
    fake_cupy.module = sys.modules["cupy"] = fake_cupy.make(cupy)
