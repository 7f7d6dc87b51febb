"""Gradient clipping."""

from __future__ import annotations

from collections.abc import Iterable

from cupynn.autograd import Tensor
from cupynn.device import Array, xp_of
from cupynn.kernels import gradients


def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float) -> Array | float:
    """Scale all gradients, in place, so that their common norm is at most `max_norm`; returns what it was.

        norm = sqrt(sum over all gradients of sum(g^2)),  g *= min(1, max_norm / (norm + 1e-6))

    as PyTorch's clip_grad_norm_ does [Pascanu et al. 2013]. Squares are added in float64, where the gradients are, and
    all of them in one launch; a GPU is not waited for. A gradient that holds NaN makes all of them NaN.
    Raises ValueError for a max_norm that is not above 0.
    """
    if not max_norm > 0:
        raise ValueError(f"clip_grad_norm: max_norm must be above 0; got {max_norm!r}")
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not grads:
        return 0.0
    xp = xp_of(grads[0])
    norm = xp.sqrt(gradients.square_sum(grads))
    gradients.multiply(grads, xp.asarray(xp.minimum(max_norm / (norm + 1e-6), 1.0)))
    return norm
