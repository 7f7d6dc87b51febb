"""Tests of the runtime choose their mode themselves, whatever CUPYNN_KERNELS says."""

import pathlib

import pytest

from cupynn.kernels import runtime

HERE = pathlib.Path(__file__).parent


@pytest.fixture(autouse=True)
def compiled_mode():
    """Compiled kernels while a test runs; the mode of before afterwards."""
    if runtime.find_compiler() is None:
        pytest.skip("no C++ compiler here")
    before = runtime.mode()
    runtime.set_mode("compiled")
    yield
    runtime.set_mode(before)


@pytest.fixture(params=["compiled", "checked"])
def either_mode(request, compiled_mode):
    """A test that must give the same answers from the bare kernel and under the checker."""
    runtime.set_mode(request.param)
    return request.param


@pytest.fixture
def vocabulary():
    return HERE / "vocabulary.cu"


@pytest.fixture
def faulty():
    return HERE / "faulty.cu"
