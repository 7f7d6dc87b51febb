"""Element by element, with broadcasting: the four operations, power, and functions of one variable."""

from __future__ import annotations

from typing import Any

from cupynn.autograd.function import Function
from cupynn.autograd.tensor import Tensor
from cupynn.device import Array, compute_dtype, xp_of


def unbroadcast(grad: Array, shape: tuple[int, ...]) -> Array:
    """Sum `grad` over the axes along which an array of `shape` was repeated by broadcasting."""
    if grad.shape == shape:
        return grad
    extra = grad.ndim - len(shape)
    repeated = tuple(i + extra for i, length in enumerate(shape) if length == 1 and grad.shape[i + extra] != 1)
    axes = tuple(range(extra)) + repeated
    return grad.sum(axis=axes, keepdims=True, dtype=compute_dtype(grad.dtype)).reshape(shape)


def operands(a: Any, b: Any) -> tuple[Any, Any]:
    """a and b, where a Python float beside bfloat16 becomes one: NumPy, which knows the type by its package only, would
    make the result float32."""
    if type(b) is float:
        return a, _beside(a, b)
    if type(a) is float:
        return _beside(b, a), b
    return a, b


def _beside(array: Any, number: float) -> Any:
    return array.dtype.type(number) if hasattr(array, "dtype") and array.dtype.kind == "V" else number


class Add(Function):
    """y = a + b"""

    def forward(self, a, b):
        return a + b

    def backward(self, grad):
        return tuple([None if shape is None else unbroadcast(grad, shape) for shape in self.input_shapes])


class Subtract(Function):
    """y = a - b"""

    def forward(self, a, b):
        return a - b

    def backward(self, grad):
        a_shape, b_shape = self.input_shapes
        return (
            None if a_shape is None else unbroadcast(grad, a_shape),
            None if b_shape is None else -unbroadcast(grad, b_shape),
        )


class Multiply(Function):
    """y = a b"""

    def forward(self, a, b):
        a_needs, b_needs = self.needs_grad
        self.save(a if b_needs else None, b if a_needs else None)
        return a * b

    def backward(self, grad):
        a, b = self.saved
        a_shape, b_shape = self.input_shapes
        return (
            None if a_shape is None else unbroadcast(grad * b, a_shape),
            None if b_shape is None else unbroadcast(grad * a, b_shape),
        )


class Divide(Function):
    """y = a / b;  dy/db = -y / b"""

    def forward(self, a, b):
        y = a / b
        self.save(b, y if self.needs_grad[1] else None)
        return y

    def backward(self, grad):
        b, y = self.saved
        a_shape, b_shape = self.input_shapes
        grad = grad / b
        return (
            None if a_shape is None else unbroadcast(grad, a_shape),
            None if b_shape is None else unbroadcast(-grad * y, b_shape),
        )


class Power(Function):
    """y = a^b;  dy/da = b a^(b-1), 0 where b = 0;  dy/db = y log a, 0 where a = 0"""

    def forward(self, a, b):
        y = a**b
        self.save(a, b, y if self.needs_grad[1] else None)
        return y

    def backward(self, grad):
        a, b, y = self.saved
        a_shape, b_shape = self.input_shapes
        xp = xp_of(grad)
        a_grad = b_grad = None
        if a_shape is not None:
            if isinstance(b, (int, float)):
                slope = b * a ** (b - 1) if b != 0 else 0.0 * a
            else:
                slope = b * a ** xp.where(b == 0, 1, b - 1)
            a_grad = unbroadcast(grad * slope, a_shape)
        if b_shape is not None:
            logarithm = xp.log(xp.where(xp.asarray(a) == 0, 1, a))
            b_grad = unbroadcast(grad * y * logarithm, b_shape)
        return a_grad, b_grad


class Negative(Function):
    """y = -x"""

    def forward(self, x):
        return -x

    def backward(self, grad):
        return -grad


class Exp(Function):
    """y = e^x"""

    def forward(self, x):
        y = xp_of(x).exp(x)
        self.save(y)
        return y

    def backward(self, grad):
        return grad * self.saved[0]


class Log(Function):
    """y = log x, the natural logarithm"""

    def forward(self, x):
        self.save(x)
        return xp_of(x).log(x)

    def backward(self, grad):
        return grad / self.saved[0]


class Sqrt(Function):
    """y = sqrt x;  dy/dx = 1 / 2y"""

    def forward(self, x):
        y = xp_of(x).sqrt(x)
        self.save(y)
        return y

    def backward(self, grad):
        return grad / (2 * self.saved[0])


class Abs(Function):
    """y = |x|;  dy/dx = sign x, 0 at x = 0"""

    def forward(self, x):
        self.save(x)
        return xp_of(x).abs(x)

    def backward(self, grad):
        return grad * xp_of(grad).sign(self.saved[0])


class Sin(Function):
    """y = sin x"""

    def forward(self, x):
        self.save(x)
        return xp_of(x).sin(x)

    def backward(self, grad):
        return grad * xp_of(grad).cos(self.saved[0])


class Cos(Function):
    """y = cos x"""

    def forward(self, x):
        self.save(x)
        return xp_of(x).cos(x)

    def backward(self, grad):
        return -grad * xp_of(grad).sin(self.saved[0])


class Tanh(Function):
    """y = tanh x;  dy/dx = 1 - y^2"""

    def forward(self, x):
        y = xp_of(x).tanh(x)
        self.save(y)
        return y

    def backward(self, grad):
        y = self.saved[0]
        return grad * (1 - y * y)


def add(a: Any, b: Any) -> Tensor:
    """a + b, broadcast."""
    return Add()(*operands(a, b))


def subtract(a: Any, b: Any) -> Tensor:
    """a - b, broadcast."""
    return Subtract()(*operands(a, b))


def multiply(a: Any, b: Any) -> Tensor:
    """a b, broadcast."""
    return Multiply()(*operands(a, b))


def divide(a: Any, b: Any) -> Tensor:
    """a / b, broadcast."""
    return Divide()(*operands(a, b))


def power(a: Any, b: Any) -> Tensor:
    """a to the power b, broadcast."""
    return Power()(*operands(a, b))


def square(x: Any) -> Tensor:
    """x^2"""
    return Power()(x, 2)


def negative(x: Any) -> Tensor:
    """-x"""
    return Negative()(x)


def exp(x: Any) -> Tensor:
    """e^x"""
    return Exp()(x)


def log(x: Any) -> Tensor:
    """The natural logarithm."""
    return Log()(x)


def sqrt(x: Any) -> Tensor:
    """The square root."""
    return Sqrt()(x)


def abs(x: Any) -> Tensor:
    """|x|, with gradient 0 at 0."""
    return Abs()(x)


def sin(x: Any) -> Tensor:
    """The sine of x in radians."""
    return Sin()(x)


def cos(x: Any) -> Tensor:
    """The cosine of x in radians."""
    return Cos()(x)


def tanh(x: Any) -> Tensor:
    """The hyperbolic tangent."""
    return Tanh()(x)
