"""SeqConv: groups of k channels, one after another, each from the input and the groups before it. [SeqConv]

    raw_j = conv3x3(view_j) (+ channels [j k, (j + 1) k) of the shortcut)          act_j = relu(batch_norm(raw_j))

view_0 is the input x, of C channels. Dense: view_(j+1) is view_j and act_j, windowed: without the k oldest channels.
With a reduction (SeqConvB) the 3x3 convolution reads relu(batch_norm(conv1x1(view_j))) instead, which has k channels.

x and all act_j stand side by side in one buffer (N, C + G k, H, W). A view is a range of its channels, read in place,
and a group writes its own channels; nothing is concatenated.

A group's first convolution is a sum over its view. Wide convolutions add to the sums of many groups what many channels
give them, as soon as these channels are complete (a *push*): x to all groups, then the first half of the groups to the
second half, and within each half the same. Backward takes the same steps from the last to the first. Dropout is no
obstacle: each group's mask of channels becomes factors of its weights, for every image (`kernels.conv_scaled`).
Kept for backward are the buffer, raw, and what the reductions give before and after their batch norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from cupynn.autograd import Function
from cupynn.device import Array, compute_dtype, xp_of
from cupynn.kernels import conv, conv_scaled
from cupynn.ops.arguments import need_images
from cupynn.ops.batch_norm import BatchNormEvaluation, BatchNormTraining
from cupynn.ops.dropout import draw_mask

PART = 56  # channels that x gives to at once, at least, where it pays to leave out what they do not see


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


class _Push(NamedTuple):
    """What some of the buffer's channels give to the groups [first, last), which come later."""

    channels: slice
    first: int
    last: int


def _steps(first: int, last: int, channels: int, k: int) -> Iterator[int | _Push]:
    """What makes the groups [first, last), in order: numbers of groups, whose sums are then complete, and pushes.

    Halves come one after another, and between them all that the first half gives to the second. So most is computed
    for many groups at once, from many channels at once.
    """
    if last - first == 1:
        yield first
        return
    middle = (first + last) // 2
    yield from _steps(first, middle, channels, k)
    yield _Push(slice(channels + first * k, channels + middle * k), middle, last)
    yield from _steps(middle, last, channels, k)


class SeqConv(Function):
    """(raw, act) of x, the shortcut or None, and weight, scale, shift of every stage of every group."""

    def forward(self, x, shortcut, *parameters):
        xp, k, count, (n, channels, *size) = xp_of(x), self.k, len(self.running), x.shape
        width, reduced, recording = count * k, len(self.running[0]) == 2, any(self.needs_grad)
        buffer, raw = xp.empty((n, channels + width, *size), x.dtype), xp.empty((n, width, *size), x.dtype)
        buffer[:, :channels] = x
        sums = xp.empty_like(raw) if reduced else raw  # what groups are given: pushes write here
        inner = xp.empty_like(raw) if reduced and recording else None
        learned = [parameters[j * len(parameters) // count : (j + 1) * len(parameters) // count] for j in range(count)]
        weights, masks = self._wide_weights(learned, channels), self._masks(x, channels)
        if shortcut is not None and not reduced:
            raw[...] = shortcut
        norms = []
        for step in self._order(channels):
            if isinstance(step, _Push):
                weight, mask = _part(weights, masks, step, k)
                add = step.channels.start >= channels or (shortcut is not None and not reduced)
                conv_scaled.forward(buffer[:, step.channels], weight, sums[:, _of(step, k)], mask, add)
                continue
            own = slice(step * k, (step + 1) * k)
            stages = [self._norm(statistics) for statistics in self.running[step]]
            if reduced:
                stages[0].out = xp.empty((n, k, *size), x.dtype) if inner is None else inner[:, own]
                view = stages[0].forward(sums[:, own], *learned[step][1:3])
                weight = learned[step][3]
                conv.forward(view, weight, padding=1, groups=self.subgroups, out=raw[:, own])
                if shortcut is not None:
                    raw[:, own] += shortcut[:, own]
            stages[-1].out = buffer[:, channels:][:, own]
            stages[-1].forward(raw[:, own], *learned[step][-2:])
            norms.append(stages)
        if recording:
            self.norms, self.conv_weights = norms, [group[-3] for group in learned]
            self.save(buffer, raw, inner, weights, masks)
        return raw, buffer[:, channels:]

    def backward(self, grad_raw, grad_act):
        buffer, raw, inner, weights, masks = self.saved
        xp, k, channels, reduced = xp_of(buffer), self.k, buffer.shape[1] - raw.shape[1], inner is not None
        # gradients at the buffer; once a group's is complete, the gradient at its sums takes its place
        gradient = xp.empty_like(buffer)
        gradient[:, channels:] = grad_act
        at_sums = gradient[:, channels:]
        dshortcut = at_sums if not reduced else xp.empty_like(raw) if self.needs_grad[1] else None
        results, dweights = [], xp.zeros_like(weights)
        for step in reversed(list(self._order(channels))):
            if isinstance(step, _Push):
                weight, mask = _part(weights, masks, step, k)
                grad, view = at_sums[:, _of(step, k)], buffer[:, step.channels]
                dweights[_of(step, k), step.channels] = conv_scaled.weight_gradient(grad, view, weight, mask)
                if step.channels.start >= channels or self.needs_grad[0]:
                    # What the first group's part gives to all of x is the first to arrive there.
                    conv_scaled.input_gradient(grad, weight, gradient[:, step.channels], mask, add=step.first > 0)
                continue
            own = slice(step * k, (step + 1) * k)
            draw, *learned = self.norms[step][-1].backward(at_sums[:, own])
            target = at_sums[:, own] if not reduced else draw if dshortcut is None else dshortcut[:, own]
            draw = xp.add(draw, grad_raw[:, own], out=target)
            if reduced:
                options = {"padding": 1, "groups": self.subgroups, "needs": (True, True, False)}
                draw, dweight, _ = conv.backward(draw, inner[:, own], self.conv_weights[step], **options)
                draw, *reduction = self.norms[step][0].backward(draw)
                learned = [*reduction, dweight, *learned]
                at_sums[:, own] = draw
            results.append(learned)
        for j, learned in enumerate(reversed(results)):
            learned.insert(0, dweights[j * k : (j + 1) * k, self._window(j, channels)])
        gradients = (array for learned in reversed(results) for array in learned)
        return (
            gradient[:, :channels] if self.needs_grad[0] else None,
            dshortcut if self.needs_grad[1] else None,
            *gradients,
        )

    def _order(self, channels: int) -> Iterator[int | _Push]:
        """All steps of forward. Backward takes them from the last to the first."""
        # A windowed group does not see all of x: parts of the groups skip what none of them sees.
        count = len(self.running)
        parts = min(count, max(1, count * self.k // PART)) if self.windowed else 1
        for part in reversed(range(parts)):
            first, last = part * count // parts, (part + 1) * count // parts
            yield _Push(slice(min(first * self.k, channels - 1), channels), first, last)
        yield from _steps(0, len(self.running), channels, self.k)

    def _window(self, j: int, channels: int) -> slice:
        """The buffer's channels that group j sees."""
        return slice(j * self.k if self.windowed else 0, channels + j * self.k)

    def _wide_weights(self, learned, channels: int) -> Array:
        """The first weights of all groups as one, for all channels of the buffer: 0 where a group does not see one."""
        first, k, count = learned[0][0], self.k, len(learned)
        wide = xp_of(first).zeros((count * k, channels + (count - 1) * k, *first.shape[2:]), first.dtype)
        for j, group in enumerate(learned):
            wide[j * k : (j + 1) * k, self._window(j, channels)] = group[0]
        return wide

    def _masks(self, x: Array, channels: int) -> Array | None:
        """(N, groups, buffer's channels): what every group multiplies its view by, while training with dropout."""
        if not self.training or not self.dropout:
            return None
        count, dtype = len(self.running), compute_dtype(x.dtype)
        masks = xp_of(x).zeros((len(x), count, channels + (count - 1) * self.k), dtype)
        for j in range(count):
            view = masks[:, j, self._window(j, channels)]
            view[...] = draw_mask(self.dropout, view.shape, x, dtype)
        return masks

    def _norm(self, running: tuple[Array, Array]) -> Function:
        options = {"running_mean": running[0], "running_var": running[1], "eps": self.eps, "relu": True}
        if self.training:
            return self.training_norm(momentum=self.momentum, **options)
        return BatchNormEvaluation(needs_grad=self.needs_grad, **options)


def _of(push: _Push, k: int) -> slice:
    """The channels of the groups that are given something."""
    return slice(push.first * k, push.last * k)


def _part(weights: Array, masks: Array | None, push: _Push, k: int) -> tuple[Array, Array | None]:
    """The weight and the masks of one push, contiguous."""
    contiguous = xp_of(weights).ascontiguousarray
    weight = contiguous(weights[_of(push, k), push.channels])
    return weight, None if masks is None else contiguous(masks[:, push.first : push.last, push.channels])


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
