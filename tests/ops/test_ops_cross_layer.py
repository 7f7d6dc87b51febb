"""Cross-layer depthwise convolution with gradients: values, shared statistics, gradients gathered in place."""

import numpy as np
import pytest

from cupynn import ops
from cupynn.autograd import gradcheck, no_grad, tensor
from cupynn.kernels import cross_layer
from cupynn.ops import LayerOutput

SHAPE = (3, 2, 3, 2)


def images(count, seed=0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    return [tensor(rng.standard_normal(shape), requires_grad=True) for _ in range(count)]


def parameters(layers, seed=1, channels=2):
    rng = np.random.default_rng(seed)
    return [tensor(rng.standard_normal((layers, channels)), requires_grad=True) for _ in range(2)]


def fresh(layers, channels=2):
    return np.zeros((layers, channels)), np.ones((layers, channels))


def summed_batch_norms(inputs, weight, bias, training=True):
    """The definition, from operations that exist: one batch norm per layer, added up."""
    y = 0
    for h, w, b, *running in zip(inputs, weight, bias, *fresh(len(inputs)), strict=True):
        y = y + ops.batch_norm(h, w, b, *running, training=training)
    return y


def test_gradcheck_of_the_plain_form():
    weight, bias = parameters(3)[0], tensor(np.array([0.5, -1.0]), requires_grad=True)
    gradcheck(lambda w, b, *h: ops.cross_layer_depthwise(h, w, b), (weight, bias, *images(3)))
    gradcheck(lambda w, *h: ops.cross_layer_depthwise([LayerOutput(x) for x in h], w), (weight, *images(3)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_gradcheck_of_the_sum_of_batch_norms(training, wrapped):
    rng = np.random.default_rng(2)
    statistics = rng.standard_normal((3, 2)), rng.uniform(0.5, 2, (3, 2))

    def f(w, b, *h):
        h = [LayerOutput(x) for x in h] if wrapped else h
        return ops.cross_layer_batch_norm(h, w, b, *(s.copy() for s in statistics), training=training)

    gradcheck(f, (*parameters(3), *images(3)))


def block(h, parameters, norm):
    """Three readers of a growing list; outputs are also read by other operations, before and after."""
    outputs, total = [], h * 0.5
    for weight, bias in parameters:
        outputs.insert(0, LayerOutput(h * h))
        total = total + outputs[0].tensor * h
        if norm:
            h = ops.cross_layer_batch_norm(outputs, weight, bias, *fresh(len(outputs)), training=True)
        else:
            h = ops.cross_layer_depthwise(outputs, weight, bias[0])
        total = total + outputs[-1].tensor
    return total * h


@pytest.mark.parametrize("norm", [True, False])
def test_gradcheck_of_a_block_whose_outputs_have_many_readers(norm):
    layers = [parameters(length, seed=length) for length in (1, 2, 3)]
    flat = [p for pair in layers for p in pair]
    gradcheck(
        lambda h, *p: block(h, list(zip(p[::2], p[1::2], strict=True)), norm),
        (images(1)[0], *flat),
    )


def test_shared_and_separate_gradients_agree():
    results = []
    for wrap in (LayerOutput, lambda h: h):
        inputs, (weight, bias) = images(3), parameters(3)
        outputs = [wrap(h * 2) for h in inputs]
        y = ops.cross_layer_batch_norm(outputs, weight, bias, *fresh(3), training=True)
        z = ops.cross_layer_batch_norm(outputs[1:], weight[1:], bias[1:], *fresh(2), training=True)
        q = ops.cross_layer_depthwise(outputs, weight)
        (y * z * q).backward(np.random.default_rng(3).standard_normal(SHAPE))
        results.append([leaf.grad for leaf in (*inputs, weight, bias)])
    for shared, separate in zip(*results, strict=True):
        # the same sums of some 20 terms in another order
        np.testing.assert_allclose(shared, separate, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("training", [True, False])
def test_it_is_a_sum_of_batch_norms(training):
    inputs, (weight, bias) = images(4), parameters(4)
    running = fresh(4)
    y = ops.cross_layer_batch_norm(inputs, weight, bias, *running, training=training)
    wanted = summed_batch_norms(inputs, weight, bias, training).numpy()
    np.testing.assert_allclose(y.numpy(), wanted, rtol=0, atol=1e-12)
    data = np.stack([h.numpy() for h in inputs])
    mean, variance = (0.1 * data.mean((1, 3, 4)), 0.9 + 0.1 * data.var((1, 3, 4), ddof=0) * 18 / 17)
    wanted = (mean, variance) if training else fresh(4)
    for found, expected in zip(running, wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_statistics_are_computed_once_for_all_readers(monkeypatch):
    calls, compute = [], cross_layer.statistics
    monkeypatch.setattr(cross_layer, "statistics", lambda h: calls.append(h) or compute(h))
    outputs = [LayerOutput(h) for h in images(5)]
    for layers in (2, 3, 4, 5):
        ops.cross_layer_batch_norm(outputs[:layers], *parameters(layers), *fresh(layers), training=True)
    assert len(calls) == 5


def test_readers_add_to_one_gradient_in_place(monkeypatch):
    """Of an output with three readers the first to go backwards gets a new array; the others add to it."""
    seen, compute = [], cross_layer.backward

    def watched(grad, inputs, weight, mean, outputs, add):
        seen.extend(zip(map(id, outputs), add, strict=True))
        return compute(grad, inputs, weight, mean, outputs, add)

    monkeypatch.setattr(cross_layer, "backward", watched)
    h, (weight, _) = images(1)[0], parameters(1)
    output = LayerOutput(h * 1)
    total = sum(ops.cross_layer_depthwise([output], weight) for _ in range(3))
    total.backward(np.ones(SHAPE), retain_graph=True)
    assert [added for _, added in seen] == [False, True, True]
    assert len({array for array, _ in seen}) == 1
    wanted = np.broadcast_to(3 * weight.numpy()[0][:, None, None], SHAPE)
    np.testing.assert_allclose(h.grad, wanted, rtol=1e-14)
    total.backward(np.ones(SHAPE))  # begins anew
    np.testing.assert_allclose(h.grad, 2 * wanted, rtol=1e-14)


def test_an_output_may_be_read_first_without_a_tape():
    h, (weight, bias) = images(1)[0], parameters(1)
    output = LayerOutput(h)
    with no_grad():
        assert not ops.cross_layer_depthwise([output], weight).requires_grad
        ops.cross_layer_batch_norm([output], weight, bias, *fresh(1), training=True)
    ops.cross_layer_depthwise([output], weight).backward(np.ones(SHAPE))
    np.testing.assert_allclose(h.grad, np.broadcast_to(weight.numpy()[0][:, None, None], SHAPE), rtol=1e-14)


def test_inputs_that_need_no_gradient_get_none():
    rng = np.random.default_rng(5)
    constant, (h,), (weight, bias) = rng.standard_normal(SHAPE), images(1), parameters(2)
    ops.cross_layer_batch_norm([constant, h], weight, bias, *fresh(2), training=True).sum().backward()
    assert h.grad is not None and weight.grad.shape == bias.grad.shape == (2, 2)
    np.testing.assert_allclose(bias.grad, 18, rtol=1e-14)


def test_errors_come_before_anything_changes():
    inputs, (weight, bias), running = images(2), parameters(2), fresh(2)
    with pytest.raises(ValueError, match=r"bias must be \(L, C\) = \(2, 2\); it has shape \(2,\)"):
        ops.cross_layer_batch_norm(inputs, weight, bias[0], *running, training=True)
    with pytest.raises(ValueError, match=r"need input 1 of shape"):
        ops.cross_layer_batch_norm([inputs[0], inputs[1][:2]], weight, bias, *running, training=True)
    with pytest.raises(TypeError, match="weight must be float64"):
        ops.cross_layer_batch_norm(inputs, weight.numpy().astype(np.float32), bias, *running, training=True)
    with pytest.raises(ValueError, match="more than one value per channel"):
        ops.cross_layer_batch_norm([h[:1, :, :1, :1] for h in inputs], weight, bias, *running, training=True)
    assert not running[0].any() and (running[1] == 1).all()
    with pytest.raises(ValueError, match=r"bias must be \(C,\); it has shape \(2, 2\)"):
        ops.cross_layer_depthwise(inputs, weight, bias)
    with pytest.raises(ValueError, match="inputs must be a list of 1 to 64"):
        ops.cross_layer_depthwise([], weight)
    with pytest.raises(ValueError, match="inputs must be a list of 1 to 64"):
        ops.cross_layer_depthwise(inputs[0], weight)
