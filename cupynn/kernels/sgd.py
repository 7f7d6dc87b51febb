"""Stochastic gradient descent with momentum, Nesterov's variant and weight decay, in place and in one pass.

    g = grad + weight_decay * parameter
    velocity = momentum * velocity + g
    parameter -= lr * (g + momentum * velocity   if nesterov else   velocity)

PyTorch's definition with dampening 0; a velocity that starts at zero makes its first step. With momentum 0 there is
no velocity and the step is parameter -= lr * g.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cupynn import recording
from cupynn.device import Array, xp_of
from cupynn.kernels import runtime

CPU_PIECE = 16384  # elements that a block updates
GPU_PIECE = 2048


class Group(NamedTuple):
    """Parameters that move alike, each with a gradient and, where momentum is not 0, a velocity."""

    parameters: Sequence[Array]
    grads: Sequence[Array]
    velocities: Sequence[Array | None]
    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    @property
    def numbers(self) -> tuple[float, float, float]:
        """What the kernels read."""
        return self.lr, self.momentum, self.weight_decay


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
    step_groups([Group([parameter], [grad], [velocity], lr, momentum, weight_decay, nesterov)])


def step_groups(groups: Sequence[Group], where: Array | None = None, numbers: Array | None = None) -> None:
    """`step` for every parameter of every group, with one launch for all that have the same dtype and the same kind of
    momentum.

    where: an array () of bool; where it is False nothing moves. The host does not look at it.
    numbers: (groups, 3) of float64 where the parameters are, each group's `numbers`, which the kernel reads in place of
        these, for a launch that is recorded; whether there is momentum is taken from the group.

    Raises ValueError or TypeError, before anything changes, where a gradient or a velocity does not have its
    parameter's shape and dtype, where a velocity is missing, and for Nesterov without momentum.
    """
    for group in groups:
        _check_group(group)
    compiled: dict[tuple, list[tuple]] = {}
    for number, group in enumerate(groups):
        own = None if numbers is None else numbers[number]
        momentum = group.momentum > 0
        for parameter, grad, velocity in zip(group.parameters, group.grads, group.velocities, strict=True):
            velocity = velocity if momentum else None
            if in_place(parameter, velocity) and parameter.size and runtime.compiled_for(parameter, grad, velocity):
                arrays = parameter, xp_of(grad).ascontiguousarray(grad), velocity
                kind = runtime.is_gpu(parameter), parameter.dtype, momentum, group.nesterov
                compiled.setdefault(kind, []).append((arrays, number))
            else:
                reference_step(parameter, grad, velocity, *group[3:], where, own)
    for (gpu, dtype, *flags), together in compiled.items():
        expression = f"<{runtime.ctype(dtype)}, {', '.join('true' if flag else 'false' for flag in flags)}>"
        piece = GPU_PIECE if gpu else CPU_PIECE
        # The checker follows arrays, not addresses in a table.
        if len(together) == 1 or runtime.mode() == "checked":
            for arrays, number in together:
                own = None if numbers is None else numbers[number]
                scalars = [runtime.scalar(dtype, value) for value in groups[number].numbers]
                threads, size = runtime.threads(like=arrays[0]), arrays[0].size
                args = (*arrays, np.int64(size), piece, own, *scalars, where)
                runtime.launch("sgd", "step" + expression, -(-size // piece), threads, args)
        else:
            table, read = _tables(groups, together, piece, numbers)
            threads = runtime.threads(like=table)
            runtime.launch("sgd", "step_many" + expression, len(table), threads, (table, read, where))


def _tables(groups, together, piece, numbers):
    """(table, numbers) as `step_many` reads them; where numbers are not given, both come to a GPU in one copy."""
    rows = pieces([arrays for arrays, _ in together], piece)
    counts = [-(-arrays[0].size // piece) for arrays, _ in together]
    table = np.column_stack([rows, np.repeat([number for _, number in together], counts)])
    like = together[0][0][0]
    if numbers is not None:
        return recording.upload(table, like), numbers
    here = np.array([group.numbers for group in groups], np.float64)
    both = recording.upload(np.concatenate([table.ravel(), here.view(np.int64).ravel()]), like)
    return both[: table.size].reshape(table.shape), both[table.size :].view(np.float64)


def _check_group(group):
    counts = [len(arrays) for arrays in group[:3]]
    if group.nesterov and group.momentum <= 0:
        raise ValueError(f"sgd: nesterov needs momentum > 0; momentum is {group.momentum}")
    if len(set(counts)) > 1:
        raise ValueError(
            f"sgd: needs one gradient and one velocity per parameter; got {counts[0]} parameters, "
            f"{counts[1]} gradients, {counts[2]} velocities"
        )
    for index, arrays in enumerate(zip(*group[:3], strict=True)):
        check(index, *arrays, group.momentum)


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
