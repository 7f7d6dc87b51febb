"""One step of training: forward, loss, backward, and SGD by the settings' schedules."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from cupynn.autograd import Tensor
from cupynn.device import Array, dtype_named, generator
from cupynn.distributed import GradientSum, World
from cupynn.nn import Module
from cupynn.optim import SGD, LossScale, clip_grad_norm, plan
from cupynn.step_graph import captured
from cupynn.train.diagnosis import Lost, explain_loss, what_is_lost
from cupynn.train.settings import Settings
from cupynn.transfer import CrossEntropy, Distillation, Teacher, freeze, product_norm

Objective = Callable[[Module, Tensor, Array], tuple[Tensor, Tensor]]  # model, images, labels -> logits, loss


def objective_of(settings: Settings) -> Objective:
    """What the settings say a network is trained for: the labels alone, or a teacher's logits too."""
    if settings.teacher is None:
        return CrossEntropy(settings.label_smoothing)
    teacher = Teacher.load(settings.teacher)
    return Distillation(teacher, settings.temperature, settings.teacher_weight, settings.label_smoothing)


class Descent:
    """A model with its objective (default: the settings') and its optimiser, whose groups of parameters follow the
    schedules of `settings`.

    With settings.precision "float16" or "bfloat16" images are made that type before the model sees them, and so are all
    activations; parameters, their gradients, and the loss are float32. `loss_scale` is None but with "float16".
    Raises ImportError where bfloat16 needs a package that is not there.
    """

    def __init__(self, model: Module, settings: Settings, objective: Objective | None, world: World):
        self.model, self.settings, self.world = model, settings, world
        self.objective = objective or objective_of(settings)
        self._dtype = None if settings.precision == "float32" else dtype_named(settings.precision)
        self.loss_scale = LossScale() if settings.precision == "float16" else None
        freeze(model, settings.frozen)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(f"fit: {type(model).__name__} has no parameter to train; frozen is {settings.frozen}")
        if settings.product_decay:
            product_norm(model)  # what it refuses, before anything is written
        self._parameters = list(model.parameters())
        self._gradients = GradientSum(self._parameters, world)
        self._groups = plan(model, settings.groups, settings.weight_decay, settings.decay_biases)
        self._lr_factor = settings.lr_factor()
        self.optimizer = SGD(
            [{"params": group.parameters} for group in self._groups],
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
        )
        # Several ranks sum gradients in the middle of a step: a graph of one GPU does not.
        self._captured = captured(self._run) if settings.cuda_graph and world.size == 1 else self._run

    @property
    def lr(self) -> float:
        """The learning rate of the last step, of parameters that have none of their own."""
        return self.optimizer.param_groups[0]["lr"]

    def step(self, images: Array, labels: Array, place: float, watch: bool) -> tuple[Tensor, Tensor]:
        """Move the weights once; returns the loss and logits of this rank's part of the batch. `place` is the epoch
        with its fraction.

        watch: read the loss, which waits for the device, and raise Lost where it is not finite, before any weight
        moves; the random generator is then where it was before the step. With a loss scale Lost is raised where no
        scale helps; without `watch`, `need_scale` raises it later.

        With a loss scale weights stay where they are in a step whose gradients are not finite.
        """
        for group, planned in zip(self.optimizer.param_groups, self._groups, strict=True):
            group["lr"] = self.settings.lr * self._lr_factor(place) * planned.lr
            group["weight_decay"] = planned.weight_decay(place)
        if not watch:
            # A smaller last batch would take a graph, and its memory, for one step of an epoch.
            run = self._captured if len(labels) == self.settings.batch_size else self._run
            return run(images, labels)
        drawn = generator().bit_generator.state
        loss, logits = self._forward(images, labels)
        if any(self.world.largest(not math.isfinite(loss.data))):
            generator().bit_generator.state = drawn
            where = explain_loss(self.model, self._narrowed(images), labels)  # on all ranks: batch norm may need all
            lost = not math.isfinite(loss.data)
            raise Lost(
                self.world.first(f"the loss became {float(loss.data)}" if lost else ""),
                self.world.first(where if lost else ""),
            )
        self._backward(loss, len(labels))
        self.need_scale()
        return loss, logits

    def need_scale(self) -> None:
        """Raise Lost where gradients were not finite at any scale of the loss. Waits for the device."""
        if self.loss_scale is not None and self.loss_scale.exhausted:
            raise Lost(
                "the gradients are not finite in float16",
                f"no scale of the loss helps, down to {2 * self.loss_scale.scale:g}; {self._lost_gradient()}",
            )

    def _run(self, images: Array, labels: Array) -> tuple[Tensor, Tensor]:
        """A step that waits for nothing: loss and logits."""
        loss, logits = self._forward(images, labels)
        self._backward(loss, len(labels))
        return loss, logits

    def _narrowed(self, images: Array) -> Array:
        return images if self._dtype is None else images.astype(self._dtype)

    def _forward(self, images: Array, labels: Array) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad()
        logits, loss = self.objective(self.model, Tensor(self._narrowed(images)), labels)
        if self.settings.product_decay:
            loss = loss + product_norm(self.model) * (self.settings.product_decay / 2)
        return loss, logits

    def _backward(self, loss: Tensor, images: int) -> None:
        """Gradients of the mean loss over all ranks' images, and the move along them."""
        scale, finite = self.loss_scale, None
        if scale is None:
            self._gradients.backward(loss, images)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                self._gradients.backward(loss * scale.factor, images)
            # All ranks have the same sums of gradients, and so the same answer.
            finite = scale.unscale(self._parameters)
            scale.update(finite)
        if self.settings.clip_norm:
            clip_grad_norm(self._parameters, self.settings.clip_norm)
        self.optimizer.step(where=finite)

    def _lost_gradient(self) -> str:
        """The parameter nearest the output whose gradient holds NaN or infinity, in words."""
        grads = {name: parameter.grad for name, parameter in self.model.named_parameters()}
        lost = [name for name, grad in grads.items() if grad is not None and what_is_lost(grad)]
        return f"it was lost first for {lost[-1]}" if lost else "on this rank they are"
