"""The loss scale: unscaling is exact, overflow halves it, good steps double it."""

import numpy as np
import pytest

from cupynn.autograd import Tensor
from cupynn.optim import LossScale, loss_scale


def parameters(*grads):
    found = [Tensor(np.zeros(3, np.float32), requires_grad=True) for _ in grads]
    for parameter, grad in zip(found, grads, strict=True):
        parameter.grad = None if grad is None else np.array(grad, np.float32)
    return found


def test_unscaling_rounds_nothing():
    grads = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    scale = LossScale()
    found = parameters(*(grads * np.float32(scale.scale)), None)
    assert scale.unscale(found)
    np.testing.assert_array_equal([p.grad for p in found[:2]], grads)
    assert found[2].grad is None
    assert scale.unscale(parameters(None))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_left_as_it_is(bad):
    found = parameters([1, 2, 3], [1, bad, 3])
    assert not LossScale().unscale(found)
    np.testing.assert_array_equal(found[0].grad, [1, 2, 3])


def test_it_halves_and_doubles():
    scale = LossScale()
    scale.update(False)
    assert scale.scale == loss_scale.START / 2 == 32768
    for _ in range(loss_scale.STEPS_TO_DOUBLE - 1):
        scale.update(True)
    assert scale.scale == 32768
    scale.update(False)  # the count begins anew
    for step in range(loss_scale.STEPS_TO_DOUBLE):
        assert scale.scale == 16384, step
        scale.update(True)
    assert scale.scale == 32768 and scale.good_steps == 0


def test_its_range():
    scale = LossScale()
    for _ in range(16):
        scale.update(False)
    assert scale.scale == 1 and not scale.exhausted
    scale.update(False)
    assert scale.exhausted
    for _ in range(30 * loss_scale.STEPS_TO_DOUBLE):
        scale.update(True)
    assert scale.scale == 2.0**24
