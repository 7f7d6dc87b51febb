"""What expanded networks cost."""

import pytest

from cupynn import contract, models
from cupynn.analysis.expansion import expansion
from cupynn.nn import Conv2d, DOConv2d, Sequential
from cupynn.profile.turns import Times, take_turns


@pytest.mark.parametrize("strategy", ["cl", "ck+fc"])
def test_counts_are_those_of_models_count(strategy):
    model = models.create("smallnet", expand=strategy, rate=2, composition="feature")
    before = {name: array.copy() for name, array in model.state_dict().items()}
    found = expansion(model, "smallnet", batch=2, rounds=2)
    whole, plain = (models.count(network, (3, 32, 32)) for network in (model, contract(model)))
    counts = [(way.way, way.parameters, way.macs) for way in found.ways]
    assert counts == [
        ("layer by layer", whole.parameters, whole.macs),
        ("through the kernel", whole.parameters, plain.macs),
        ("contracted", plain.parameters, plain.macs),
    ]
    assert all(way.train_ms > 0 and way.inference_ms > 0 for way in found.ways)
    assert (found.ways[2].train_ratio, found.ways[2].inference_ratio) == (1, 1)
    for name, array in model.state_dict().items():
        assert (array == before[name]).all(), name
    assert all(layer.composition == "feature" for layer in model.modules() if hasattr(layer, "composition"))


@pytest.mark.parametrize("groups, stride", [(1, 1), (2, 2)])
def test_do_conv_layer_by_layer_is_a_depthwise_and_a_1x1_convolution(groups, stride):
    layer = DOConv2d(4, 6, 3, stride, padding=1, groups=groups, depth_multiplier=12)
    model = Sequential(layer)
    model.input_shape = (4, 9, 9)
    same = Sequential(Conv2d(4, 48, 3, stride, padding=1, groups=4, bias=False), Conv2d(48, 6, 1, groups=groups))

    class Means(Sequential):
        """Logits of what a convolution gives."""

        input_shape = (4, 9, 9)

        def forward(self, x):
            return super().forward(x).mean(axis=(2, 3))

    found = expansion(Means(layer), "one layer", batch=2, rounds=1)
    assert found.ways[0].macs == models.count(same, (4, 9, 9)).macs
    assert found.ways[1].macs == found.ways[2].macs == models.count(model, (4, 9, 9)).macs


def test_a_plain_network_has_nothing_to_compare():
    with pytest.raises(ValueError, match="expansion: smallnet has no expanded layers"):
        expansion(models.create("smallnet"), "smallnet")


def test_contenders_take_turns():
    order = []
    found = take_turns({name: lambda name=name: order.append(name) for name in "abc"}, rounds=3, warm_up=1)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert all(len(times.seconds) == 3 for times in found.values())
    assert Times([1.0, 4.0, 3.0]).over(Times([2.0, 4.0, 1.0])) == 1.0
