from unittest import mock

import numpy as np
import pytest
from central_differences import TOLERANCE, central_differences
from hypothesis import given
from hypothesis import strategies as st

from cupynn.device import asarray, dtype_named, to_numpy, wide
from cupynn.kernels import activations

NAMES = sorted(activations.ACTIVATIONS)
SPECIAL = [0.0, -0.0, 6.0, -3.0, 3.0, -1e4, 1e4, -90.0, -20.0, np.nan, 1e-30]


def both(name, x, grad, parameter):
    y = activations.forward(name, x, parameter)
    return y, activations.backward(name, grad, y if activations.saves_output(name) else x, parameter)


@pytest.mark.parametrize("name", NAMES)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(), (0, 3), (1,), (33,), (3, 5, 7)]), st.booleans(), st.booleans())
def test_both_passes_equal_the_reference_in_float64(name, seed, shape, double, transposed):
    rng = np.random.default_rng(seed)
    x = np.asarray(rng.normal(scale=4, size=shape), np.float64 if double else np.float32)
    special = rng.random(shape) < 0.3
    x = np.where(special, rng.choice(SPECIAL, size=shape), x).astype(x.dtype)
    grad = np.asarray(rng.normal(size=shape), x.dtype)
    if transposed:
        x, grad = x.T, grad.T
    parameter = float(rng.normal())
    with mock.patch.object(activations, "CPU_PIECE", int(rng.choice([1, 10, 16384]))):
        y, dx = both(name, x, grad, parameter)
    assert y.dtype == dx.dtype == x.dtype and y.shape == dx.shape == x.shape
    # A handful of operations, exp to a few units in the last place; what is subnormal may be flushed to 0.
    rounding = {"rtol": 16 * np.finfo(x.dtype).eps, "atol": float(np.finfo(x.dtype).tiny)}
    wide = x.astype(np.float64)
    want = activations.reference_forward(name, wide, parameter)
    np.testing.assert_allclose(y, want, **rounding)
    saved = y.astype(np.float64) if activations.saves_output(name) else wide
    want = activations.reference_backward(name, grad.astype(np.float64), saved, parameter)
    # 1 - y and x / 3 + 1/2 cancel: an absolute error of eps
    np.testing.assert_allclose(dx, want, rtol=rounding["rtol"], atol=32 * np.finfo(x.dtype).eps)


@pytest.mark.parametrize("name", NAMES)
def test_reference_backward_is_the_gradient(name):
    rng = np.random.default_rng(3)
    x, grad = np.linspace(-7.03, 8.05, 40), rng.normal(size=40)  # no step crosses a corner
    y = activations.reference_forward(name, x, 0.7)
    saved = y if activations.saves_output(name) else x
    got = activations.reference_backward(name, grad, saved, 0.7)
    want = central_differences(lambda v: activations.reference_forward(name, v, 0.7), x, grad)
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_stays_one(name):
    x = np.array([np.nan] * 40 + [1.0], np.float32)
    assert np.isnan(activations.forward(name, x, 0.5)).tolist() == [True] * 40 + [False]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bits_are_computed_in_float32_and_rounded_once(name, dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    x, grad = (np.random.default_rng(5).standard_normal((2, 777)) * 3).astype(dtype_named(dtype))
    y, dx = both(name, x, grad, 0.3)
    assert y.dtype == dx.dtype == x.dtype
    saved = wide(y) if activations.saves_output(name) else wide(x)
    want = (
        activations.reference_forward(name, wide(x), 0.3),
        activations.reference_backward(name, wide(grad), saved, 0.3),
    )
    for got, exact in zip((y, dx), want, strict=True):
        np.testing.assert_allclose(
            wide(got), exact, rtol=1.01 * {"float16": 2**-11, "bfloat16": 2**-8}[dtype], atol=4e-6
        )


def test_integers_are_what_numpy_makes_of_them():
    assert activations.forward("relu", np.array([-1, 2])).tolist() == [0, 2]
    assert activations.forward("sigmoid", np.array([0])).tolist() == [0.5]


def test_a_gradient_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"relu: grad must have the output's shape \(3,\); it has shape \(2,\)"):
        activations.backward("relu", np.ones(2), np.ones(3))


@pytest.mark.parametrize("name", NAMES)
def test_on_each_device(device, name):
    x, grad = np.random.default_rng(4).standard_normal((2, 7, 900)).astype(np.float32) * 4
    for given_, want in zip(both(name, asarray(x), asarray(grad), 0.3), both(name, x, grad, 0.3), strict=True):
        np.testing.assert_allclose(to_numpy(given_), want, rtol=16 * np.finfo(np.float32).eps, atol=4e-6)
