"""Objectives: what they add up, and that a student trained for them comes nearer to its teacher."""

import numpy as np
import pytest

import cupynn
from cupynn import nn, ops
from cupynn.autograd import Tensor
from cupynn.optim import SGD
from cupynn.transfer import (
    CrossEntropy,
    Distillation,
    HintedStudent,
    Hints,
    ProbabilisticTransfer,
    Teacher,
    hint_loss,
    similarity_loss,
    soft_target_loss,
)

SHAPE = (1, 16, 16)


def small(seed, **options):
    cupynn.manual_seed(seed)
    return cupynn.models.create("smallnet", kernel_size=3, convolutions=4, in_channels=1, image_size=16, **options)


def batch(seed=0, count=6):
    rng = np.random.default_rng(seed)
    return Tensor(rng.standard_normal((count, *SHAPE)).astype(np.float32)), rng.integers(0, 10, count)


def descend(model, objective, steps=20, lr=0.02):
    """The losses of some steps on one batch."""
    optimiser = SGD(model.parameters(), lr=lr, momentum=0.9)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        _, loss = objective(model, *batch())
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_without_a_teacher():
    student, (images, labels) = small(0), batch()
    logits, loss = CrossEntropy(0.1)(student, images, labels)
    np.testing.assert_array_equal(loss.data, ops.cross_entropy(logits, labels, 0.1).data)
    np.testing.assert_array_equal(logits.data, student(images).data)


@pytest.mark.parametrize("weight", [0, 0.3, 1])
def test_distillation_weighs_hard_and_soft(weight):
    student, teacher, (images, labels) = small(0), Teacher(small(1)), batch()
    logits, loss = Distillation(teacher, temperature=3, weight=weight, label_smoothing=0.1)(student, images, labels)
    hard = ops.cross_entropy(logits, labels, 0.1).item()
    soft = soft_target_loss(logits, teacher(images)[0], 3).item()
    np.testing.assert_allclose(loss.item(), (1 - weight) * hard + weight * soft, rtol=1e-6)  # float32
    assert logits.shape == (6, 10) and logits.requires_grad


def test_a_distilled_student_comes_nearer_to_its_teacher():
    student, teacher = small(0), Teacher(small(1))
    before = [parameter.data.copy() for parameter in teacher.model.parameters()]
    losses = descend(student, Distillation(teacher, weight=1))
    assert losses[-1] < 0.2 * losses[0]
    assert all((p.data == b).all() and p.grad is None for p, b in zip(teacher.model.parameters(), before, strict=True))


def test_probabilistic_transfer_adds_up_over_pairs_of_any_size():
    teacher = Teacher(nn.Sequential(small(1), nn.Linear(10, 5)), ["0.9", "0.17", "1"])
    student, (images, labels) = small(0), batch()
    pairs = {"9": "0.9", "17": "1"}  # (64, 8, 8) features and 64 against 5
    logits, loss = ProbabilisticTransfer(teacher, pairs, weight=5)(student, images, labels)
    _, theirs = teacher(images)
    student = small(0)  # its running statistics have moved, which training mode does not use
    with cupynn.transfer.recorded_outputs(student, list(pairs)) as own:
        student(images)
    wanted = ops.cross_entropy(logits, labels).item()
    wanted += 5 * sum(similarity_loss(own[mine], theirs[other]).item() for mine, other in pairs.items())
    np.testing.assert_allclose(loss.item(), wanted, rtol=1e-6)
    losses = descend(student, ProbabilisticTransfer(teacher, pairs, weight=5))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ["layer", "hint_layer", "kind"],
    [("3", "6", (3, 3)), ("7", "7", (1, 1)), ("17", "17", None)],  # 8x8 to 6x6; the same size; features
)
def test_a_hinted_student_has_the_regressor_that_fits(layer, hint_layer, kind):
    """The first stage of FitNets: what lies behind the layer learns nothing."""
    teacher_model = small(1)
    if kind == (3, 3):  # 16 -> 8, then 3x3 without padding: 6
        teacher_model = nn.Sequential(
            *list(teacher_model.children())[:4], nn.Identity(), nn.Conv2d(8, 12, 3), nn.ReLU()
        )
        teacher = Teacher(nn.Sequential(*teacher_model, nn.Flatten(), nn.Linear(12 * 36, 10)), [hint_layer])
    else:
        teacher = Teacher(teacher_model, [hint_layer])
    student = small(0)
    hinted = HintedStudent(student, layer, teacher)
    if kind is None:
        assert type(hinted.regressor) is nn.Linear
    else:
        assert hinted.regressor.kernel_size == kind
    images, labels = batch()
    np.testing.assert_array_equal(hinted(images).data, student(images).data)
    logits, loss = Hints(teacher)(hinted, images, labels)
    _, regressed = hinted.guided(images)
    np.testing.assert_allclose(loss.item(), hint_loss(regressed, teacher(images)[1][hint_layer]).item(), rtol=1e-6)
    assert logits.shape == (6, 10)
    loss.backward()
    assert student[0].weight.grad is not None and hinted.regressor.weight.grad is not None
    assert list(student.children())[-1].weight.grad is None
    losses = descend(hinted, Hints(teacher), lr=1e-3)
    assert losses[-1] < 0.7 * losses[0]
    assert set(hinted.state_dict()) > {"student.0.weight", "regressor.weight"}


def test_hinting_leaves_the_students_statistics_alone_until_it_is_trained():
    student = small(0)
    HintedStudent(student, "3", Teacher(small(1), ["3"]))
    assert student.training and student[1].num_batches_tracked == 0


def test_an_expanded_student():
    teacher = Teacher(small(1), ["5"])
    student = small(0, expand="cl", rate=2)
    losses = descend(student, Distillation(teacher, weight=1), steps=5)
    assert losses[-1] < 0.9 * losses[0]
    hinted = HintedStudent(student, "5", teacher)
    losses = descend(hinted, Hints(teacher), steps=3, lr=1e-3)
    assert losses[-1] < losses[0]


def test_images_that_the_teacher_does_not_take():
    with pytest.raises(ValueError, match=r"Teacher: it takes other images than these, \(2, 3, 16, 16\): conv2d: "):
        Teacher(small(1))(np.zeros((2, 3, 16, 16), np.float32))


def test_faults_are_named():
    teacher = Teacher(small(1), ["7"])
    with pytest.raises(ValueError, match=r"Distillation: weight must lie in 0..1; got 1.5"):
        Distillation(teacher, weight=1.5)
    with pytest.raises(ValueError, match=r"ProbabilisticTransfer: pairs must name .*'7',\); got '9'"):
        ProbabilisticTransfer(teacher, {"7": "9"})
    with pytest.raises(ValueError, match="got no pair"):
        ProbabilisticTransfer(teacher, {})
    with pytest.raises(ValueError, match="weight must be at least 0; got -1"):
        ProbabilisticTransfer(teacher, {"7": "7"}, weight=-1)
    with pytest.raises(ValueError, match="HintedStudent: the teacher must give one layer"):
        HintedStudent(small(0), "7", Teacher(small(1)))
    with pytest.raises(ValueError, match=r"at least as high .* the student's gives \(32, 2, 2\), .* \(16, 4, 4\)"):
        HintedStudent(small(0), "11", teacher)
