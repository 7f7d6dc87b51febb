"""Broadcasting, indexing and dtypes drawn at random, against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cupynn.autograd import Tensor, gradcheck, tensor
from cupynn.autograd import functions as F

quick = settings(max_examples=25, deadline=None, print_blob=True)
BINARY = ["add", "subtract", "multiply", "divide", "power", "maximum", "minimum"]


@quick
@given(
    shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=3, max_dims=3),
    dtypes=st.tuples(*[st.sampled_from([np.float32, np.float64])] * 2),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("name", BINARY)
def test_broadcasting(name, shapes, dtypes, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.uniform(0.5, 2, s).astype(d) for s, d in zip(shapes.input_shapes, dtypes, strict=True))
    result = getattr(F, name)(Tensor(a, requires_grad=True), Tensor(b, requires_grad=True))
    expected = np.asarray(getattr(np, name)(a, b))
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result.numpy(), expected, strict=True)
    tensors = [Tensor(array.astype(np.float64), requires_grad=True) for array in (a, b)]
    assert gradcheck(getattr(F, name), tensors)


@quick
@given(data=st.data(), shape=hnp.array_shapes(max_dims=3, max_side=4, min_side=0), seed=st.integers(0, 99))
def test_basic_indexing(data, shape, seed):
    x = np.random.default_rng(seed).standard_normal(shape)
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    assert_indexed(x, index)


@quick
@given(data=st.data(), shape=hnp.array_shapes(max_dims=3, max_side=4), seed=st.integers(0, 99))
def test_integer_array_indexing(data, shape, seed):
    x = np.random.default_rng(seed).standard_normal(shape)
    index = data.draw(hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(max_dims=2, min_side=0)))
    assert_indexed(x, index)


@quick
@given(data=st.data(), shape=hnp.array_shapes(max_dims=3, max_side=4, min_side=0), seed=st.integers(0, 99))
def test_mask_indexing(data, shape, seed):
    x = np.random.default_rng(seed).standard_normal(shape)
    assert_indexed(x, data.draw(hnp.arrays(bool, shape)))


def assert_indexed(x, index):
    leaf = Tensor(x, requires_grad=True)
    result = leaf[index]
    np.testing.assert_array_equal(result.numpy(), np.asarray(x[index]), strict=True)
    assert gradcheck(lambda t: t[index], [leaf])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_python_numbers_do_not_change_the_dtype(dtype):
    x = Tensor(np.array([0.5, 1.5], dtype), requires_grad=True)
    results = [x + 1, 2.5 * x, 1 / x, x**2, 2.0**x, x - 0.1, x.clip(0, 1.0), F.maximum(x, 0.7), F.maximum(0.7, x)]
    results += [F.where(x > 1, x, 0.0), F.pad(x, 1, 0.5), x.mean(), x.var(), x.sum(), x.max(), F.tanh(x), abs(-x)]
    for result in results:
        assert result.dtype == dtype, result.record.name
    sum(result.sum() for result in results).backward()
    assert x.grad.dtype == dtype


def test_each_leaf_gets_a_gradient_of_its_own_dtype():
    a = Tensor(np.ones(3, np.float32), requires_grad=True)
    b = Tensor(np.ones(3), requires_grad=True)
    (a * b + b * a).sum().backward()
    assert (a.grad.dtype, b.grad.dtype) == (np.float32, np.float64)
    c = tensor([1.0], requires_grad=True)
    c.astype(np.float64).sum().backward()
    assert c.grad.dtype == np.float32


def test_comparisons_are_plain_arrays():
    x, y = tensor([1.0, 2.0], requires_grad=True), tensor([2.0, 2.0])
    for result, expected in [
        (x == y, [False, True]),
        (x != y, [True, False]),
        (x < 2, [True, False]),
        (x <= y, [True, True]),
        (np.array([1.5, 1.5]) < x, [False, True]),
        (x >= y.data, [False, True]),
        (x > 1, [False, True]),
    ]:
        assert type(result) is np.ndarray
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    "index", [np.array([0, 2]), [0, 2], np.array([True, False, True]), (np.array([0, 2]),)], ids=str
)
def test_an_index_changed_before_backward_does_not_matter(index):
    x = Tensor(np.zeros(3), requires_grad=True)
    y = x[index]
    first = index[0] if isinstance(index, tuple) else index
    first[:] = [1] * len(first)
    y.sum().backward()
    assert x.grad.tolist() == [1, 0, 1]


def test_the_mean_of_more_elements_than_float16_counts():
    x = Tensor(np.ones(70_000, np.float16), requires_grad=True)
    x.mean().backward()
    np.testing.assert_allclose(x.grad, 1 / 70_000, atol=6e-8)  # the smallest float16


@pytest.mark.parametrize("ddof", [1, 2])
@pytest.mark.filterwarnings("ignore:Degrees of freedom", "ignore:invalid value")
def test_a_variance_without_degrees_of_freedom_has_the_gradient_nan(ddof):
    x = Tensor(np.ones((1, 3)), requires_grad=True)
    y = x.var(axis=0, ddof=ddof)
    y.sum().backward()
    assert np.isnan(y.data).all() and np.isnan(x.grad).all()


def test_numpy_integers_are_axes():
    x = tensor(np.ones((2, 3, 4)))
    assert F.concatenate([x, x], axis=np.int64(1)).shape == (2, 6, 4)
    assert F.stack([x, x], axis=np.int8(-1)).shape == (2, 3, 4, 2)
    assert x.flatten(np.int64(1)).shape == (2, 12)


def test_flatten_from_the_end_and_out_of_range():
    x = tensor(np.ones((2, 3)))
    assert x.flatten(-1).shape == (2, 3) and x.flatten(-2).shape == (6,) and tensor(1.0).flatten().shape == (1,)
    for start in (2, -3, -4):
        with pytest.raises(ValueError, match=rf"flatten: start_axis must be in -2..1 for x .*\(2, 3\); got {start}"):
            x.flatten(start)
