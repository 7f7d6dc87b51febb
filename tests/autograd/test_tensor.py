import array as array_module
import copy

import numpy as np
import pytest

from cupynn.autograd import Tensor, tensor


def test_dtypes():
    assert tensor(1).dtype == tensor([1, 2.5]).dtype == tensor([]).dtype == np.float32
    assert tensor([[1, 2], [3, 4]], dtype=np.int64).dtype == np.int64
    assert tensor([True, False]).dtype == bool
    assert tensor(np.arange(3)).dtype == np.arange(3).dtype
    assert tensor(np.float64(1)).dtype == tensor([np.float64(1)]).dtype == np.float64
    assert tensor([np.zeros(2), np.ones(2)]).dtype == np.float64
    assert tensor(tensor(2.0, dtype=np.float64)).dtype == np.float64


@pytest.mark.parametrize("data", ["text", None, [1j], object()])
def test_what_is_no_number_is_refused(data):
    with pytest.raises(TypeError, match="tensor: data must be numbers"):
        tensor(data)


def test_tensor_copies_and_Tensor_shares():
    array = np.zeros(3)
    assert not np.shares_memory(tensor(array).data, array)
    assert not np.shares_memory(tensor(Tensor(array)).data, array)
    assert Tensor(array).data is array
    numbers = array_module.array("d", [1.0, 2.0])
    copied = tensor(numbers)
    numbers[0] = 7.0
    assert copied.data.tolist() == [1, 2] and copied.dtype == np.float64
    with pytest.raises(TypeError, match=r"Tensor: data must be an array, got list; use tensor\(data\)"):
        Tensor([1.0])


def test_integers_have_no_gradient():
    with pytest.raises(TypeError, match="requires_grad: only floating-point tensors have gradients; this one is int64"):
        Tensor(np.zeros(3, np.int64), requires_grad=True)
    with pytest.raises(TypeError, match="this one is bool"):
        tensor([True], requires_grad=True)


def test_requires_grad_can_be_switched_on_leaves_only():
    x = tensor([1.0], requires_grad=True)
    y = x * 2
    with pytest.raises(RuntimeError, match=r"result of a recorded call; use detach\(\)"):
        y.requires_grad = False
    x.requires_grad = False
    assert not (x * 2).requires_grad


def test_what_an_array_knows():
    x = tensor(np.arange(6.0).reshape(2, 3))
    assert (x.shape, x.ndim, x.size, x.dtype, len(x)) == ((2, 3), 2, 6, np.float64, 2)
    assert [row.numpy().tolist() for row in x] == [[0, 1, 2], [3, 4, 5]]
    assert (float(x[1, 1]), int(x[1, 1]), bool(x[0, 0]), x[1, 2].item()) == (4.0, 4, False, 5.0)
    assert x.argmax() == 5 and x.argmax(1).tolist() == [2, 2]
    with pytest.raises(ValueError, match="ambiguous"):
        bool(x)


def test_repr_tells_the_way_it_was_made():
    x = tensor([1.0, 2.0], requires_grad=True)
    assert repr(x) == "tensor([1., 2.], dtype=float32, requires_grad=True)"
    assert repr(x * 2) == "tensor([2., 4.], dtype=float32, record=Multiply)"
    assert repr(x.detach()) == "tensor([1., 2.], dtype=float32)"


def test_leaving_the_graph():
    x = tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(TypeError, match=r"asarray: this tensor requires grad.*t\.numpy\(\)"):
        np.asarray(x)
    assert x.numpy() is x.data
    assert x.detach().data is x.data and not x.detach().requires_grad
    np.testing.assert_array_equal(np.asarray(x.detach()), [1, 2])
    assert np.asarray(x.detach()) is x.data
    assert np.asarray(x.detach(), dtype=np.float64).dtype == np.float64


def test_plus_equals_binds_the_name_anew():
    x = tensor([1.0], requires_grad=True)
    y = x
    y += 1
    assert y is not x and x.data == 1 and y.data == 2
    with pytest.raises(TypeError, match="item assignment"):
        x[0] = 3


def test_tensors_are_keys_by_identity():
    x, y = tensor([1.0]), tensor([1.0])
    assert {x: 1, y: 2}[x] == 1


def test_deepcopy_of_a_leaf_is_independent():
    x = tensor([1.0], requires_grad=True)
    other = copy.deepcopy(x)
    other.data[0] = 5
    assert x.data[0] == 1 and other.requires_grad and other.record is None
