"""The composition itself: definition, identity, operations counted, depthwise separable layers, errors."""

from pathlib import Path

import numpy as np
import pytest

from cupynn import ops
from cupynn.autograd import Tensor, gradcheck
from cupynn.ops.do_composition import (
    choose_composition,
    compose_features,
    compose_kernel,
    composition_macs,
    depthwise_identity,
)

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


def test_identity_is_the_authors():
    with np.load(GOLDEN / "do_identity.npz") as file:
        assert len(file.files) == 8
        for name in file.files:
            taps, multiplier = file[name].shape
            got = depthwise_identity(taps, multiplier, np.zeros(0))
            assert got.dtype == np.float64
            np.testing.assert_array_equal(got, file[name])


@pytest.mark.parametrize("layout", ["paper", "authors"])
@pytest.mark.parametrize(("groups", "inputs", "outputs"), [(1, 3, 2), (2, 2, 3), (4, 1, 1), (3, 1, 2)])
def test_kernel_is_the_definition(groups, inputs, outputs, layout):
    """Sums of 7 products of numbers of size 1 in float64."""
    rng = np.random.default_rng(groups)
    d, w = rng.standard_normal((groups * inputs, 6, 7)), rng.standard_normal((groups * outputs, inputs, 7))
    wanted = np.zeros((groups * outputs, inputs, 6))
    for o in range(groups * outputs):
        group = o // outputs if layout == "paper" else o % groups
        for i in range(inputs):
            wanted[o, i] = d[group * inputs + i] @ w[o, i]
    got = compose_kernel(d, w, (2, 3), groups, layout)
    np.testing.assert_allclose(got.data, wanted.reshape(-1, inputs, 2, 3), rtol=0, atol=1e-14)


@pytest.mark.parametrize("layout", ["paper", "authors"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
def test_gradients_of_the_composition(groups, layout, needs):
    rng = np.random.default_rng(0)
    shapes = (4, 4, 5), (8, 4 // groups, 5)
    d, w = (Tensor(rng.standard_normal(s), requires_grad=need) for s, need in zip(shapes, needs, strict=True))
    assert gradcheck(lambda d, w: (compose_kernel(d, w, (2, 2), groups, layout) ** 2).sum(), [d, w])


def test_float32_stays_float32():
    rng = np.random.default_rng(0)
    d, w = (Tensor(rng.standard_normal(s).astype("float32"), requires_grad=True) for s in ((3, 9, 9), (2, 3, 9)))
    kernel = compose_kernel(d, w, (3, 3))
    kernel.sum().backward()
    assert kernel.dtype == d.grad.dtype == w.grad.dtype == np.float32


def test_operations_counted_by_hand():
    # 4 -> 6 channels in 2 groups, 3x3 taps, D_mul 12, 10 x 5 outputs, 2 images.
    macs = composition_macs(4, 6, 3, (10, 5), images=2, depth_multiplier=12, groups=2)
    assert macs["kernel"] == 12 * 9 * 2 * 6 + 6 * 9 * 2 * 50 * 2
    assert macs["feature"] == (12 * 9 * 4 + 6 * 12 * 2) * 50 * 2


def test_operations_counted_are_those_of_the_convolutions_run():
    """The feature composition's count is that of a depthwise and a pointwise convolution layer."""
    from cupynn import models, nn

    pair = nn.Sequential(nn.Conv2d(4, 48, 3, groups=4, bias=False), nn.Conv2d(48, 6, 1, groups=2, bias=False))
    counted = models.count(pair, (4, 12, 7)).macs
    assert counted == composition_macs(4, 6, 3, (10, 5), depth_multiplier=12, groups=2)["feature"]


def test_choice():
    assert choose_composition(64, 64, 3, 56) == "kernel"
    # On one map of 4 x 4 pixels the kernel of 512 outputs takes more to compose than it saves ...
    assert choose_composition(512, 512, 3, 4) == "feature"
    # ... but it is composed once for all images.
    assert choose_composition(512, 512, 3, 4, images=64) == "kernel"
    # A depthwise separable layer of multiplier 1 is cheapest as it is written.
    assert choose_composition(64, 64, 3, 56, depth_multiplier=1) == "feature"
    assert choose_composition(1, 1, 1, 1) == "kernel"  # 2 and 2


@pytest.mark.parametrize("multiplier", [1, 4])
def test_depthwise_separable_layers_by_both_compositions(multiplier):
    rng = np.random.default_rng(multiplier)
    shapes = (2, 3, 7, 6), (3, multiplier, 3, 2), (5, 3 * multiplier, 1, 1), (5,)
    grad, results = None, []
    for composition in ("kernel", "feature"):
        rng = np.random.default_rng(multiplier)
        tensors = [Tensor(rng.standard_normal(s), requires_grad=True) for s in shapes]
        y = ops.depthwise_separable_conv2d(*tensors, 2, (1, 0), (1, 2), composition=composition)
        grad = rng.standard_normal(y.shape)
        y.backward(grad)
        results.append([y.data, *(tensor.grad for tensor in tensors)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * np.abs(other).max())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, w, x: compose_kernel(d, w, (2, 3)), r"kernel_size=\(2, 3\), so d must be \(C, 6, D_mul\)"),
        (lambda d, w, x: compose_kernel(d, w, (3, 3), 3), r"groups must divide O and C=4; got groups=3"),
        (lambda d, w, x: compose_kernel(d, w, (3, 3), 2), r"so w must be \(O, 2, 9\) at groups=2"),
        (lambda d, w, x: compose_kernel(d, w, (3, 3), 1, "torch"), "layout must be one of paper, authors; got 'torch'"),
        (lambda d, w, x: compose_features(x, d, w[:, :3], (3, 3)), r"compose_features: .*so w must be \(O, 4, 9\)"),
        (
            lambda d, w, x: ops.depthwise_separable_conv2d(x, np.zeros((4, 2, 3, 3)), np.zeros((5, 4, 1, 1))),
            r"they have shapes \(4, 2, 3, 3\) and \(5, 4, 1, 1\)",
        ),
        (
            lambda d, w, x: ops.depthwise_separable_conv2d(
                x, np.zeros((4, 1, 3, 3)), np.zeros((5, 4, 1, 1)), composition="both"
            ),
            'composition must be "kernel" or "feature"; got \'both\'',
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.zeros((4, 9, 9)), np.zeros((6, 4, 9)), np.zeros((1, 4, 5, 5)))
