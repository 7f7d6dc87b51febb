"""`backward(ready=...)`: called with each leaf whose gradient is complete, while backward still runs."""

import numpy as np

from cupynn.autograd import Function, Tensor, tensor


def leaf(*shape):
    return Tensor(np.ones(shape), requires_grad=True)


def test_a_leaf_is_ready_after_its_last_gradient_and_before_earlier_records_run():
    first, second, x = leaf(3), leaf(3), tensor([1.0, 2.0, 3.0])
    seen = []

    def ready(tensor):
        seen.append((tensor, tensor.grad.tolist(), first.grad is None))

    hidden = x * first
    (hidden * second + second).sum().backward(ready=ready)  # second is read twice
    assert [tensor is second for tensor, _, _ in seen] == [True, False]
    assert seen[0][1:] == ([2.0, 3.0, 4.0], True)
    assert seen[1][1:] == ([1.0, 2.0, 3.0], False)


def test_a_leaf_read_twice_by_one_record_is_ready_once():
    x, seen = leaf(2), []
    (x * x).sum().backward(ready=seen.append)
    assert len(seen) == 1 and seen[0] is x and x.grad.tolist() == [2, 2]


def test_a_leaf_that_got_no_gradient_is_ready_without_one():
    class Blind(Function):
        def forward(self, a, b):
            return a + b

        def backward(self, grad):
            return grad, None

    a, b, seen = leaf(2), leaf(2), []
    Blind()(a, b).sum().backward(ready=seen.append)
    assert {id(tensor) for tensor in seen} == {id(a), id(b)} and b.grad is None


def test_gradients_are_the_same_with_and_without():
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((3, 4, 4))

    def gradients(**options):
        leaves = [Tensor(array, requires_grad=True) for array in arrays]
        a, b, c = leaves
        ((a @ b).clip(0) @ c + a).sum().backward(**options)
        return [t.grad for t in leaves]

    assert all(map(np.array_equal, gradients(), gradients(ready=lambda tensor: None)))
