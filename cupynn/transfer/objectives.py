"""What a network is trained for: called with (model, images, labels), an objective returns (logits, loss).

images: a tensor (N, C, H, W); labels: integers (N); logits (N, K) and the loss, a scalar, are in the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cupynn import ops
from cupynn.autograd import Tensor, no_grad
from cupynn.device import Array, xp_of
from cupynn.nn import Conv2d, Linear, Module
from cupynn.nn.evaluation import evaluation_mode
from cupynn.transfer.features import recorded_outputs
from cupynn.transfer.losses import hint_loss, similarity_loss, soft_target_loss
from cupynn.transfer.teacher import Teacher

Result = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class CrossEntropy:
    """cross_entropy(logits, labels): what a network is trained for that has no teacher."""

    label_smoothing: float = 0.0

    def __call__(self, model: Module, images: Tensor, labels: Array) -> Result:
        logits = model(images)
        return logits, ops.cross_entropy(logits, labels, self.label_smoothing)


@dataclass(frozen=True)
class Distillation:
    """(1 - weight) cross_entropy(logits, labels) + weight T^2 KL(teacher's softmax at T || softmax at T).

    See `soft_target_loss`. label_smoothing is the cross-entropy's. Raises ValueError for a weight outside 0 .. 1.
    """

    teacher: Teacher
    temperature: float = 4.0
    weight: float = 0.9
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"Distillation: weight must lie in 0..1; got {self.weight!r}")

    def __call__(self, model: Module, images: Tensor, labels: Array) -> Result:
        teacher_logits, _ = self.teacher(images)
        logits = model(images)
        hard = ops.cross_entropy(logits, labels, self.label_smoothing)
        soft = soft_target_loss(logits, teacher_logits, self.temperature)
        return logits, (1 - self.weight) * hard + self.weight * soft


@dataclass(frozen=True)
class ProbabilisticTransfer:
    """cross_entropy(logits, labels) + weight sum of `similarity_loss` over pairs of layers.

    pairs: {name of a module of the student: name of one of the teacher's `layers`}.
    Raises ValueError where the teacher does not give one of its layers, or for a weight below 0.
    """

    teacher: Teacher
    pairs: Mapping[str, str]
    weight: float = 1.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"ProbabilisticTransfer: weight must be at least 0; got {self.weight!r}")
        if not self.pairs or (missing := [name for name in self.pairs.values() if name not in self.teacher.layers]):
            what = f"{missing[0]!r}" if self.pairs else "no pair"
            raise ValueError(
                f"ProbabilisticTransfer: pairs must name layers that the teacher gives, {self.teacher.layers}; "
                f"got {what}"
            )

    def __call__(self, model: Module, images: Tensor, labels: Array) -> Result:
        _, wanted = self.teacher(images)
        with recorded_outputs(model, list(self.pairs)) as own:
            logits = model(images)
        loss = ops.cross_entropy(logits, labels, self.label_smoothing)
        for name, teacher_name in self.pairs.items():
            loss = loss + self.weight * similarity_loss(own[name], wanted[teacher_name])
        return logits, loss


class HintedStudent(Module):
    """A student with a regressor from its `layer` to a teacher's, for the first of FitNets' two stages.

    Stage 1 trains it with the objective `Hints`: gradients reach the student up to `layer`, and the regressor. Stage 2
    trains `student` alone, with `Distillation`. As a network it is the student: forward gives the student's logits.
    State: `student.…` and `regressor.weight`, `regressor.bias`.

    The regressor is a convolution without padding whose kernel makes the student's (C, H, W) the teacher's (C', H', W')
    [Romero et al. 2015, Sec. 2.2], or for features (C) a fully connected layer.
    input_shape: (C, H, W) of the images, the student's own `input_shape` if not given.

    Raises ValueError for a teacher without exactly one layer, a name the student has not, and features that no such
    regressor connects.
    """

    def __init__(self, student: Module, layer: str, teacher: Teacher, input_shape: tuple[int, ...] | None = None):
        if len(teacher.layers) != 1:
            raise ValueError(f"HintedStudent: the teacher must give one layer, the hint; it gives {teacher.layers}")
        like = next(student.parameters()).data
        blank = Tensor(xp_of(like).zeros((1, *(input_shape or student.input_shape)), like.dtype))
        with no_grad(), evaluation_mode(student), recorded_outputs(student, [layer]) as own:
            student(blank)
        _, hints = teacher(blank)
        self.student, self.layer = student, layer
        self.regressor = _regressor(own[layer].shape[1:], hints[teacher.layers[0]].shape[1:]).astype(like.dtype)

    def forward(self, x):
        return self.student(x)

    def guided(self, x: Tensor) -> Result:
        """The student's logits, and its layer's output through the regressor."""
        with recorded_outputs(self.student, [self.layer]) as own:
            logits = self.student(x)
        return logits, self.regressor(own[self.layer])


@dataclass(frozen=True)
class Hints:
    """`hint_loss` alone, of a `HintedStudent` and its teacher's one layer."""

    teacher: Teacher

    def __call__(self, model: HintedStudent, images: Tensor, labels: Array) -> Result:
        _, hints = self.teacher(images)
        logits, regressed = model.guided(images)
        return logits, hint_loss(regressed, hints[self.teacher.layers[0]])


def _regressor(own: tuple[int, ...], hint: tuple[int, ...]) -> Conv2d | Linear:
    """From a student's feature of shape (C, H, W) or (C) to a teacher's, shapes without N."""
    if len(own) == len(hint) == 1:
        return Linear(own[0], hint[0])
    if len(own) == len(hint) == 3 and own[1] >= hint[1] and own[2] >= hint[2]:
        return Conv2d(own[0], hint[0], (own[1] - hint[1] + 1, own[2] - hint[2] + 1))
    raise ValueError(
        "HintedStudent: the student's layer must give (C, H, W), at least as high and wide as the teacher's "
        f"(C', H', W'), or both (C); the student's gives {own}, the teacher's {hint}"
    )
