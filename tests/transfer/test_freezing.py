"""Frozen parts stay as they are, bit for bit."""

import copy

import numpy as np
import pytest

import cupynn
from cupynn import nn, ops
from cupynn.autograd import Tensor
from cupynn.nn.evaluation import evaluation_mode
from cupynn.optim import SGD
from cupynn.transfer import freeze, training_mode, unfreeze


def small(**options):
    cupynn.manual_seed(0)
    return cupynn.models.create("smallnet", kernel_size=3, in_channels=1, image_size=24, **options)


def train(model, optimiser, steps=2):
    rng = np.random.default_rng(0)
    training_mode(model)
    for _ in range(steps):
        optimiser.zero_grad()
        images = Tensor(rng.standard_normal((4, *model.input_shape)).astype(np.float32))
        ops.cross_entropy(model(images), rng.integers(0, 10, 4)).backward()
        optimiser.step()


def changed(model, before):
    return {name.split(".")[0] for name, array in model.state_dict().items() if (array != before[name]).any()}


@pytest.mark.parametrize("options", [{}, {"expand": "cl", "rate": 2}, {"expand": "ac"}])
def test_frozen_modules_keep_weights_and_statistics(options):
    model = small(**options)
    optimiser = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    train(model, optimiser)  # velocities are under way
    every = {"0", "1", "4", "5", "8", "9", "13", "15"}
    freeze(model, ["0", "1", "13"])
    before = {name: array.copy() for name, array in model.state_dict().items()}
    train(model, optimiser)
    assert changed(model, before) == every - {"0", "1", "13"}
    assert model.training and not model[1].training and model[5].training
    unfreeze(model, ["0", "1", "13"])
    assert model[1].training
    before = {name: array.copy() for name, array in model.state_dict().items()}
    train(model, optimiser)
    assert changed(model, before) == every


def test_the_first_step_after_freezing_uses_no_old_gradient():
    model = small()
    optimiser = SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimiser, steps=1)
    freeze(model, ["0"])
    before = model[0].weight.data.copy()
    optimiser.step()
    np.testing.assert_array_equal(model[0].weight.data, before)


def test_batch_norms_that_blocks_hold():
    cupynn.manual_seed(0)
    model = cupynn.models.create("cifar_resnet", depth=8)
    model.input_shape = (3, 8, 8)
    freeze(model, ["layer1", "bn1"])
    before = {name: array.copy() for name, array in model.state_dict().items()}
    train(model, SGD(model.parameters(), lr=0.1))
    assert changed(model, before) == {"conv1", "layer2", "layer3", "fc"}


def test_statistics_of_a_cross_layer():
    layer = nn.CrossLayerDepthwise(2, layers=2)
    outputs = [Tensor(np.random.default_rng(seed).standard_normal((3, 2, 4, 4)).astype(np.float32)) for seed in (0, 1)]
    freeze(layer, [""])
    training_mode(layer)(outputs)
    assert not layer.running_mean.any()
    unfreeze(layer, [""])
    training_mode(layer)(outputs)
    assert layer.running_mean.all()


def test_modes_of_evaluation_and_copies():
    model = small()
    freeze(model, [""])
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with evaluation_mode(model):
        pass
    assert model.training and not model[1].training
    assert not training_mode(copy.deepcopy(model))[1].training
    assert model.train()[1].training  # train() knows nothing of it
    model.eval()
    unfreeze(model, [""])
    assert not model[1].training
    assert training_mode(model) is model and model[1].training


def test_an_unknown_name_changes_nothing():
    model = small()
    for operation in (freeze, unfreeze):
        with pytest.raises(ValueError, match=f"{operation.__name__}: SmallNet has no module 'head'; there are 0,"):
            operation(model, ["0", "head"])
    assert model[0].weight.requires_grad
