"""SeqConv: groups of k channels, one after another, each from the input and the groups before it. [SeqConv]

    raw_j = conv3x3(view_j) (+ channels [j k, (j + 1) k) of the shortcut)          act_j = relu(batch_norm(raw_j))

view_0 is the input x, of C channels. Dense: view_(j+1) is view_j and act_j, windowed: without the k oldest channels.
With a reduction (SeqConvB) the 3x3 convolution reads relu(batch_norm(conv1x1(view_j))) instead, which has k channels.

x and all act_j stand side by side in one buffer (N, C + G k, H, W). A view is a range of its channels, read in place,
and a group writes its own channels; nothing is concatenated. Backward does the same with the gradient, from the
last group to the first: every group adds to the channels it has read. Kept for backward are the buffer, raw, and what
the reductions give before and after their batch norm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cupynn.autograd import Function
from cupynn.device import Array, compute_dtype, xp_of
from cupynn.kernels import conv
from cupynn.ops.arguments import need_images
from cupynn.ops.batch_norm import BatchNormEvaluation, BatchNormTraining
from cupynn.ops.dropout import ChannelDropout


class NormalisedConv(NamedTuple):
    """A convolution's weight, the batch norm's weight and bias (k) and running statistics (k), changed in place."""

    weight: Any
    scale: Any
    shift: Any
    running_mean: Array
    running_var: Array


class SeqConvGroup(NamedTuple):
    """conv, with weight (k, view's channels, 3, 3); or reduction, with weight (k, view's channels, 1, 1), and behind it
    conv, with weight (k, k/subgroups, 3, 3)."""

    conv: NormalisedConv
    reduction: NormalisedConv | None = None

    @property
    def stages(self) -> list[NormalisedConv]:
        """In the order of forward."""
        return [stage for stage in (self.reduction, self.conv) if stage is not None]


class _Stage:
    """relu(batch_norm(raw)) with raw = conv(x) + shortcut, both written to the arrays it is given."""

    def __init__(self, weight: Array, subgroups: int, norm: Function, raw: Array):
        self.weight, self.norm, self.raw = weight, norm, raw
        self.options = {"padding": weight.shape[2] // 2, "groups": subgroups}

    def forward(self, x, scale, shift, shortcut):
        conv.forward(x, self.weight, out=self.raw, **self.options)
        if shortcut is not None:
            self.raw += shortcut
        self.norm.forward(self.raw, scale, shift)

    def backward(self, grad, x, needed, add_to, grad_raw=None, total=None):
        """(dx, [dweight, dscale, dshift]) of grad, which arrives at the result. dx is None unless needed, and added to
        `add_to` if there is one. `grad_raw` arrives at raw; all that arrives there is written to `total`, if given."""
        draw, dscale, dshift = self.norm.backward(grad)
        if grad_raw is not None:
            draw = xp_of(draw).add(draw, grad_raw, out=draw if total is None else total)
        needs = (needed, True, False)
        dx, dweight, _ = conv.backward(draw, x, self.weight, needs=needs, add_to=add_to, **self.options)
        return dx, [dweight, dscale, dshift]


def _group_backward(stages, mask, view, dview, grad, at_raw) -> list[Array]:
    """The gradients of one group's parameters; the gradient to its view is added to `dview`, unless that is None."""
    inputs = [view if mask is None else view * mask, *(stage.norm.out for stage in stages[:-1])]
    results = []
    for i in reversed(range(len(stages))):
        add_to = dview if i == 0 and mask is None else None
        grad, gradients = stages[i].backward(grad, inputs[i], i > 0 or dview is not None, add_to, *at_raw)
        results[:0], at_raw = gradients, ()
    if mask is not None and dview is not None:
        grad *= mask
        dview += grad
    return results


class SeqConv(Function):
    """(raw, act) of x, the shortcut or None, and weight, scale, shift of every stage of every group."""

    def forward(self, x, shortcut, *parameters):
        xp, k, (n, channels, *size) = xp_of(x), self.k, x.shape
        width = len(self.running) * k
        buffer, raw = xp.empty((n, channels + width, *size), x.dtype), xp.empty((n, width, *size), x.dtype)
        buffer[:, :channels] = x
        recording, parameters = any(self.needs_grad), iter(parameters)
        self.steps, kept = [], [buffer, raw]
        for j, running in enumerate(self.running):
            view, own, mask = buffer[:, self._window(j, channels)], slice(j * k, (j + 1) * k), None
            if self.training and self.dropout:
                dropout = ChannelDropout(p=self.dropout)
                view, (mask,) = dropout.forward(view), dropout.saved
            stages = []
            for statistics in running:
                last = len(stages) + 1 == len(running)
                inner = None if last else xp.empty((2, n, k, *size), x.dtype)
                to, act = (raw[:, own], buffer[:, channels:][:, own]) if last else inner
                weight, scale, shift = (next(parameters) for _ in range(3))
                stage = _Stage(weight, self.subgroups if last else 1, self._norm(statistics, act), to)
                stage.forward(view, scale, shift, shortcut[:, own] if last and shortcut is not None else None)
                stages.append(stage)
                view = act
                if recording and not last:
                    kept.append(inner)
            if recording:
                self.steps.append((stages, mask))
                kept += [] if mask is None else [mask]
        if recording:
            self.save(*kept)
        return raw, buffer[:, channels:]

    def backward(self, grad_raw, grad_act):
        buffer, raw, *_ = self.saved
        xp, k, channels = xp_of(buffer), self.k, buffer.shape[1] - raw.shape[1]
        gradient = xp.empty_like(buffer)
        gradient[:, :channels] = 0
        gradient[:, channels:] = grad_act
        dshortcut = xp.empty_like(raw) if self.needs_grad[1] else None
        results = []
        for j in reversed(range(len(self.steps))):
            window, own = self._window(j, channels), slice(j * k, (j + 1) * k)
            at_raw = grad_raw[:, own], None if dshortcut is None else dshortcut[:, own]
            dview = gradient[:, window] if j > 0 or self.needs_grad[0] else None
            results[:0] = _group_backward(
                *self.steps[j], buffer[:, window], dview, gradient[:, channels:][:, own], at_raw
            )
        return gradient[:, :channels] if self.needs_grad[0] else None, dshortcut, *results

    def _window(self, j: int, channels: int) -> slice:
        """The buffer's channels that group j sees."""
        return slice(j * self.k if self.windowed else 0, channels + j * self.k)

    def _norm(self, running: tuple[Array, Array], act: Array) -> Function:
        """The batch norm that writes to `act`."""
        options = {"running_mean": running[0], "running_var": running[1], "eps": self.eps, "relu": True, "out": act}
        if self.training:
            return self.training_norm(momentum=self.momentum, **options)
        return BatchNormEvaluation(needs_grad=self.needs_grad, **options)


def seq_conv(
    x,
    groups: Sequence[SeqConvGroup],
    shortcut=None,
    windowed: bool = True,
    subgroups: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    training_norm: Callable[..., Function] = BatchNormTraining,
):
    """(raw, act), both (N, G k, H, W), of x (N, C, H, W) and G groups; see the top of this file. [SeqConv]

    raw is what stands before the groups' batch norms, shortcut (N, G k, H, W) included. `subgroups` divide the 3x3
    convolutions behind reductions. While training, batch norm is `ops.batch_norm`'s with the batch's statistics, and
    `dropout` is the probability that a channel of an image is dropped from a group's view: drawn anew for each group,
    the others' views keep it. `training_norm` makes another batch norm for training, with BatchNormTraining's options.

    Raises ValueError for shapes that do not fit, TypeError for dtypes that differ, before a running statistic changes.
    """
    _check(x, groups, shortcut, windowed, subgroups, dropout)
    function = SeqConv(
        k=groups[0].conv.weight.shape[0],
        running=[[(stage.running_mean, stage.running_var) for stage in group.stages] for group in groups],
        windowed=windowed,
        subgroups=subgroups,
        dropout=dropout,
        training=training,
        momentum=momentum,
        eps=eps,
        training_norm=training_norm,
    )
    return function(x, shortcut, *(array for group in groups for stage in group.stages for array in stage[:3]))


def _check(x, groups, shortcut, windowed, subgroups, dropout):
    need_images("seq_conv", x)
    if not groups:
        raise ValueError("seq_conv: groups must be one or more; got none")
    if not 0 <= dropout <= 1:
        raise ValueError(f"seq_conv: dropout must be a probability from 0 to 1; got {dropout!r}")
    reduced, k = groups[0].reduction is not None, groups[0].conv.weight.shape[0]
    if subgroups < 1 or k % subgroups or (subgroups > 1 and not reduced):
        raise ValueError(
            f"seq_conv: subgroups must divide the k={k} channels that a reduction leaves, and be 1 without reductions; "
            f"got {subgroups}"
        )
    if windowed and x.shape[1] < k:
        raise ValueError(f"seq_conv: a window moves by k={k} channels, so x needs as many; x has shape {x.shape}")
    wanted = {}
    for j, group in enumerate(groups):
        if (group.reduction is not None) != reduced:
            raise ValueError(f"seq_conv: all groups or none have a reduction; group {j} differs from group 0")
        view = x.shape[1] + (0 if windowed else j * k)
        shapes = [(k, view, 1, 1), (k, k // subgroups, 3, 3)] if reduced else [(k, view, 3, 3)]
        for stage, shape in zip(group.stages, shapes, strict=True):
            name = f"group {j}'s {'reduction' if shape[2] == 1 else 'conv'}"
            for field, array in stage._asdict().items():
                wanted[f"{name}.{field}"] = array, shape if field == "weight" else (k,)
    if shortcut is not None:
        wanted["shortcut"] = shortcut, (x.shape[0], len(groups) * k, *x.shape[2:])
    for name, (array, shape) in wanted.items():
        if tuple(array.shape) != shape:
            raise ValueError(f"seq_conv: x has shape {x.shape}, so {name} must be {shape}; it has shape {array.shape}")
        dtype = x.dtype if name == "shortcut" else compute_dtype(x.dtype)
        if array.dtype != dtype:
            raise TypeError(f"seq_conv: {name} must be {dtype} where x is {x.dtype}; it is {array.dtype}")
