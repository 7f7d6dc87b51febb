"""A factor on the loss, for gradients that pass through float16."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cupynn.autograd import Tensor
from cupynn.device import Array, asarray, xp_of
from cupynn.kernels import gradients

# The numbers are those of PyTorch's GradScaler and of NVIDIA's guide to mixed precision.
START = 65536.0
STEPS_TO_DOUBLE = 2000
FLOOR, CEILING = 1.0, 2.0**24


class LossScale:
    """`scale`, by which a loss is multiplied before backward, so that small gradients are not lost in float16, whose
    least number is 6e-8, and by which the gradients, in float32, are divided afterwards.
    [Micikevicius et al. 2018, "Mixed Precision Training", Sec. 3.2]

        (loss * scale.factor).backward()
        finite = scale.unscale(parameters)
        optimizer.step(where=finite)
        scale.update(finite)

    It starts at 65536. A gradient that is not finite has left float16's range, which ends at 65504: that step is left
    out, and the scale halved. After 2000 steps in a row without one it is doubled. It stays a power of two, so that
    multiplying and dividing round nothing, and at most 2^24: gradients that are all 0 would double it for ever.
    Gradients that overflow at 1 are no matter of scale, see `exhausted`: all further steps are left out.

    All of it lies and is decided on the default device, in arrays that are changed in place: the host waits only where
    it asks for `scale`, `good_steps` or `exhausted`.
    """

    def __init__(self) -> None:
        self._scale, self._good_steps = asarray(np.full((), START, np.float32)), asarray(np.zeros((), np.int64))

    @property
    def factor(self) -> Array:
        """The scale as an array (), float32, on the device."""
        return self._scale

    @property
    def scale(self) -> float:
        return float(self._scale)

    @scale.setter
    def scale(self, value: float) -> None:
        self._scale[...] = value

    @property
    def good_steps(self) -> int:
        return int(self._good_steps)

    @good_steps.setter
    def good_steps(self, value: int) -> None:
        self._good_steps[...] = value

    @property
    def exhausted(self) -> bool:
        """Whether gradients are not finite at the least scale there is."""
        return self.scale < FLOOR

    def unscale(self, parameters: Iterable[Tensor]) -> Array:
        """Divide all gradients by the scale, in place, unless one is not finite; returns whether all are, an array ()
        of bool, False too where the scale is exhausted."""
        xp = xp_of(self._scale)
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        finite = self._scale >= FLOOR
        if grads:
            finite = finite & xp.isfinite(gradients.square_sum(grads))
            gradients.multiply(grads, xp.asarray(xp.where(finite, 1 / self._scale, 1).astype(np.float64)))
        return xp.asarray(finite)

    def update(self, finite: Array | bool) -> None:
        """Take note of a step: whether its gradients were finite."""
        xp, scale = xp_of(self._scale), self._scale
        finite = xp.asarray(finite)
        steps = xp.where(finite, self._good_steps + 1, 0)
        doubled = steps == STEPS_TO_DOUBLE
        larger = xp.where(doubled, xp.minimum(scale * 2, CEILING), scale)
        smaller = xp.maximum(scale / 2, FLOOR / 2)
        self._scale[...] = xp.where(finite, larger, smaller)
        self._good_steps[...] = xp.where(doubled, 0, steps)
