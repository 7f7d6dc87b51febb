"""Chains of convolutions and of linear layers as one: the paper's authors' numbers, gradients, every order."""

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from cupynn import ops
from cupynn.autograd import Tensor, gradcheck
from cupynn.ops import contraction
from cupynn.ops.contraction import contract_chain, contraction_order

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        case = dict(file)
    count = sum(1 for key in case if key[0] == "w" and key[1:].isdigit())
    weights = [Tensor(case[f"w{i + 1}"], requires_grad=True) for i in range(count)]
    biases = [Tensor(case[f"b{i + 1}"], requires_grad=True) if f"b{i + 1}" in case else None for i in range(count)]
    return case, weights, biases


def close(got, wanted):
    """1e-9 of the largest: float64 sums of at most 10^4 products are exact to about 1e-14 of their terms."""
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())


CONVOLUTIONS = [path.stem for path in sorted(GOLDEN.glob("exp_c*.npz")) + sorted(GOLDEN.glob("exp_dw*.npz"))]


def test_the_golden_files_are_there():
    assert len(CONVOLUTIONS) >= 9


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_authors_convolutions(name):
    case, weights, biases = load(name)
    groups = int(case.get("groups", 1))
    weight, bias = contract_chain(weights, biases, groups)
    close(weight.data, case["weight_contracted"])
    if "bias_contracted" in case:
        close(bias.data, case["bias_contracted"])
    else:
        assert bias is None
    x = Tensor(case["x"], requires_grad=True)
    options = {"stride": int(case["stride"]), "padding": int(case["padding"]), "groups": groups}
    y = ops.conv2d(x, weight, bias, **options)
    close(y.data, case["y_contracted"])
    if "WRONG" in name:  # padding in the middle layer: the same inside, not on the border
        difference = np.abs(y.data - case["y_expanded"])
        assert difference[:, :, 1:-1, 1:-1].max() < 1e-12 < 0.1 < difference.max()
        return
    close(y.data, case["y_expanded"])
    y.backward(case["gy"])
    close(x.grad, case["gx"])
    for i, (w, b) in enumerate(zip(weights, biases, strict=True), start=1):
        close(w.grad, case[f"gw{i}"])
        if b is not None:
            close(b.grad, case[f"gb{i}"])


def test_authors_linear_layers():
    case, weights, biases = load("exp_fc")
    weight, bias = contract_chain(weights, biases)
    close(weight.data, case["weight_contracted"])
    close(bias.data, case["bias_contracted"])
    x = Tensor(case["x"], requires_grad=True)
    y = ops.linear(x, weight, bias)
    close(y.data, case["y"])
    y.backward(case["gy"])
    close(x.grad, case["gx"])
    for i in range(3):
        close(weights[i].grad, case[f"gw{i + 1}"])
        close(biases[i].grad, case[f"gb{i + 1}"])


def drawn(seed, channels, kernel_sizes, groups, with_bias, dtype=np.float64):
    """Random weights of a chain; channels are per group."""
    rng = np.random.default_rng(seed)
    weights = [
        rng.standard_normal((groups * channels[i + 1], channels[i], *size)).astype(dtype)
        for i, size in enumerate(kernel_sizes)
    ]
    biases = [rng.standard_normal(len(w)).astype(dtype) if b else None for w, b in zip(weights, with_bias, strict=True)]
    return weights, biases


def by_definition(weights, biases, groups):
    """The equations at the top of contraction.py, one product at a time."""
    weight, bias = weights[0], biases[0]
    for w, b in zip(weights[1:], biases[1:], strict=True):
        o, p = w.shape[0], weight.shape[0]
        size = [weight.shape[2 + axis] + w.shape[2 + axis] - 1 for axis in range(2)]
        result = np.zeros((o, weight.shape[1], *size))
        carried = np.zeros(o) if bias is not None or b is not None else None
        for out in range(o):
            for middle in range(w.shape[1]):
                source = out // (o // groups) * (p // groups) + middle
                for y in range(w.shape[2]):
                    for x in range(w.shape[3]):
                        tap = w[out, middle, y, x]
                        window = (slice(y, y + weight.shape[2]), slice(x, x + weight.shape[3]))
                        result[(out, slice(None), *window)] += tap * weight[source]
                        if bias is not None:
                            carried[out] += tap * bias[source]
        weight, bias = result, carried if b is None else carried + b
    return weight, bias


CHAINS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**16),
        "layers": st.lists(
            st.tuples(st.tuples(st.integers(1, 3), st.integers(1, 3)), st.integers(1, 3), st.booleans()),
            min_size=1,
            max_size=4,
        ),
        "first": st.integers(1, 3),
        "groups": st.sampled_from([1, 1, 2, 3]),
    }
)


def chain_of(drawing):
    layers = drawing["layers"]
    channels = [drawing["first"], *(layer[1] for layer in layers)]
    sizes, with_bias = [layer[0] for layer in layers], [layer[2] for layer in layers]
    return drawn(drawing["seed"], channels, sizes, drawing["groups"], with_bias)


@settings(max_examples=25, deadline=None, print_blob=True)
@given(CHAINS)
def test_any_chain_equals_the_definition(drawing):
    weights, biases = chain_of(drawing)
    wanted_weight, wanted_bias = by_definition(weights, biases, drawing["groups"])
    weight, bias = contract_chain(weights, biases, drawing["groups"])
    np.testing.assert_allclose(weight.data, wanted_weight, rtol=1e-12, atol=1e-12)
    assert (bias is None) == (wanted_bias is None)
    if bias is not None:
        np.testing.assert_allclose(bias.data, wanted_bias, rtol=1e-12, atol=1e-12)


@settings(max_examples=10, deadline=None, print_blob=True)
@given(CHAINS, st.data())
def test_gradients(drawing, data):
    weights, biases = chain_of(drawing)
    arrays = [array for array in weights + biases if array is not None]
    needs = data.draw(st.lists(st.booleans(), min_size=len(arrays), max_size=len(arrays)).filter(any))
    tensors = iter([Tensor(array, requires_grad=need) for array, need in zip(arrays, needs, strict=True)])
    inputs = [None if array is None else next(tensors) for array in weights + biases]

    def contracted(*given):
        weight, bias = contract_chain(given[: len(weights)], given[len(weights) :], drawing["groups"])
        return (weight * weight).sum() + (0 if bias is None else (bias * weight.sum()).sum())

    assert gradcheck(contracted, inputs)


def test_gradients_of_linear_layers():
    rng = np.random.default_rng(0)
    shapes = [(4, 3), (2, 4), (3, 2)]
    inputs = [Tensor(rng.standard_normal(s), requires_grad=True) for s in shapes + [s[:1] for s in shapes]]
    assert gradcheck(lambda *given: sum((t * t).sum() for t in contract_chain(given[:3], given[3:])), inputs)


def test_an_unused_bias_gives_no_gradient_to_biases():
    weights, biases = drawn(0, (2, 3, 2), [(3, 3), (1, 1)], 1, (True, True))
    inputs = [Tensor(array, requires_grad=True) for array in weights + biases]
    contract_chain(inputs[:2], inputs[2:])[0].sum().backward()
    assert all(b.grad is None or not b.grad.any() for b in inputs[2:])
    assert all(w.grad.any() for w in inputs[:2])


@pytest.mark.parametrize("order", [((0, 1), (3, 2)), ((1, 2), (0, 3))])
def test_every_order_gives_the_same(order, monkeypatch):
    weights, biases = drawn(1, (2, 4, 3, 2), [(3, 3), (1, 1), (5, 3)], 1, (True, False, True))
    wanted = by_definition(weights, biases, 1)
    monkeypatch.setattr(contraction, "contraction_order", lambda channels, sizes: order)
    got = contract_chain(weights, biases)
    np.testing.assert_allclose(got[0].data, wanted[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(got[1].data, wanted[1], rtol=1e-12, atol=1e-12)


def test_the_order_is_the_cheapest():
    # Linear 512 -> 2048 -> 256 -> 64: the last two first costs 33.5 + 67.1 million products, the first two 268 + 8.4.
    assert contraction_order((512, 2048, 256, 64), ((1, 1),) * 3) == ((1, 2), (0, 3))
    # 16 -> 64 -> 128 -> 32 by 1x1, 7x7, 1x1: the first two cost 6.4 + 3.2 million, the last two 12.8 + 1.6.
    assert contraction_order((16, 64, 128, 32), ((1, 1), (7, 7), (1, 1))) == ((0, 1), (3, 2))
    assert contraction_order((3, 8), ((3, 3),)) == ()


def test_float32_stays_float32_and_close():
    weights, biases = drawn(2, (16, 64, 128, 32), [(3, 3)] * 3, 1, (True,) * 3, np.float32)
    weight, bias = contract_chain(weights, biases)
    exact_weight, exact_bias = contract_chain(
        [w.astype(np.float64) for w in weights], [b.astype(np.float64) for b in biases]
    )
    assert weight.dtype == bias.dtype == np.float32
    # Sums of 9 * 64, then 9 * 128 products, each step rounded to 6e-8 of the partial sum: about 1e-6 of the largest.
    assert np.abs(weight.data - exact_weight.data).max() < 1e-5 * np.abs(exact_weight.data).max()
    assert np.abs(bias.data - exact_bias.data).max() < 1e-5 * np.abs(exact_bias.data).max()


@pytest.mark.parametrize(
    ("shapes", "bias_shapes", "groups", "message"),
    [
        ([], [], 1, "needs one or more weights"),
        (
            [(4, 3, 1, 1), (2, 5, 3, 3)],
            None,
            1,
            r"\[1\] has shape \(2, 5, 3, 3\), so weights\[0\] needs 5 outputs",
        ),
        ([(4, 3), (2, 4, 1, 1)], None, 1, r"weights\[1\] has shape \(2, 4, 1, 1\)"),
        ([(4, 3)], None, 2, r"weights\[0\] has shape \(4, 3\) at groups=2"),
        ([(5, 3, 1, 1)], None, 2, r"groups=2 does not divide the outputs of weights\[0\]"),
        ([(4, 3)], [(3,)], 1, r"biases\[0\] must be \(4,\); it has shape \(3,\)"),
    ],
)
def test_errors(shapes, bias_shapes, groups, message):
    weights = [np.zeros(shape) for shape in shapes]
    biases = bias_shapes and [np.zeros(shape) for shape in bias_shapes]
    with pytest.raises(ValueError, match=f"contract_chain: .*{message}"):
        contract_chain(weights, biases, groups)
