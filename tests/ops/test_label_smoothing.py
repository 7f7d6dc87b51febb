"""Label smoothing of ops.cross_entropy against its definition."""

import numpy as np
import pytest

from cupynn import ops
from cupynn.autograd import Tensor, gradcheck


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_every_class_gets_its_share(share):
    rng = np.random.default_rng(3)
    logits, targets = rng.standard_normal((5, 7)) * 4, rng.integers(0, 7, 5)
    weights = (1 - share) * np.eye(7)[targets] + share / 7
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = ops.cross_entropy(Tensor(logits), targets, label_smoothing=share)
    # float64: sums of 7 terms of order 10
    np.testing.assert_allclose(float(loss.data), -(weights * log_p).sum(axis=1).mean(), rtol=1e-13)
    gradcheck(lambda x: ops.cross_entropy(x, targets, label_smoothing=share), [Tensor(logits, requires_grad=True)])


def test_a_share_keeps_the_dtype_and_none_is_the_plain_loss():
    logits, targets = np.random.default_rng(4).standard_normal((3, 4)).astype(np.float32), np.array([0, 1, 3])
    assert ops.cross_entropy(Tensor(logits), targets, 0.1).dtype == np.float32
    plain = ops.cross_entropy(Tensor(logits), targets).data
    assert ops.cross_entropy(Tensor(logits), targets, 0.0).data == plain


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_outside_0_to_1(share):
    with pytest.raises(ValueError, match=r"cross_entropy: label_smoothing must lie in 0\.\.1"):
        ops.cross_entropy(Tensor(np.zeros((1, 2), np.float32)), np.array([0]), share)
