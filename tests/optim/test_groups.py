"""Parameter groups, gradient clipping."""

import math

import numpy as np
import pytest

from cupynn import nn
from cupynn.autograd import Tensor
from cupynn.device import asarray, to_numpy
from cupynn.optim import Group, clip_grad_norm, plan


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.WHEBlock(4, 2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


WHE = Group(layers=("WHE",), weight_decay=((0, 1e-6), (80, 1e-5), (110, 1e-4)))


def test_the_weight_decay_of_whe():
    """a, b, c, d of WHE: 1e-6 in epochs 0-79, 1e-5 in 80-109, 1e-4 from 110; all else 1e-4, WHE's batch norm too."""
    rest, whe = plan(network(), [WHE], 1e-4)
    assert whe.names == ("1.whe.a", "1.whe.b", "1.whe.c", "1.whe.d")
    assert "1.bn.weight" in rest.names and len(rest.names) + len(whe.names) == len(list(network().parameters()))
    assert [whe.weight_decay(epoch) for epoch in (0, 79, 79.99, 80, 109.5, 110, 119)] == [
        *[1e-6] * 3,
        *[1e-5] * 2,
        *[1e-4] * 2,
    ]
    assert {rest.weight_decay(epoch) for epoch in range(120)} == {1e-4} and rest.lr == whe.lr == 1


def test_biases_and_norms_without_decay():
    decayed, others, whe = plan(network(), [WHE], 1e-4, decay_biases=False)
    assert decayed.names == ("0.weight", "4.weight") and decayed.weight_decay(5) == 1e-4
    assert others.names == ("0.bias", "1.bn.weight", "1.bn.bias", "2.weight", "2.bias", "4.bias")
    assert others.weight_decay(5) == 0 and whe.weight_decay(0) == 1e-6
    # a group that states a weight decay has it, whatever its parameters are
    *_, biases = plan(network(), [Group(names=("*.bias",), weight_decay=0.3)], 1e-4, decay_biases=False)
    assert biases.weight_decay(0) == 0.3 and "4.bias" in biases.names


def test_the_first_group_that_fits_has_a_parameter_and_both_conditions_count():
    head = Group(names=("4.*",), lr=10)
    both = Group(layers=("WHEBlock",), names=("*.weight",), lr=0.5)
    biases = Group(names=("*.bias",), lr=2)
    _, first, second, third = plan(network(), [head, both, biases], 1e-4)
    assert first.names == ("4.weight", "4.bias") and first.lr == 10
    assert second.names == ("1.bn.weight",) and second.lr == 0.5
    assert third.names == ("0.bias", "1.bn.bias", "2.bias") and third.weight_decay(3) == 1e-4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: plan(network(), [Group(layers=("WHEE",))], 0.1),
            r"\[0\] is left with no parameter of Sequential",
        ),
        (lambda: plan(network(), [Group(names=("*",)), WHE], 0.1), r"groups\[1\] is left with no parameter"),
        (lambda: Group(), "Group: needs layers or names"),
        (lambda: Group(names=("*",), lr=-1), "Group: lr must be at least 0"),
        (lambda: Group(names=("*",), lr=math.inf), "Group: lr must be at least 0 and finite"),
        (lambda: Group(names=("*",), weight_decay=math.inf), "Group: weight_decay must be at least 0 and finite"),
        (lambda: Group(names=("*",), weight_decay=-1), "Group: weight_decay must be at least 0"),
        (lambda: Group(names=("*",), weight_decay=((0, 1), (3, -1))), "Group: weight_decay must be at least 0"),
        (lambda: Group(names=("*",), weight_decay=((1, 1.0),)), "epochs of steps must start at 0 and ascend"),
        (lambda: clip_grad_norm([], 0), "clip_grad_norm: max_norm must be above 0; got 0"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def with_gradients(*grads):
    tensors = [Tensor(asarray(np.zeros_like(grad)), requires_grad=True) for grad in grads]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = asarray(grad)
    return [*tensors, Tensor(asarray(np.zeros(3)), requires_grad=True)]  # one without a gradient


def test_clipping(device):
    """Norm of (3, 4) and (12): 13. The factor is max_norm / (norm + 1e-6), as in PyTorch."""
    parameters = with_gradients(np.array([3.0, 4.0], np.float32), np.array([[12.0]]))
    assert float(clip_grad_norm(parameters, 20)) == 13
    np.testing.assert_array_equal(to_numpy(parameters[0].grad), [3, 4])
    assert float(clip_grad_norm(parameters, 6.5)) == 13
    np.testing.assert_allclose(to_numpy(parameters[0].grad), [1.5, 2], rtol=2e-7)  # float32, and the 1e-6
    np.testing.assert_allclose(to_numpy(parameters[1].grad), [[6.5 * 12 / 13.000001]], rtol=1e-15)
    assert [p.grad.dtype for p in parameters[:2]] == ["float32", "float64"] and parameters[2].grad is None
    assert clip_grad_norm(parameters[2:], 1) == 0


def test_squares_beyond_float32_do_not_overflow():
    (parameter, _) = with_gradients(np.array([3e30, 4e30], np.float32))
    np.testing.assert_allclose(float(clip_grad_norm([parameter], 1.0)), 5e30, rtol=1e-6)
    np.testing.assert_allclose(parameter.grad, [0.6, 0.8], rtol=1e-6)
