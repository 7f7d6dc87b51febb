"""float16 and bfloat16 on the fake GPU: every kernel that stores them, and a training step with a loss scale."""

import fake_cupy
import numpy as np
import pytest
from test_fake_gpu import on_cpu_reference

import cupynn
from cupynn import device, models
from cupynn.distributed import World
from cupynn.kernels import activations, batch_norm, conv, cross_layer, depthwise, dropout, pool, whe
from cupynn.train import Settings
from cupynn.train.descent import Descent


@pytest.fixture(params=["float16", "bfloat16"])
def dtype(request):
    if request.param == "bfloat16":
        pytest.importorskip("ml_dtypes")
    return device.dtype_named(request.param)


def every_kernel(dtype):
    """Results of forward and backward of each face, one after another."""
    numbers = np.random.default_rng(4)

    def drawn(*shape, kind=dtype):
        return device.asarray(numbers.standard_normal(shape).astype(kind))

    def single(*shape):
        return drawn(*shape, kind=np.float32)

    x, grad = drawn(3, 8, 6, 5), drawn(3, 8, 6, 5)
    for w, options in ((single(8, 8, 3, 3), {"padding": 1}), (single(8, 8, 1, 1), {}), (single(4, 8, 3, 3), {})):
        y = conv.forward(x, w, None, **options)
        yield y
        yield from conv.backward(drawn(*y.shape), x, w, **options)
    for w in (single(8, 1, 3, 3), single(8, 2, 3, 3)):
        y = depthwise.forward(x, w, padding=1)
        yield y
        yield from depthwise.backward(drawn(*y.shape), x, w, padding=1)
    weights = [single(2, 4, 4) for _ in range(4)]
    yield whe.forward(x, *weights)
    yield from whe.backward(grad, x, *weights)
    y, mean, variance, inv_std = batch_norm.forward_train(x, None, None, 1e-5)
    yield from (y, mean, variance, inv_std)
    yield from batch_norm.backward_train(grad, x, None, None, None, mean, inv_std)
    scales = single(2, 8)
    yield cross_layer.forward([x, grad], scales)
    yield from cross_layer.backward(grad, [x, y], scales)
    y, indices = pool.max_forward(x, 3, 2, 1)
    yield from (y, pool.max_backward(drawn(*y.shape), indices, x.shape, 3, 2, 1))
    y = pool.average_forward(x, 2)
    yield from (y, pool.average_backward(y, x.shape, 2))
    yield activations.forward("hardswish", x)
    yield dropout.forward(x, 0.5, (1, 2))


def test_every_kernel(gpu_log):
    """Run with a GPU's blocks under the checker; within two roundings, u = 2^-11, of the reference's values."""
    dtype = np.dtype(np.float16)
    given = list(every_kernel(dtype))
    assert gpu_log.launches and not gpu_log.waits
    expected = on_cpu_reference(lambda: list(every_kernel(dtype)))
    assert len(given) == len(expected)
    for ours, theirs in zip(given, expected, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        ours, theirs = device.wide(device.to_numpy(ours)), device.wide(theirs)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2 * 2.0**-11 * np.abs(theirs).max())


@pytest.mark.parametrize("capability", ["70", "80"])
def test_a_training_step_waits_for_nothing(gpu_log, dtype, capability, monkeypatch):
    """Without and with tensor cores."""
    monkeypatch.setattr(fake_cupy.Device, "compute_capability", capability)
    monkeypatch.setattr(conv, "choices", {})
    cupynn.manual_seed(5)
    model = models.create("cifar_resnet", depth=8)
    descent = Descent(model, Settings(precision=dtype.name), None, World())
    numbers = np.random.default_rng(6)
    images = device.asarray(numbers.standard_normal((2, 3, 8, 8)).astype(np.float32))
    labels = device.asarray(numbers.integers(0, 10, 2))
    before = [device.to_numpy(parameter.data).copy() for parameter in model.parameters()]
    fake_cupy.log.clear()
    loss, logits = descent.step(images, labels, 0.0, watch=False)
    assert not gpu_log.waits
    assert any(launch.name == "conv_tc" for launch in gpu_log.launches) == (capability == "80")
    assert loss.dtype == np.float32 and logits.dtype == dtype
    assert np.isfinite(float(device.to_numpy(loss.data)))
    after = [device.to_numpy(parameter.data) for parameter in model.parameters()]
    assert any((new != old).any() for new, old in zip(after, before, strict=True))
