"""The nonlinear counterpart of an expanded network."""

import numpy as np
import pytest

import cupynn
from cupynn import nn, ops
from cupynn.autograd import Tensor
from cupynn.transfer import NonlinearChain, initialise_from, nonlinear


def create(expand, composition="kernel", **options):
    cupynn.manual_seed(0)
    return cupynn.models.create("smallnet", in_channels=1, expand=expand, composition=composition, rate=2, **options)


def images(seed=0):
    return np.random.default_rng(seed).standard_normal((3, 1, 32, 32)).astype(np.float32)


def rectified_layer_by_layer(model, x):
    """SmallNet by hand, ReLU behind each sub-layer but the last."""
    for module in model.children():
        if isinstance(module, (nn.ExpandedConv2d, nn.ExpandedLinear)):
            *inner, last = module.layers
            for layer in inner:
                x = ops.relu(layer(x))
            x = last(x)
        else:
            x = module(x)
    return x


@pytest.mark.parametrize("expand", ["cl", "ck", "ck+fc", "cl+fc+do"])
def test_the_twin_has_the_same_state_and_a_relu_between(expand):
    model = create(expand)
    twin = nonlinear(model)
    states = model.state_dict(), twin.state_dict()
    assert list(states[0]) == list(states[1])
    for name, array in states[0].items():
        np.testing.assert_array_equal(states[1][name], array)
        assert not np.shares_memory(states[1][name], array)
    x = Tensor(images())
    y = twin.eval()(x).data
    np.testing.assert_array_equal(y, rectified_layer_by_layer(model.eval(), x).data)
    assert np.abs(y - model(x).data).max() > 1e-3  # it is another function
    assert not hasattr(twin, "creation")


def test_training_the_twin_and_starting_from_it():
    model = create("cl+fc")
    twin = nonlinear(model).train()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    optimiser = cupynn.optim.SGD(twin.parameters(), lr=0.05)
    loss = ops.cross_entropy(twin(Tensor(images())), np.array([1, 2, 3]))
    loss.backward()
    assert all(parameter.grad is not None for parameter in twin.parameters())
    optimiser.step()
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])  # a copy was trained
    initialise_from(model, twin)
    for name, array in twin.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array)
        assert not np.shares_memory(model.state_dict()[name], array)
    assert model[1].num_batches_tracked == 1
    cupynn.verify_contraction(model, cupynn.contract(model), (1, 32, 32))


@pytest.mark.parametrize("mixing", [True, False])
def test_depthwise_layers(mixing):
    cupynn.manual_seed(0)
    layer = nn.ExpandedConv2d("cl", 4, 4, 3, padding=1, groups=4, bias=False, rate=2, mixing=mixing)
    twin = nonlinear(layer)
    assert type(twin) is NonlinearChain
    x = Tensor(np.random.default_rng(0).standard_normal((2, 4, 5, 5)).astype(np.float32))
    first, middle, last = layer.layers
    np.testing.assert_array_equal(twin(x).data, last(ops.relu(middle(ops.relu(first(x))))).data)
    initialise_from(layer, twin)


def test_a_shared_layer_stays_shared():
    layer = nn.ExpandedLinear(4, 4, rate=2)
    twin = nonlinear(nn.Sequential(layer, nn.ReLU(), layer))
    assert type(twin[0]) is NonlinearChain and twin[0] is twin[2]


def test_faults_are_named():
    with pytest.raises(ValueError, match="nonlinear: SmallNet has no ExpandedConv2d or ExpandedLinear"):
        nonlinear(cupynn.models.create("smallnet"))
    model, twin = create("cl"), nonlinear(create("cl+fc"))
    before = {name: array.copy() for name, array in model.state_dict().items()}
    with pytest.raises(ValueError, match="initialise_from: 13 must be an expanded layer in one"):
        initialise_from(model, twin)
    with pytest.raises(ValueError, match=r"initialise_from: .* SmallNet 0 chains"):
        initialise_from(model, create("cl"))
    with pytest.raises(ValueError, match=r"shape of 0.layers.1.weight"):
        initialise_from(model, nonlinear(create("cl", kernel_size=5)))
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
