from unittest import mock

import numpy as np
import pytest
from central_differences import TOLERANCE, central_differences
from hypothesis import given, settings
from hypothesis import strategies as st

from cupynn.device import asarray, to_numpy
from cupynn.kernels import batch_norm

EPS = 1e-5
quick = settings(max_examples=25, deadline=None, print_blob=True)


@st.composite
def cases(draw):
    """x with a few values per channel or many, in one chunk or several; gamma and beta, or neither."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images, channels = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    shape = (images, channels, *draw(st.sampled_from([(), (1, 1), (1, 3), (5, 7), (8, 8), (9, 13)])))
    if images * int(np.prod(shape[2:])) < 2:
        shape = (2, *shape[1:])
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    x = (rng.normal(size=shape) * 2 + rng.normal(size=(channels,) + (1,) * (len(shape) - 2)) * 5).astype(dtype)
    affine = rng.normal(size=(2, channels)).astype(dtype) if draw(st.booleans()) else (None, None)
    sizes = {"chunk": draw(st.sampled_from([1, 100, 16384])), "elements": draw(st.sampled_from([1, 100, 16384]))}
    sizes |= {"small": draw(st.sampled_from([0, 256])), "row_chunk": draw(st.sampled_from([1, 100, 65536]))}
    relu, residual = draw(st.sampled_from([False, True, 6])), None
    if draw(st.booleans()):
        residual = (rng.normal(size=shape) * 4).astype(dtype)  # for some of y to reach 6
    return x, *affine, rng.normal(size=shape).astype(dtype), relu, residual, sizes


def wide(*arrays):
    return [None if a is None else np.asarray(a, np.float64) for a in arrays]


def rounding(x, gamma, mean, inv_std):
    """How far y may be from its exact value, and the largest |xhat|.

    x - mean carries an error of eps |x|, so xhat one of eps |x| inv_std; inv_std's own relative error is of the same
    size, times |xhat|. 16 stands for the handful of operations and the sums' few roundings.
    """
    xhat = float(np.abs((x - mean.reshape((-1,) + (1,) * (x.ndim - 2))) * inv_std.max()).max())
    scale = 1.0 if gamma is None else float(np.abs(gamma).max())
    eps = float(np.finfo(x.dtype).eps)
    return 16 * eps * (1 + float(np.abs(x).max()) * float(inv_std.max())) * (1 + xhat) * (1 + scale), xhat


@given(cases())
@quick
def test_forward_train_equals_the_reference_in_float64(case):
    x, gamma, beta, _, relu, residual, sizes = case
    with mock.patch.dict(batch_norm.CPU, sizes):
        y, mean, variance, inv_std = batch_norm.forward_train(x, gamma, beta, EPS, relu, residual=residual)
    want = batch_norm.reference_forward_train(*wide(x, gamma, beta), EPS, relu, *wide(residual))
    tolerance, _ = rounding(x, gamma, want[1], want[3])
    assert y.dtype == mean.dtype == variance.dtype == inv_std.dtype == x.dtype
    np.testing.assert_allclose(y, want[0], rtol=0, atol=tolerance)
    eps = np.finfo(x.dtype).eps
    np.testing.assert_allclose(mean, want[1], rtol=0, atol=4 * eps * np.abs(x).max())
    np.testing.assert_allclose(variance, want[2], rtol=16 * eps, atol=16 * eps * np.abs(x).max() * want[2].max() ** 0.5)
    np.testing.assert_allclose(inv_std, 1 / np.sqrt(variance + EPS), rtol=4 * eps)


@given(cases())
@quick
def test_forward_eval_equals_the_reference_in_float64(case):
    x, gamma, beta, other, relu, residual, sizes = case
    mean, variance = other.reshape(-1)[: x.shape[1]], np.abs(x.reshape(-1)[: x.shape[1]]) + x.dtype.type(0.5)
    with mock.patch.dict(batch_norm.CPU, sizes):
        y = batch_norm.forward_eval(x, gamma, beta, mean.copy(), variance, EPS, relu, residual=residual)
    want = batch_norm.reference_forward_eval(*wide(x, gamma, beta, mean, variance), EPS, relu, *wide(residual))
    tolerance, _ = rounding(x, gamma, mean, 1 / np.sqrt(variance))
    np.testing.assert_allclose(y, want, rtol=0, atol=tolerance)


@given(cases(), st.booleans())
@quick
def test_backward_equals_the_reference_in_float64(case, training):
    x, gamma, beta, grad, relu, residual, sizes = case
    outputs = batch_norm.reference_forward_train(*wide(x, gamma, beta), EPS, relu, *wide(residual))
    y, mean, variance, inv_std = (a.astype(x.dtype) for a in outputs)
    options = relu, residual is not None
    if training:
        rest = (gamma, beta, mean, inv_std, *options)
        face, reference = batch_norm.backward_train, batch_norm.reference_backward_train
        exact = (*wide(gamma, beta, mean, inv_std), *options)
    else:
        rest = (gamma, beta, mean, variance, EPS, *options)
        face, reference = batch_norm.backward_eval, batch_norm.reference_backward_eval
        exact = (*wide(gamma, beta, mean, variance), EPS, *options)
    with mock.patch.dict(batch_norm.CPU, sizes):
        dx, dgamma, dbeta, *dresidual = face(grad, x, None if residual is None else y, *rest)
    want = reference(*wide(grad, x, y), *exact)
    tolerance, xhat = rounding(x, gamma, mean, inv_std)
    most, count = np.abs(grad).max(), x.size // x.shape[1]
    np.testing.assert_allclose(dx, want[0], rtol=0, atol=tolerance * (1 + xhat) * inv_std.max() * most)
    np.testing.assert_allclose(dgamma, want[1], rtol=0, atol=tolerance * count * most)
    np.testing.assert_allclose(dbeta, want[2], rtol=0, atol=4 * np.finfo(x.dtype).eps * count * most)
    assert len(dresidual) == (residual is not None)
    for got in dresidual:
        np.testing.assert_array_equal(got, want[3])


@pytest.mark.parametrize("relu", [False, True, 6])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(5, 3), (3, 2, 2, 3)])
def test_reference_backward_is_the_gradient(shape, training, relu):
    rng = np.random.default_rng(7)
    x, grad, residual = rng.normal(size=(3, *shape)) + 0.3
    residual *= 6
    gamma, beta, mean = rng.normal(size=(3, shape[1]))
    variance = rng.uniform(0.5, 2, shape[1])
    if training:

        def forward(x, gamma, beta, residual):
            return batch_norm.reference_forward_train(x, gamma, beta, EPS, relu, residual)[0]

        y, batch_mean, _, inv_std = batch_norm.reference_forward_train(x, gamma, beta, EPS, relu, residual)
        got = batch_norm.reference_backward_train(grad, x, y, gamma, beta, batch_mean, inv_std, relu, True)
    else:

        def forward(x, gamma, beta, residual):
            return batch_norm.reference_forward_eval(x, gamma, beta, mean, variance, EPS, relu, residual)

        y = forward(x, gamma, beta, residual)
        got = batch_norm.reference_backward_eval(grad, x, y, gamma, beta, mean, variance, EPS, relu, True)
    inside = y[(y > 0) & (y < 6)]
    assert not relu or min(inside.min(), (6 - inside).min()) > 1e-4  # no step crosses a corner
    want = (
        central_differences(lambda v: forward(v, gamma, beta, residual), x, grad),
        central_differences(lambda v: forward(x, v, beta, residual), gamma, grad),
        central_differences(lambda v: forward(x, gamma, v, residual), beta, grad),
        central_differences(lambda v: forward(x, gamma, beta, v), residual, grad),
    )
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("forward", [batch_norm.forward_train, batch_norm.reference_forward_train])
@pytest.mark.parametrize(("offset", "rtol"), [(1e4, 1e-5), (1e5, 1e-3)])
def test_variance_survives_a_large_mean(forward, offset, rtol):
    """At 1e4 a float32 has a spacing of 1e-3, at 1e5 of 8e-3. Squares about zero would lose the variance altogether.

    x - mean is exact. The mean is off by at most its spacing s; that adds s**2 to the variance, and 2 s times the
    distance of the chunks' means, 1 / sqrt(16384). Summing squares in float32 costs some 1e-6.
    """
    x = np.random.default_rng(3).normal(offset, 1, size=(160, 3, 16, 16)).astype(np.float32)
    _, mean, variance, _ = forward(x, None, None, EPS)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(variance, exact.var(axis=(0, 2, 3)), rtol=rtol)
    np.testing.assert_allclose(mean, exact.mean(axis=(0, 2, 3)), rtol=0, atol=np.spacing(np.float32(offset)))


@pytest.mark.parametrize("forward", [batch_norm.forward_train, batch_norm.reference_forward_train])
def test_variance_of_a_constant_channel_is_zero_and_never_negative(forward):
    x = np.full((7, 3, 30, 30), 0.1, np.float32)
    y, _, variance, _ = forward(x, None, None, EPS)
    assert (variance >= 0).all()
    rounded = 64 * np.finfo(np.float32).eps * 0.1  # of a mean of 6300 values
    assert variance.max() <= rounded**2
    np.testing.assert_allclose(y, 0, atol=rounded / EPS**0.5)


def test_two_runs_give_the_same_bits():
    rng = np.random.default_rng(5)
    x, grad = rng.normal(size=(2, 40, 3, 25, 25)).astype(np.float32)
    gamma, beta = rng.normal(size=(2, 3)).astype(np.float32)

    def run():
        y, mean, variance, inv_std = batch_norm.forward_train(x, gamma, beta, EPS, True)
        gradients = batch_norm.backward_train(grad, x, None, gamma, beta, mean, inv_std, True)
        return b"".join(a.tobytes() for a in (y, mean, variance, inv_std, *gradients))

    assert run() == run()


def test_a_nan_in_one_channel_stays_in_that_channel():
    x = np.ones((2, 2, 3, 3), np.float32) * np.arange(9, dtype=np.float32).reshape(3, 3)
    x[1, 0, 2, 2] = np.nan
    y = batch_norm.forward_train(x, None, None, EPS, True)[0]
    assert np.isnan(y[:, 0]).all() and np.isfinite(y[:, 1]).all()


@pytest.mark.parametrize("relu", [False, True, 6])
def test_a_nan_in_the_residual_stays(relu):
    x, residual = np.ones((2, 2, 3, 3), np.float32), np.zeros((2, 2, 3, 3), np.float32)
    residual[1, 0, 2, 2] = np.nan
    y = batch_norm.forward_eval(
        x, None, None, np.ones(2, np.float32), np.ones(2, np.float32), EPS, relu, None, residual
    )
    assert np.isnan(y).sum() == 1 and np.isnan(y[1, 0, 2, 2])


def test_a_residual_may_be_channels_of_a_wider_array():
    rng = np.random.default_rng(8)
    x, (grad, wider) = rng.normal(size=(4, 2, 5, 3)), rng.normal(size=(2, 4, 7, 5, 3))
    grad, residual = grad[:, 1:3], wider[:, 3:5]
    y, mean, _, inv_std = batch_norm.forward_train(x, None, None, EPS, True, residual=residual)
    want = batch_norm.reference_forward_train(x, None, None, EPS, True, residual)[0]
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-14)
    got = batch_norm.backward_train(grad, x, y, None, None, mean, inv_std, True, True)
    want = batch_norm.reference_backward_train(grad, x, y, None, None, mean, inv_std, True, True)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-13)
    assert not np.may_share_memory(got[3], grad)
    assert batch_norm.backward_train(grad, x, None, None, None, mean, inv_std, False, True)[3] is grad


def test_strided_input_is_read_as_it_looks():
    x = np.random.default_rng(1).normal(size=(4, 6, 6, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    got = batch_norm.forward_train(x, None, None, EPS)[0]
    want = batch_norm.reference_forward_train(x.astype(np.float64), None, None, EPS)[0]
    np.testing.assert_allclose(got, want, rtol=0, atol=16 * np.finfo(np.float32).eps * np.abs(want).max())


def test_empty_batch_gives_an_empty_output_in_evaluation_only():
    x, ones = np.empty((0, 2, 3, 3), np.float32), np.ones(2, np.float32)
    y = batch_norm.forward_eval(x, None, None, ones, ones, EPS, True)
    assert y.shape == x.shape
    dx, dgamma, dbeta = batch_norm.backward_eval(x, x, y, None, None, ones, ones, EPS, True)
    assert dx.shape == x.shape and not dgamma.any() and not dbeta.any()
    with pytest.raises(ValueError, match="more than one value per channel"):
        batch_norm.forward_train(x, None, None, EPS)


@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 1, 1)])
def test_one_value_per_channel_has_no_variance(shape):
    with pytest.raises(ValueError, match=r"N \* H \* W > 1; x has shape \(1, 4"):
        batch_norm.forward_train(np.ones(shape, np.float32), None, None, EPS)


def test_errors_name_the_argument():
    x, two, three = np.ones((4, 2), np.float32), np.ones(2, np.float32), np.ones(3, np.float32)
    with pytest.raises(ValueError, match=r"gamma must have shape \(C,\) = \(2,\).*\(3,\)"):
        batch_norm.forward_train(x, three, None, EPS)
    with pytest.raises(TypeError, match=r"running_var must be float32.*float64"):
        batch_norm.forward_eval(x, None, None, two, two.astype(np.float64), EPS)
    with pytest.raises(TypeError, match="x must be float16, bfloat16, float32 or float64; it is int64"):
        batch_norm.forward_train(np.ones((4, 2), np.int64), None, None, EPS)
    with pytest.raises(ValueError, match=r"\(N, C\) or \(N, C, H, W\)"):
        batch_norm.forward_train(np.ones((4, 2, 3), np.float32), None, None, EPS)
    with pytest.raises(ValueError, match=r"grad must have x's shape \(4, 2\)"):
        batch_norm.backward_train(two, x, None, None, None, two, two)
    with pytest.raises(ValueError, match="need the forward pass's output y"):
        batch_norm.backward_train(x, x, None, None, None, two, two, relu=True, residual=True)
    with pytest.raises(ValueError, match="relu must be False, True or 6, which is ReLU6; got 5"):
        batch_norm.forward_train(x, None, None, EPS, relu=5)
    with pytest.raises(
        ValueError, match=r"residual must be float32 of x's shape \(4, 2\); got float32 of shape \(2,\)"
    ):
        batch_norm.forward_train(x, None, None, EPS, residual=two)


@pytest.mark.parametrize("shape", [(300, 5), (3, 2, 1, 1), (40, 3, 25, 25), (5, 70, 4, 4)])
@pytest.mark.parametrize("relu", [False, 6])
def test_on_each_device(device, shape, relu):
    rng = np.random.default_rng(21)
    x, grad, residual = rng.normal(size=(3, *shape)).astype(np.float32)
    gamma, beta = rng.normal(size=(2, shape[1])).astype(np.float32)
    on = [asarray(a) for a in (x, gamma, beta, grad, residual)]
    y, mean, variance, inv_std = batch_norm.forward_train(*on[:3], EPS, relu, None, on[4])
    *gradients, dresidual = batch_norm.backward_train(on[3], on[0], y, *on[1:3], mean, inv_std, relu, True)
    evaluated = batch_norm.forward_eval(*on[:3], mean, variance, EPS, relu, None, on[4])
    want = batch_norm.reference_forward_train(*wide(x, gamma, beta), EPS, relu, *wide(residual))
    tolerance, xhat = rounding(x, gamma, want[1], want[3])
    np.testing.assert_allclose(to_numpy(y), want[0], rtol=0, atol=tolerance)
    np.testing.assert_allclose(to_numpy(evaluated), want[0], rtol=0, atol=tolerance)
    statistics = wide(*map(to_numpy, (y, mean, inv_std)))
    statistics = statistics[0], *wide(gamma, beta), *statistics[1:]
    *want, masked = batch_norm.reference_backward_train(*wide(grad, x), *statistics, relu, True)
    np.testing.assert_array_equal(to_numpy(dresidual), masked)
    most, count = np.abs(grad).max(), x.size // shape[1]
    bounds = (tolerance * (1 + xhat) * statistics[4].max() * most, tolerance * count * most, tolerance * count * most)
    for got, exact, bound in zip(gradients, want, bounds, strict=True):
        np.testing.assert_allclose(to_numpy(got), exact, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_running_statistics(dtype):
    """The kernel, which runs on a GPU, and the reference, which runs here: three roundings of each number."""
    start = np.random.default_rng(31).uniform(0.5, 2, (4, 3, 700)).astype(dtype)
    numbers = 0.9, (0.1, 0.1 * 8 / 7)
    given, wanted = start.copy(), start.astype(np.float64)
    batch_norm.reference_move_running(*wanted, *numbers)
    if batch_norm.runtime.compiled_for(given):
        batch_norm.launch_move_running(*given, *numbers)
        np.testing.assert_allclose(given, wanted, rtol=4 * np.finfo(dtype).eps)
    given = start.copy()
    batch_norm.move_running(*given, 0.1, 8)
    np.testing.assert_allclose(given, wanted, rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(given[2:], start[2:])
