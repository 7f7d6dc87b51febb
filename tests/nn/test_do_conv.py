"""DO-Conv: the authors' numbers, both compositions, the identity, the start."""

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import cupynn
from cupynn import nn
from cupynn.autograd import Tensor, gradcheck
from cupynn.device import asarray, to_numpy
from cupynn.optim import SGD

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
CASES = [path.stem for path in sorted(GOLDEN.glob("do_*.npz")) if path.stem != "do_identity"]


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def layer_of(case, **options):
    channels = case["x"].shape[1], case["W"].shape[0]
    geometry = [tuple(case[key].tolist()) for key in ("kernel_size", "stride", "padding", "dilation")]
    layer = nn.DOConv2d(
        *channels,
        *geometry,
        int(case["groups"]),
        bias="bias" in case,
        depth_multiplier=int(case["D_mul"]),
        **options,
    ).astype(np.float64)
    layer.load_state_dict({name: case[name] for name in ("D", "W", "bias") if name in case})
    return layer


def run(layer, x, grad):
    """Output and every gradient."""
    layer.zero_grad()
    image = Tensor(x, requires_grad=True)
    y = layer(image)
    y.backward(grad)
    return {"y": y.data, "x": image.grad, **{name: p.grad for name, p in layer.named_parameters()}}


def close(got, wanted):
    """1e-9 of the largest: float64 sums of at most 10^4 products are exact to about 1e-14 of their terms."""
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())


def test_the_golden_files_are_there():
    assert len(CASES) == 11
    differing = [name for name in CASES if load(name).get("authors_equals_math", 1) == 0]
    assert differing == ["do_dconv_mult2", "do_gconv_g2"]


@pytest.mark.parametrize("layout", ["paper", "authors"])
@pytest.mark.parametrize("composition", ["kernel", "feature"])
@pytest.mark.parametrize("name", CASES)
def test_authors_numbers(name, composition, layout):
    case = load(name)
    one_meaning = bool(case.get("authors_equals_math", 1))
    if not one_meaning and (composition, layout) == ("feature", "authors"):
        with pytest.raises(ValueError, match=r"DOConv2d: composition must be one of \('kernel',\); got 'feature'"):
            layer_of(case, composition=composition, layout=layout)
        return
    which = "authors" if layout == "authors" or "D" not in case else "math"  # 1x1: only the authors' are there
    layer = layer_of(case, composition=composition, layout=layout)
    got = run(layer, case["x"], case["gy"])
    wanted = {"y": case[f"y_{which}"], "x": case[f"gx_{which}"], "W": case[f"gW_{which}"]}
    if "D" in case:
        wanted["D"] = case[f"gD_{which}"]
        close(layer.kernel()[0].data, case[f"kernel_{which}"])
    if "bias" in case:  # the file's gradient was accumulated over both layouts' backward passes, where there are two
        wanted["bias"] = case["gbias"] / (2 if "D" in case else 1)
        close(wanted["bias"], case["gy"].sum((0, 2, 3)))
    assert got.keys() == wanted.keys()
    for key in wanted:
        close(got[key], wanted[key])
    close(layer.contract()(Tensor(case["x"])).data, wanted["y"])


@settings(max_examples=25, deadline=None, print_blob=True)
@given(
    seed=st.integers(0, 2**16),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.sampled_from([1, 1, 2, 3]),
    kernel_size=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    extra=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    more=st.sampled_from([0, 1, 5, 12]),
    bias=st.booleans(),
)
def test_compositions_and_contraction_agree(
    seed, channels, groups, kernel_size, stride, padding, dilation, extra, more, bias
):
    """Rounding of float64 sums of at most some hundred products, several in a row: 1e-12 of the largest."""
    rng = np.random.default_rng(seed)
    i, o = (groups * channel for channel in channels)
    multiplier = kernel_size[0] * kernel_size[1] + more
    layer = nn.DOConv2d(i, o, kernel_size, stride, padding, dilation, groups, bias, multiplier).astype(np.float64)
    for parameter in layer.parameters():
        parameter.data[...] = rng.standard_normal(parameter.shape)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel_size, dilation, strict=True)]
    size = [max(1, reach[axis] - 2 * padding[axis]) + extra[axis] for axis in range(2)]
    x = rng.standard_normal((2, i, *size))
    grad = rng.standard_normal(layer(Tensor(x)).shape)
    by_kernel = run(layer, x, grad)
    layer.composition = "feature"
    by_feature = run(layer, x, grad)
    plain = layer.contract()
    assert type(plain) is nn.Conv2d and (plain.bias is not None) == bias
    assert by_kernel.keys() == by_feature.keys()
    pairs = [(name, by_kernel[name], by_feature[name]) for name in by_kernel]
    for name, one, other in [*pairs, ("contracted", plain(Tensor(x)).data, by_kernel["y"])]:
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * max(1, np.abs(other).max()), err_msg=name)


@pytest.mark.parametrize("composition", ["kernel", "feature"])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_same_numbers_on_every_device(device, groups, composition):
    """float64 sums of some hundred products, in the order of each device's matrix product."""
    rng = np.random.default_rng(groups)
    layer = nn.DOConv2d(4, 6, 3, 1, 1, groups=groups, depth_multiplier=20, composition=composition).astype(np.float64)
    for parameter in layer.parameters():
        parameter.data[...] = asarray(rng.standard_normal(parameter.shape))
    x, grad = (asarray(rng.standard_normal((2, channels, 5, 4))) for channels in (4, 6))
    here = run(layer, x, grad)
    there = run(layer.to_device("cpu"), to_numpy(x), to_numpy(grad))
    for name, wanted in there.items():
        np.testing.assert_allclose(to_numpy(here[name]), wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


@pytest.mark.parametrize("composition", ["kernel", "feature"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_gradients(groups, composition):
    layer = nn.DOConv2d(4, 8, (3, 2), 2, 1, groups=groups, depth_multiplier=7, composition=composition)
    layer.astype(np.float64)
    rng = np.random.default_rng(groups)
    for parameter in layer.parameters():
        parameter.data[...] = rng.standard_normal(parameter.shape)
    x = Tensor(rng.standard_normal((2, 4, 5, 4)), requires_grad=True)
    assert gradcheck(lambda x, *_: (layer(x) ** 2).sum(), [x, *layer.parameters()])


def test_evaluation_has_no_tape_and_gradients_only_where_needed():
    layer = nn.DOConv2d(2, 3, 3)
    layer.D.requires_grad = False
    layer(Tensor(np.ones((1, 2, 4, 4), np.float32))).sum().backward()
    assert layer.D.grad is None and layer.W.grad.shape == (3, 2, 9)
    with cupynn.no_grad():
        assert layer(Tensor(np.ones((1, 2, 4, 4), np.float32))).record is None


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_start_is_the_plain_convolution(groups):
    """One seed, one network: D' = 0 and W drawn as Conv2d's weight, so the kernel is the same to the last bit."""
    cupynn.manual_seed(5)
    plain = nn.Conv2d(4, 8, 3, groups=groups)
    cupynn.manual_seed(5)
    layer = nn.DOConv2d(4, 8, 3, groups=groups)
    assert not layer.D.data.any()
    np.testing.assert_array_equal(layer.kernel()[0].data, plain.weight.data)
    np.testing.assert_array_equal(layer.bias.data, plain.bias.data)


def test_a_larger_multiplier_starts_with_the_sum_of_the_chunks():
    layer = nn.DOConv2d(2, 3, 3, depth_multiplier=20)
    w = layer.W.data
    np.testing.assert_allclose(layer.kernel()[0].data.reshape(3, 2, 9), w[..., :9] + w[..., 9:18], rtol=0, atol=1e-7)


def test_he_start_is_random_in_d_itself():
    cupynn.manual_seed(0)
    layer = nn.DOConv2d(64, 4, 3, depth_multiplier=18, initial="he")
    d = layer.depthwise().data  # 64 * 9 * 18 draws of variance 2/9: their mean square is within 5 deviations of it
    assert abs((d**2).mean() - 2 / 9) < 5 * np.sqrt(2 / d.size) * 2 / 9
    assert abs(d.mean()) < 5 * np.sqrt(2 / 9 / d.size)
    diagonal = d[:, np.arange(9), np.arange(9)]  # the identity is taken out of D', not added to the draws
    assert abs(diagonal.mean()) < 5 * np.sqrt(2 / 9 / diagonal.size)


def test_weight_decay_pulls_d_to_the_identity():
    layer = nn.DOConv2d(2, 3, 3).astype(np.float64)
    rng = np.random.default_rng(0)
    layer.D.data[...] = rng.standard_normal(layer.D.shape)
    start = layer.depthwise().data - np.eye(9)
    optimizer = SGD(layer.parameters(), lr=0.5, weight_decay=0.2)
    for _ in range(3):
        for parameter in layer.parameters():
            parameter.grad = np.zeros_like(parameter.data)
        optimizer.step()
    np.testing.assert_allclose(layer.depthwise().data - np.eye(9), 0.9**3 * start, rtol=1e-14, atol=1e-15)


def test_state_is_w_d_and_bias():
    state = nn.DOConv2d(4, 6, (3, 2), groups=2, depth_multiplier=8).state_dict()
    assert {name: array.shape for name, array in state.items()} == {"W": (6, 2, 8), "D": (4, 6, 8), "bias": (6,)}
    state = nn.DOConv2d(4, 6, 1, bias=False).state_dict()
    assert {name: array.shape for name, array in state.items()} == {"W": (6, 4, 1)}


def test_a_1x1_kernel_is_a_plain_convolution():
    layer = nn.DOConv2d(3, 4, 1, stride=2, depth_multiplier=5, composition="feature")
    x = Tensor(np.random.default_rng(0).standard_normal((2, 3, 5, 5)).astype("float32"))
    wanted = cupynn.ops.conv2d(x, layer.W.data.reshape(4, 3, 1, 1), layer.bias, 2)
    np.testing.assert_array_equal(layer(x).data, wanted.data)


@pytest.mark.parametrize("multiplier", [9, 20])
def test_load_kernel(multiplier):
    plain = nn.Conv2d(2, 4, 3, groups=2)
    layer = nn.DOConv2d(2, 4, 3, groups=2, depth_multiplier=multiplier, initial="he")
    layer.load_kernel(plain.weight.data, plain.bias.data)
    np.testing.assert_array_equal(layer.kernel()[0].data, plain.weight.data)
    np.testing.assert_array_equal(layer.bias.data, plain.bias.data)
    with pytest.raises(ValueError, match=r"weight must be \(4, 1, 3, 3\), and bias an array; got .*bias None"):
        layer.load_kernel(plain.weight.data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, "groups must divide in_channels and out_channels; got groups=3"),
        ({"kernel_size": 0}, "kernel_size must be"),
        ({"depth_multiplier": 8}, r"depth_multiplier must be at least KH\*KW = 9.*got 8"),
        ({"depth_multiplier": "9"}, "depth_multiplier must be an integer"),
        ({"composition": "both"}, r"composition must be one of \('kernel', 'feature'\); got 'both'"),
        ({"initial": "zero"}, "initial must be one of .*got 'zero'"),
        ({"layout": "math"}, ".*layout one of .*'math'"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=f"DOConv2d: {message}"):
        nn.DOConv2d(**{"in_channels": 4, "out_channels": 8, "kernel_size": 3, **options})
