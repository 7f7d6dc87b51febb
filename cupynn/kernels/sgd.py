"""Stochastic gradient descent with momentum, Nesterov's variant and weight decay, in place and in one pass.

    g = grad + weight_decay * parameter
    velocity = momentum * velocity + g
    parameter -= lr * (g + momentum * velocity   if nesterov else   velocity)

PyTorch's definition with dampening 0; a velocity that starts at zero makes its first step. With momentum 0 there is
no velocity and the step is parameter -= lr * g.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cupynn import recording
from cupynn.device import Array, xp_of
from cupynn.kernels import runtime

CPU_PIECE = 16384  # elements that a block updates
GPU_PIECE = 2048


def step(
    parameter: Array,
    grad: Array,
    velocity: Array | None,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> None:
    """Move `parameter` and `velocity` one step, in place. `velocity` may be None where momentum is 0."""
    step_many([parameter], [grad], [velocity], lr, momentum, weight_decay, nesterov)


def step_many(
    parameters: Sequence[Array],
    grads: Sequence[Array],
    velocities: Sequence[Array | None],
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    where: Array | None = None,
    numbers: Array | None = None,
) -> None:
    """`step` for every parameter of a group, with one launch for all of them.

    where: an array () of bool; where it is False nothing moves. The host does not look at it.
    numbers: float64 (lr, momentum, weight_decay) where the parameters are, read by the kernel in place of the numbers
        of these names, for a launch that is recorded; whether there is momentum is taken from `momentum`.

    Raises ValueError or TypeError, before anything changes, where a gradient or a velocity does not have its
    parameter's shape and dtype, where a velocity is missing, and for Nesterov without momentum.
    """
    if nesterov and momentum <= 0:
        raise ValueError(f"sgd: nesterov needs momentum > 0; momentum is {momentum}")
    if not len(parameters) == len(grads) == len(velocities):
        raise ValueError(
            f"sgd: needs one gradient and one velocity per parameter; got {len(parameters)} parameters, "
            f"{len(grads)} gradients, {len(velocities)} velocities"
        )
    for index, (parameter, grad, velocity) in enumerate(zip(parameters, grads, velocities, strict=True)):
        check(index, parameter, grad, velocity, momentum)
    compiled = {}
    for parameter, grad, velocity in zip(parameters, grads, velocities, strict=True):
        velocity = velocity if momentum else None
        if in_place(parameter, velocity) and parameter.size and runtime.compiled_for(parameter, grad, velocity):
            together = compiled.setdefault((runtime.is_gpu(parameter), parameter.dtype), [])
            together.append((parameter, xp_of(grad).ascontiguousarray(grad), velocity))
        else:
            reference_step(parameter, grad, velocity, lr, momentum, weight_decay, nesterov, where, numbers)
    flags = ", ".join("true" if flag else "false" for flag in (momentum, nesterov))
    for (gpu, dtype), together in compiled.items():
        expression = f"<{runtime.ctype(dtype)}, {flags}>"
        scalars = [runtime.scalar(dtype, value) for value in (lr, momentum, weight_decay)]
        piece = GPU_PIECE if gpu else CPU_PIECE
        # The checker follows arrays, not addresses in a table.
        if len(together) == 1 or runtime.mode() == "checked":
            for arrays in together:
                size = arrays[0].size
                threads = runtime.threads(like=arrays[0])
                args = (*arrays, np.int64(size), piece, numbers, *scalars, where)
                runtime.launch("sgd", "step" + expression, -(-size // piece), threads, args)
        else:
            table = recording.upload(pieces(together, piece), like=together[0][0])
            threads = runtime.threads(like=table)
            runtime.launch("sgd", "step_many" + expression, len(table), threads, (table, numbers, *scalars, where))


def check(
    index: int, parameter: Array, grad: Array, velocity: Array | None, momentum: float, operation: str = "sgd"
) -> None:
    """Raise ValueError or TypeError for a parameter that cannot be moved, naming the operation and its index."""
    if parameter.dtype not in ("float32", "float64"):
        raise TypeError(f"{operation}: parameter {index} must be float32 or float64; it is {parameter.dtype}")
    if momentum and velocity is None:
        raise ValueError(f"{operation}: momentum is {momentum}, so parameter {index} needs a velocity; it is None")
    for name, values in {"gradient": grad, "velocity": velocity if momentum else None}.items():
        if values is None:
            continue
        if values.shape != parameter.shape:
            raise ValueError(
                f"{operation}: {name} {index} must have its parameter's shape {parameter.shape}; "
                f"it has shape {values.shape}"
            )
        if values.dtype != parameter.dtype:
            raise TypeError(
                f"{operation}: {name} {index} must be {parameter.dtype} as its parameter is; it is {values.dtype}"
            )


def in_place(*arrays: Array | None) -> bool:
    """Whether a kernel can walk these arrays in one row and may write to them."""
    return all(
        array is None or (array.flags.c_contiguous if runtime.is_gpu(array) else array.flags.carray) for array in arrays
    )


def pieces(together: Sequence[tuple[Array | None, ...]], piece: int) -> np.ndarray:
    """(rows, K + 1) of int64: for each piece of each K arrays of one size their K addresses (None: 0), and how many
    elements it has.
    """

    def address(array):
        if array is None:
            return 0
        return array.data.ptr if runtime.is_gpu(array) else array.__array_interface__["data"][0]

    rows = []
    for arrays in together:
        size, itemsize = arrays[0].size, arrays[0].itemsize
        starts = [address(array) for array in arrays]
        for first in range(0, size, piece):
            rows.append([*(start + first * itemsize for start in starts), min(piece, size - first)])
    return np.array(rows, np.int64)


def reference_step(
    parameter, grad, velocity, lr, momentum=0.0, weight_decay=0.0, nesterov=False, where=None, numbers=None
):
    if where is not None and not bool(where):
        return
    decays, moves = bool(weight_decay) or numbers is not None, bool(momentum)
    scalars = numbers.astype(parameter.dtype) if numbers is not None else (lr, momentum, weight_decay)
    lr, momentum, weight_decay = (parameter.dtype.type(value) if numbers is None else value for value in scalars)
    if decays:
        grad = grad + weight_decay * parameter
    if moves:
        velocity *= momentum
        velocity += grad
        grad = grad + momentum * velocity if nesterov else velocity
    parameter -= lr * grad


def cost(size: int, itemsize: int = 4, momentum: bool = True) -> tuple[int, int]:
    """(bytes, operations) of one step on `size` elements: read parameter, gradient, velocity; write first and last."""
    return ((5 if momentum else 3) * size * itemsize, (8 if momentum else 4) * size)


def instantiations() -> list[str]:
    """Every kernel that may be launched on a GPU."""
    return [
        f"{kernel}<{t}, {flags}>"
        for kernel in ("step", "step_many")
        for t in ("float", "double")
        for flags in ("false, false", "true, false", "true, true")
    ]
