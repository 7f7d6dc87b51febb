import numpy as np
import pytest
from central_differences import TOLERANCE, central_differences
from hypothesis import given, settings
from hypothesis import strategies as st

from cupynn.device import asarray, to_numpy
from cupynn.kernels import cross_entropy

quick = settings(max_examples=25, deadline=None, print_blob=True)


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, classes = draw(st.integers(1, 20)), draw(st.sampled_from([1, 2, 3, 10, 33, 100, 300]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    logits = (rng.normal(size=(rows, classes)) * draw(st.sampled_from([0, 1, 30, 1000]))).astype(dtype)
    return logits, rng.integers(0, classes, rows).astype(draw(st.sampled_from([np.int64, np.int32, np.uint8, "u8"])))


@given(cases())
@quick
def test_forward_and_backward_equal_the_reference_in_float64(case):
    logits, targets = case
    if logits.shape[1] == 300:
        targets = targets.astype(np.int64)
    targets = targets % logits.shape[1]
    loss, probabilities = cross_entropy.forward(logits, targets)
    want_loss, want = cross_entropy.reference_forward(logits.astype(np.float64), targets)
    assert loss.shape == () and loss.dtype == probabilities.dtype == logits.dtype
    # logits - max is rounded once, by eps |logits|, which exp turns into a relative error of that size; exp, the sum
    # of K terms and the quotient add a few eps more. What is hardly a normal number may be 0.
    eps = np.finfo(logits.dtype).eps
    spread = 2 * np.abs(logits).max() + 8 + logits.shape[1] ** 0.5
    np.testing.assert_allclose(probabilities, want, rtol=2 * eps * spread, atol=2 * np.finfo(logits.dtype).tiny)
    np.testing.assert_allclose(loss, want_loss, rtol=4 * eps, atol=2 * eps * spread)
    grad = np.asarray(0.7, logits.dtype)
    dlogits = cross_entropy.backward(grad, probabilities, targets)
    exact = cross_entropy.reference_backward(grad.astype(np.float64), probabilities.astype(np.float64), targets)
    np.testing.assert_allclose(dlogits, exact, rtol=0, atol=4 * eps / len(targets))


def test_reference_backward_is_the_gradient():
    rng = np.random.default_rng(4)
    logits, targets, grad = rng.normal(size=(5, 4)) * 2, np.array([0, 3, 1, 1, 2]), np.asarray(1.7)
    probabilities = cross_entropy.reference_forward(logits, targets)[1]
    want = central_differences(lambda v: cross_entropy.reference_forward(v, targets)[0], logits, grad)
    got = cross_entropy.reference_backward(grad, probabilities, targets)
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE)


def test_logits_far_apart_neither_overflow_nor_divide_by_zero():
    logits = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4]], np.float32)
    with np.errstate(all="raise", under="ignore"):
        loss, probabilities = cross_entropy.forward(logits, np.array([1, 2]))
    np.testing.assert_allclose(loss, (2e4 + np.log(3)) / 2, rtol=1e-6)
    np.testing.assert_allclose(probabilities, [[1, 0, 0], [1 / 3] * 3], rtol=1e-6)


def test_a_nan_makes_the_loss_a_nan():
    logits = np.zeros((3, 20), np.float32)
    logits[1, 7] = np.nan
    loss, probabilities = cross_entropy.forward(logits, np.zeros(3, np.int64))
    assert np.isnan(loss) and np.isnan(probabilities[1]).all() and np.isfinite(probabilities[[0, 2]]).all()


def test_two_runs_give_the_same_bits():
    rng = np.random.default_rng(6)
    logits, targets = rng.normal(size=(500, 100)).astype(np.float32), rng.integers(0, 100, 500)
    one, other = (cross_entropy.forward(logits, targets) for _ in range(2))
    assert one[0].tobytes() == other[0].tobytes() and one[1].tobytes() == other[1].tobytes()


@pytest.mark.parametrize(("row", "value"), [(2, 3), (0, -1), (3, 1000)])
def test_a_target_outside_the_classes_is_named(row, value):
    targets = np.array([0, 1, 2, 0])
    targets[row] = value
    with pytest.raises(ValueError, match=rf"targets\[{row}\] is {value}; with K = 3 classes it must be in 0\.\.2"):
        cross_entropy.forward(np.zeros((4, 3), np.float32), targets)


def test_errors_name_the_argument():
    logits = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"so targets need shape \(4,\); they have shape \(3,\)"):
        cross_entropy.forward(logits, np.zeros(3, np.int64))
    with pytest.raises(TypeError, match="targets must be integers; they are float64"):
        cross_entropy.forward(logits, np.zeros(4))
    with pytest.raises(TypeError, match="logits must be float32 or float64; they are int64"):
        cross_entropy.forward(logits.astype(np.int64), np.zeros(4, np.int64))
    with pytest.raises(ValueError, match=r"\(N, K\) with N, K >= 1; they have shape \(0, 3\)"):
        cross_entropy.forward(logits[:0], np.zeros(0, np.int64))


@pytest.mark.parametrize("classes", [1, 10, 1000])
def test_on_each_device(device, classes):
    rng = np.random.default_rng(22)
    logits, targets = rng.normal(size=(37, classes)).astype(np.float32), rng.integers(0, classes, 37)
    loss, probabilities = cross_entropy.forward(asarray(logits), asarray(targets))
    want_loss, want = cross_entropy.reference_forward(logits.astype(np.float64), targets)
    eps = np.finfo(np.float32).eps
    np.testing.assert_allclose(to_numpy(loss), want_loss, rtol=4 * eps, atol=50 * eps)
    np.testing.assert_allclose(to_numpy(probabilities), want, rtol=80 * eps)
    dlogits = cross_entropy.backward(asarray(np.ones((), np.float32)), probabilities, asarray(targets))
    want = cross_entropy.reference_backward(np.ones(()), want, targets)
    np.testing.assert_allclose(to_numpy(dlogits), want, rtol=0, atol=80 * eps / 37)
