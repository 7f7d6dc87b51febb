"""ExpandedConv2d and ExpandedLinear: both compositions and the contracted layer are one function."""

import copy

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import cupynn
from cupynn import nn
from cupynn.autograd import Tensor
from cupynn.nn.expanded import ExpandedConv2d, ExpandedLinear


def run(layer, x, seed):
    """Output and every gradient of a random weighting of it."""
    layer.zero_grad()
    image = Tensor(x, requires_grad=True)
    y = layer(image)
    y.backward(np.random.default_rng(seed).standard_normal(y.shape))
    return {"y": y.data, "x": image.grad, **{name: p.grad for name, p in layer.named_parameters()}}


def agree(one, other):
    """Rounding of float64 sums of at most some thousand products, several in a row: 1e-11 of the largest."""
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-11 * np.abs(one[name]).max(), err_msg=name)


def randomised(layer, seed):
    """The layer in float64, with biases as large as the weights: at the border they must matter."""
    rng = np.random.default_rng(seed)
    layer.astype(np.float64)
    for name, parameter in layer.named_parameters():
        if name.endswith("bias"):
            parameter.data[...] = rng.standard_normal(parameter.shape)
    return layer


GEOMETRIES = st.fixed_dictionaries(
    {
        "strategy": st.sampled_from(["cl", "ck"]),
        "in_channels": st.integers(1, 3),
        "out_channels": st.integers(1, 3),
        "stride": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "padding": st.tuples(st.integers(0, 4), st.integers(0, 4)),
        "groups": st.sampled_from([1, 1, 2, 3]),
        "bias": st.booleans(),
        "rate": st.sampled_from([1, 1.5, 2]),
        "stride_last": st.booleans(),
        "mixing": st.booleans(),
    }
)


@settings(max_examples=25, deadline=None, print_blob=True)
@given(GEOMETRIES, st.data())
def test_compositions_and_contraction_agree(options, data):
    seed = data.draw(st.integers(0, 2**16), label="seed")
    cupynn.manual_seed(seed)
    groups = options["groups"]
    options = {name: value * groups if "channels" in name else value for name, value in options.items()}
    if options["strategy"] == "ck":
        kernel_size = data.draw(st.sampled_from([5, 7]), label="kernel_size")
        reach = kernel_size, kernel_size
    else:
        kernel_size = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 4)), label="kernel_size")
        options["dilation"] = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 3)), label="dilation")
        reach = tuple((k - 1) * d + 1 for k, d in zip(kernel_size, options["dilation"], strict=True))
    size = [max(1, reach[i] - 2 * options["padding"][i]) + data.draw(st.integers(0, 4)) for i in range(2)]
    layer = randomised(ExpandedConv2d(kernel_size=kernel_size, composition="kernel", **options), seed)
    x = np.random.default_rng(seed).standard_normal((2, options["in_channels"], *size))
    by_kernel = run(layer, x, seed)
    layer.composition = "feature"
    agree(by_kernel, run(layer, x, seed))
    plain = layer.contract()
    assert type(plain) is nn.Conv2d and (plain.bias is not None) == options["bias"]
    agree({"y": by_kernel["y"]}, {"y": plain(Tensor(x)).data})


@pytest.mark.parametrize("bias", [False, True])
def test_linear_compositions_and_contraction_agree(bias):
    cupynn.manual_seed(0)
    layer = randomised(ExpandedLinear(5, 3, bias, rate=3), 0)
    x = np.random.default_rng(1).standard_normal((4, 5))
    by_kernel = run(layer, x, 2)
    layer.composition = "feature"
    agree(by_kernel, run(layer, x, 2))
    plain = layer.contract()
    assert type(plain) is nn.Linear and plain.weight.shape == (3, 5) and (plain.bias is not None) == bias
    agree({"y": by_kernel["y"]}, {"y": plain(Tensor(x)).data})


def test_padding_of_the_first_1x1_layer_carries_its_bias():
    """With the padding in the middle layer the border is wrong by the taps that fall on it times the first bias."""
    layer = randomised(ExpandedConv2d("cl", 2, 2, 3, padding=1), 5)
    wrong = copy.deepcopy(layer)
    wrong.composition = "feature"
    wrong.layers[0].padding, wrong.layers[1].padding = (0, 0), (1, 1)
    x = Tensor(np.random.default_rng(0).standard_normal((1, 2, 6, 6)))
    difference = np.abs(layer(x).data - wrong(x).data)
    assert difference[:, :, 1:-1, 1:-1].max() < 1e-12 < 1e-3 < difference.max()


def shapes(layer):
    return [part.weight.shape for part in layer.layers]


def test_shapes_follow_the_papers_rules():
    cl = ExpandedConv2d("cl", 3, 8, 7, stride=2, padding=3, rate=4)
    assert shapes(cl) == [(12, 3, 1, 1), (32, 12, 7, 7), (8, 32, 1, 1)]
    assert [part.padding for part in cl.layers] == [(3, 3), (0, 0), (0, 0)]
    assert [part.stride for part in cl.layers] == [(1, 1), (2, 2), (1, 1)]
    ck = ExpandedConv2d("ck", 3, 8, 9, stride=2, padding=4, rate=4)
    assert shapes(ck) == [(12, 3, 3, 3), (32, 12, 3, 3), (32, 32, 3, 3), (8, 32, 3, 3)]
    assert [part.padding for part in ck.layers] == [(4, 4), (0, 0), (0, 0), (0, 0)]
    assert [part.stride for part in ck.layers] == [(1, 1), (1, 1), (1, 1), (2, 2)]
    assert shapes(ExpandedConv2d("ck", 3, 8, 5, rate=2)) == [(6, 3, 3, 3), (8, 6, 3, 3)]
    assert shapes(ExpandedConv2d("ck", 3, 8, 7, rate=0.75)) == [(2, 3, 3, 3), (6, 2, 3, 3), (8, 6, 3, 3)]
    depthwise = ExpandedConv2d("cl", 6, 6, 3, groups=6, bias=False, rate=4)
    assert shapes(depthwise) == [(24, 1, 1, 1), (24, 4, 3, 3), (6, 4, 1, 1)]
    assert shapes(ExpandedConv2d("cl", 3, 8, 3, first_channels=3)) == [(3, 3, 1, 1), (32, 3, 3, 3), (8, 32, 1, 1)]
    assert shapes(ExpandedLinear(512, 64)) == [(2048, 512), (256, 2048), (64, 256)]


def test_state_names_and_starting_values():
    layer = ExpandedConv2d("cl", 2, 3, 3)
    assert list(layer.state_dict()) == [f"layers.{i}.{name}" for i in range(3) for name in ("weight", "bias")]
    for part in layer.layers:
        bound = 1 / np.sqrt(np.prod(part.weight.shape[1:]))
        for array in (part.weight.data, part.bias.data):
            assert array.dtype == np.float32 and 0.3 * bound < np.abs(array).max() <= bound


def test_contract_rounds_once_draws_nothing_and_keeps_the_mode():
    cupynn.manual_seed(4)
    layer = ExpandedConv2d("ck", 4, 4, 7).eval()
    before = cupynn.device.generator().bit_generator.state
    plain = layer.contract()
    assert cupynn.device.generator().bit_generator.state == before
    assert not plain.training and plain.weight.dtype == np.float32
    exact = copy.deepcopy(layer).astype(np.float64).contract()
    np.testing.assert_array_equal(plain.weight.data, exact.weight.data.astype(np.float32))
    np.testing.assert_array_equal(plain.bias.data, exact.bias.data.astype(np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "do"}, "strategy must be one of"),
        ({"composition": "both"}, "composition must be one of"),
        ({"strategy": "ck", "kernel_size": 3}, "odd size > 3"),
        ({"strategy": "ck", "kernel_size": 6}, "odd size > 3"),
        ({"strategy": "ck", "kernel_size": (5, 7)}, "square kernel"),
        ({"strategy": "ck", "dilation": 2}, "dilation 1"),
        ({"groups": 3}, "groups must divide"),
        ({"rate": 0.1}, "rate=0.1 leaves no channel of 4"),
        ({"kernel_size": 0}, "kernel_size must be"),
    ],
)
def test_errors(options, message):
    options = {"strategy": "cl", "in_channels": 4, "out_channels": 4, "kernel_size": 5, **options}
    with pytest.raises(ValueError, match=f"ExpandedConv2d: .*{message}"):
        ExpandedConv2d(**options)
