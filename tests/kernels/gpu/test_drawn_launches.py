"""Launches for drawn shapes, one size of each sometimes huge: what a GPU takes, and nothing that waits for it.

Nothing is computed: `fake_launch.Launch.check` looks at grid, block, shared memory and arguments of each launch.
"""

import fake_cupy
import numpy as np
import pytest

from cupynn import device
from cupynn.kernels import (
    batch_norm,
    contract,
    contract_fold,
    conv,
    conv_depthwise,
    conv_direct,
    conv_scaled,
    conv_tc,
    cross_entropy,
    cross_layer,
    gradients,
    im2col,
    pool,
    sgd,
    whe,
    winograd,
)

HUGE = 70_000, 300_000  # more than a grid's second and third axis take


class Drawn:
    """Sizes and arrays for one seed."""

    def __init__(self, seed, dtype):
        self.numbers, self.dtype = np.random.default_rng(seed), dtype

    def __call__(self, *choice):
        return int(self.numbers.choice(choice or (1, 2, 3, 5, 8, 17, 32, 64)))

    def maps(self, *channels, plane=(1, 2, 3, 7, 14, 32, 61)):
        """(N, C, H, W); every third time one of them is huge."""
        shape = [self(1, 2, 7, 32), self(*channels), self(*plane), self(*plane)]
        if self(0, 0, 1):
            huge = self(0, *([] if channels else [1]), 2, 3)
            shape = [min(size, 3) for size in shape] if not channels else [min(shape[0], 3), *shape[1:]]
            shape = [size if axis < 2 else min(size, 3) for axis, size in enumerate(shape)]
            shape[huge] = self(*HUGE)
        return tuple(shape)

    def empty(self, *shape):
        return fake_cupy.module.empty(shape, self.dtype)


def call_batch_norm(draw):
    x = draw.empty(*draw.maps())
    if x.size // x.shape[1] < 2:
        return
    channels, relu, adds = draw.empty(x.shape[1]), draw(0, 1, 6), bool(draw(0, 1))
    residual = x if adds else None
    batch_norm.forward_train(x, channels, None, 1e-5, relu, None, residual)
    batch_norm.forward_eval(x, channels, channels, channels, channels, 1e-5, relu, None, residual)
    batch_norm.backward_train(x, x, x, channels, channels, channels, channels, relu, adds)
    batch_norm.backward_eval(x, x, x, None, channels, channels, channels, 1e-5, relu, adds)


def call_convolutions(draw):
    groups, kernel = draw(1, 1, 2), (draw(1, 2, 3, 5, 7), draw(1, 3, 7))
    shape = draw.maps(4, 8, 34)
    weight = draw(6, 16, 34), shape[1] // groups, *kernel
    options = draw(1, 2, 3), (kernel[0] // 2, kernel[1] // 2), draw(1, 1, 2), groups
    try:
        g = conv.geometry(shape, weight, *options)
    except ValueError:  # the kernel does not fit
        return
    x, w, bias, grad = draw.empty(*shape), draw.empty(*weight), draw.empty(weight[0]), draw.empty(*g.output_shape)
    if conv_direct.fits(g, x):
        conv_direct.forward(x, w, bias, g)
        conv_direct.input_gradient(grad, w, g)
        conv_direct.weight_gradient(grad, x, w, g)
    if x.size < 10**7 and weight[2] * weight[3] * x.size < 10**8:
        where = g.kernel, g.stride, g.padding, g.dilation
        im2col.col2im(im2col.im2col(x, *where), shape, *where)


def call_winograd(draw):
    shape, outputs, padding = draw.maps(1, 5, 16, 130), draw(1, 5, 16, 130), draw(0, 1, 2)
    if min(shape[2:]) + 2 * padding < 3:
        return
    x, w = draw.empty(*shape), draw.empty(outputs, shape[1], 3, 3)
    g = conv.geometry(shape, w.shape, 1, padding)
    grad = draw.empty(*g.output_shape)
    winograd.forward(x, w, draw.empty(outputs), g)
    winograd.input_gradient(grad, w, g)
    winograd.weight_gradient(grad, x, w, g)


def call_conv_scaled(draw):
    shape, outputs, size = draw.maps(1, 5, 16, 130), draw(1, 6, 16, 130), (1, 3)[draw(0, 1)]
    x, y, dx = draw.empty(*shape), draw.empty(shape[0], outputs, *shape[2:]), draw.empty(*shape)
    w = draw.empty(outputs, shape[1], size, size)
    scale = draw.empty(shape[0], (1, outputs)[draw(0, 1)], shape[1])
    conv_scaled.forward(x, w, y, scale)
    conv_scaled.input_gradient(y, w, dx, scale)
    conv_scaled.weight_gradient(y, x, w, scale)


def call_conv_tc(draw):
    draw.dtype = np.float16 if draw.dtype == np.float64 else draw.dtype
    kernel, shape = (draw(1, 2, 3, 5, 7), draw(1, 3, 7)), draw.maps(4, 8, 34, 200)
    weight = draw(6, 16, 34, 200), shape[1], *kernel
    try:
        g = conv.geometry(shape, weight, draw(1, 2, 3), (kernel[0] // 2, kernel[1] // 2), draw(1, 1, 2))
    except ValueError:  # the kernel does not fit
        return
    x, grad, w = draw.empty(*shape), draw.empty(*g.output_shape), fake_cupy.module.empty(weight, np.float32)
    conv_tc.forward(x, w, None, g)
    conv_tc.input_gradient(grad, w, g)
    conv_tc.weight_gradient(grad, x, w, g)


def call_depthwise(draw):
    shape, size, multiplier = draw.maps(), draw(1, 3, 5, 7, 9, 11), draw(1, 1, 2)
    weight = shape[1] * multiplier, 1, size, size
    g = conv.geometry(shape, weight, draw(1, 2, 3), draw(size // 2, size - 1), draw(1, 1, 1), shape[1])
    x, w, grad = draw.empty(*shape), draw.empty(*weight), draw.empty(*g.output_shape)
    if conv_depthwise.fits(g, x):
        conv_depthwise.forward(x, w, draw.empty(g.o), g)
        conv_depthwise.input_gradient(grad, w, g)
        conv_depthwise.weight_gradient(grad, x, w, g)


def call_pooling(draw):
    x, size, stride = draw.empty(*draw.maps(plane=(5, 7, 14, 32, 61))), draw(1, 2, 3), draw(1, 2, 3)
    if min(x.shape[2:]) < 3:
        return
    y, indices = pool.max_forward(x, size, stride, size // 2, 1, bool(draw(0, 1)))
    if y.shape[2:] == pool.max_forward(x, size, stride, size // 2)[0].shape[2:]:
        pool.max_backward(y, indices, x.shape, size, stride, size // 2)
    pool.average_backward(pool.average_forward(x, size, stride), x.shape, size, stride)
    output = draw(1, 3, 7), draw(1, 2)
    y, indices = pool.adaptive_max_forward(x, output)
    pool.adaptive_max_backward(y, indices, x.shape)
    pool.adaptive_average_backward(pool.adaptive_average_forward(x, output), x.shape)


def call_cross_entropy(draw):
    logits = draw.empty(draw(1, 2, 128, *HUGE), draw(1, 2, 10, 100, 1000))
    targets = fake_cupy.module.zeros(logits.shape[0], np.int64)
    _, probabilities = cross_entropy.forward(logits, targets)
    cross_entropy.backward(draw.empty(), probabilities, targets)


def call_cross_layer(draw):
    shape, layers = draw.maps(), draw(1, 2, 10)
    inputs, weight = [draw.empty(*shape)] * layers, draw.empty(layers, shape[1])
    cross_layer.forward(inputs, weight, draw.empty(shape[1]), weight)
    cross_layer.backward(inputs[0], inputs, weight, weight, [draw.empty(*shape) for _ in inputs], [False] * layers)
    channels = draw.empty(shape[1])
    cross_layer.centre(draw.empty(*shape), inputs[0], channels, channels, channels)


def call_whe(draw):
    group = draw(1, 2, 3, 4, 8, 11, 16, 32)
    x = draw.empty(*draw.maps(group, 2 * group, 4 * group))
    weights = [draw.empty(x.shape[1] // group, group, group) for _ in range(4)]
    activation = whe.ACTIVATIONS[draw(*range(len(whe.ACTIVATIONS)))]
    whe.forward(x, *weights, activation)
    whe.backward(x, x, *weights, activation)


def call_contract(draw):
    groups, inner, outer = draw(1, 2), draw(1, 5, 64, 200), draw(1, 7, 64)
    first = draw.empty(groups * inner, draw(1, 3, 64), draw(1, 3, 5), draw(1, 3))
    second = draw.empty(groups * outer, inner, draw(1, 3), draw(1, 3, 5))
    whole = contract.forward(first, second, groups)
    contract.backward(whole, first, second, groups)
    taps, channels = draw(1, 9, 49), draw(1, 3, 64)
    d, w = draw.empty(channels * groups, taps, taps + draw(0, 1)), None
    w = draw.empty(outer * groups, channels, d.shape[2])
    layout = ("paper", "authors")[draw(0, 1)]
    contract.compose_backward(contract.compose(d, w, groups, layout), d, w, groups, layout)
    bias = draw.empty(whole.shape[0])
    contract_fold.fold(whole, bias, bias, None, bias, bias)
    contract_fold.fold_backward(whole, bias, whole, bias, bias, bias, bias)


def call_sgd(draw):
    sizes = [draw(1, 3, 1000, 10**6) for _ in range(draw(1, 2, 5))]
    arrays = [draw.empty(size) for size in sizes]
    momentum = draw(0, 1) * 0.9
    velocities = [draw.empty(size) if momentum else None for size in sizes]
    sgd.step_groups([sgd.Group(arrays, arrays, velocities, 0.1, momentum, 1e-4, bool(momentum and draw(0, 1)))])


def call_gradients(draw):
    arrays = [draw.empty(draw(1, 3, 1000, 10**6)) for _ in range(draw(1, 2, 5))]
    gradients.square_sum(arrays)
    gradients.multiply(arrays, device.asarray(np.ones(())))


CALLS = {name.removeprefix("call_"): call for name, call in globals().items() if name.startswith("call_")}


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CALLS)
def test_drawn_launches(recorded, name, dtype):
    for seed in range(20):
        print(f"seed {seed}")
        CALLS[name](Drawn(seed, dtype))
    assert len(recorded.launches) > 10 and not recorded.waits
