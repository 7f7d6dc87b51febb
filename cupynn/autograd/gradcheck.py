"""Compare gradients with central differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cupynn.autograd.backward import run_backward
from cupynn.autograd.grad_mode import no_grad
from cupynn.autograd.tensor import Tensor
from cupynn.device import Array, is_floating, to_numpy, xp_of


class GradientError(AssertionError):
    """An analytic gradient differs from the numeric one."""


def gradcheck(
    fn: Callable[..., Any],
    inputs: Sequence[Any],
    step: float = 1e-5,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    seed: int = 0,
) -> bool:
    """Check the gradient of fn(*inputs) for every element of every input that requires grad.

    With fixed random v of the outputs' shapes, `backward(v)` is compared, element by element of the inputs, with

        d<v, fn>/dx_i = sum of v (fn(x + h e_i) - fn(x - h e_i)) / 2h,    h = step

    in float64. The differences are wrong by about h^2 |f'''| / 6 = 2e-11 |f'''| and by rounding of about
    1e-16 |f| / h = 1e-11 |f|: the tolerance |analytic - numeric| <= atol + rtol |numeric| leaves room for both.
    The function has to be smooth within h of the inputs. Inputs are changed in place, one element at a time,
    and put back; their `grad` is kept. `fn` may use them as arguments or hold them itself, as a module its weights.

    Returns True. Raises GradientError that names the function, the input, its worst element and both values;
    TypeError for an input that is not float64, ValueError where no input requires grad.
    """
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    for number, x in enumerate(inputs):
        dtype = getattr(x, "dtype", None)
        if dtype is not None and is_floating(dtype) and dtype != np.float64:
            raise TypeError(f"gradcheck: input {number} is {dtype}; differences need float64, make it .astype(float64)")
    checked = [number for number, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    if not checked:
        raise ValueError("gradcheck: no input requires grad, so there is nothing to check")

    outputs = _outputs(fn, inputs)
    roots = [output for output in outputs if output.requires_grad]
    if not roots:
        raise ValueError(f"gradcheck: no output of {_name(fn, outputs)} requires grad")
    rng = np.random.default_rng(seed)
    vectors = [
        xp_of(out.data).asarray(rng.uniform(0.5, 1.5, out.shape) * rng.choice([-1.0, 1.0], out.shape)) for out in roots
    ]
    places = [number for number, output in enumerate(outputs) if output.requires_grad]
    analytic = _analytic(roots, vectors, [inputs[number] for number in checked])

    def values() -> list[Array]:
        with no_grad():
            again = _outputs(fn, inputs)
        return [again[place].data.copy() for place in places]  # copies: an output may share an input's memory

    for number, gradient in zip(checked, analytic, strict=True):
        numeric = _numeric(values, vectors, inputs[number].data, step)
        excess = np.abs(gradient - numeric) - (atol + rtol * np.abs(numeric))
        wrong = ~(excess <= 0)  # NaN is wrong too
        if wrong.any():
            worst = np.unravel_index(np.argmax(np.where(np.isnan(excess), np.inf, excess)), excess.shape)
            raise GradientError(
                f"gradcheck: {_name(fn, outputs)}: gradient of input {number}, shape {gradient.shape}: "
                f"{wrong.sum()} of {wrong.size} elements are wrong; the worst is {tuple(map(int, worst))}: "
                f"numeric {numeric[worst]:.10g}, analytic {gradient[worst]:.10g}"
            )
    return True


def _outputs(fn: Callable[..., Any], inputs: list) -> list[Tensor]:
    result = fn(*inputs)
    outputs = list(result) if isinstance(result, (tuple, list)) else [result]
    for output in outputs:
        if not isinstance(output, Tensor):
            raise TypeError(f"gradcheck: {_name(fn, [])} must return tensors; got {type(output).__name__}")
    return outputs


def _name(fn: Callable[..., Any], outputs: list[Tensor]) -> str:
    """The function's name, and the operations that made its outputs: a lambda's own name says little."""
    made_by = ", ".join(output.record.name for output in outputs if output.record is not None)
    return getattr(fn, "__name__", type(fn).__name__) + (f" (output of {made_by})" if made_by else "")


def _analytic(roots: list[Tensor], vectors: list[Array], leaves: list[Tensor]) -> list[np.ndarray]:
    before = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    try:
        run_backward(list(zip(roots, vectors, strict=True)), retain_graph=False)
        return [np.zeros(leaf.shape) if leaf.grad is None else to_numpy(leaf.grad).copy() for leaf in leaves]
    finally:
        for leaf, grad in zip(leaves, before, strict=True):
            leaf.grad = grad


def _numeric(values: Callable[[], list[Array]], vectors: list[Array], data: Array, step: float) -> np.ndarray:
    gradient = np.zeros(data.shape)
    for index in np.ndindex(data.shape):
        kept = data[index].copy()
        try:
            data[index] = kept + step
            up, high = float(data[index]), values()
            data[index] = kept - step
            down, low = float(data[index]), values()
        finally:
            data[index] = kept
        # The step that was taken: x + h is rounded.
        change = sum(float((v * (h - w)).sum()) for v, h, w in zip(vectors, high, low, strict=True))
        gradient[index] = change / (up - down)
    return gradient
