"""The squared norm of what expanded layers compute."""

import math

import numpy as np
import pytest

import cupynn
from cupynn import nn
from cupynn.autograd import Tensor, gradcheck
from cupynn.optim import SGD
from cupynn.transfer import freeze, product_norm


def test_a_product_of_matrices():
    layer = nn.ExpandedLinear(3, 2, rate=2).astype(np.float64)
    first, second, third = (part.weight.data for part in layer.layers)
    np.testing.assert_allclose(product_norm(layer).data, np.sum((third @ second @ first) ** 2), rtol=1e-13)


@pytest.mark.parametrize("expand", ["cl", "ck", "fc", "cl+fc", "do", "cl+fc+do"])
def test_it_is_the_norm_of_the_contracted_layers(expand):
    cupynn.manual_seed(0)
    model = cupynn.models.create("smallnet", in_channels=1, expand=expand, rate=2).astype(np.float64)
    compact = dict(cupynn.contract(model).named_modules())
    plain = dict(cupynn.models.create("smallnet", in_channels=1).named_modules())
    kinds = {"fc": nn.Linear, "do": nn.Conv2d, "cl": nn.Conv2d, "ck": nn.Conv2d}
    wanted = []
    for name, layer in plain.items():
        expanded = any(type(layer) is kinds[part] for part in expand.split("+"))
        if expanded and not (type(layer) is nn.Linear and layer.out_features == 10):  # never the last
            wanted.append(np.sum(compact[name].weight.data ** 2))
    np.testing.assert_allclose(product_norm(model).data, math.fsum(wanted), rtol=1e-12)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.ExpandedConv2d("cl", 2, 3, 3, rate=1.5),
        lambda: nn.ExpandedConv2d("ck", 1, 2, 5, rate=2),
        lambda: nn.ExpandedConv2d("cl", 2, 2, 3, groups=2, rate=2, mixing=False),
        lambda: nn.ExpandedLinear(3, 2, rate=2),
        lambda: nn.DOConv2d(2, 2, 2, bias=False),
    ],
)
def test_gradients(layer):
    cupynn.manual_seed(1)
    layer = layer().astype(np.float64)
    weights = [parameter for name, parameter in layer.named_parameters() if not name.endswith("bias")]
    # The norm is a polynomial of degree 6 or less in each element, exact up to h^2 of its third derivative.
    assert gradcheck(lambda *_: product_norm(layer), weights, rtol=1e-6)


def test_its_gradient_is_the_plain_layers_weight_decay_carried_to_the_factors():
    """decay / 2 |W|^2 has the gradient decay * W in W: what SGD's weight_decay adds to a plain layer's gradient."""
    cupynn.manual_seed(2)
    layer = nn.ExpandedLinear(4, 3, rate=2).astype(np.float64)
    first, second, third = (part.weight.data for part in layer.layers)
    product = third @ second @ first
    (product_norm(layer) * (0.1 / 2)).backward()
    np.testing.assert_allclose(layer.layers[0].weight.grad, 0.1 * (third @ second).T @ product, rtol=1e-12, atol=1e-15)
    assert layer.layers[0].bias.grad is None or not layer.layers[0].bias.grad.any()


def test_it_can_be_trained_beside_a_loss_with_a_frozen_factor():
    cupynn.manual_seed(3)
    layer = nn.ExpandedLinear(4, 3, rate=2)
    freeze(layer, ["layers.1"])
    kept = layer.layers[1].weight.data.copy()
    optimiser = SGD(layer.parameters(), lr=0.5)
    before = product_norm(layer).item()
    for _ in range(30):
        optimiser.zero_grad()
        loss = layer(Tensor(np.zeros((1, 4), np.float32))).sum() * 0 + product_norm(layer)
        loss.backward()
        optimiser.step()
    assert product_norm(layer).item() < 0.5 * before
    np.testing.assert_array_equal(layer.layers[1].weight.data, kept)


def test_a_model_without_expanded_layers():
    with pytest.raises(ValueError, match="product_norm: SmallNet has no Expanded"):
        product_norm(cupynn.models.create("smallnet"))
