import numpy as np
import pytest

from cupynn.autograd import Tensor, gradcheck, tensor

X = np.random.default_rng(0).uniform(0.5, 1.5, (2, 3))
A = np.random.default_rng(1).uniform(0.5, 1.5, (2, 3))

CALLS = {
    "add": lambda t: np.add(A, t),
    "subtract": lambda t: np.subtract(t, A),
    "multiply": lambda t: np.multiply(t, 2),
    "divide": lambda t: np.divide(A, t),
    "true_divide": lambda t: np.true_divide(1, t),
    "power": lambda t: np.power(t, 3),
    "matmul": lambda t: np.matmul(A.T, t),
    "negative": np.negative,
    "positive": np.positive,
    "square": np.square,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "fabs": np.fabs,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "maximum": lambda t: np.maximum(t, 1),
    "minimum": lambda t: np.minimum(1, t),
    "sum": lambda t: np.sum(t, axis=1),
    "sum positional": lambda t: np.sum(t, 1),
    "sum keepdims": lambda t: np.sum(t, axis=0, keepdims=True),
    "mean": lambda t: np.mean(t, axis=(0, 1)),
    "var": lambda t: np.var(t, axis=1, ddof=1),
    "max": lambda t: np.max(t, axis=0),
    "amin": lambda t: np.amin(t),
    "add.reduce": lambda t: np.add.reduce(t),
    "add.reduce axis": lambda t: np.add.reduce(t, axis=1, keepdims=True),
    "maximum.reduce": lambda t: np.maximum.reduce(t),
    "reshape": lambda t: np.reshape(t, (3, 2)),
    "transpose": np.transpose,
    "transpose axes": lambda t: np.transpose(t, (1, 0)),
    "ravel": np.ravel,
    "squeeze": lambda t: np.squeeze(t[:1]),
    "expand_dims": lambda t: np.expand_dims(t, 1),
    "broadcast_to": lambda t: np.broadcast_to(t, (4, 2, 3)),
    "concatenate": lambda t: np.concatenate([t, A, t], axis=1),
    "stack": lambda t: np.stack((A, t), axis=-1),
    "pad": lambda t: np.pad(t, ((1, 0), (0, 2)), constant_values=2),
    "pad with a mode": lambda t: np.pad(t, 1, mode="constant"),
    "where": lambda t: np.where(A > 1, t, A),
    "clip": lambda t: np.clip(t, 0.8, 1.2),
    "clip by keyword": lambda t: np.clip(t, a_min=0.8, a_max=None),
    "clip by new keyword": lambda t: np.clip(t, max=1.2),
    "einsum": lambda t: np.einsum("ij,kj->ik", t, A),
}


@pytest.mark.parametrize("name", CALLS)
def test_numpys_functions_give_numpys_values_and_stay_differentiable(name):
    call = CALLS[name]
    x = Tensor(X.copy(), requires_grad=True)
    result = call(x)
    assert isinstance(result, Tensor) and result.requires_grad
    expected = np.asarray(call(X))
    assert result.shape == expected.shape
    # Products and sums may be taken in another order: a few roundings of float64.
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-14)
    assert gradcheck(call, [x])


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize(
    "call, name",
    [
        (np.arctan, "numpy.arctan"),
        (np.floor, "numpy.floor"),
        (lambda t: np.floor_divide(t, 2), "numpy.floor_divide"),
        (np.cumsum, "numpy.cumsum"),
        (np.sort, "numpy.sort"),
        (np.prod, "numpy.prod"),
        (np.linalg.inv, "numpy.inv"),
        (np.multiply.reduce, "numpy.multiply.reduce"),
        (np.logical_and.reduce, "numpy.logical_and.reduce"),
        (lambda t: np.less.outer(t, t), "numpy.less.outer"),
        (np.add.accumulate, "numpy.add.accumulate"),
        (lambda t: np.add.outer(t, t), "numpy.add.outer"),
        (lambda t: np.add.at(t, [0], 1.0), "numpy.add.at"),
    ],
)
def test_what_is_not_differentiable_is_refused_by_name(call, name, requires_grad):
    with pytest.raises(TypeError, match=f"^{name}: not differentiable"):
        call(tensor(X, requires_grad))


@pytest.mark.parametrize(
    "call",
    [
        lambda t, out: np.exp(t, out=out),
        lambda t, out: np.add(t, 1, out),
        lambda t, out: np.add(A, A, out=t),
        lambda t, out: np.multiply(A, t, out=t),
        lambda t, out: np.less(A, A, out=t),
        lambda t, out: np.clip(t, 0, 1, out=out),
        lambda t, out: np.concatenate([t], out=out),
    ],
)
def test_out_is_refused(call):
    x = tensor(X, requires_grad=True)
    with pytest.raises(TypeError, match="out= would overwrite"):
        call(x, np.zeros((2, 3)))
    np.testing.assert_array_equal(x.data, X)


def test_in_place_operators_of_arrays_are_refused():
    array = A.copy()
    with pytest.raises(TypeError, match="out= would overwrite"):
        array += tensor(X, requires_grad=True)
    np.testing.assert_array_equal(array, A)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda t: np.sum(t, axis=1, dtype=np.float32),
            r"numpy.sum: on a tensor: .*unexpected keyword argument 'dtype'",
        ),
        (lambda t: np.sum(t, 1, np.float32), "numpy.sum: on a tensor: .*positional"),
        (lambda t: np.exp(t, where=A > 1), r"numpy.exp: on a tensor: .*unexpected keyword argument 'where'"),
        (lambda t: np.pad(t, 1, mode="reflect"), "numpy.pad: .*constant"),
        (lambda t: np.max(t, initial=0.0), r"numpy.max: on a tensor: .*'initial'"),
        (lambda t: np.where(t), "numpy.where: on a tensor: .*missing"),
    ],
)
def test_arguments_we_do_not_know_are_refused(call, message):
    with pytest.raises(TypeError, match=message):
        call(tensor(X, requires_grad=True))


def test_what_has_no_gradient_by_nature_is_a_plain_array():
    x = tensor(X, requires_grad=True)
    for call in (
        np.argmax,
        np.isnan,
        np.isfinite,
        np.zeros_like,
        lambda t: np.less(t, 1),
        lambda t: np.argsort(t, axis=0),
    ):
        result = call(x)
        assert not isinstance(result, Tensor)
        np.testing.assert_array_equal(result, call(X))
    assert np.allclose(x, X) and np.shape(x) == (2, 3)


def test_array_on_the_left():
    x = tensor(X, requires_grad=True)
    for result in (A + x, A * x, A @ x.T, np.float64(2) * x, np.array(2.0) - x):
        assert isinstance(result, Tensor) and result.requires_grad
