"""Arguments of operations: what is accepted, what is refused, and that nothing has changed by then."""

import numpy as np
import pytest

from cupynn import ops
from cupynn.autograd import Tensor, tensor


def images():
    return tensor(np.random.default_rng(0).standard_normal((2, 4, 6, 6)))


@pytest.mark.parametrize(
    "call",
    [
        lambda n: ops.max_pool2d(images(), n(2), n(2), n(1), n(1)),
        lambda n: ops.avg_pool2d(images(), (n(2), n(3)), n(2), n(1)),
        lambda n: ops.adaptive_avg_pool2d(images(), n(2)),
        lambda n: ops.adaptive_max_pool2d(images(), (n(2), None)),
        lambda n: ops.pad2d(images(), n(1)),
        lambda n: ops.pad2d(images(), (n(1), n(0), n(2), n(0))),
        lambda n: ops.conv2d(images(), np.ones((4, 2, 3, 3)), groups=n(2)),
        lambda n: ops.conv_transpose2d(images(), np.ones((4, 2, 3, 3)), groups=n(2)),
    ],
)
def test_numpy_integers_are_integers(call):
    np.testing.assert_array_equal(call(np.int64).numpy(), call(int).numpy())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.max_pool2d(images(), 2.0), "max_pool2d: kernel_size must be an integer >= 1 .*; got 2.0"),
        (lambda: ops.avg_pool2d(images(), 2, (1, 1, 1)), "avg_pool2d: stride must be an integer >= 1"),
        (lambda: ops.adaptive_max_pool2d(images(), "12"), "adaptive_max_pool2d: output_size must be"),
        (lambda: ops.adaptive_avg_pool2d(images(), None), "adaptive_avg_pool2d: output_size must be"),
        (lambda: ops.adaptive_avg_pool2d(images(), (None, 2, 3)), "adaptive_avg_pool2d: output_size must be"),
        (lambda: ops.pad2d(images(), 1.0), "pad2d: padding must be an integer >= 0 or four of them"),
        (lambda: ops.conv2d(images(), np.ones((4, 4, 3, 3)), groups=1.0), "conv2d: groups must be a positive integer"),
    ],
)
def test_what_is_no_integer_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"running_var": np.ones(3)}, ValueError, r"running_var must have shape \(C,\) = \(4,\) .*has shape \(3,\)"),
        ({"running_var": None}, ValueError, "give running_mean and running_var, or neither; running_var is None"),
        ({"running_mean": None}, ValueError, "running_mean is None"),
        ({"running_var": np.ones(4, np.int64)}, TypeError, "running_var must be float64 where .*it is int64"),
        ({"running_mean": np.ones(4, np.float32)}, TypeError, "running_mean must be float64 where .*it is float32"),
    ],
)
def test_batch_norm_checks_running_statistics_before_it_moves_them(change, error, message):
    statistics = {"running_mean": np.zeros(4), "running_var": np.ones(4), **change}
    before = {name: None if array is None else array.copy() for name, array in statistics.items()}
    with pytest.raises(error, match=message):
        ops.batch_norm(images(), None, None, **statistics, training=True)
    for name, array in statistics.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dropout", [ops.dropout, ops.dropout2d])
def test_dropout_of_arrays(dropout, training):
    array = np.ones((2, 3, 4, 4), np.float32)
    assert type(dropout(array, 0.5, training)) is Tensor
    with pytest.raises(TypeError, match=r"dropout.*: x must be floating point, .* it is int64"):
        dropout(array.astype(np.int64), 0.5, training)


def test_targets_changed_before_backward_do_not_matter():
    targets = np.array([0, 2])
    gradients = []
    for change in (False, True):
        logits = tensor(np.zeros((2, 3)), requires_grad=True)
        loss = ops.cross_entropy(logits, targets)
        if change:
            targets[:] = 1
        loss.backward()
        gradients.append(logits.grad)
    np.testing.assert_array_equal(*gradients)
