"""The losses of knowledge transfer: against loops in plain Python, and their gradients against differences."""

import math

import numpy as np
import pytest

from cupynn import ops
from cupynn.autograd import Tensor, gradcheck
from cupynn.transfer import hint_loss, similarity_loss, soft_target_loss

# A scalar that is a sum of some dozen terms of size 1, in float64.
EXACT = {"rtol": 1e-12, "atol": 1e-13}


def leaf(rng, *shape):
    return Tensor(rng.standard_normal(shape), requires_grad=True)


def softmax(row, temperature):
    powers = [math.exp(z / temperature) for z in row]
    return [power / math.fsum(powers) for power in powers]


def divergence(p, q):
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_two_classes_worked_out_on_paper():
    # T = 2, z = (2 log 3, 0): softmax (3/4, 1/4); teacher (0, 0): (1/2, 1/2)
    z = Tensor(np.array([[2 * math.log(3), 0.0]]), requires_grad=True)
    loss = soft_target_loss(z, np.zeros((1, 2)), temperature=2)
    # 4 (1/2 log(2/3) + 1/2 log 2) = 2 log(4/3)
    np.testing.assert_allclose(loss.data, 2 * math.log(4 / 3), **EXACT)
    loss.backward()
    np.testing.assert_allclose(z.grad, [[2 * 0.25, 2 * -0.25]], **EXACT)  # T (q - p)


@pytest.mark.parametrize("temperature", [0.5, 1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_soft_targets(seed, temperature):
    rng = np.random.default_rng(seed)
    logits, teacher = leaf(rng, 4, 5), rng.standard_normal((4, 5)) * 3
    loss = soft_target_loss(logits, teacher, temperature)
    rows = [
        divergence(softmax(t, temperature), softmax(z, temperature)) for z, t in zip(logits.data, teacher, strict=True)
    ]
    np.testing.assert_allclose(loss.data, temperature**2 * math.fsum(rows) / 4, **EXACT)
    assert gradcheck(lambda z: soft_target_loss(z, teacher, temperature), [logits])


def test_a_student_that_equals_its_teacher_has_learned_all():
    rng = np.random.default_rng(0)
    logits = leaf(rng, 3, 6)
    loss = soft_target_loss(logits, Tensor(logits.data + 2.5))  # softmax knows no constant
    loss.backward()
    assert abs(loss.item()) < 1e-14 and np.abs(logits.grad).max() < 1e-15


def test_the_gradient_is_that_of_softened_cross_entropy():
    """With a teacher that is certain, T = 1 gives the ordinary cross-entropy."""
    rng = np.random.default_rng(1)
    logits, labels = leaf(rng, 4, 5), np.array([0, 4, 2, 2])
    teacher = np.where(np.eye(5)[labels] == 1, 0.0, -800.0)  # exp(-800) is 0: p log p has to survive that
    ours = soft_target_loss(logits, teacher, temperature=1)
    ours.backward()
    gradient, logits.grad = logits.grad, None
    theirs = ops.cross_entropy(logits, labels)
    theirs.backward()
    np.testing.assert_allclose(ours.data, theirs.data, **EXACT)
    np.testing.assert_allclose(gradient, logits.grad, **EXACT)


def test_soft_targets_of_large_logits_are_finite():
    logits = Tensor(np.array([[1e4, -1e4, 0]], np.float32), requires_grad=True)
    loss = soft_target_loss(logits, np.array([[-1e4, 1e4, 0]], np.float32), temperature=1)
    loss.backward()
    np.testing.assert_allclose(loss.data, 2e4, rtol=1e-6)
    np.testing.assert_array_equal(logits.grad, [[1, -1, 0]])


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2, 2)])
@pytest.mark.parametrize("seed", range(2))
def test_hints(seed, shape):
    rng = np.random.default_rng(seed)
    regressed, hint = leaf(rng, *shape), rng.standard_normal(shape)
    wanted = math.fsum((a - b) ** 2 for a, b in zip(regressed.data.flat, hint.flat, strict=True)) / 2 / shape[0]
    np.testing.assert_allclose(hint_loss(regressed, hint).data, wanted, **EXACT)
    assert gradcheck(lambda x: hint_loss(x, hint), [regressed])


def neighbours(features):
    """p_i(j) by loops, a list of the others for each i."""
    rows = features.reshape(len(features), -1)
    units = [row / math.sqrt(math.fsum(row**2) + 1e-14) for row in rows]
    result = []
    for i, a in enumerate(units):
        kernels = [(1 + math.fsum(a * b)) / 2 + 1e-7 for j, b in enumerate(units) if j != i]
        result.append([kernel / math.fsum(kernels) for kernel in kernels])
    return result


@pytest.mark.parametrize("shape", [(3, 2), (5, 4), (4, 3, 2, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_similarities(seed, shape):
    rng = np.random.default_rng(seed)
    features, teacher = leaf(rng, *shape), rng.standard_normal((shape[0], 7))
    pairs = zip(neighbours(teacher), neighbours(features.data), strict=True)
    wanted = math.fsum(divergence(p, q) for p, q in pairs) / shape[0]
    np.testing.assert_allclose(similarity_loss(features, teacher).data, wanted, **EXACT)
    assert gradcheck(lambda x: similarity_loss(x, teacher), [features])


def test_three_features_worked_out_on_paper():
    """Teacher: all alike, p = (1/2, 1/2). Student: 0 and 1 alike, 2 at a right angle to both: K = 1 and 1/2.
    q_0 = q_1 = (2/3, 1/3), q_2 = (1/2, 1/2); the KLs are 1/2 log(9/8) twice and 0.
    """
    student = Tensor(np.array([[1.0, 0], [3, 0], [0, 2]]))
    loss = similarity_loss(student, np.ones((3, 1)))
    np.testing.assert_allclose(loss.data, math.log(9 / 8) / 3, atol=1e-6)  # K has 1e-7 added


def test_similarities_know_no_scale_and_no_rotation():
    rng = np.random.default_rng(2)
    features = leaf(rng, 5, 3)
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    loss = similarity_loss(features, features.data @ turn * 7)
    loss.backward()
    assert abs(loss.item()) < 1e-13 and np.abs(features.grad).max() < 1e-13


def test_features_without_a_direction_and_opposite_ones():
    features = Tensor(np.array([[0.0, 0], [1, 0], [-1, 0], [0, 1]]), requires_grad=True)
    loss = similarity_loss(features, np.eye(4))
    loss.backward()
    assert np.isfinite(loss.data) and np.isfinite(features.grad).all()


@pytest.mark.parametrize("count", [1, 2])
def test_few_images_have_nothing_to_say(count):
    features = Tensor(np.ones((count, 3)), requires_grad=True)
    loss = similarity_loss(features, np.ones((count, 2)))
    loss.backward()
    assert loss.item() == 0 and not features.grad.any()


@pytest.mark.parametrize("loss", [soft_target_loss, hint_loss, similarity_loss])
def test_a_teacher_is_a_constant_in_the_students_dtype(loss):
    student = Tensor(np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32), requires_grad=True)
    teacher = Tensor(np.random.default_rng(1).standard_normal((4, 3)), requires_grad=True)
    result = loss(student, teacher)
    result.backward()
    assert result.dtype == student.grad.dtype == np.float32
    assert teacher.grad is None


def test_faults_are_named():
    x = Tensor(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"soft_target_loss: .*teacher_logits \(4, 2\)"):
        soft_target_loss(x, np.zeros((4, 2)))
    with pytest.raises(ValueError, match="soft_target_loss: temperature must be above 0; got 0"):
        soft_target_loss(x, x, temperature=0)
    with pytest.raises(ValueError, match=r"hint_loss: .*hint \(4, 2\)"):
        hint_loss(x, np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"similarity_loss: .*teacher_features \(5, 3\)"):
        similarity_loss(x, np.zeros((5, 3)))
