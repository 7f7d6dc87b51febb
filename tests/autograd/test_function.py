import numpy as np
import pytest

from cupynn.autograd import Function, Tensor, no_grad, tensor


class Affine(Function):
    """y = scale x + shift"""

    def forward(self, x, shift):
        self.seen = [type(x), type(shift), self.needs_grad, self.input_shapes]
        self.save(x)
        return self.scale * x if shift is None else self.scale * x + shift

    def backward(self, grad):
        return self.scale * grad, None if self.input_shapes[1] is None else grad


class Halves(Function):
    """first half, second half, and where the largest element is"""

    def forward(self, x):
        n = len(x) // 2
        return x[:n], x[n:], x.argmax()

    def backward(self, first, second, place):
        assert place is None
        return np.concatenate([first, second])


def test_forward_gets_arrays_options_and_what_needs_a_gradient():
    x = tensor([1.0, 2.0], requires_grad=True)
    call = Affine(scale=3)
    y = call(x, tensor([1.0, 1.0]))
    assert call.seen == [np.ndarray, np.ndarray, (True, False), [(2,), None]]
    assert y.record.function is call and y.record.name == "Affine"
    call = Affine(scale=3)
    assert call(x, None).data.tolist() == [3, 6]
    assert call.seen[1:3] == [type(None), (True, False)]
    call = Affine(scale=3)
    call(x.data, 2.0)
    assert call.seen[1:3] == [float, (False, False)]
    with no_grad():
        call = Affine(scale=3)
        assert not call(x, None).requires_grad
    assert call.needs_grad == (False, False)


def test_an_object_is_called_once():
    call = Affine(scale=1)
    call(tensor([1.0]), None)
    with pytest.raises(RuntimeError, match="Affine: a Function object is called once"):
        call(tensor([1.0]), None)


def test_several_outputs():
    x = tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    first, second, place = Halves()(x)
    assert first.requires_grad and second.requires_grad and not place.requires_grad
    assert place.item() == 3
    (second * 2).sum().backward()  # nothing arrives at the first half: zeros
    assert x.grad.tolist() == [0, 0, 2, 2]
    first, second, _ = Halves()(x)
    x.grad = None
    (first.sum() + (first * second).sum()).backward()
    assert x.grad.tolist() == [4, 5, 1, 2]


class Wrong(Function):
    def forward(self, x, y):
        return x + y

    def backward(self, grad):
        return self.result(grad)


@pytest.mark.parametrize(
    "result, error, message",
    [
        (lambda g: (g[:1], g), ValueError, r"Wrong.backward: gradient 0 has shape \(1,\); the input has shape \(2,\)"),
        (lambda g: g, ValueError, "Wrong.backward: returned 1 gradients; the call had 2 inputs"),
        (lambda g: (g, g, g), ValueError, "Wrong.backward: returned 3 gradients; the call had 2 inputs"),
        (lambda g: (g, Tensor(g)), TypeError, "Wrong.backward: gradient 1 is a Tensor"),
    ],
)
def test_a_wrong_gradient_is_named(result, error, message):
    x = tensor([1.0, 2.0], requires_grad=True)
    y = Wrong(result=result)(x, tensor([1.0, 1.0], requires_grad=True)).sum()
    with pytest.raises(error, match=message):
        y.backward()


def test_forward_must_return_arrays():
    class ReturnsTensor(Function):
        def forward(self, x):
            return Tensor(x)

    class ReturnsNothing(Function):
        def forward(self, x):
            pass

    with pytest.raises(TypeError, match=r"ReturnsTensor\.forward: must return arrays; got Tensor"):
        ReturnsTensor()(tensor([1.0]))
    with pytest.raises(TypeError, match=r"ReturnsNothing\.forward: must return arrays; got NoneType"):
        ReturnsNothing()(tensor([1.0]))


def test_gradients_of_inputs_that_need_none_are_not_asked_for():
    x = tensor([1.0, 2.0], requires_grad=True)
    Wrong(result=lambda g: (g, "never looked at"))(x, tensor([1.0, 1.0])).sum().backward()
    assert x.grad.tolist() == [1, 1]


def test_a_float64_gradient_of_a_float32_input_is_cast():
    x = tensor([1.0, 2.0], requires_grad=True)
    Wrong(result=lambda g: (g.astype(np.float64), None))(x, 1.0).sum().backward()
    assert x.grad.dtype == np.float32
