import re

import numpy as np
import pytest

from cupynn.autograd import Function, GradientError, Tensor, gradcheck, tensor


class Product(Function):
    """y = a b, with an error planted in one element of the gradient of b"""

    def forward(self, a, b):
        self.save(a, b)
        return a * b

    def backward(self, grad):
        a, b = self.saved
        b_grad = grad * a
        b_grad[2, 1] += self.error
        return grad * b, b_grad


def product(error):
    def planted(a, b):
        return Product(error=error)(a, b)

    return planted


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    return [Tensor(rng.uniform(0.5, 1.5, (3, 2)), requires_grad=True) for _ in range(2)]


def test_a_right_gradient_passes_and_leaves_no_trace(inputs):
    inputs[0].grad = np.full((3, 2), 7.0)
    before = [x.data.copy() for x in inputs]
    assert gradcheck(product(0.0), inputs) is True
    for x, data in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(x.data, data)
    assert inputs[0].grad.tolist() == [[7, 7]] * 3 and inputs[1].grad is None


@pytest.mark.parametrize("error", [1e-3, -1.0, np.nan, np.inf])
def test_a_planted_error_is_found_and_named(inputs, error):
    expected = (
        r"gradcheck: planted \(output of Product\): gradient of input 1, shape \(3, 2\): 1 of 6 elements are wrong; "
    )
    with pytest.raises(GradientError, match=expected + r"the worst is \(2, 1\): numeric -?[\d.]+, analytic") as caught:
        gradcheck(product(error), inputs)
    numeric, analytic = re.search(r"numeric (\S+), analytic (\S+)", str(caught.value)).groups()
    if np.isfinite(error):
        # Ten digits are printed of values near 1, and the differences are right to 1e-9.
        assert float(analytic) - float(numeric) == pytest.approx(error, abs=1e-8)
    assert isinstance(caught.value, AssertionError)


def test_a_gradient_that_is_left_out_is_found():
    class Forgets(Function):
        def forward(self, x):
            return x * 2

        def backward(self, grad):
            return None

    with pytest.raises(GradientError, match=r"numeric -?[\d.]+, analytic 0"):
        gradcheck(lambda x: Forgets()(x), [Tensor(np.ones(2), requires_grad=True)])


def test_errors_that_cancel_in_a_sum_are_found():
    class Swapped(Function):
        def forward(self, x):
            return x * np.array([1.0, 2.0])

        def backward(self, grad):
            return grad * np.array([2.0, 1.0])

    with pytest.raises(GradientError, match="2 of 2 elements are wrong"):
        gradcheck(lambda x: Swapped()(x), [Tensor(np.ones(2), requires_grad=True)])


def test_every_output_is_checked(inputs):
    with pytest.raises(GradientError, match="output of Multiply, Product"):
        gradcheck(lambda a, b: (a * b, product(0.1)(a, b)), inputs)
    assert gradcheck(lambda a, b: (a * b, a + 1), inputs)


def test_tensors_the_function_holds_itself(inputs):
    a, weight = inputs
    assert gradcheck(lambda a, w: a * weight, [a, weight])


def test_an_input_without_influence_has_gradient_zero(inputs):
    assert gradcheck(lambda a, b: a * 1, inputs)


def test_a_single_tensor_and_numbers_as_inputs(inputs):
    assert gradcheck(lambda a: a.sum(), inputs[0])
    assert gradcheck(lambda a, n, array: a * n + array, [inputs[0], 3, np.ones(2)])


def test_conditions_are_said_plainly(inputs):
    with pytest.raises(TypeError, match="gradcheck: input 1 is float32; differences need float64"):
        gradcheck(lambda a, b: a * b, [inputs[0], tensor([1.0, 2.0])])
    with pytest.raises(ValueError, match="gradcheck: no input requires grad"):
        gradcheck(lambda a: a, [inputs[0].detach()])
    with pytest.raises(ValueError, match="gradcheck: no output of <lambda> requires grad"):
        gradcheck(lambda a: a.detach(), [inputs[0]])
    with pytest.raises(TypeError, match="gradcheck: <lambda> must return tensors; got ndarray"):
        gradcheck(lambda a: a.data, [inputs[0]])
