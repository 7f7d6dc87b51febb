"""Where convolutions take tensor cores, and that they compute there what they should."""

import fake_cupy
import numpy as np
import pytest

from cupynn import device
from cupynn.device import to_numpy, wide
from cupynn.kernels import conv, conv_tc


@pytest.fixture
def capability(gpu_log, monkeypatch):
    """Sets the fake GPU's; nothing is chosen yet."""
    monkeypatch.setattr(conv, "choices", {})
    monkeypatch.delenv("CUPYNN_TF32", raising=False)
    monkeypatch.delenv("CUPYNN_TUNE", raising=False)
    return lambda number: monkeypatch.setattr(fake_cupy.Device, "compute_capability", number)


def arrays(dtype, x_shape=(2, 8, 6, 5), outputs=9, groups=1):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(x_shape).astype(dtype)
    w = rng.standard_normal((outputs, x_shape[1] // groups, 3, 3)).astype(device.compute_dtype(np.dtype(dtype)))
    grad = rng.standard_normal((x_shape[0], outputs, *x_shape[2:])).astype(dtype)
    return x, w, grad


def taken(gpu_log, x, w, grad, groups=1):
    """The results, and which passes took tensor cores."""
    gpu_log.clear()
    x, w, grad = map(device.asarray, (x, w, grad))
    y = conv.forward(x, w, None, 1, 1, 1, groups)
    results = y, *conv.backward(grad, x, w, 1, 1, 1, groups)[:2]
    names = {launch.expression.partition("<")[0] for launch in gpu_log.launches if launch.name == "conv_tc"}
    assert not gpu_log.waits
    return [to_numpy(wide(array)) for array in results], names


EVERY = {"lay_out", "pack", "convolve", "weight_gradient", "reduce"}


def test_16_bits_take_them_from_8_0_on(gpu_log, capability):
    x, w, grad = arrays(np.float16)
    assert taken(gpu_log, x, w, grad)[1] == set()  # 7.0
    for number in ("80", "90", "120"):
        conv.choices.clear()
        capability(number)
        found, names = taken(gpu_log, x, w, grad)
        assert names == EVERY and set(conv.choices.values()) == {"tensor cores"}
    g = conv.geometry(x.shape, w.shape, padding=1)
    wanted = (
        conv_tc.reference_forward(x, w, None, g),
        conv_tc.reference_input_gradient(grad, w, g),
        conv_tc.reference_weight_gradient(grad, x, w, g),
    )
    for a, b in zip(found, wanted, strict=True):
        # two roundings to float16 of sums of some 80 products, which differ in their last bits
        np.testing.assert_allclose(a, wide(b), rtol=2.0**-10, atol=1e-4)


def test_each_gpu_takes_what_it_has(gpu_log, capability):
    """What one chose for a shape is no choice for an older one in the same process."""
    problem = arrays(np.float16)
    capability("80")
    assert taken(gpu_log, *problem)[1] == EVERY
    capability("75")
    assert taken(gpu_log, *problem)[1] == set()
    capability("80")
    assert taken(gpu_log, *problem)[1] == EVERY


def test_float32_takes_them_where_tf32_is_allowed(gpu_log, capability, monkeypatch):
    x, w, grad = arrays(np.float32)
    capability("80")
    exact, names = taken(gpu_log, x, w, grad)
    assert names == set()
    conv.choices.clear()
    monkeypatch.setenv("CUPYNN_TF32", "1")
    rounded, names = taken(gpu_log, x, w, grad)
    assert names == EVERY
    differences = [np.abs(a - b).max() for a, b in zip(exact, rounded, strict=True)]
    assert all(1e-5 < difference < 0.05 for difference in differences)  # factors of some 80 products have 11 digits


@pytest.mark.parametrize(
    "dtype, shape, outputs, groups",
    [
        (np.float64, (2, 8, 6, 5), 9, 1),
        (np.float16, (2, 16, 6, 5), 16, 2),
        (np.float16, (2, 7, 6, 5), 9, 1),
        (np.float16, (2, 8, 6, 5), 7, 1),
    ],
)
def test_what_takes_other_methods(gpu_log, capability, monkeypatch, dtype, shape, outputs, groups):
    capability("90")
    monkeypatch.setenv("CUPYNN_TF32", "1")
    assert taken(gpu_log, *arrays(dtype, shape, outputs, groups), groups)[1] == set()


def test_tuning_times_them_beside_the_others(gpu_log, capability, monkeypatch):
    capability("80")
    monkeypatch.setenv("CUPYNN_TUNE", "1")
    timed = []
    monkeypatch.setattr(conv, "_seconds", lambda call, x: timed.append(call()) or len(timed))
    x, w, _ = map(device.asarray, arrays(np.float16))
    conv.forward(x, w, None, 1, 1)
    assert len(timed) == 3  # im2col and direct, too
    for y in timed[:2]:
        # im2col and direct convolutions do not round weights: 2^-12 of each of 72 products
        np.testing.assert_allclose(to_numpy(wide(y)), to_numpy(wide(timed[2])), rtol=2.0**-9, atol=0.01)
