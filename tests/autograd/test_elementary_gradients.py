"""Every elementary function against central differences, and against NumPy's value, at odd shapes."""

import numpy as np
import pytest

from cupynn.autograd import Tensor, gradcheck
from cupynn.autograd import functions as F

SHAPE_PAIRS = [
    ((), ()),
    ((3,), ()),
    ((2, 3), (3,)),
    ((2, 1, 3), (5, 1)),
    ((1, 1), (2, 3)),
    ((0, 3), (3,)),
    ((2, 0), (1, 0)),
    ((1,), (0,)),
]


def random(rng, shape, low=0.5, high=2.0):
    """Float64 of both signs, away from 0."""
    return rng.uniform(low, high, shape) * rng.choice([-1.0, 1.0], shape)


def leaf(array):
    return Tensor(np.asarray(array, dtype=np.float64), requires_grad=True)


def check(ours, numpys, arrays):
    """The value is NumPy's; the gradient is the differences'."""
    tensors = [leaf(array) for array in arrays]
    result = ours(*tensors)
    expected = np.asarray(numpys(*arrays))
    assert result.shape == expected.shape
    # Sums may be taken in another order than NumPy's: a few roundings of float64.
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-13, atol=1e-13)
    assert gradcheck(ours, tensors)


@pytest.mark.parametrize("shapes", SHAPE_PAIRS, ids=str)
@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide", "maximum", "minimum"])
def test_binary(name, shapes):
    rng = np.random.default_rng(1)
    a, b = (random(rng, shape) for shape in shapes)
    check(getattr(F, name), getattr(np, name), [a, b])
    check(lambda a: getattr(F, name)(a, b), lambda a: getattr(np, name)(a, b), [a])
    check(lambda b: getattr(F, name)(a, b), lambda b: getattr(np, name)(a, b), [b])


@pytest.mark.parametrize("shapes", SHAPE_PAIRS, ids=str)
def test_power_of_a_positive_base(shapes):
    rng = np.random.default_rng(2)
    check(F.power, np.power, [rng.uniform(0.5, 2, shapes[0]), random(rng, shapes[1])])


@pytest.mark.parametrize("exponent", [3, 2, 1, 0, -1, 0.0, 2.0, -3.0])
@pytest.mark.parametrize("shape", [(), (5,), (2, 0, 3)])
def test_power_with_a_number(exponent, shape):
    x = random(np.random.default_rng(3), shape)
    check(lambda x: x**exponent, lambda x: x**exponent, [x])
    check(lambda x: x ** np.array(exponent, dtype=float), lambda x: x**exponent, [x])


def test_power_at_zero():
    x, b = leaf([0.0, 0.0, 0.0, 2.0]), leaf([0.0, 1.0, 2.0, 0.0])
    with np.errstate(all="raise"):
        (x**b).sum().backward()
        zero = leaf([0.0])
        (zero**0).sum().backward()
    np.testing.assert_array_equal(x.grad, [0, 1, 0, 0])
    np.testing.assert_allclose(b.grad, [0, 0, 0, np.log(2)], rtol=1e-15)
    np.testing.assert_array_equal(zero.grad, [0])


@pytest.mark.parametrize("shape", [(), (1,), (4, 3), (3, 0), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("name", ["negative", "exp", "abs", "square", "sin", "cos", "tanh", "log", "sqrt"])
def test_unary(name, shape):
    rng = np.random.default_rng(4)
    x = rng.uniform(0.5, 2, shape) if name in ("log", "sqrt") else random(rng, shape)
    check(getattr(F, name), getattr(np, name), [x])


OPERATORS = {
    "t + 2": lambda t: t + 2,
    "2 + t": lambda t: 2 + t,
    "t - 2": lambda t: t - 2,
    "2 - t": lambda t: 2 - t,
    "t * 3": lambda t: t * 3,
    "3 * t": lambda t: 3 * t,
    "t / 3": lambda t: t / 3,
    "3 / t": lambda t: 3 / t,
    "t ** 2": lambda t: t**2,
    "2 ** t": lambda t: 2**t,
    "-t": lambda t: -t,
    "+t": lambda t: +t,
    "abs": lambda t: abs(t),
    "t.T": lambda t: t.T,
    "t @ array": lambda t: t @ np.arange(6.0).reshape(3, 2),
    "array @ t": lambda t: np.arange(8.0).reshape(4, 2) @ t,
    "array - t": lambda t: np.arange(3.0) - t,
    "array / t": lambda t: np.arange(3.0) / t,
    "array ** t": lambda t: np.array([1.0, 2.0, 3.0]) ** t,
    "t + t * t": lambda t: t + t * t,
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name):
    check(OPERATORS[name], OPERATORS[name], [random(np.random.default_rng(5), (2, 3))])


MATRICES = [
    ((3,), (3,)),
    ((2, 3), (3,)),
    ((3,), (3, 4)),
    ((2, 3), (3, 4)),
    ((5, 2, 3), (3, 4)),
    ((5, 2, 3), (3,)),
    ((3,), (5, 3, 2)),
    ((2, 3), (5, 3, 4)),
    ((5, 1, 2, 3), (4, 3, 2)),
    ((1, 2, 3), (4, 3, 2)),
    ((2, 0), (0, 3)),
    ((4, 2, 0), (0, 3)),
    ((0, 2, 3), (3, 2)),
    ((0,), (0,)),
    ((1, 1), (1, 1)),
]


@pytest.mark.parametrize("shapes", MATRICES, ids=str)
def test_matmul(shapes):
    rng = np.random.default_rng(6)
    a, b = (random(rng, shape) for shape in shapes)
    check(lambda a, b: a @ b, np.matmul, [a, b])
    check(lambda a: F.matmul(a, b), lambda a: a @ b, [a])
    check(lambda b: F.matmul(a, b), lambda b: a @ b, [b])


AXES = [None, 0, -1, (0, 2), (1,), (-1, 0), ()]


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "var"])
def test_reductions(name, axis, keepdims):
    x = random(np.random.default_rng(7), (2, 3, 4))
    ours, numpys = getattr(F, name), getattr(np, name)
    check(lambda x: ours(x, axis=axis, keepdims=keepdims), lambda x: numpys(x, axis=axis, keepdims=keepdims), [x])
    check(lambda x: getattr(x, name)(axis=axis, keepdims=keepdims), lambda x: numpys(x, axis, keepdims=keepdims), [x])


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "var"])
def test_reductions_of_one_number(name):
    check(getattr(F, name), getattr(np, name), [np.array(1.5)])


@pytest.mark.parametrize("shape, axis", [((0, 3), 1), ((0, 3), None), ((3, 0), 0), ((2, 0), 0)], ids=str)
@pytest.mark.parametrize("name", ["sum", "mean", "var", "max"])
@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:Degrees of freedom", "ignore:invalid value")
def test_reductions_of_nothing(name, shape, axis):
    if name == "max" and axis is None:
        with pytest.raises(ValueError, match="zero-size"):
            F.max(leaf(np.zeros(shape)))
        return
    x = leaf(np.zeros(shape))
    result = getattr(F, name)(x, axis=axis)
    np.testing.assert_array_equal(result.numpy(), getattr(np, name)(np.zeros(shape), axis=axis))
    result.backward(np.ones(result.shape))
    assert x.grad.shape == shape


def test_unbiased_variance():
    x = random(np.random.default_rng(8), (5, 3))
    check(lambda x: x.var(axis=0, ddof=1), lambda x: x.var(axis=0, ddof=1), [x])


@pytest.mark.parametrize("name", ["max", "min"])
def test_equal_extremes_share_the_gradient_and_nan_takes_it(name):
    x = leaf([[1.0, 1.0, 1.0], [np.nan, 2.0, 2.0]])
    with np.errstate(all="raise"):
        getattr(F, name)(x, axis=1).sum().backward()
    np.testing.assert_allclose(x.grad, [[1 / 3] * 3, [1, 0, 0]], rtol=1e-15)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_equal_pairs_share_the_gradient(name):
    a, b = leaf([1.0, 2.0, 3.0]), leaf([1.0, 3.0, 2.0])
    getattr(F, name)(a, b).sum().backward()
    np.testing.assert_array_equal(a.grad + b.grad, [1, 1, 1])
    assert a.grad[0] == 0.5


def test_at_a_bound_the_gradient_of_clip_passes():
    x = leaf([-1.01, -1.0, 0.0, 1.0, 1.01])
    x.clip(-1, 1).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


SHAPING = {
    "reshape": (lambda x: x.reshape(4, 6), lambda x: x.reshape(4, 6)),
    "reshape by tuple": (lambda x: x.reshape((-1, 2)), lambda x: x.reshape(-1, 2)),
    "reshape to one axis": (lambda x: x.reshape(-1), lambda x: x.reshape(-1)),
    "flatten": (lambda x: x.flatten(), lambda x: x.reshape(24)),
    "flatten from 1": (lambda x: x.flatten(1), lambda x: x.reshape(2, 12)),
    "flatten from -2": (lambda x: x.flatten(-2), lambda x: x.reshape(2, 12)),
    "transpose": (lambda x: x.transpose(), lambda x: x.transpose()),
    "transpose by axes": (lambda x: x.transpose(1, 2, 0), lambda x: x.transpose(1, 2, 0)),
    "transpose by tuple": (lambda x: x.transpose((2, 0, 1)), lambda x: x.transpose(2, 0, 1)),
    "permute from the end": (lambda x: x.permute(-1, 0, 1), lambda x: x.transpose(2, 0, 1)),
    "T": (lambda x: x.T, lambda x: x.T),
    "expand_dims": (lambda x: F.expand_dims(x, (0, -1)), lambda x: np.expand_dims(x, (0, -1))),
    "squeeze": (lambda x: F.expand_dims(x, 1).squeeze(), lambda x: x),
    "squeeze axis": (lambda x: F.expand_dims(x, (0, 1)).squeeze(0), lambda x: x[None]),
    "broadcast_to": (lambda x: F.broadcast_to(x, (5, 2, 3, 4)), lambda x: np.broadcast_to(x, (5, 2, 3, 4))),
    "pad by one number": (lambda x: F.pad(x, 1), lambda x: np.pad(x, 1)),
    "pad by pair": (lambda x: F.pad(x, (0, 2), -1.5), lambda x: np.pad(x, (0, 2), constant_values=-1.5)),
    "pad by axis": (lambda x: F.pad(x, [(0, 0), (1, 2), (3, 0)]), lambda x: np.pad(x, [(0, 0), (1, 2), (3, 0)])),
    "astype": (lambda x: x.astype(np.float64), lambda x: x),
    "clip": (lambda x: x.clip(-1, 1), lambda x: x.clip(-1, 1)),
    "clip below": (lambda x: x.clip(min=-1.0), lambda x: x.clip(min=-1.0)),
    "clip by arrays": (lambda x: F.clip(x, None, np.linspace(-1, 1, 4)), lambda x: x.clip(None, np.linspace(-1, 1, 4))),
    "clip broadcast": (lambda x: F.clip(x, np.zeros((2, 2, 3, 4)), 1), lambda x: x.clip(np.zeros((2, 2, 3, 4)), 1)),
    "where": (lambda x: F.where(x.data > 0, x, 2.0), lambda x: np.where(x > 0, x, 2.0)),
    "where broadcast": (
        lambda x: F.where(Tensor(np.array([True, False, True, False])), 2 * x[0, 0], x),
        lambda x: np.where([True, False, True, False], 2 * x[0, 0], x),
    ),
}


@pytest.mark.parametrize("name", SHAPING)
def test_shaping_and_selection(name):
    ours, numpys = SHAPING[name]
    # Values 0.05 and more away from the bounds and conditions, where a difference quotient means nothing.
    x = np.random.default_rng(9).permutation(np.linspace(-2.3, 2.3, 24)).reshape(2, 3, 4)
    check(ours, numpys, [x])


@pytest.mark.parametrize(
    "ours, shape",
    [
        (lambda x: x.reshape(3, 0), (0, 2)),
        (lambda x: x.flatten(1), (0, 2, 3)),
        (lambda x: F.pad(x, 1), (0, 2)),
        (lambda x: F.pad(x, 1), ()),
        (lambda x: x.transpose(), ()),
        (lambda x: x.flatten(), ()),
        (lambda x: F.broadcast_to(x, (0, 3)), (1, 3)),
        (lambda x: x.clip(0, 1), ()),
    ],
)
def test_shaping_of_nothing_and_of_one_number(ours, shape):
    assert gradcheck(ours, [leaf(np.full(shape, 0.5))])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concatenate_and_stack(axis):
    rng = np.random.default_rng(10)
    shapes = [[2, 3, 4], [2, 3, 4], [2, 3, 4]]
    same = [random(rng, shape) for shape in shapes]
    check(lambda *xs: F.stack(xs, axis), lambda *xs: np.stack(xs, axis), same)
    for length, shape in zip((1, 0, 3), shapes, strict=True):
        shape[axis] = length
    mixed = [random(rng, shape) for shape in shapes]
    check(lambda *xs: F.concatenate(xs, axis), lambda *xs: np.concatenate(xs, axis), mixed)
    check(lambda x: F.concatenate([mixed[0], x, x], axis), lambda x: np.concatenate([mixed[0], x, x], axis), [mixed[2]])


EINSUMS = [
    ("ij,jk->ik", [(2, 3), (3, 4)]),
    ("ij,jk", [(2, 3), (3, 4)]),
    ("ba", [(2, 3)]),
    ("nchw,oc->nohw", [(2, 3, 2, 2), (4, 3)]),
    ("i,i->", [(5,), (5,)]),
    ("i,j->ij", [(2,), (3,)]),
    ("ij->", [(2, 3)]),
    ("ijk->j", [(2, 3, 4)]),
    ("ij,k->i", [(2, 3), (4,)]),
    ("ij,jk,kl->il", [(2, 3), (3, 2), (2, 4)]),
    ("ij,ij,ij->j", [(2, 3)] * 3),
    ("...ij,...jk->...ik", [(5, 2, 3), (3, 4)]),
    ("...i,i...->...", [(2, 4, 3), (3, 4)]),
    ("b...,b", [(3, 2), (3,)]),
    ("ij,ij->i", [(2, 1), (2, 3)]),
    ("ij,jk->ik", [(2, 1), (3, 4)]),
    (" i j , j k -> k i ", [(2, 3), (3, 4)]),
    ("ij,jk->ik", [(0, 3), (3, 2)]),
    (",ij->ji", [(), (2, 3)]),
]


@pytest.mark.parametrize("subscripts, shapes", EINSUMS, ids=str)
def test_einsum(subscripts, shapes):
    rng = np.random.default_rng(11)
    arrays = [random(rng, shape) for shape in shapes]
    check(lambda *xs: F.einsum(subscripts, *xs), lambda *xs: np.einsum(subscripts, *xs), arrays)


INDICES = {
    "integer": 1,
    "from the end": (-1, 0),
    "slice": slice(1, None, 2),
    "backwards": (slice(None, None, -1), slice(3, 0, -2)),
    "ellipsis": (..., 1),
    "new axes": (None, 0, ..., None, slice(0, 1)),
    "nothing": (slice(0, 0),),
    "empty tuple": (),
    "list": [0, 2, 0],
    "array": np.array([[0, 1], [1, 1]]),
    "arrays": (np.array([0, 2, 0]), slice(None), np.array([1, 1, 1])),
    "array and integer": (np.array([2, 2]), 0),
    "mask": np.array([True, False, True]),
    "full mask": np.arange(60).reshape(3, 4, 5) % 3 == 0,
    "mask and array": (np.array([True, False, True]), np.array([3, 3])),
    "empty list": [],
    "numpy integer": np.int64(2),
    "0-d array": np.array(1),
    "tensor": Tensor(np.array([1, 1, 0])),
    "tensors": (Tensor(np.array([1, 1])), Tensor(np.array([0, 0]))),
}


@pytest.mark.parametrize("name", INDICES)
def test_indexing(name):
    index = INDICES[name]
    plain = tuple(i.data if isinstance(i, Tensor) else i for i in index) if isinstance(index, tuple) else index
    plain = plain.data if isinstance(plain, Tensor) else plain
    x = random(np.random.default_rng(12), (3, 4, 5))
    check(lambda x: x[index], lambda x: x[plain], [x])


def test_errors_name_function_and_argument():
    x = leaf(np.ones((2, 3)))
    with pytest.raises(TypeError, match=r"clip: a bound has no gradient"):
        x.clip(x, 2)
    with pytest.raises(TypeError, match=r"astype: int64 carries no gradient"):
        x.astype(np.int64)
    with pytest.raises(ValueError, match="pad: widths must be integers from 0"):
        F.pad(x, -1)
    with pytest.raises(TypeError, match="concatenate: axis must be an int; got None"):
        F.concatenate([x, x], None)
    with pytest.raises(ValueError, match="stack: needs at least one array"):
        F.stack([])
    with pytest.raises(TypeError, match="iteration over a 0-d tensor"):
        iter(x.sum())


@pytest.mark.parametrize(
    "subscripts, message",
    [
        ("ii->i", "repeats a label"),
        ("ijk->i", "does not fit operand 0, which has 2 axes"),
        ("ij,jk", "names 2 operands; got 1"),
        ("ij->k", "one that no operand has"),
        ("ij->ii", "repeats a label"),
        ("i.j->i", "does not fit operand 0"),
    ],
)
def test_einsum_errors(subscripts, message):
    with pytest.raises(ValueError, match=f"einsum: .*{message}"):
        F.einsum(subscripts, leaf(np.ones((2, 2))))
    with pytest.raises(TypeError, match="einsum: the first argument is the subscripts"):
        F.einsum(leaf([1.0]), [0])
