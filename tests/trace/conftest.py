"""Traces run the checker's libraries whatever CUPYNN_KERNELS says."""

import pathlib

import pytest

from cupynn.kernels import runtime


@pytest.fixture(autouse=True)
def mode_stays():
    """A trace leaves the mode as it was."""
    if runtime.find_compiler() is None:
        pytest.skip("no C++ compiler here")
    before = runtime.mode()
    yield
    assert runtime.mode() == before


@pytest.fixture
def known():
    return pathlib.Path(__file__).parent / "known.cu"
