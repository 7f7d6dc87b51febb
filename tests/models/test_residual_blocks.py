"""Blocks and networks of ImageNet's residual networks compute what the papers define, in float64."""

import numpy as np
import pytest
import residual_by_hand as by_hand
from residual_by_hand import conv, max_pool, norm, relu

import cupynn
from cupynn import models, nn
from cupynn.autograd import Tensor, no_grad, tape
from cupynn.models.blocks.preactivation import PreactivationBasicBlock, PreactivationBottleneck
from cupynn.models.blocks.residual import BasicBlock, Bottleneck, Variant


def settled(module, seed):
    """In float64 and evaluation, every batch norm and slope with numbers of its own, as after some training."""
    rng = np.random.default_rng(seed)
    module.astype(np.float64).eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean[...] = rng.normal(0, 0.3, part.num_features)
            part.running_var[...] = rng.uniform(0.5, 2, part.num_features)
            if part.weight is not None:
                part.weight.data = rng.uniform(0.5, 1.5, part.num_features)
                part.bias.data = rng.normal(0, 0.3, part.num_features)
        elif isinstance(part, nn.PReLU):
            part.weight.data = rng.uniform(0, 1, part.weight.shape)
    return module


def output(module, x):
    with no_grad():
        return module(Tensor(x)).numpy()


def assert_same(ours, wanted):
    """Sums of at most 4608 products in float64, some twenty in a row: rounding stays far below 1e-12 of the largest."""
    assert ours.shape == wanted.shape
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


def basic(**options):
    return lambda inputs, outputs, stride: BasicBlock(inputs, outputs, stride, Variant(**options))


def bottleneck(**options):
    return lambda inputs, outputs, stride: Bottleneck(inputs, outputs, stride, Variant(), **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cifar_resnet", {"depth": 20, "dropout": 0.1}),
        ("cifar_resnet", {"depth": 8, "whe": 4}),
        ("resnet", {"depth": 18}),
        ("resnet", {"depth": 50, "whe": 4}),
        ("mobilenet_v2", {"cifar": True}),
    ],
)
def test_no_addition_and_no_relu_is_a_pass_of_its_own(name, options):
    """They run in the batch norms' kernels, and a residual addition keeps nothing for backward."""
    model = models.create(name, **options)
    if not model.input_shape[1] == 32:
        model.maxpool = nn.AvgPool2d(16)  # smaller images than ImageNet's
    records = tape(model(Tensor(np.zeros((2, *model.input_shape), np.float32))))
    names = {entry.record.name for entry in records}
    assert "BatchNormTraining" in names and not names & {"Add", "ReLU", "ReLU6"}, names


CASES = {
    "basic": (basic(), by_hand.basic),
    "WHE post_conv": (basic(whe=4), by_hand.basic_with_whe_behind_convolutions),
    "WHE post_bn": (basic(whe=4, whe_position="post_bn"), by_hand.basic_with_whe_behind_batch_norms),
    "depthwise": (basic(depthwise=True), by_hand.basic_with_depthwise),
    "SE": (basic(squeeze_excitation=True), by_hand.basic_with_squeeze_excitation),
    "ELU": (basic(activation="elu"), by_hand.basic_with_elu),
    "PReLU": (basic(activation="prelu"), by_hand.basic_with_prelu),
    "bottleneck v1b": (bottleneck(), by_hand.bottleneck),
    "bottleneck v1": (bottleneck(stride_first=True), by_hand.bottleneck),
    "bottleneck of ResNeXt": (bottleneck(inner=16, groups=4), by_hand.bottleneck),
    "basic v2": (PreactivationBasicBlock, by_hand.preactivation_basic),
    "bottleneck v2": (PreactivationBottleneck, by_hand.preactivation_bottleneck),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("inputs", "stride"), [(32, 1), (16, 1), (16, 2)])
@pytest.mark.parametrize("case", CASES)
def test_block_is_the_papers(case, inputs, stride, seed):
    make, wanted = CASES[case]
    cupynn.manual_seed(seed)
    block = settled(make(inputs, 32, stride), seed)
    x = np.random.default_rng(seed).standard_normal((2, inputs, 7, 6))
    assert_same(output(block, x), wanted(x, block))


def test_the_two_bottlenecks_differ_in_stride_and_biases():
    for first, strides, biases in ((True, (2, 1), True), (False, (1, 2), False)):
        block = Bottleneck(16, 32, 2, Variant(), stride_first=first)
        assert (block.conv1.stride[0], block.conv2.stride[0]) == strides
        assert [layer.bias is not None for layer in (block.conv1, block.conv2, block.conv3)] == [biases, False, biases]
        assert block.downsample[0].bias is None


@pytest.mark.parametrize("version", ["v1b", "v2"])
def test_network_around_the_blocks(version):
    cupynn.manual_seed(5)
    model = settled(models.create("resnet", version=version, classes=7), 5)
    x = np.random.default_rng(5).standard_normal((2, 3, 33, 38))
    y = norm(x, model.bn_input) if version == "v2" else x
    y = max_pool(relu(norm(conv(y, model.conv1), model.bn1)))
    block_by_hand = by_hand.basic if version == "v1b" else by_hand.preactivation_basic
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            y = block_by_hand(y, block)
    if version == "v2":
        y = relu(norm(y, model.bn_last))
    assert_same(output(model, x), y.mean((2, 3)) @ model.fc.weight.data.T + model.fc.bias.data)


def test_plain_is_the_basic_network_without_shortcuts():
    cupynn.manual_seed(6)
    model = settled(models.create("plain", classes=7), 6)
    x = np.random.default_rng(6).standard_normal((2, 3, 40, 33))
    y = max_pool(relu(norm(conv(x, model.conv1), model.bn1)))
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for conv1, bn1, _, conv2, bn2, _ in stage:
            y = relu(norm(conv(relu(norm(conv(y, conv1), bn1)), conv2), bn2))
    assert_same(output(model, x), y.mean((2, 3)) @ model.fc.weight.data.T + model.fc.bias.data)
