"""Batch norm into convolutions, parallel kernels into one, and every nesting contracted to one convolution."""

import contextlib

import numpy as np
import pytest

import cupynn
from cupynn import nn, ops
from cupynn.autograd import Tensor, gradcheck, no_grad
from cupynn.nn.contractible import Contractible
from cupynn.ops.folding import add_kernels, fold_batch_norm
from cupynn.reparam import contract, expand, verify_contraction


def moved(model, dtype="float64", seed=0):
    """Every parameter and running statistic away from its start."""
    rng = np.random.default_rng(seed)
    model.astype(dtype)
    for name, array in model.state_dict().items():
        if name.endswith("running_var"):
            array[...] = rng.uniform(0.5, 2, array.shape)
        elif array.dtype.kind == "f":
            array += rng.uniform(-0.3, 0.3, array.shape).astype(dtype)
    return model


def folded(model, shape, bound=1e-12):
    """The model contracted with batch norm folded, after it was shown to compute the same, within `bound` of the
    largest: two dozen float64 roundings of sums of some hundred products."""
    compact = contract(model, fold_batch_norm=True)
    x = Tensor(np.random.default_rng(1).standard_normal(shape).astype(next(model.parameters()).dtype))
    wanted = model.eval()(x).data
    difference = np.abs(compact.eval()(x).data - wanted).max()
    assert difference <= bound * np.abs(wanted).max()
    return compact


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_a_folded_batch_norm_is_the_batch_norm(bias, affine):
    rng = np.random.default_rng(0)
    norm = moved(nn.BatchNorm2d(4, eps=0.1, affine=affine)).eval()
    w, b = rng.standard_normal((4, 3, 3, 2)), rng.standard_normal(4) if bias else None
    x = rng.standard_normal((2, 3, 6, 5))
    weight, shift = fold_batch_norm(w, b, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)
    wanted = norm(ops.conv2d(x, w, b)).data
    np.testing.assert_allclose(ops.conv2d(x, weight, shift).data, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("present", [(True, True, True), (False, True, False), (True, False, False)])
def test_gradients_of_folding(present):
    rng = np.random.default_rng(1)
    w = Tensor(rng.standard_normal((3, 2, 2, 2)), requires_grad=True)
    vectors = [Tensor(rng.standard_normal(3), requires_grad=True) if there else None for there in present]
    mean, var = rng.standard_normal(3), rng.uniform(0.5, 2, 3)

    def squares(*factors):
        weight, bias = fold_batch_norm(*factors, mean, var)
        return (weight**2).sum() + (bias**2).sum()

    assert gradcheck(squares, [w, *vectors])


def test_added_kernels_are_the_added_convolutions():
    rng = np.random.default_rng(2)
    sizes = [(3, 5), (3, 1), (1, 5), (1, 1)]
    kernels = [
        (Tensor(rng.standard_normal((2, 3, *size)), requires_grad=True), bias)
        for size, bias in zip(sizes, [None, rng.standard_normal(2), None, rng.standard_normal(2)], strict=True)
    ]
    x = rng.standard_normal((1, 3, 6, 7))
    wanted = sum(ops.conv2d(x, w, b, 1, (w.shape[2] // 2, w.shape[3] // 2)).data for w, b in kernels)
    weight, bias = add_kernels(kernels, (3, 5))
    np.testing.assert_allclose(ops.conv2d(x, weight, bias, 1, (1, 2)).data, wanted, rtol=0, atol=1e-13)
    assert gradcheck(lambda *w: (add_kernels([(k, None) for k in w], (3, 5))[0] ** 2).sum(), [w for w, _ in kernels])


@pytest.mark.parametrize("size", [(5, 3), (2, 3), (3, 7)])
def test_kernels_without_a_middle_are_refused(size):
    with pytest.raises(ValueError, match=r"add_kernels: a kernel must fit into the middle of \(3, 5\)"):
        add_kernels([(np.zeros((1, 1, *size)), None)], (3, 5))


def test_statistics_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"fold_batch_norm: weight has shape \(4, 1, 1, 1\), so running_mean"):
        fold_batch_norm(np.zeros((4, 1, 1, 1)), None, None, None, np.zeros(3), np.ones(3))


def block(k=5, bias=True):
    return nn.Sequential(nn.Conv2d(2, 4, k, 2, k // 2, bias=bias), nn.BatchNorm2d(4), nn.ReLU())


NESTINGS = ["cl", "ck", "ac", "do", "cl+do", "ck+do", "ac+do"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("strategy", NESTINGS)
def test_every_nesting_becomes_one_convolution(strategy, bias, dtype):
    model = moved(expand(block(bias=bias), strategy, rate=2), dtype)
    compact = folded(model, (3, 2, 9, 8), {"float32": 1e-5, "float64": 1e-12}[dtype])
    assert [type(layer) for layer in compact] == [nn.Conv2d, nn.Identity, nn.ReLU]
    assert compact[0].weight.shape == (4, 2, 5, 5) and compact[0].bias.shape == (4,)
    assert list(compact.state_dict()) == ["0.weight", "0.bias"]
    assert {array.dtype.name for array in compact.state_dict().values()} == {dtype}
    kept = contract(model)  # batch norm stays unless it is asked for
    assert [type(layer) for layer in kept] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    verify_contraction(model, kept, (2, 9, 8))


def kinds(model):
    return {name: type(layer).__name__ for name, layer in model.named_modules() if isinstance(layer, Contractible)}


def test_do_goes_into_the_expanded_layers():
    assert kinds(expand(block(), "cl+do")) == {"0": "ExpandedConv2d", "0.layers.1": "DOConv2d"}
    nested = {"0": "ExpandedConv2d", "0.layers.0": "DOConv2d", "0.layers.1": "DOConv2d"}
    assert kinds(expand(block(), "ck+do")) == kinds(expand(expand(block(), "ck"), "do")) == nested
    branches = dict.fromkeys(["0.square_conv", "0.ver_conv", "0.hor_conv"], "DOConv2d")
    assert kinds(expand(block(), "ac+do")) == {"0": "ACBlock", **branches}


def test_hand_built_nestings_contract():
    """Chains of every kind of layer in each other: an ACBlock and a DO-Conv inside a chain inside a chain."""
    cupynn.manual_seed(0)
    inner = nn.ExpandedConv2d("cl", 3, 4, 3, rate=2, padding=0)
    inner.layers[1] = nn.ACBlock(6, 8, 3)
    outer = nn.ExpandedConv2d("ck", 2, 3, 7, padding=3, rate=1)
    outer.layers[0] = nn.DOConv2d(2, 2, 3, padding=3)
    outer.layers[1] = nn.ExpandedConv2d("cl", 2, 3, 3)
    outer.layers[1].layers[1] = nn.ACBlock(8, 12, 3)
    model = moved(nn.Sequential(outer, nn.BatchNorm2d(3), nn.ReLU(), inner, nn.BatchNorm2d(4)))
    x = Tensor(np.random.default_rng(0).standard_normal((2, 2, 8, 8)))
    # In training the blocks inside use their batch, so that their chains run layer after layer by either composition.
    assert not outer.has_kernel and not inner.has_kernel
    trained = []
    for composition in ("kernel", "feature"):
        outer.composition = inner.composition = composition
        trained.append(model(x).data)
    np.testing.assert_array_equal(*trained)
    outer.composition = inner.composition = "kernel"
    model.eval()
    assert outer.has_kernel and inner.has_kernel
    compact = folded(model, (2, 2, 8, 8))
    assert [type(layer) for layer in compact] == [nn.Conv2d, nn.Identity, nn.ReLU, nn.Conv2d, nn.Identity]
    verify_contraction(model, contract(model), (2, 8, 8))


def test_both_compositions_of_a_nesting_have_one_gradient():
    """float64 rounding through a chain of four layers."""
    results = []
    for composition in ("kernel", "feature"):
        cupynn.manual_seed(3)
        model = moved(expand(nn.Sequential(nn.Conv2d(2, 3, 5, padding=2)), "ck+do", 2, composition))
        x = Tensor(np.random.default_rng(0).standard_normal((2, 2, 7, 6)), requires_grad=True)
        (model(x) ** 2).sum().backward()
        results.append({"x": x.grad, **{name: p.grad for name, p in model.named_parameters()}})
    assert len(results[0]) == 7  # x and, of each of the two layers, D, W, bias
    for name, one in results[0].items():
        np.testing.assert_allclose(one, results[1][name], rtol=0, atol=1e-11 * np.abs(one).max(), err_msg=name)


def test_batch_norm_is_folded_through_nested_sequences_only_where_it_belongs():
    shared = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4))),  # folded
        nn.BatchNorm2d(4),  # behind a batch norm: stays
        nn.Conv2d(4, 3, 1),
        nn.ReLU(),
        nn.BatchNorm2d(3),  # behind ReLU: stays
        shared,
        nn.BatchNorm2d(3),  # the convolution before it is used again: stays
        shared,
    )
    compact = folded(moved(model), (2, 3, 5, 5))
    assert norms(compact) == ["1", "4", "6"]
    assert compact[5] is compact[7]


def test_neither_bias_nor_affine_batch_norm_is_needed():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False))
    assert norms(folded(moved(model), (2, 3, 5, 5))) == []


def norms(model):
    return [name for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)]


def test_what_is_used_twice_is_not_folded():
    conv, norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
    assert norms(folded(moved(nn.Sequential(conv, norm, nn.ReLU(), conv, norm)), (2, 3, 4, 4))) == ["1"]
    sequence = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 1))
    model = nn.Sequential(nn.Sequential(sequence, nn.BatchNorm2d(3)), sequence)
    assert norms(folded(moved(model), (2, 3, 4, 4))) == ["0.1"]
    pair = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))  # both in one place, which is used twice
    assert norms(folded(moved(nn.Sequential(pair, nn.ReLU(), pair)), (2, 3, 4, 4))) == []


class Scaled(nn.Sequential):
    """A sequence that does more than run its layers."""

    def forward(self, x):
        return super().forward(2 * x)[:, ::2]


def test_a_sequence_with_a_forward_of_its_own_is_left_alone():
    inside = Scaled(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6))
    model = nn.Sequential(nn.Conv2d(3, 3, 1), inside, nn.BatchNorm2d(3))
    assert norms(folded(moved(model), (2, 3, 4, 4))) == ["1.1", "2"]


def test_a_layer_inside_a_chain_and_elsewhere_is_contracted_in_both_places():
    do = nn.DOConv2d(2, 2, 3)
    chain = nn.ExpandedConv2d("ck", 2, 2, 5, rate=1)
    chain.layers[0] = do
    model = moved(nn.Sequential(chain, do))
    assert [type(layer) for layer in folded(model, (2, 2, 9, 9))] == [nn.Conv2d, nn.Conv2d]


def test_a_layer_without_feature_composition_is_verified():
    model = moved(nn.Sequential(nn.DOConv2d(4, 8, 3, groups=2, layout="authors"), nn.DOConv2d(8, 2, 3)))
    verify_contraction(model, contract(model), (4, 7, 7))
    assert [layer.composition for layer in model] == ["kernel", "kernel"]


def test_the_model_is_left_as_it_was():
    model = moved(block()).eval()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    compact = contract(model, fold_batch_norm=True)
    assert not any(layer.training for layer in compact.modules())
    compact[0].weight.data[...] = 7
    assert type(model[1]) is nn.BatchNorm2d
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


class Observed(nn.Module):
    """Batch norms of every kind of place: `a` and `b` are foldable, what `open`, `double` and `shared` make is not."""

    input_shape = (3, 8, 8)

    def __init__(self):
        for name in ("a", "b", "open", "double", "shared"):
            setattr(self, name, nn.Conv2d(3, 3, 3, padding=1))
            setattr(self, f"{name}_bn", nn.BatchNorm2d(3))
        self.block = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3))

    def forward(self, x):
        x = self.a_bn(self.a(x), relu=True)
        x = self.block(self.block(x))  # twice, and in the same pair both times
        branch = self.b(x)
        x = self.b_bn(branch, relu=6, residual=x)
        y = self.open(x)
        x = self.open_bn(y, residual=y)  # the addition reads it too
        x = self.double_bn(self.double(x)) + self.double_bn(x)
        return self.shared_bn(self.shared(x)) + self.shared(x)


@pytest.mark.parametrize("recorded", [True, False])
def test_batch_norms_of_a_model_with_an_input_shape_are_found_by_running_it(recorded):
    model = moved(Observed())
    with contextlib.nullcontext() if recorded else no_grad():
        compact = folded(model, (2, 3, 8, 8))
    norms = [name for name, layer in compact.named_modules() if type(layer) is nn.BatchNorm2d]
    assert norms == ["open_bn", "double_bn", "shared_bn"]
    assert not any("forward" in vars(layer) for layer in compact.modules())
