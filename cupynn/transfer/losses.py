"""What a student network learns from a teacher: soft targets, hints, similarities.

Each loss is differentiable in what the student computes, which is made float32 where it has 16 bits. What the teacher
computed is a constant, a tensor or an array.
"""

from __future__ import annotations

from typing import Any

from cupynn.autograd import Function, Tensor, log, sqrt, square, widened
from cupynn.device import Array, xp_of

SMALL = 1e-7  # added to kernels, so that opposite features have a logarithm, and to norms, so that 0 can be divided by


class SoftTargets(Function):
    """loss = T^2/N sum_n sum_k p[n, k] log(p[n, k] / q[n, k]), p and q the teacher's and the student's softmax(z / T).

    d loss / d z = T/N (q - p): the factor T^2 keeps it as large as the gradient of a hard loss, whatever T.
    """

    def forward(self, logits, teacher_logits):
        log_p, log_q = self._log_softmax(teacher_logits), self._log_softmax(logits)
        xp = xp_of(logits)
        p = xp.exp(log_p)
        self.save(p, xp.exp(log_q))
        return self.temperature**2 * (p * (log_p - log_q)).sum() / len(logits)

    def backward(self, grad):
        p, q = self.saved
        return grad * (self.temperature / len(p)) * (q - p), None

    def _log_softmax(self, logits):
        xp = xp_of(logits)
        z = (logits - logits.max(axis=1, keepdims=True)) / self.temperature
        return z - xp.log(xp.exp(z).sum(axis=1, keepdims=True))


def soft_target_loss(logits, teacher_logits, temperature: float = 4.0):
    """T^2 times the mean over N of KL(softmax(teacher_logits / T) || softmax(logits / T)).

    logits, teacher_logits: (N, K). The cross-entropy with softened targets is the same but for their entropy, which is
    a constant: the gradients are equal, and here a student that equals its teacher has loss 0.
    [Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", Sec. 2]

    Returns a scalar. Raises ValueError for shapes that differ or a temperature that is not above 0.
    """
    if logits.ndim != 2 or logits.shape != teacher_logits.shape or not len(logits):
        raise ValueError(
            "soft_target_loss: logits and teacher_logits must both be (N, K) with N > 0; "
            f"logits has shape {logits.shape}, teacher_logits {teacher_logits.shape}"
        )
    if not temperature > 0:
        raise ValueError(f"soft_target_loss: temperature must be above 0; got {temperature!r}")
    logits = widened(logits)
    return SoftTargets(temperature=float(temperature))(logits, _constant(teacher_logits, logits))


def hint_loss(regressed, hint):
    """1/2 the mean over N of |regressed - hint|^2, between the output of a student's regressor and a teacher's feature.

    Both are (N, ...) of one shape. [Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", eq. 3]

    Returns a scalar. Raises ValueError for shapes that differ.
    """
    if regressed.shape != hint.shape or regressed.ndim < 2 or not len(regressed):
        raise ValueError(
            "hint_loss: regressed and hint must have one shape (N, ...) with N > 0; "
            f"regressed has shape {regressed.shape}, hint {hint.shape}"
        )
    regressed = widened(regressed)
    return square(regressed - _constant(hint, regressed)).sum() * (0.5 / len(regressed))


def similarity_loss(features, teacher_features):
    """Probabilistic knowledge transfer: the mean over i of KL(p_i || q_i), distributions over the neighbours of i.

        p_i(j) = K(t_i, t_j) / sum_{k != i} K(t_i, t_k)   for j != i,      K(a, b) = (1 + <a, b> / (|a| |b|)) / 2

    where t_i is the teacher's feature of image i, and q_i the same of the student's. [Passalis and Tefas 2018,
    "Learning Deep Representations with Probabilistic Knowledge Transfer", Sec. 3, with the cosine kernel]

    features, teacher_features: (N, ...). They are flattened behind N, and may be of different sizes, since images are
    only compared with each other. As in the authors' code |a|^2 has 1e-14 added, for features that are all 0; 1e-7 is
    added to K, where the authors add it to p and q, which then are no distributions. Their code has j = i among the
    neighbours, unlike the paper.

    Returns a scalar, 0 for N < 3, where nobody has a choice of neighbours. Raises ValueError where the N differ.
    """
    if features.ndim < 2 or teacher_features.ndim < 2 or len(features) != len(teacher_features) or not len(features):
        raise ValueError(
            "similarity_loss: features and teacher_features must be (N, ...) with one N > 0; "
            f"features has shape {features.shape}, teacher_features {teacher_features.shape}"
        )
    features = widened(features)
    if len(features) < 3:
        return (features * 0).sum()
    xp = xp_of(features.data)
    itself = xp.eye(len(features), dtype=features.dtype)
    p, log_p = _neighbours(_constant(teacher_features, features), itself)
    _, log_q = _neighbours(features, itself)
    return (p * (log_p - log_q)).sum() * (1 / len(features))


def _neighbours(features: Tensor, itself: Array) -> tuple[Tensor, Tensor]:
    """p (N, N) with row i as in `similarity_loss`, 0 at j = i, and its logarithm, where j = i means nothing."""
    x = features.reshape(len(features), -1)
    x = x / sqrt(square(x).sum(axis=1, keepdims=True) + SMALL**2)
    kernel = ((x @ x.T) * 0.5 + (0.5 + SMALL)) * (1 - itself)
    sums = kernel.sum(axis=1, keepdims=True)
    return kernel / sums, log(kernel + itself) - log(sums)


def _constant(value: Any, like: Tensor) -> Tensor:
    """What a teacher computed, without its graph, in the student's dtype."""
    return Tensor((value.data if isinstance(value, Tensor) else value).astype(like.dtype, copy=False))
