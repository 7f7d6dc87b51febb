import subprocess
import sys
import types

import numpy as np
import pytest

import cupynn
from cupynn import device


def test_same_seed_gives_same_numbers():
    cupynn.manual_seed(7)
    first = device.generator().standard_normal(5)
    cupynn.manual_seed(7)
    np.testing.assert_array_equal(device.generator().standard_normal(5), first)


def test_numpy_arrays_belong_to_numpy():
    assert device.xp_of(np.zeros(3)) is np
    assert device.xp_of([1.0]) is np


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:0", ""])
def test_unknown_device_is_refused_by_name(name):
    with pytest.raises(ValueError, match="device: expected"):
        cupynn.set_default_device(name)
    assert cupynn.default_device() == "cpu"


@pytest.mark.skipif(device.cuda_available(), reason="this computer has a GPU")
def test_missing_gpu_is_said_plainly():
    with pytest.raises(RuntimeError, match="finds no GPU"):
        cupynn.set_default_device("cuda:0")
    assert cupynn.default_device() == "cpu"


def test_asarray_does_not_copy():
    array = np.arange(3.0)
    assert device.asarray(array) is array


def test_import_brings_in_no_cupy():
    code = "import sys, cupynn; sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_use_device_gives_the_gpu_back_that_was_in_use(monkeypatch):
    """A stand-in for CuPy with two GPUs, of which number 1 is current."""
    state = types.SimpleNamespace(current=1)

    class Device:
        def __init__(self, number):
            self.number = number

        def use(self):
            state.current = self.number

    driver = types.SimpleNamespace(getDevice=lambda: state.current, getDeviceCount=lambda: 2)
    fake = types.SimpleNamespace(
        ndarray=type("ndarray", (), {}),
        cuda=types.SimpleNamespace(is_available=lambda: True, Device=Device, runtime=driver),
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    with cupynn.use_device("cuda:0"):
        assert state.current == 0 and cupynn.default_device() == "cuda:0"
        with cupynn.use_device("cpu"):
            assert cupynn.default_device() == "cpu"
        assert cupynn.default_device() == "cuda:0"
    assert state.current == 1 and cupynn.default_device() == "cpu"
