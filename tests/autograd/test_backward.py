import gc
import threading
import weakref

import numpy as np
import pytest

from cupynn.autograd import Function, Tensor, no_grad, stack, tensor


class Add(Function):
    """A sum whose gradients are the very array that came in."""

    def forward(self, a, b):
        return a + b

    def backward(self, grad):
        return grad, grad


@pytest.fixture
def no_collector():
    """What is freed here is freed by reference counts, not by the cycle collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_shared_inputs_and_diamonds():
    x = tensor(3.0, requires_grad=True)
    (x * x).backward()
    assert x.grad == 6
    x.grad = None
    a = x * 2
    b = a * a + a  # a goes three ways: 4x^2 + 2x
    (b + a).backward()  # and a fourth: 4x^2 + 4x
    assert x.grad == 8 * 3 + 4


def test_a_long_way_is_finished_before_a_short_one_passes():
    x = tensor(2.0, requires_grad=True)
    y = x
    for _ in range(5):
        y = y * x
    (y + x).backward()
    assert x.grad == 6 * 2**5 + 1


def test_gradients_add_up_over_calls():
    x = tensor([1.0, 2.0], requires_grad=True)
    (x * 3).sum().backward()
    kept = x.grad
    (x * 4).sum().backward()
    assert x.grad.tolist() == [7, 7] and x.grad is kept


def test_a_leaf_itself():
    x = tensor([1.0, 2.0], requires_grad=True)
    upstream = np.array([1, 2], np.float32)
    x.backward(upstream)
    x.backward(upstream)
    assert x.grad.tolist() == [2, 4] and upstream.tolist() == [1, 2]


def test_gradients_share_no_memory():
    a, b, c = (tensor([1.0, 2.0], requires_grad=True) for _ in range(3))
    upstream = np.ones(2, np.float32)
    y = Add()(Add()(a, b), c)
    y.backward(upstream)
    a.grad += 1
    assert (b.grad.tolist(), c.grad.tolist(), upstream.tolist()) == ([1, 1], [1, 1], [1, 1])
    for other in (b.grad, c.grad, upstream, a.data, y.data):
        assert not np.shares_memory(a.grad, other)


class Aliased(Function):
    """y = a + sum b, whose gradients share memory in a chosen way"""

    def forward(self, a, b):
        self.save(np.ones(a.shape))
        return a + b.reshape(a.shape)

    def backward(self, grad):
        new, column = grad * 1, np.ones((3, 1))
        return {
            "one array twice": lambda: (new, new.reshape(-1, 1)),
            "a view first": lambda: (new[:], new.reshape(-1, 1)),
            "the incoming one": lambda: (grad, column),
            "a saved one": lambda: (self.saved[0], column),
            "an option": lambda: (self.constant, column),
        }[self.how]()


HOWS = ["one array twice", "a view first", "the incoming one", "a saved one", "an option"]


@pytest.mark.parametrize("how", HOWS)
def test_aliased_gradients_are_parted(how):
    a, b = Tensor(np.zeros(3), requires_grad=True), Tensor(np.zeros((3, 1)), requires_grad=True)
    constant, upstream = np.ones(3), np.ones(3)
    y = Aliased(how=how, constant=constant)(a, b)
    y.backward(upstream, retain_graph=True)
    y.backward(upstream)
    for array in (a.grad, b.grad):
        np.testing.assert_array_equal(array.ravel(), [2, 2, 2])
    assert not np.shares_memory(a.grad, b.grad)
    np.testing.assert_array_equal(constant, 1)
    np.testing.assert_array_equal(upstream, 1)


@pytest.mark.parametrize("how", HOWS)
def test_aliased_gradients_inside_the_graph(how):
    """Adding up a gradient in place must not change another one that shares its memory and still waits."""
    a, b = Tensor(np.zeros(3), requires_grad=True), Tensor(np.zeros((3, 1)), requires_grad=True)
    p, q = a * 2, b * 3
    others = [(q * 1000).reshape(3), p * 10, p * 100]
    constant = np.ones(3)
    y = Aliased(how=how, constant=constant)(p, q)  # the last call: its gradients come first and are added to
    z = (stack([y, *others]) * np.ones((4, 3))).sum()
    z.backward()
    np.testing.assert_array_equal(constant, 1)
    np.testing.assert_array_equal(a.grad, np.full(3, 222.0))
    np.testing.assert_array_equal(b.grad, np.full((3, 1), 3003.0))


def test_a_strided_view_of_another_gradient_is_not_added_to():
    class Strided(Function):
        """y = sum of a's rows + b; its gradient to a is b's, seen through a view whose base tells nothing"""

        def forward(self, a, b):
            return a.sum(axis=0) + b

        def backward(self, grad):
            new = grad * 1
            return np.lib.stride_tricks.as_strided(new, (3, 2), (0, 8)), new

    a, b = Tensor(np.ones((3, 2)), requires_grad=True), Tensor(np.ones(2), requires_grad=True)
    p, q = a * 1, b * 1
    later = (q * 100).sum()
    (Strided()(p, q).sum() + later).backward()
    np.testing.assert_array_equal(a.grad, np.ones((3, 2)))
    np.testing.assert_array_equal(b.grad, [101, 101])


def test_a_gradient_is_contiguous_and_writable():
    x = Tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    x.sum().backward()  # a read-only broadcast comes back
    assert x.grad.flags.c_contiguous and x.grad.flags.writeable and x.grad.flags.owndata

    class InFortranOrder(Function):
        def forward(self, x):
            return x * 2

        def backward(self, grad):
            return np.full((2, 3), 2.0, order="F")

    x.grad = None
    InFortranOrder()(x).sum().backward()
    assert x.grad.flags.c_contiguous and (x.grad == 2).all()


def test_a_gradient_with_one_consumer_is_not_copied():
    made = []

    class Remember(Function):
        def forward(self, x):
            return x * 2

        def backward(self, grad):
            made.append(grad * 2)
            return made[-1]

    x = Tensor(np.ones(3), requires_grad=True)
    Remember()(x).sum().backward()
    assert x.grad is made[0]


@pytest.mark.parametrize("depth", [20_000, 200_000])
def test_deep_graphs(depth):
    x = Tensor(np.zeros(()), requires_grad=True)
    y = x
    for _ in range(depth):
        y = y + 1.0
    assert y.item() == depth
    y.backward()
    assert x.grad == 1


def test_a_deep_graph_that_never_ran_backward_is_dropped_without_recursion(no_collector):
    x = Tensor(np.zeros(()), requires_grad=True)
    y = x
    first = None
    for _ in range(200_000):
        y = y * 1.0
        first = first or weakref.ref(y.record.function)
    assert first() is not None
    del y
    assert first() is None


def weak(tensor):
    return weakref.ref(tensor.data)


def test_saved_memory_is_freed_after_backward(no_collector):
    x = Tensor(np.ones(3), requires_grad=True)
    inner = x * 2
    array = weak(inner)
    loss = (inner * inner).sum()
    del inner
    assert array() is not None  # the product saved it
    loss.backward()
    assert array() is None


def test_memory_nobody_saved_is_freed_before_backward(no_collector):
    x = Tensor(np.ones(3), requires_grad=True)
    inner = x * 2
    array = weak(inner)
    loss = (inner + 1).sum()
    del inner
    assert array() is None
    loss.backward()
    assert x.grad.tolist() == [2, 2, 2]


def test_dropping_the_result_frees_the_graph(no_collector):
    x = Tensor(np.ones(3), requires_grad=True)
    inner = x * 2
    array = weak(inner)
    loss = (inner * inner).sum()
    del inner, loss
    assert array() is None


def test_a_second_backward_needs_retain_graph():
    x = tensor([1.0, 2.0], requires_grad=True)
    loss = (x * x).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    assert x.grad.tolist() == [4, 8]
    with pytest.raises(RuntimeError, match=r"Sum saved was freed by an earlier backward; .*retain_graph=True"):
        loss.backward()
    assert x.grad.tolist() == [4, 8]


def test_a_graph_freed_in_part_is_refused_before_any_gradient_changes():
    x, w = tensor([1.0, 2.0], requires_grad=True), tensor([1.0, 1.0], requires_grad=True)
    shared = x * 2
    shared.sum().backward()
    x.grad = None
    with pytest.raises(RuntimeError, match="Multiply saved was freed"):
        (shared * w).sum().backward()
    assert x.grad is None and w.grad is None


def test_errors_before_the_walk():
    x = tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(ValueError, match=r"backward: a tensor of shape \(2,\) needs grad"):
        (x * 2).backward()
    with pytest.raises(ValueError, match=r"backward: grad has shape \(3,\); the tensor has shape \(2,\)"):
        (x * 2).backward(np.ones(3))
    with pytest.raises(RuntimeError, match="backward: this tensor does not require grad"):
        x.detach().backward(np.ones(2))
    with no_grad():
        y = x * 2
    with pytest.raises(RuntimeError, match="does not require grad"):
        y.backward(np.ones(2))


@pytest.mark.parametrize("grad", [[3.0, 4.0], np.array([3, 4]), tensor([3.0, 4.0])])
def test_upstream_gradients(grad):
    x = tensor([1.0, 2.0], requires_grad=True)
    (x * 2).backward(grad)
    assert x.grad.tolist() == [6, 8] and x.grad.dtype == np.float32


def test_one_element_needs_no_upstream_gradient():
    x = tensor([[2.0]], requires_grad=True)
    (x * x).backward()
    assert x.grad.tolist() == [[4]]


def test_branches_without_gradient_are_left_out():
    x, y = tensor([1.0, 2.0], requires_grad=True), tensor([3.0, 4.0])
    (x * y).sum().backward()
    assert y.grad is None
    z = x.detach() * 2
    assert z.record is None


def test_many_consumers():
    x = Tensor(np.zeros((2, 2)), requires_grad=True)
    y = x * 1
    stack([y] * 50).sum().backward()
    assert x.grad.tolist() == [[50, 50], [50, 50]]


def test_threads_have_their_own_graphs():
    results = {}

    def work(i):
        x = tensor([float(i)], requires_grad=True)
        y = x
        for _ in range(200):
            y = y + x
        y.sum().backward()
        results[i] = x.grad.item()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(8), 201.0)
