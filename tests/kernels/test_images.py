"""Channels of wider arrays are read, written and added to in place by convolution and batch norm."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupynn.kernels import batch_norm, conv
from cupynn.kernels.images import span, with_whole_images


def wider(rng, array, before=2, behind=1):
    """`array` as some channels of a wider one, and the wider one."""
    n, channels, *size = array.shape
    whole = rng.standard_normal((n, before + channels + behind, *size)).astype(array.dtype)
    view = whole[:, before : before + channels]
    view[...] = array
    return view, whole


@st.composite
def problems(draw):
    groups, kernel = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    stride, padding = draw(st.integers(1, 2)), draw(st.integers(0, 2))
    n, c, o = draw(st.integers(1, 9)), draw(st.integers(1, 4)), draw(st.integers(1, 9))
    h, w = (draw(st.integers(kernel, 19)) for _ in range(2))
    shapes = (n, groups * c, h, w), (groups * o, c, kernel, kernel)
    return shapes, {"stride": stride, "padding": padding, "groups": groups}


@pytest.mark.parametrize("method", ["direct", "im2col"])
@given(problem=problems())
def test_convolution_in_place(method, problem):
    (x_shape, w_shape), options = problem
    rng = np.random.default_rng(sum(x_shape))
    g = conv.geometry(x_shape, w_shape, **options)
    x, w, grad, start = (rng.standard_normal(s) for s in (x_shape, w_shape, g.output_shape, x_shape))
    want = conv.reference_backward(grad, x, w, **options)
    (view, _), (dview, _) = wider(rng, x), wider(rng, grad)
    (y, y_whole), (dx, dx_whole) = wider(rng, np.zeros(g.output_shape)), wider(rng, start)
    before = y_whole.copy(), dx_whole.copy()
    passes = ("forward", "input gradient", "weight gradient")
    with patch.dict(conv.choices, {(which, g, x.dtype.char, False): method for which in passes}):
        assert conv.forward(view, w, None, **options, out=y) is y
        found = conv.backward(dview, view, w, **options, add_to=dx)
    assert found[0] is dx
    # sums of at most 36 or 700 products of unit normals in two orders
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)  # noqa: E731
    close(y, conv.reference_forward(x, w, **options))
    close(dx, start + want[0])
    close(found[1], want[1])
    close(found[2], want[2])
    for now, then in zip((y_whole, dx_whole), before, strict=True):
        assert np.array_equal(now[:, :2], then[:, :2]) and np.array_equal(now[:, -1:], then[:, -1:])


def test_tuning_does_not_add_twice(monkeypatch):
    monkeypatch.setenv("CUPYNN_TUNE", "1")
    monkeypatch.setattr(conv, "choices", {})
    rng = np.random.default_rng(0)
    x, w, grad = (rng.standard_normal(s) for s in ((2, 3, 6, 5), (4, 3, 3, 3), (2, 4, 6, 5)))
    dx = np.ones_like(x)
    conv.backward(grad, x, w, padding=1, add_to=dx)
    np.testing.assert_allclose(dx - 1, conv.reference_backward(grad, x, w, padding=1)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 4, 5, 7), (5, 3), (1, 2, 3, 3), (40, 3, 9, 9)])
@pytest.mark.parametrize("relu", [True, False])
def test_batch_norm_in_place(shape, relu):
    rng = np.random.default_rng(sum(shape))
    x, grad = rng.standard_normal((2, *shape))
    gamma, beta, mean, variance = rng.uniform(0.5, 2, (4, shape[1]))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)  # noqa: E731
    (view, _), (dview, _), (y, whole) = wider(rng, x, 1, 3), wider(rng, grad), wider(rng, np.zeros(shape))
    before = whole.copy()
    want = batch_norm.reference_forward_eval(x, gamma, beta, mean, variance, 1e-5, relu)
    assert batch_norm.forward_eval(view, gamma, beta, mean, variance, 1e-5, relu, out=y) is y
    close(y, want)
    found = batch_norm.backward_eval(dview, view, y, gamma, beta, mean, variance, 1e-5, relu)
    wanted = batch_norm.reference_backward_eval(grad, x, want, gamma, beta, mean, variance, 1e-5, relu)
    for a, b in zip(found, wanted, strict=True):
        close(a, b)
    want, *statistics = batch_norm.reference_forward_train(x, gamma, beta, 1e-5, relu)
    found, *found_statistics = batch_norm.forward_train(view, gamma, beta, 1e-5, relu, out=y)
    assert found is y
    for a, b in zip((y, *found_statistics), (want, *statistics), strict=True):
        close(a, b)
    mean, _, inv_std = statistics
    found = batch_norm.backward_train(dview, view, y, gamma, beta, mean, inv_std, relu)
    wanted = batch_norm.reference_backward_train(grad, x, want, gamma, beta, mean, inv_std, relu)
    for a, b in zip(found, wanted, strict=True):
        close(a, b)
    assert np.array_equal(whole[:, :2], before[:, :2]) and np.array_equal(whole[:, -1:], before[:, -1:])


def test_what_is_copied_and_what_is_not():
    whole = np.arange(2 * 5 * 3 * 4.0).reshape(2, 5, 3, 4)
    view = whole[:, 1:3]
    assert with_whole_images(view) is view and with_whole_images(whole) is whole
    for apart in (whole[..., ::2], whole.transpose(1, 0, 2, 3)[..., ::-1], np.asfortranarray(whole), whole[::-1]):
        copy = with_whole_images(apart)
        assert copy.flags.c_contiguous and np.array_equal(copy, apart)
    memory, pitch = span(view)
    assert pitch == 60 and np.shares_memory(memory, whole)
    np.testing.assert_array_equal(memory, whole.ravel()[12 : 12 + 60 + 24])
    same = np.broadcast_to(whole[0], whole.shape)  # one image, read twice
    assert with_whole_images(same) is same and span(same)[1] == 0


def test_targets_that_do_not_fit():
    x, w = np.zeros((2, 3, 4, 4)), np.zeros((2, 3, 3, 3))
    with pytest.raises(
        ValueError, match=r"out must be float64 of shape \(2, 2, 2, 2\); got float64 of shape \(2, 2, 4, 4\)"
    ):
        conv.forward(x, w, out=np.zeros((2, 2, 4, 4)))
    with pytest.raises(ValueError, match="the images of out must be contiguous"):
        conv.forward(x, w, out=np.zeros((2, 2, 2, 4))[..., ::2])
    with pytest.raises(ValueError, match=r"add_to must be float64 of shape \(2, 3, 4, 4\); got float32"):
        conv.backward(np.zeros((2, 2, 2, 2)), x, w, add_to=np.zeros(x.shape, np.float32))
    with pytest.raises(ValueError, match=r"batch_norm: out must be float64 of x's shape"):
        batch_norm.forward_train(x, None, None, 1e-5, out=np.zeros((2, 3, 4, 5)))
    with pytest.raises(ValueError, match="batch_norm: the images of out must be contiguous"):
        batch_norm.forward_train(x, None, None, 1e-5, out=np.zeros((2, 3, 4, 8))[..., ::2])
