"""The same functions on CuPy arrays: values as NumPy's, gradients as the differences'."""

import numpy as np
import pytest

from cupynn import device
from cupynn.autograd import Tensor, gradcheck, tensor
from cupynn.autograd import functions as F

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not device.cuda_available(), reason="needs an NVIDIA GPU")]


@pytest.fixture(autouse=True)
def on_the_gpu():
    with device.use_device("cuda:0"):
        yield


CALLS = {
    "arithmetic": lambda t, xp: (t * 2 + 1) / (3 - t) - t**2,
    "array on the left": lambda t, xp: xp.ones((2, 3)) + t,
    "functions": lambda t, xp: F.exp(t) + F.log(t) + F.sqrt(t) + F.tanh(t) + F.sin(t) * F.cos(t) + abs(-t),
    "power": lambda t, xp: t**t,
    "matmul": lambda t, xp: t @ t.T @ xp.arange(4.0).reshape(2, 2),
    "reductions": lambda t, xp: t.sum(0) + t.mean((0, 1)) + t.max(0, keepdims=True) + t.min(0) + t.var(0, ddof=1),
    "shapes": lambda t, xp: F.pad(F.stack([t, t.reshape(3, 2).T], 1), 1, 2.0).transpose(2, 0, 1).flatten(1),
    "concatenate": lambda t, xp: F.concatenate([t, xp.ones((1, 3)), t[::-1]]),
    "indices": lambda t, xp: t[xp.asarray([0, 1, 0])] * t[0, 1:2],
    "mask": lambda t, xp: t[t > 1],
    "selection": lambda t, xp: F.where(t > 1, t, 0.0) + t.clip(0.8, None) + F.maximum(t, 1) * F.minimum(1.2, t),
    "einsum": lambda t, xp: F.einsum("ij,kj->ik", t, xp.arange(12.0).reshape(4, 3)),
    "numpy's functions": lambda t, xp: np.concatenate([np.exp(t), np.sum(t, axis=1, keepdims=True)], axis=1),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    import cupy

    values = np.array([[0.6, 0.9, 1.3], [1.45, 0.7, 1.1]])
    x = tensor(values, requires_grad=True)
    assert isinstance(x.data, cupy.ndarray)
    result = CALLS[name](x, cupy)
    assert isinstance(result.data, cupy.ndarray)
    with device.use_device("cpu"):
        expected = CALLS[name](tensor(values), np).numpy()
    # The GPU's exp, log and sums differ from the CPU's in the last digits.
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-12)
    assert gradcheck(lambda t: CALLS[name](t, cupy), [x])
    result.sum().backward()
    assert isinstance(x.grad, cupy.ndarray) and x.grad.flags.c_contiguous


def test_leaving_the_gpu():
    import cupy

    x = tensor([1.0, 2.0])
    assert isinstance(x.numpy(), np.ndarray)
    assert cupy.from_dlpack(x).data.ptr == x.data.data.ptr
    assert Tensor(cupy.ones(())).item() == 1
