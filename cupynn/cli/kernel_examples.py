"""A small example of every kernel: run compiled and as reference, the two must agree."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from cupynn import device
from cupynn.device import Array, to_numpy, xp_of
from cupynn.kernels import (
    activations,
    batch_norm,
    contract,
    contract_fold,
    conv,
    conv_scaled,
    conv_tc,
    cross_entropy,
    cross_layer,
    depthwise,
    dropout,
    gradients,
    im2col,
    pointwise,
    pool,
    runtime,
    sgd,
    whe,
    winograd,
)
from cupynn.train.speed import median_seconds, wait_for

# Sums of at most a few hundred float32 products of standard normal numbers: rounding stays below 1e-5 of the largest.
TOLERANCE = 1e-4

Normal = Callable[..., Array]  # standard normal numbers of a shape
Example = Callable[[], list[Array]]  # forward and backward, on inputs made before


def _normal_numbers() -> Normal:
    numbers = np.random.default_rng(0)
    return lambda *shape: device.asarray(numbers.standard_normal(shape).astype(np.float32))


def _conv(normal: Normal) -> Example:
    x, w, bias, grad = normal(8, 8, 16, 16), normal(16, 8, 5, 5), normal(16), normal(8, 16, 16, 16)
    return lambda: [conv.forward(x, w, bias, padding=2), *conv.backward(grad, x, w, padding=2)]


def _contract(normal: Normal) -> Example:
    first, second, grad = normal(32, 8, 3, 3), normal(16, 32, 5, 5), normal(16, 8, 7, 7)
    d, w, kernel_grad = normal(8, 9, 9), normal(16, 8, 9), normal(16, 8, 9)
    norm = bias, gamma, mean, variance = normal(16), normal(16), normal(16), normal(16) ** 2 + 1

    def run() -> list[Array]:
        contracted = contract.forward(first, second), *contract.backward(grad, first, second)
        composed = contract.compose(d, w), *contract.compose_backward(kernel_grad, d, w)
        folded = contract_fold.fold(grad, bias, gamma, bias, mean, variance)
        return [*contracted, *composed, *folded, *contract_fold.fold_backward(grad, bias, grad, *norm)]

    return run


def _im2col(normal: Normal) -> Example:
    x, columns, geometry = normal(8, 8, 16, 16), normal(8, 200, 256), ((5, 5), (1, 1), (2, 2), (1, 1))
    return lambda: [im2col.im2col(x, *geometry), im2col.col2im(columns, x.shape, *geometry)]


def _batch_norm(normal: Normal) -> Example:
    x, gamma, beta, grad = normal(8, 16, 16, 16), normal(16), normal(16), normal(8, 16, 16, 16)

    def run() -> list[Array]:
        y, mean, variance, inv_std = batch_norm.forward_train(x, gamma, beta, 1e-5)
        return [y, mean, variance, *batch_norm.backward_train(grad, x, y, gamma, beta, mean, inv_std)]

    return run


def _activations(normal: Normal) -> Example:
    x, grad = 3 * normal(8, 16, 16, 16), normal(8, 16, 16, 16)

    def run() -> list[Array]:
        outputs = []
        for name in activations.ACTIVATIONS:
            y = activations.forward(name, x, 0.5)
            saved = y if activations.saves_output(name) else x
            outputs += [y, activations.backward(name, grad, saved, 0.5)]
        return outputs

    return run


def _dropout(normal: Normal) -> Example:
    x = normal(8, 16, 16, 17)
    return lambda: [dropout.forward(x, 0.3, (1, 2))]


def _pool(normal: Normal) -> Example:
    x, grad, small_grad = normal(8, 8, 16, 16), normal(8, 8, 8, 8), normal(8, 8, 3, 3)

    def run() -> list[Array]:
        y, indices = pool.max_forward(x, 3, 2, 1)
        average = pool.average_forward(x, 2), pool.average_backward(grad, x.shape, 2)
        adaptive = pool.adaptive_average_forward(x, 3), pool.adaptive_average_backward(small_grad, x.shape)
        return [y, pool.max_backward(grad, indices, x.shape, 3, 2, 1), *average, *adaptive]

    return run


def _cross_entropy(normal: Normal) -> Example:
    logits, targets, grad = normal(128, 10), device.asarray(np.arange(128) % 10), normal()

    def run() -> list[Array]:
        loss, probabilities = cross_entropy.forward(logits, targets)
        return [loss, cross_entropy.backward(grad, probabilities, targets)]

    return run


def _sgd(normal: Normal) -> Example:
    start, grad = normal(10_000), normal(10_000)

    def run() -> list[Array]:
        parameter, velocity = start.copy(), start.copy()
        sgd.step(parameter, grad, velocity, lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
        return [parameter, velocity]

    return run


def _gradients(normal: Normal) -> Example:
    """Several arrays, whose addresses a kernel takes in a table."""
    arrays, factor = [normal(3), normal(200, 60), normal(5, 7)], device.asarray(np.array(0.3))

    def run() -> list[Array]:
        copies = [array.copy() for array in arrays]
        gradients.multiply(copies, factor)
        return [gradients.square_sum(arrays), *copies]

    return run


def _depthwise(normal: Normal) -> Example:
    x, w, bias, grad = normal(8, 16, 16, 16), normal(16, 1, 3, 3), normal(16), normal(8, 16, 16, 16)
    return lambda: [depthwise.forward(x, w, bias, padding=1), *depthwise.backward(grad, x, w, padding=1)]


def _cross_layer(normal: Normal) -> Example:
    inputs, weight, grad = [normal(8, 16, 8, 8) for _ in range(6)], normal(6, 16), normal(8, 16, 8, 8)

    def run() -> list[Array]:
        slopes, shift = cross_layer.backward(grad, inputs, weight)
        return [cross_layer.forward(inputs, weight), slopes, shift]

    return run


def _whe(normal: Normal) -> Example:
    x, grad, weights = normal(4, 32, 8, 8), normal(4, 32, 8, 8), [normal(4, 8, 8) for _ in range(4)]
    return lambda: [whe.forward(x, *weights), *whe.backward(grad, x, *weights)]


def _conv_scaled(normal: Normal) -> Example:
    """1x1 and 3x3."""
    x, grad, scale = normal(4, 40, 12, 12), normal(4, 32, 12, 12), normal(4, 2, 40)
    weights = normal(32, 40, 1, 1), normal(32, 40, 3, 3)

    def run() -> list[Array]:
        xp, arrays = xp_of(x), []
        for w in weights:
            y, dx = xp.empty_like(grad), xp.empty_like(x)
            conv_scaled.forward(x, w, y, scale)
            conv_scaled.input_gradient(grad, w, dx, scale)
            arrays += [y, dx, conv_scaled.weight_gradient(grad, x, w, scale)]
        return arrays

    return run


def _method(normal: Normal, method: ModuleType, padding: int, *shapes: tuple[int, ...]) -> Example:
    """One method of `conv`, given shapes of x, weight, bias and the output's gradient."""
    x, w, bias, grad = (normal(*shape) for shape in shapes)
    g = conv.geometry(x.shape, w.shape, padding=padding)

    def run() -> list[Array]:
        if not runtime.compiled_for(x):
            gradients = conv.reference_backward(grad, x, w, padding=padding)
            return [conv.reference_forward(x, w, bias, padding=padding), *gradients[:2]]
        y, dx = method.forward(x, w, bias, g), method.input_gradient(grad, w, g)
        dw = method.weight_gradient(grad, x, w, g)
        return [y, dx, dw[0] if isinstance(dw, tuple) else dw]

    return run


def _conv_tc(normal: Normal) -> Example:
    """TF32; where tensor cores cannot multiply it, the reference."""
    x, w, bias, grad = normal(4, 24, 11, 11), normal(70, 24, 3, 3), normal(70), normal(4, 70, 11, 11)
    g = conv.geometry(x.shape, w.shape, padding=1)
    lacking = runtime.is_gpu(x) and runtime.capability(x) < conv_tc.LEAST_ARCHITECTURE

    def run() -> list[Array]:
        if lacking or not runtime.compiled_for(x):
            gradients = conv_tc.reference_input_gradient(grad, w, g), conv_tc.reference_weight_gradient(grad, x, w, g)
            return [conv_tc.reference_forward(x, w, bias, g), *gradients]
        gradients = conv_tc.input_gradient(grad, w, g), conv_tc.weight_gradient(grad, x, w, g)
        return [conv_tc.forward(x, w, bias, g), *gradients]

    return run


def _pointwise(normal: Normal) -> Example:
    return _method(normal, pointwise, 0, (9, 40, 7, 7), (70, 40, 1, 1), (70,), (9, 70, 7, 7))


def _winograd(normal: Normal) -> Example:
    return _method(normal, winograd, 1, (4, 32, 14, 14), (32, 32, 3, 3), (32,), (4, 32, 14, 14))


EXAMPLES: dict[str, Callable[[Normal], Example]] = {
    "activations": _activations,
    "batch_norm": _batch_norm,
    "contract": _contract,
    "conv": _conv,
    "conv_scaled": _conv_scaled,
    "conv_tc": _conv_tc,
    "cross_entropy": _cross_entropy,
    "cross_layer": _cross_layer,
    "depthwise": _depthwise,
    "dropout": _dropout,
    "gradients": _gradients,
    "im2col": _im2col,
    "pointwise": _pointwise,
    "pool": _pool,
    "sgd": _sgd,
    "whe": _whe,
    "winograd": _winograd,
}


@dataclass(frozen=True)
class KernelState:
    """What `check` found. difference: the largest, relative to the largest number of the array; None where the kernel
    did not run, and `fault` says why. first_seconds holds compiling, or reading from the cache."""

    name: str
    difference: float | None
    first_seconds: float
    seconds: float
    reference_seconds: float
    fault: str | None

    @property
    def right(self) -> bool:
        return self.difference is not None and self.difference < TOLERANCE


def check(name: str) -> KernelState:
    """Run the example of kernel `name` in the mode in use, and as the reference."""
    example = EXAMPLES[name](_normal_numbers())
    like = device.asarray(0)
    start = time.perf_counter()
    try:
        given = example()
        wait_for(like)
    except Exception as error:  # whatever it is, the user learns which kernel it was and goes on to the next
        return KernelState(name, None, time.perf_counter() - start, 0, 0, str(error) or type(error).__name__)
    first = time.perf_counter() - start
    seconds = median_seconds(example, like, least=3, seconds=0.02)
    with _references():
        wanted = example()
        reference_seconds = median_seconds(example, like, least=3, seconds=0.02)
    difference = max(map(_difference, given, wanted))
    return KernelState(name, difference, first, seconds, reference_seconds, None)


def _difference(given: Array, wanted: Array) -> float:
    given, wanted = to_numpy(given), to_numpy(wanted)
    if given.shape != wanted.shape or not np.isfinite(given).all():
        return float("inf")
    return float(np.abs(given - wanted).max() / np.abs(wanted).max())


@contextlib.contextmanager
def _references() -> Iterator[None]:
    before = runtime.mode()
    runtime.set_mode("reference")
    try:
        yield
    finally:
        runtime.set_mode(before)
