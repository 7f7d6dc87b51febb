"""ImageNet's residual networks: counts, names, options, initial values. What they compute: test_residual_blocks.py."""

import numpy as np
import pytest

import cupynn
from cupynn import models, nn, ops
from cupynn.autograd import Tensor, no_grad
from cupynn.models.blocks.residual import DepthwiseBlock, SqueezeExcitation
from cupynn.reparam import contract


def output(model, x):
    with no_grad():
        return model(Tensor(x)).numpy()


def counted(name, side=64, **options):
    with nn.init.shapes_only():
        return models.count(models.create(name, **options), (3, side, side))


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("resnet", {"depth": 18}, 11_689_512),
        ("resnet", {"depth": 34, "whe": 16}, 22_296_104),
        ("resnet", {"depth": 50, "version": "v1"}, 25_575_912),
        ("resnet", {"depth": 50, "version": "v1b"}, 25_557_032),
        ("resnet", {"depth": 50, "version": "v2"}, 25_549_480),
        ("resnet", {"depth": 152, "version": "v1b"}, 60_192_808),
        ("resnet", {"whe": 8}, 11_820_072),
        ("resnet", {"whe": 8, "whe_position": "post_bn"}, 11_820_072),
        ("resnet", {"depthwise": True}, 11_731_752),
        ("resnet", {"depthwise": True, "whe_position": "post_bn"}, 11_731_752),
        ("resnet", {"version": "v2", "expand": "do"}, 11_969_803),
        ("plain", {}, 11_515_688),
        ("resnext", {}, 25_028_904),
        ("wide_resnet", {"wide": 1.5}, 25_875_816),
        ("senet", {"whe": 16}, 12_029_992),
    ],
)
def test_parameters_are_the_papers(name, options, parameters):
    assert counted(name, **options).parameters == parameters


def test_thin_names_are_options_of_resnet():
    assert counted("senet") == counted("resnet", squeeze_excitation=True)
    assert counted("wide_resnet", wide=1.5, whe=16) == counted("resnet", wide=1.5, whe=16)


@pytest.mark.parametrize(("activation", "more"), [("prelu", 1), ("elu", 0), ("apl", 4)])
def test_activations_learn_numbers_for_each_channel(activation, more):
    channels = 64 + 2 * 2 * (64 + 128 + 256 + 512)  # the stem's, and two of each of two blocks
    assert counted("resnet", activation=activation).parameters == 11_689_512 + more * channels
    with nn.init.shapes_only():
        assert not any(
            isinstance(module, nn.ReLU) for module in models.create("resnet", activation=activation).modules()
        )


def torchvision_names(blocks, convolutions):
    """The names of torchvision's state for blocks of 2 or 3 convolutions."""

    def conv_and_norm(prefix, conv, norm):
        norms = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        return [f"{prefix}{conv}.weight", *(f"{prefix}{norm}.{part}" for part in norms)]

    names = conv_and_norm("", "conv1", "bn1")
    for layer, count in enumerate(blocks, 1):
        for block in range(count):
            prefix = f"layer{layer}.{block}."
            for number in range(1, convolutions + 1):
                names += conv_and_norm(prefix, f"conv{number}", f"bn{number}")
            if block == 0 and (layer > 1 or convolutions == 3):
                names += conv_and_norm(prefix, "downsample.0", "downsample.1")
    return [*names, "fc.weight", "fc.bias"]


@pytest.mark.parametrize(
    ("name", "options", "blocks", "convolutions"),
    [
        ("resnet", {"depth": 18}, (2, 2, 2, 2), 2),
        ("resnet", {"depth": 34}, (3, 4, 6, 3), 2),
        ("resnet", {"depth": 50}, (3, 4, 6, 3), 3),
        ("resnet", {"depth": 101}, (3, 4, 23, 3), 3),
        ("resnet", {"depth": 152}, (3, 8, 36, 3), 3),
        ("resnext", {}, (3, 4, 6, 3), 3),
    ],
)
def test_state_names_are_torchvisions(name, options, blocks, convolutions):
    with nn.init.shapes_only():
        assert list(models.create(name, **options).state_dict()) == torchvision_names(blocks, convolutions)


@pytest.mark.parametrize(
    ("options", "kind", "places"),
    [
        ({"whe": 16}, nn.WHEBlock, ("conv1.1", "conv2.1")),
        ({"whe": 16, "whe_position": "post_bn"}, nn.WHEBlock, ("bn1.1", "bn2.1")),
        ({"depthwise": True}, DepthwiseBlock, ("conv1.1", "conv2.1")),
        ({"depth": 50, "whe": 16}, nn.WHEBlock, ("conv2.1",)),
        ({"squeeze_excitation": True}, SqueezeExcitation, ("rescale",)),
    ],
)
def test_where_the_added_blocks_stand(options, kind, places):
    """Behind each 3x3 convolution of a block; none behind the stem's, the 1x1 and the shortcuts'."""
    with nn.init.shapes_only():
        model = models.create("resnet", **options)
    blocks = (3, 4, 6, 3) if options.get("depth") == 50 else (2, 2, 2, 2)
    wanted = [
        f"layer{layer}.{block}.{place}"
        for layer, count in enumerate(blocks, 1)
        for block in range(count)
        for place in places
    ]
    assert [name for name, module in model.named_modules() if type(module) is kind] == wanted


@pytest.mark.parametrize("version", ["v1", "v1b", "v2"])
def test_do_conv_by_stages(version):
    with nn.init.shapes_only():
        plain = models.create("resnet", version=version)
        for number, stage in enumerate(plain.stages):
            model = models.create("resnet", version=version, expand="do", stages=[number])
            expanded = [name for name, layer in model.named_modules() if type(layer) is nn.DOConv2d]
            large = [name for name, layer in plain.named_modules() if getattr(layer, "kernel_size", (1, 1)) != (1, 1)]
            of_stage = [name for name in large if name == stage or name.startswith(f"{stage}.")]
            assert expanded == of_stage
            assert len(expanded) == (4 if number else 1)


def test_initial_values():
    cupynn.manual_seed(7)
    model = models.create("resnet", whe=16)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight.data
            deviation = np.sqrt(2 / (layer.out_channels * weight[0, 0].size))
            # The deviation of n normal draws is known to 1 / sqrt(2 n) of itself, their mean to 1 / sqrt(n): 5 of each.
            assert weight.std() == pytest.approx(deviation, rel=5 / np.sqrt(2 * weight.size)), name
            assert abs(weight.mean()) < 5 * deviation / np.sqrt(weight.size), name
            assert np.abs(weight).max() > 3 * deviation, name  # which no uniform draw of that deviation reaches
        elif isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight.data == 1).all() and (layer.bias.data == 0).all(), name
        elif isinstance(layer, nn.WHE):
            assert all(0.09 < np.abs(part.data).max() <= 0.1 for part in (layer.a, layer.b, layer.c, layer.d)), name
    assert 0.99 / np.sqrt(512) < np.abs(model.fc.weight.data).max() <= 1 / np.sqrt(512)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet", {}),
        ("resnet", {"whe": 16}),
        ("resnet", {"whe": 16, "whe_position": "post_bn"}),
        ("resnet", {"squeeze_excitation": True}),
        ("resnet", {"depth": 50, "version": "v1"}),
        ("resnext", {}),
    ],
)
def test_last_gamma_makes_blocks_start_as_their_shortcuts(name, options):
    cupynn.manual_seed(8)
    model = models.create(name, last_gamma=True, **options)
    block = model.layer2[0].astype(np.float64)
    x = Tensor(np.random.default_rng(8).standard_normal((2, block.downsample[0].in_channels, 6, 6)))
    with no_grad():
        ours, wanted = block(x).numpy(), ops.relu(block.downsample(x)).numpy()
    np.testing.assert_allclose(
        ours, wanted, rtol=0, atol=1e-12
    )  # WHE of zeros is constant, its batch norm 0 but rounded
    assert np.abs(wanted).max() > 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet", {"activation": "prelu"}),
        ("resnet", {"activation": "apl"}),
        ("resnet", {"whe": 8, "whe_position": "post_bn", "activation": "elu"}),
        ("resnet", {"depth": 50, "whe": 16, "squeeze_excitation": True, "wide": 0.5}),
        ("resnet", {"version": "v2", "in_channels": 1}),
    ],
)
def test_every_parameter_learns(name, options):
    cupynn.manual_seed(9)
    model = models.create(name, classes=5, **options)
    rng = np.random.default_rng(9)
    for module in model.modules():
        if isinstance(module, nn.APL):
            module.a.data += rng.normal(0, 0.1, module.a.shape).astype(np.float32)  # at 0 they stop b's gradient
    x = rng.standard_normal((2, options.get("in_channels", 3), 64, 64)).astype(np.float32)
    loss = ops.cross_entropy(model(Tensor(x)), np.array([4, 0]))
    loss.backward()
    assert np.isfinite(loss.item())
    for name, parameter in model.named_parameters():
        assert np.isfinite(parameter.grad).all(), name
        # A shift before batch norm has no gradient but rounding.
        assert parameter.grad.any() or name.endswith("bias"), name


def test_do_conv_contracts_to_the_plain_network():
    cupynn.manual_seed(10)
    model = models.create("resnet", version="v2", classes=5, expand="do")
    rng = np.random.default_rng(10)
    for layer in model.modules():
        if isinstance(layer, nn.DOConv2d):
            layer.D.data += 0.1 * rng.standard_normal(layer.D.shape)
    model.astype(np.float64).eval()
    x = rng.standard_normal((2, 3, 64, 64))
    compact = contract(model)
    wanted = output(model, x)
    # Sums of at most 4608 products in float64, some twenty in a row: rounding stays far below 1e-12 of the largest.
    np.testing.assert_allclose(output(compact, x), wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())
    with nn.init.shapes_only():
        assert list(compact.state_dict()) == list(models.create("resnet", version="v2", classes=5).state_dict())


@pytest.mark.parametrize("options", [{}, {"version": "v2"}, {"squeeze_excitation": True, "whe": 16}])
def test_no_images_give_no_outputs(options):
    model = models.create("resnet", classes=5, **options).eval()
    assert output(model, np.zeros((0, 3, 64, 64), np.float32)).shape == (0, 5)
    assert model.input_shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet", {"depth": 20}, "resnet: depth must be one of 18, 34, 50, 101, 152; got 20"),
        ("resnet", {"version": "v3"}, "resnet: version must be one of v1, v1b, v2; got 'v3'"),
        (
            "resnet",
            {"whe": 16, "whe_position": "before"},
            "whe_position must be one of post_conv, post_bn; got 'before'",
        ),
        ("resnet", {"whe_position": "post_bn"}, "whe_position='post_bn' needs whe or depthwise; got neither"),
        (
            "resnet",
            {"whe": 16, "depthwise": True},
            "depthwise=True stands in .*, so whe must be None; got 16",
        ),
        ("resnet", {"whe": 12}, "WHE: channels must be a multiple of group_size; got channels=64, group_size=12"),
        ("resnet", {"activation": "tanh"}, "activation must be one of relu, prelu, elu, apl; got 'tanh'"),
        ("resnet", {"wide": 1.1}, "wide must make 64 \\* wide a whole number of channels; got 1.1"),
        ("resnet", {"wide": 0}, "wide must make 64 .*; got 0"),
        ("resnet", {"version": "v2", "whe": 16}, "version 'v2' has no whe; got whe=16"),
        ("resnet", {"version": "v2", "wide": 1.25}, "version 'v2' has no wide; got wide=1.25"),
        ("resnet", {"version": "v2", "last_gamma": True}, "version 'v2' has no last_gamma; got last_gamma=True"),
        ("plain", {"depth": 50}, "plain: depth must be 18 or 34; got 50"),
        ("senet", {"depth": 50}, "senet has no option 'depth'"),
        ("resnext", {"expand": "ck", "layers": ["layer1"]}, "no layer that 'ck' expands"),
    ],
)
def test_errors(name, options, message):
    with nn.init.shapes_only(), pytest.raises(ValueError, match=message):
        models.create(name, **options)
