"""SeqResNets. Small networks are compared with NumPy, in float64, written down from the paper."""

import pathlib

import numpy as np
import pytest
from residual_by_hand import conv, relu

import cupynn
from cupynn import models, nn
from cupynn.autograd import Tensor, no_grad, tensor
from cupynn.models.seqresnet import SeqResidualBlock, Stage, Variant, imagenet_network

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "golden"


def shapes(name, **options):
    with nn.init.shapes_only():
        return models.create(name, **options)


# --- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "parameters", "macs"),
    [
        ("cifar_seqresnet", {}, 1_233_370, 282_085_248),
        ("cifar_seqresnet", {"classes": 100}, 1_250_740, 282_102_528),
        ("cifar_seqresnet", {"widening": 10}, 7_575_514, 1_721_995_968),
        ("cifar_seqresnet", {"widening": 10, "k": 16}, 7_627_354, 1_724_207_808),
        ("cifar_seqresnet", {"widening": 7, "k": 16, "bottleneck": True}, 843_834, 204_360_992),
        ("cifar_seqresnet", {"widening": 20, "k": 32, "bottleneck": True}, 6_024_794, 1_402_267_008),
        ("cifar_seqresnet", {"widening": 3, "blocks": [1, 2, 1], "windowed": False}, 1_229_658, 282_232_224),
        ("cifar_seqresnet", {"widening": 3, "k": 16, "blocks": [1, 2, 2]}, 1_256_154, 227_820_960),
        ("seqresnet", {}, 11_859_656, 2_882_732_032),
        ("seqresnet", {"depth": 42}, 25_642_696, 5_644_419_072),
        ("seqresnext", {}, 26_211_784, 4_543_979_520),
    ],
)
def test_counts_are_the_papers(name, options, parameters, macs):
    model = shapes(name, **options)
    count = models.count(model, model.input_shape)
    assert (count.parameters, count.macs) == (parameters, macs)


@pytest.mark.parametrize(
    ("name", "options", "groups"),
    [
        ("cifar_seqresnet", {}, [16, 24]),
        ("seqresnet", {"depth": 42}, [4, 4, 8, 8]),
        ("seqresnext", {}, [64, 64, 64, 64]),
    ],
)
def test_down_sampling_has_the_groups_of_the_next_stage(name, options, groups):
    model = shapes(name, **options)
    strided = [layer.groups for layer in model.modules() if type(layer) is nn.Conv2d and layer.stride == (2, 2)]
    assert strided[-len(groups) :] == groups  # before them ImageNet's first convolution


# --- against the authors' arrays and NumPy ----------------------------------------------------------------------------


@pytest.mark.parametrize("bottleneck", [False, True])
def test_the_authors_residual_blocks(bottleneck):
    """Sums of some 100 products in float64, through four batch norms: 1e-9 leaves a thousandfold."""
    with np.load(GOLDEN / f"{'seqB' if bottleneck else 'seq'}_residual_block.npz") as file:
        case = dict(file)
    block = SeqResidualBlock(Stage(4, 2, 1), Variant(bottleneck=bottleneck)).astype(np.float64)
    state = {name: array for name, array in block.state_dict().items() if "num_batches" in name}
    for prefix in ("p.", "buf_before."):
        state |= {name.removeprefix(prefix): array for name, array in case.items() if name.startswith(prefix)}
    block.load_state_dict(state)
    act, raw = (tensor(case[name], requires_grad=True) for name in ("in0", "in1"))
    new_raw, new_act = block((raw, act))
    (new_raw * case["g_raw"] + new_act * case["g_act"]).sum().backward()
    found = {"raw": new_raw.data, "act": new_act.data, "gin0": act.grad, "gin1": raw.grad}
    found |= {f"grad.{name}": parameter.grad for name, parameter in block.named_parameters()}
    for name, array in found.items():
        scale = max(np.abs(case[name]).max(), 1e-3)
        np.testing.assert_allclose(array, case[name], rtol=1e-9, atol=1e-9 * scale, err_msg=name)


def batch_norm(x, layer):
    mean, variance = layer.running_mean, layer.running_var
    if layer.training:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    factor = layer.weight.data / np.sqrt(variance + 1e-5)
    return x * factor[:, None, None] + (layer.bias.data - mean * factor)[:, None, None]


def conv_unit(x, unit):
    raw = conv(x, unit.conv)
    return raw, relu(batch_norm(raw, unit.bn))


def seq_conv(x, layer, shortcut=None):
    """Group after group; what one group gives goes to the end of what the next one sees, and what is oldest leaves."""
    raws, acts, view = [], [], x
    for j, unit in enumerate(layer.f):
        y = view if not layer.bottleneck else conv_unit(view, unit.pre)[1]
        y = conv(y, unit.conv)
        if shortcut is not None:
            y = y + shortcut[:, layer.k * j : layer.k * (j + 1)]
        raws.append(y)
        acts.append(relu(batch_norm(y, unit.bn)))
        view = np.concatenate([view[:, layer.k :] if layer.windowed else view, acts[-1]], axis=1)
    return np.concatenate(raws, 1), np.concatenate(acts, 1)


def stage(raw, act, blocks):
    for block in blocks:
        _, y = seq_conv(act, block.A)
        raw, act = seq_conv(y, block.B, raw)
    return raw, act


def network(x, model, imagenet):
    _, act = conv_unit(x, model.Init1 if imagenet else model.Init)
    if imagenet:
        _, act = conv_unit(act, model.Init2)
    raw, act = seq_conv(act, model.Head)
    if imagenet:
        raw, act = conv_unit(act, model.Shrink)
    raw, act = stage(raw, act, model.Stage1)
    for number in (2, 3):
        down = getattr(model, f"Downsample{number - 1}")
        _, extension = seq_conv(act, down.ext)
        raw, act = conv_unit(np.concatenate([act, extension], axis=1), down.shrink)
        raw, act = stage(raw, act, getattr(model, f"Stage{number}"))
    _, act = conv_unit(act, model.Blender)
    return act.mean((2, 3)) @ model.Classifier.weight.data.T + model.Classifier.bias.data


SMALL = {
    "plain": {"k": 8},
    "bottleneck": {"k": 4, "bottleneck": True, "blocks": [1, 2, 1]},
    "dense": {"k": 8, "windowed": False, "blocks": [2, 1, 1]},
}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("kind", [*SMALL, "imagenet"])
def test_small_networks_against_numpy(kind, training):
    """Outputs to 1e-8 of the largest: some 60 layers of at most 1000 products in float64. The gradient in a random
    direction is compared with NumPy's central difference of step 1e-8: small enough that no ReLU changes sides, and
    rounding makes it wrong by some 1e-7 of its size."""
    cupynn.manual_seed(3)
    rng = np.random.default_rng(3)
    if kind == "imagenet":
        model = imagenet_network([Stage(8, 4, 1, 2), Stage(16, 4, 2, 2), Stage(24, 8, 1)], 5, 3)
    else:
        model = models.create("cifar_seqresnet", widening=1, dropout=0, classes=5, **SMALL[kind])
    model.astype(np.float64).train(training)
    for name, array in model.state_dict().items():
        if name.endswith("running_var"):
            array[...] = rng.uniform(0.5, 2, array.shape)
        elif not name.endswith("num_batches_tracked"):
            array += 0.1 * rng.standard_normal(array.shape)
    images = rng.standard_normal((2, 3, 12, 12))
    wanted = network(images, model, kind == "imagenet")
    grad, x = rng.standard_normal(wanted.shape), Tensor(images, requires_grad=True)
    parameters = [x, *model.parameters()]
    directions = [rng.standard_normal(parameter.shape) for parameter in parameters]

    def at(step):
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.data += step * direction
        return (grad * network(x.data, model, kind == "imagenet")).sum()

    difference = (at(1e-8) - at(-2e-8)) / 2e-8
    at(1e-8)
    y = model(x)
    np.testing.assert_allclose(y.numpy(), wanted, rtol=0, atol=1e-8 * np.abs(wanted).max())
    y.backward(grad)
    pairs = zip(parameters, directions, strict=True)
    found = sum((parameter.grad * direction).sum() for parameter, direction in pairs)
    assert found == pytest.approx(difference, rel=1e-5)


# --- initial values, dropout, stages, errors --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), [("cifar_seqresnet", {"bottleneck": True}), ("seqresnext", {})])
def test_initial_values(name, options):
    cupynn.manual_seed(7)
    model = models.create(name, classes=10, **options)
    zeros = 0
    for key, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight.data
            if ".B." in key and ".pre." not in key:
                zeros += 1
                assert not weight.any(), key
            else:
                bound = np.sqrt(6 / (layer.out_channels * weight[0, 0].size))  # groups not counted
                assert 0.95 * bound < np.abs(weight).max() <= np.float32(bound), key
                # The deviation of n uniform draws is known to 1 / sqrt(5 n) of itself: 5 of that.
                deviation = bound / np.sqrt(3)
                assert weight.std() == pytest.approx(deviation, rel=5 / np.sqrt(5 * weight.size)), key
    assert zeros == sum(len(block.B.f) for block in model.modules() if type(block) is SeqResidualBlock) > 0
    bound = np.sqrt(3 / 10)
    assert 0.99 * bound < np.abs(model.Classifier.weight.data).max() <= np.float32(bound)
    assert not model.Classifier.bias.data.any()


def test_a_stage_starts_as_the_identity_of_its_raw_input():
    cupynn.manual_seed(8)
    model = models.create("cifar_seqresnet", widening=2, blocks=2)
    raw, act = np.random.default_rng(8).standard_normal((2, 3, 32, 6, 6)).astype(np.float32)
    assert np.array_equal(model.Stage1((Tensor(raw), Tensor(act)))[0].numpy(), raw)


def test_dropout_is_in_all_layers_but_the_first():
    def probabilities(model):
        return {name: layer.dropout for name, layer in model.named_modules() if isinstance(layer, nn.SeqConv2d)}

    cifar = shapes("cifar_seqresnet")
    found = probabilities(cifar)
    assert found.pop("Head") == 0 and cifar.dropout.p == 0.1
    assert len(found) == 8 and set(found.values()) == {0.1}  # three blocks of two, and two down-samplings
    imagenet = shapes("seqresnet")
    assert set(probabilities(imagenet).values()) == {0.0} and imagenet.dropout.p == 0
    assert probabilities(shapes("cifar_seqresnet", dropout=0.25))["Stage2.0.A"] == 0.25


def test_the_blender_reads_what_dropout_leaves():
    """With every channel dropped in front of it nothing of the image is left, and all logits are the bias's."""
    cupynn.manual_seed(9)
    model = models.create("cifar_seqresnet", widening=1, dropout=0)
    model.dropout.p = 1.0
    model.Classifier.bias.data[...] = np.arange(10)
    x = np.random.default_rng(9).standard_normal((2, 3, 8, 8)).astype(np.float32)
    assert np.array_equal(model(x).numpy(), np.tile(np.arange(10, dtype=np.float32), (2, 1)))
    with no_grad():
        assert not np.allclose(model.eval()(x).numpy()[0], np.arange(10))


@pytest.mark.parametrize(
    ("name", "options", "stages"),
    [("cifar_seqresnet", {}, 4), ("cifar_seqresnet", {"bottleneck": True, "k": 16}, 4), ("seqresnext", {}, 5)],
)
def test_do_conv_by_stages(name, options, stages):
    """Every large convolution is in one stage."""
    plain = shapes(name, **options)
    convolutions = [(key, layer) for key, layer in plain.named_modules() if type(layer) is nn.Conv2d]
    assert len(plain.stages) == stages
    expanded = []
    for number in range(stages):
        model = shapes(name, expand="do", stages=[number], **options)
        expanded += [key for key, layer in model.named_modules() if type(layer) is nn.DOConv2d]
    assert sorted(expanded) == sorted(key for key, layer in convolutions if layer.kernel_size != (1, 1))


def test_expanded_layers_contract_and_batch_norms_fold_where_they_alone_read():
    """A down-sampling's raw result is read by the next block too, so only Init and Blender fold. float32: 1e-4."""
    cupynn.manual_seed(10)
    model = models.create("cifar_seqresnet", widening=2, in_channels=1, classes=7, expand="do")
    x = np.random.default_rng(10).standard_normal((2, 1, 8, 8)).astype(np.float32)
    model(x)  # gives the running statistics other values than their first
    compact = cupynn.contract(model.eval(), fold_batch_norm=True)
    with no_grad():
        wanted, found = model(x).numpy(), compact(x).numpy()
    assert wanted.shape == (2, 7)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    assert [name for name, layer in compact.named_modules() if type(layer) is nn.Identity] == ["Init.bn", "Blender.bn"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar_seqresnet", {"k": 10}, "cifar_seqresnet: .*k must divide 16 \\* widening; got widening=4, k=10"),
        ("cifar_seqresnet", {"widening": 0}, "cifar_seqresnet: widening and k must be at least 1"),
        ("cifar_seqresnet", {"blocks": [1, 2]}, "blocks must be a number from 1, or three of them; got \\[1, 2\\]"),
        ("cifar_seqresnet", {"blocks": 0}, "blocks must be a number from 1, or three of them; got \\[0, 0, 0\\]"),
        ("cifar_seqresnet", {"dropout": 2.0}, "dropout must be a probability from 0 to 1; got 2.0"),
        ("seqresnet", {"depth": 24}, "seqresnet: depth must be 22 or 42; got 24"),
    ],
)
def test_errors(name, options, message):
    with pytest.raises(ValueError, match=message):
        models.create(name, **options)
