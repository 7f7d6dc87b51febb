"""A factor on the loss, for gradients that pass through float16."""

from __future__ import annotations

from collections.abc import Iterable

from cupynn.autograd import Tensor
from cupynn.device import xp_of

# The numbers are those of PyTorch's GradScaler and of NVIDIA's guide to mixed precision.
START = 65536.0
STEPS_TO_DOUBLE = 2000
FLOOR, CEILING = 1.0, 2.0**24


class LossScale:
    """`scale`, by which a loss is multiplied before backward, so that small gradients are not lost in float16, whose
    least number is 6e-8, and by which the gradients, in float32, are divided afterwards.
    [Micikevicius et al. 2018, "Mixed Precision Training", Sec. 3.2]

    It starts at 65536. A gradient that is not finite has left float16's range, which ends at 65504: that step is left
    out, and the scale halved. After 2000 steps in a row without one it is doubled. It stays a power of two, so that
    multiplying and dividing round nothing, and at most 2^24: gradients that are all 0 would double it for ever.
    Gradients that overflow at 1 are no matter of scale, see `exhausted`.
    """

    def __init__(self) -> None:
        self.scale, self.good_steps = START, 0

    @property
    def exhausted(self) -> bool:
        """Whether gradients are not finite at the least scale there is."""
        return self.scale < FLOOR

    def unscale(self, parameters: Iterable[Tensor]) -> bool:
        """Divide all gradients by the scale, in place; False, and nothing is changed, where one is not finite.

        The answer waits for the device: the one time in a step that the host does.
        """
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not grads:
            return True
        xp = xp_of(grads[0])
        if not bool(xp.stack([xp.isfinite(grad).all() for grad in grads]).all()):
            return False
        for grad in grads:
            grad *= 1 / self.scale
        return True

    def update(self, finite: bool) -> None:
        """Take note of a step: whether its gradients were finite."""
        if not finite:
            self.scale, self.good_steps = self.scale / 2, 0
            return
        self.good_steps += 1
        if self.good_steps == STEPS_TO_DOUBLE:
            self.scale, self.good_steps = min(self.scale * 2, CEILING), 0
