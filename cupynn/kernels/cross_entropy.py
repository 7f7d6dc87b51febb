"""Softmax cross-entropy, mean over the rows.

    loss = mean_n ( log sum_k exp(logits[n, k]) - logits[n, targets[n]] )

logits (N, K), targets (N,) integers in [0, K). The row's maximum is subtracted before exp, so no logit overflows.
"""

from __future__ import annotations

import numpy as np

from cupynn.device import Array, xp_of
from cupynn.kernels import runtime


def forward(logits: Array, targets: Array) -> tuple[Array, Array]:
    """(loss, probabilities): the mean loss, shape (), and softmax(logits), (N, K), which `backward` needs.

    Raises ValueError for an empty batch (its mean is not defined), for shapes that do not fit and for a target
    outside [0, K); TypeError for targets that are not integers. Targets that lie on a GPU are not looked at, since the
    host would wait for the device: one outside [0, K) makes the loss and its row's gradient NaN.
    """
    _check(logits, targets)
    compiled = runtime.compiled_for(logits)
    if not (compiled and runtime.is_gpu(targets)):
        check_range(targets, logits.shape[1])
    if not compiled:
        return reference_forward(logits, targets)
    xp = xp_of(logits)
    logits, targets = xp.ascontiguousarray(logits), xp.ascontiguousarray(targets, dtype=np.int64)
    probabilities, row_loss = xp.empty_like(logits), xp.empty(len(targets), logits.dtype)
    runtime.launch(
        "cross_entropy",
        f"forward<{runtime.ctype(logits)}>",
        *_geometry(logits),
        (logits, targets, row_loss, probabilities, *logits.shape),
        outputs=(row_loss, probabilities),
    )
    loss = xp.empty((), logits.dtype)
    threads = runtime.threads(like=logits)
    runtime.launch(
        "cross_entropy", f"mean<{runtime.ctype(logits)}>", 1, threads, (row_loss, loss, len(targets)), outputs=(loss,)
    )
    return loss, probabilities


def backward(grad: Array, probabilities: Array, targets: Array) -> Array:
    """dlogits = grad * (probabilities - onehot(targets)) / N, with `grad` of shape () on the probabilities' device.

    The targets are those that `forward` was given.
    """
    if not runtime.compiled_for(probabilities):
        return reference_backward(grad, probabilities, targets)
    xp = xp_of(probabilities)
    grad = xp.asarray(grad, dtype=probabilities.dtype)
    targets = xp.ascontiguousarray(targets, dtype=np.int64)
    dlogits = xp.empty_like(probabilities)
    runtime.launch(
        "cross_entropy",
        f"backward<{runtime.ctype(probabilities)}>",
        *_geometry(probabilities),
        (grad, probabilities, targets, dlogits, *probabilities.shape),
        outputs=(dlogits,),
    )
    return dlogits


def reference_forward(logits, targets):
    xp = xp_of(logits)
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = xp.exp(shifted)
    total = exponentials.sum(axis=1, keepdims=True)
    row_loss = xp.log(total[:, 0]) - shifted[xp.arange(len(targets)), targets]
    return xp.asarray(row_loss.mean()), exponentials / total


def reference_backward(grad, probabilities, targets):
    xp = xp_of(probabilities)
    onehot = xp.arange(probabilities.shape[1]) == targets[:, None]
    return (probabilities - onehot) * (grad / probabilities.dtype.type(len(targets)))


def cost(rows: int, classes: int, itemsize: int = 4) -> dict[str, tuple[int, int]]:
    """(bytes, operations) of each pass: every logit is read once, every probability and gradient written once."""
    elements = rows * classes
    return {
        "forward": (2 * elements * itemsize + rows * (8 + itemsize), 5 * elements),
        "backward": (2 * elements * itemsize + rows * 8, 2 * elements),
    }


def instantiations() -> list[str]:
    """Every kernel that may be launched on a GPU."""
    return [f"{kernel}<{t}>" for kernel in ("forward", "mean", "backward") for t in ("float", "double")]


def _geometry(logits):
    """(grid, block): a row per block on the GPU, with threads for its classes; on the CPU some 4096 logits a block."""
    rows, classes = logits.shape
    threads = min(runtime.threads(like=logits), max(32, 1 << (classes - 1).bit_length()))
    rows_per_block = 1 if threads > 1 else max(1, 4096 // classes)
    return -(-rows // rows_per_block), threads


def _check(logits, targets):
    if logits.dtype not in ("float32", "float64"):
        raise TypeError(f"cross_entropy: logits must be float32 or float64; they are {logits.dtype}")
    if logits.ndim != 2 or 0 in logits.shape:
        raise ValueError(f"cross_entropy: logits must have shape (N, K) with N, K >= 1; they have shape {logits.shape}")
    if targets.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: targets must be integers; they are {targets.dtype}")
    rows = len(logits)
    if targets.shape != (rows,):
        raise ValueError(
            f"cross_entropy: logits have shape {logits.shape}, so targets need shape ({rows},); "
            f"they have shape {targets.shape}"
        )


def check_range(targets: Array, classes: int) -> None:
    """Raise ValueError for a target outside [0, classes)."""
    outside = (targets < 0) | (targets >= classes)
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(
            f"cross_entropy: targets[{row}] is {int(targets[row])}; with K = {classes} classes it must be "
            f"in 0..{classes - 1}"
        )
