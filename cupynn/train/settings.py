"""The recipe of a training run."""

from __future__ import annotations

import dataclasses
import math
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cupynn.data import ColourJitter, HorizontalFlip, Lighting, RandomCrop, Transform
from cupynn.optim import Group, schedules

SCHEDULES = ("constant", "cosine", "linear", "multistep")
PRECISIONS = ("float32", "float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Stochastic gradient descent with momentum, batch by batch.

    schedule: the factor on `lr`: "constant" is 1; "cosine" falls from 1 to 0 over the run, batch by batch;
        "linear" does so in a line, and is 0 from the one epoch in `milestones` on, if there is one; "multistep" is
        multiplied by `milestone_factor` at each epoch of `milestones` (epochs count from 0).
    warm_up: in so many epochs, or parts of one, the factor rises linearly from `warm_up_from` to 1, batch by batch.
    decay_biases: False leaves weight decay out for parameters with one dimension: biases, scales of norms.
    clip_norm: the most that all gradients together may have as their norm; 0 for no limit.
    label_smoothing: the share of a target's weight that all classes get in equal parts.
    teacher: run folder or file of a trained network whose logits are learned too, at `temperature` and with the share
        `teacher_weight` of the loss, see `cupynn.transfer.Distillation`.
    product_decay: weight decay of the kernels that expanded layers contract to, see `cupynn.transfer.product_norm`.
    frozen: names of modules that are not trained.
    precision: the type of activations and their gradients, "float32", "float16" or "bfloat16"; parameters, their
        gradients, statistics and losses stay float32, as does evaluation. With "float16" the loss is scaled, see
        `cupynn.optim.LossScale`; "bfloat16" needs the package ml_dtypes.
    synchronise_batch_norm: with several ranks, batch norm takes its statistics over all of them, not over its own part.
    groups: parameters with a learning rate or weight decay of their own, see `cupynn.optim.Group`.
    crop: pixels of black border for random crops; 0 for none. flip: mirror half of the images, at random.
    colour_jitter: brightness, contrast and saturation change by factors of up to 1 -+ so much; 0 for none.
    lighting: deviation of the random colour along ImageNet's principal components; 0 for none.
    seed: of order, augmentation and dropout. The weights are drawn before, when the model is made.
    workers: threads that read and augment batches ahead; they change no number.
    cuda_graph: on a GPU the step of a whole batch is recorded once and launched as one CUDA graph, see
        `cupynn.captured`; it changes no number. With several ranks and on the CPU steps just run.
    keep: how many checkpoints are kept besides the best weights; 0: none are written. One is written before the first
        step, after each epoch, after every `checkpoint_steps` steps of an epoch (0: no such ones), and once
        `checkpoint_seconds` have passed since the last one.

    Raises ValueError for values out of range.
    """

    epochs: int = 10
    batch_size: int = 64
    lr: float = 0.05
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_biases: bool = True
    schedule: str = "cosine"
    milestones: tuple[float, ...] = ()
    milestone_factor: float = 0.1
    warm_up: float = 0.0
    warm_up_from: float = 0.1
    clip_norm: float = 0.0
    label_smoothing: float = 0.0
    teacher: str | None = None
    temperature: float = 4.0
    teacher_weight: float = 0.9
    product_decay: float = 0.0
    frozen: tuple[str, ...] = ()
    crop: int = 0
    flip: bool = False
    colour_jitter: float = 0.0
    lighting: float = 0.0
    seed: int = 0
    workers: int = 0
    keep: int = 2
    checkpoint_seconds: float = 600.0
    checkpoint_steps: int = 0
    precision: str = "float32"
    synchronise_batch_norm: bool = False
    cuda_graph: bool = False
    groups: tuple[Group, ...] = ()

    def __post_init__(self) -> None:
        for name, value in vars(self).items():  # what comes back from JSON, so that it is equal to what was written
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
            elif isinstance(value, np.generic):
                object.__setattr__(self, name, value.item())
            elif isinstance(value, os.PathLike):
                object.__setattr__(self, name, os.fspath(value))
        least = {"epochs": 1, "batch_size": 1, "momentum": 0, "weight_decay": 0, "milestone_factor": 0, "warm_up": 0}
        least |= {"warm_up_from": 0, "clip_norm": 0, "label_smoothing": 0, "crop": 0, "seed": 0, "workers": 0}
        least |= {"teacher_weight": 0, "product_decay": 0, "colour_jitter": 0, "lighting": 0}
        for name, bound in {**least, "keep": 0, "checkpoint_seconds": 0, "checkpoint_steps": 0}.items():
            if not getattr(self, name) >= bound:
                raise ValueError(f"Settings: {name} must be at least {bound}; got {getattr(self, name)}")
        for name, value in dataclasses.asdict(self).items():
            if value == math.inf and name not in ("lr", "temperature", "clip_norm", "checkpoint_seconds"):
                raise ValueError(f"Settings: {name} must be finite; got {value}")
        if not all(0 <= epoch < math.inf for epoch in self.milestones):
            raise ValueError(f"Settings: milestones are epochs, at least 0 and finite; got {self.milestones}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"Settings: lr must be above 0 and finite; got {self.lr}")
        for name in ("label_smoothing", "teacher_weight", "colour_jitter"):
            if getattr(self, name) > 1:
                raise ValueError(f"Settings: {name} must be at most 1; got {getattr(self, name)}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"Settings: temperature must be above 0 and finite; got {self.temperature}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("Settings: nesterov needs momentum above 0; momentum is 0")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"Settings: schedule must be one of {', '.join(SCHEDULES)}; got {self.schedule!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"Settings: precision must be one of {', '.join(PRECISIONS)}; got {self.precision!r}")
        most = {"multistep": math.inf, "linear": 1}.get(self.schedule, 0)
        if not (self.schedule == "multistep") <= len(self.milestones) <= most:
            raise ValueError(
                f'Settings: milestones belong to schedule "multistep", and at most one to "linear"; '
                f"got schedule={self.schedule!r}, milestones={self.milestones}"
            )
        if self.schedule == "linear" and not self.warm_up < self._end:
            raise ValueError(f"Settings: warm_up must be less than {self._end}, where lr is 0; got {self.warm_up}")
        self.lr_factor()  # what the schedule itself refuses

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Settings:
        """Settings from a table of JSON or TOML, such as the one in a run's config.json; what is not in it is default.

        Arrays stand for tuples, tables for groups. Raises ValueError naming the entry that is unknown, of another
        type, or out of range.
        """
        return from_table(cls, table, "Settings")

    def lr_factor(self) -> Callable[[float], float]:
        """The schedule as a function of the epoch, which may have a fraction."""
        if self.schedule == "cosine":
            return schedules.Cosine(self.epochs, self.warm_up, self.warm_up_from)
        if self.schedule == "linear":
            return schedules.WarmUp(lambda epoch: max(1 - epoch / self._end, 0.0), self.warm_up, self.warm_up_from)
        steps = schedules.MultiStep(self.milestones, self.milestone_factor)  # no milestones: constant
        return schedules.WarmUp(steps, self.warm_up, self.warm_up_from)

    @property
    def _end(self) -> float:
        """The epoch in which a linear schedule comes to 0."""
        return self.milestones[0] if self.milestones else self.epochs

    def transforms(self) -> list[Transform]:
        """The random changes of training images."""
        crop = [RandomCrop(self.crop)] if self.crop else []
        jitter = [ColourJitter(*[self.colour_jitter] * 3)] if self.colour_jitter else []
        lighting = [Lighting(self.lighting)] if self.lighting else []
        return crop + [HorizontalFlip()] * self.flip + jitter + lighting


def from_table(kind: type, table: Any, where: str) -> Any:
    """The dataclass `kind` from a table, whose errors begin with `where`; see `Settings.from_table`."""
    if not isinstance(table, Mapping):
        raise ValueError(f"{where}: expected a table of settings; got {table!r}")
    hints = typing.get_type_hints(kind)
    if unknown := [name for name in table if name not in hints]:
        raise ValueError(f"{where}: there is no {unknown[0]!r}; there are {', '.join(hints)}")
    return kind(**{name: converted(value, hints[name], f"{where}: {name}") for name, value in table.items()})


def converted(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type of a field: int, float, bool, str, None, a dataclass, tuples of these, or one of several.

    Raises ValueError, which begins with `where`, for a value of another type.
    """
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind is Sequence:
        kind, inner = tuple, (*inner, ...)
    if kind in (types.UnionType, typing.Union):
        for choice in inner:
            try:
                return converted(value, choice, where)
            except ValueError:
                continue
    elif kind is tuple and isinstance(value, (list, tuple)):
        inners = [inner[0]] * len(value) if inner[-1] is ... else list(inner)
        if len(inners) == len(value):
            parts = zip(value, inners, strict=True)
            return tuple(converted(part, hint, f"{where}[{number}]") for number, (part, hint) in enumerate(parts))
    elif dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_table(hint, value, where)
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif type(value) is hint:
        return value
    raise ValueError(f"{where} must be {_wanted(hint)}; got {value!r}")


def _wanted(hint: Any) -> str:
    """A field's type in words; None is not among them, since no table of TOML says it."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind in (types.UnionType, typing.Union):
        return " or ".join(_wanted(choice) for choice in inner if choice is not types.NoneType)
    if kind is tuple and inner[-1] is not ...:
        return f"an array of {len(inner)}"
    return "an array" if kind in (tuple, Sequence) else NAMES.get(hint, "a table")


NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
