"""Cross-layer depthwise convolution: compiled or checked against the reference, that against its definition."""

import tracemalloc

import numpy as np
import pytest
from central_differences import TOLERANCE, central_differences
from hypothesis import given, settings
from hypothesis import strategies as st

from cupynn.device import asarray, to_numpy
from cupynn.kernels import cross_layer, runtime


@st.composite
def problems(draw):
    """Layers, planes shorter and longer than a vector, with and without mean and bias, in one chunk or several."""
    layers = draw(st.one_of(st.integers(1, 6), st.just(64)))
    n, c = draw(st.integers(1, 7)), draw(st.integers(1, 6))
    plane = draw(st.sampled_from([(1, 1), (2, 3), (5, 7), (8, 8), (9, 13)]))
    sizes = {"elements": draw(st.sampled_from([1, 100, 16384])), "chunk": draw(st.sampled_from([1, 100, 16384]))}
    return layers, (n, c, *plane), draw(st.sampled_from(["float32", "float64"])), draw(st.booleans()), sizes


def arrays(layers, shape, dtype="float64", seed=0):
    """inputs, weight, bias, mean and grad."""
    rng = np.random.default_rng(seed)
    inputs = [rng.standard_normal(shape).astype(dtype) for _ in range(layers)]
    rest = [rng.standard_normal(s).astype(dtype) for s in ((layers, shape[1]), shape[1:2], (layers, shape[1]), shape)]
    return inputs, *rest


def close(found, wanted, terms):
    """Sums of `terms` products of unit normals in two orders differ by some eps * terms**0.5; 64 covers the tail."""
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=0, atol=64 * np.finfo(wanted.dtype).eps * (terms + 4) ** 0.5)


@settings(max_examples=25, deadline=None, print_blob=True)
@given(problem=problems(), seed=st.integers(0, 2**32 - 1))
def test_kernels_equal_the_reference(problem, seed):
    layers, shape, dtype, centred, sizes = problem
    inputs, weight, bias, mean, grad = arrays(layers, shape, dtype, seed)
    mean, bias = (mean, bias) if centred else (None, None)
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 3, layers)  # not wanted, written, added to
    before = [None if kind == 0 else rng.standard_normal(shape).astype(dtype) for kind in kinds]
    found, wanted = ([None if a is None else a.copy() for a in before] for _ in range(2))
    add = [bool(kind == 2) for kind in kinds]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_layer, "CPU", sizes)
        y = cross_layer.forward(inputs, weight, bias, mean)
        sums = cross_layer.backward(grad, inputs, weight, mean, found, add)
    close(y, cross_layer.reference_forward(inputs, weight, bias, mean), layers)
    for a, b in zip(sums, cross_layer.reference_backward(grad, inputs, weight, mean, wanted, add), strict=True):
        close(a, b, grad.size // shape[1])
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            close(a, b, 1)


def test_reference_is_the_sum_over_layers():
    inputs, weight, bias, mean, grad = arrays(3, (2, 4, 3, 5))
    stacked = np.stack(inputs)
    centred = stacked - mean[:, None, :, None, None]
    wanted = np.einsum("lc,lnchw->nchw", weight, centred) + bias[:, None, None]
    close(cross_layer.reference_forward(inputs, weight, bias, mean), wanted, 3)
    outputs = [np.full_like(grad, np.nan) for _ in inputs]
    dweight, dbias = cross_layer.reference_backward(grad, inputs, weight, mean, outputs, [False] * 3)
    close(dweight, np.einsum("nchw,lnchw->lc", grad, centred), 30)
    close(dbias, np.einsum("nchw->c", grad), 30)
    for k in range(3):
        others = inputs[:k], inputs[k + 1 :]
        difference = central_differences(
            lambda h, others=others: cross_layer.reference_forward([*others[0], h, *others[1]], weight, bias, mean),
            inputs[k],
            grad,
        )
        np.testing.assert_allclose(outputs[k], difference, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("plane", [(1, 1), (3, 5), (16, 16)])
def test_centre_and_statistics(plane):
    inputs, weight, _, mean, grad = arrays(1, (5, 3, *plane))
    (h,), shift, slope, before = inputs, weight[0], mean[0], grad.copy()
    about, variance = cross_layer.statistics(h)
    close(about, h.mean(axis=(0, 2, 3)), h.size)
    close(variance, h.var(axis=(0, 2, 3)), h.size)
    cross_layer.centre(grad, h, about, shift, slope)
    wanted = before + shift[:, None, None] + slope[:, None, None] * (h - about[:, None, None])
    close(grad, wanted, 4)


def test_one_array_may_stand_for_several_layers():
    inputs, weight, bias, _, grad = arrays(2, (3, 2, 4, 4))
    h = inputs[0]
    both = cross_layer.forward([h, h], weight, bias)
    close(both, cross_layer.reference_forward([h], weight.sum(axis=0, keepdims=True), bias), 2)
    gathered = np.full_like(h, np.nan)
    cross_layer.backward(grad, [h, h], weight, None, [gathered, gathered], [False, True])
    close(gathered, grad * weight.sum(axis=0)[:, None, None], 2)


def test_no_input_is_copied():
    """Beyond results and a table of addresses: in backward the partial sums, some KB per chunk."""
    if runtime.mode() != "compiled":
        pytest.skip("the reference and the checker copy their inputs")
    inputs, weight, bias, mean, grad = arrays(16, (8, 16, 32, 32), "float32")
    outputs = [np.empty_like(grad) for _ in inputs]
    calls = {
        grad.nbytes: lambda: cross_layer.forward(inputs, weight, bias, mean),
        0: lambda: cross_layer.backward(grad, inputs, weight, mean, outputs),
    }
    for expected, call in calls.items():
        call()
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert expected <= peak < expected + 50_000


def test_two_runs_give_the_same_bits():
    inputs, weight, _, mean, grad = arrays(5, (40, 7, 9, 9), "float32")
    first, second = (cross_layer.backward(grad, inputs, weight, mean) for _ in range(2))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))


def test_strided_arrays_and_empty_batches_are_taken():
    inputs, weight, bias, mean, grad = arrays(3, (2, 3, 4, 5))
    turned = [np.asfortranarray(h) for h in inputs]
    found = cross_layer.forward(turned, np.asfortranarray(weight), np.repeat(bias, 2)[::2], mean)
    close(found, cross_layer.reference_forward(inputs, weight, bias, mean), 3)
    outputs = [np.asfortranarray(np.zeros_like(grad)) for _ in inputs]
    cross_layer.backward(np.asfortranarray(grad), turned, weight, mean, outputs)
    close(outputs[2], grad * weight[2][:, None, None], 1)
    empty = [h[:0] for h in inputs]
    assert cross_layer.forward(empty, weight, bias).shape == (0, 3, 4, 5)
    assert not any(a.any() for a in cross_layer.backward(grad[:0], empty, weight))


@pytest.mark.parametrize("plane", [(1, 1), (6, 7), (32, 32)])
def test_on_each_device(device, plane):
    inputs, weight, bias, mean, grad = arrays(4, (3, 5, *plane), "float32")
    on = [asarray(h) for h in inputs]
    rest = [asarray(a) for a in (weight, bias, mean, grad)]
    y = cross_layer.forward(on, *rest[:3])
    close(to_numpy(y), cross_layer.reference_forward(inputs, weight, bias, mean), 4)
    outputs, wanted = [asarray(grad.copy()) for _ in on], [grad.copy() for _ in on]
    add = [True, False, True, False]
    sums = cross_layer.backward(rest[3], on, rest[0], rest[2], outputs, add)
    exact = cross_layer.reference_backward(grad, inputs, weight, mean, wanted, add)
    for a, b in zip((*sums, *outputs), (*exact, *wanted), strict=True):
        close(to_numpy(a), b, 3 * 32 * 32)


def test_errors_name_the_argument():
    inputs, weight, bias, mean, grad = arrays(2, (2, 3, 4, 4))
    with pytest.raises(ValueError, match="needs 1 to 64 inputs; got 65"):
        cross_layer.forward(inputs[:1] * 65, weight)
    with pytest.raises(ValueError, match=r"need input 1 of shape \(2, 3, 4, 4\); it has shape \(2, 3, 4, 3\)"):
        cross_layer.forward([inputs[0], inputs[1][..., :3]], weight)
    with pytest.raises(ValueError, match=r"need weight of shape \(2, 3\); it has shape \(3, 2\)"):
        cross_layer.forward(inputs, weight.T)
    with pytest.raises(TypeError, match="mean must be float64 where input 0 is float64; it is float32"):
        cross_layer.forward(inputs, weight, bias, mean.astype(np.float32))
    with pytest.raises(TypeError, match="float16, bfloat16, float32 or float64; input 0 is int64"):
        cross_layer.forward([h.astype(np.int64) for h in inputs], weight)
    with pytest.raises(ValueError, match=r"output 1 must be float64 of shape \(2, 3, 4, 4\)"):
        cross_layer.backward(grad, inputs, weight, None, [None, grad[0]])
    with pytest.raises(ValueError, match="got 2 inputs, 1 outputs"):
        cross_layer.backward(grad, inputs, weight, None, [None])
    with pytest.raises(ValueError, match="more than one value per channel"):
        cross_layer.statistics(np.zeros((1, 3, 1, 1)))
