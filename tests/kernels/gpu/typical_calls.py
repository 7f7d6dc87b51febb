"""Calls of every face that `cupynn/kernels/launches.py` reckons with: maps of (16, 64, 32, 32)."""

import numpy as np

from cupynn import device
from cupynn.kernels import (
    activations,
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
    dropout,
    gradients,
    im2col,
    pointwise,
    pool,
    sgd,
    whe,
    winograd,
)


def call_all(dtype, images=16, side=32):
    """Make every call, on the default device."""
    shape = images, 64, side, side

    def zeros(*shape):
        return device.asarray(np.zeros(shape, dtype))

    def wide(*shape):
        """What is float32 where maps are of 16 bits: parameters."""
        return device.asarray(np.zeros(shape, device.compute_dtype(np.dtype(dtype))))

    x, y, channels = zeros(*shape), zeros(*shape), wide(64)
    small, tiny = zeros(images, 64, side // 2, side // 2), zeros(images, 64, 2, 2)
    narrow = x.dtype.itemsize == 2

    for relu in (False, True, 6):
        for maps in (x, tiny):
            out = batch_norm.forward_train(maps, channels, channels, 1e-5, relu)[0]
            batch_norm.forward_train(maps, channels, channels, 1e-5, relu, residual=maps)
            for residual in (False, True):
                batch_norm.backward_train(maps, maps, out, *[channels] * 4, relu, residual)
                batch_norm.backward_eval(maps, maps, out, *[channels] * 4, 1e-5, relu, residual)
    batch_norm.move_running(channels, channels, channels, channels, 0.1, 16)
    for name in activations.ACTIVATIONS:
        activations.backward(name, y, activations.forward(name, x))
    dropout.forward(x, 0.5, (1, 2))

    kernel, larger, d = wide(64, 64, 3, 3), wide(64, 64, 5, 5), wide(64, 9, 9)
    contract.forward(kernel, kernel)
    contract.backward(larger, kernel, kernel)
    contract.forward(kernel, wide(64, 64, 1, 1))
    contract.compose(d, wide(64, 64, 9))
    contract.compose_backward(wide(64, 64, 9), d, wide(64, 64, 9))
    contract_fold.fold(kernel, channels, channels, channels, channels, channels)
    contract_fold.fold_backward(kernel, channels, kernel, channels, channels, channels, channels)

    g = conv.geometry(x.shape, kernel.shape, padding=1)
    for method in (conv_direct,) if narrow else (conv_direct, winograd):
        method.forward(x, kernel, channels, g)
        method.input_gradient(y, kernel, g)
        method.weight_gradient(y, x, kernel, g)
    g, one = conv.geometry(x.shape, (64, 64, 1, 1)), wide(64, 64, 1, 1)
    pointwise.forward(x, one, channels, g)
    pointwise.input_gradient(y, one, g)
    pointwise.weight_gradient(y, x, one, g)
    if not narrow:
        scale, dx = zeros(images, 8, 64), zeros(*shape)
        for w in (kernel, one):
            conv_scaled.forward(x, w, y, scale)
            conv_scaled.input_gradient(y, w, dx, scale)
            conv_scaled.weight_gradient(y, x, w, scale)
    for outputs in (32, 64, 128) if x.dtype.itemsize < 8 else ():
        w = wide(outputs, 64, 3, 3)
        g = conv.geometry(x.shape, w.shape, padding=1)
        grad = zeros(*g.output_shape)
        conv_tc.forward(x, w, wide(outputs), g)
        conv_tc.input_gradient(grad, w, g)
        conv_tc.weight_gradient(grad, x, w, g)
    im2col.im2col(x, (3, 3), (1, 1), (1, 1), (1, 1))
    im2col.col2im(wide(images, 576, side * side), x.shape, (3, 3), (1, 1), (1, 1), (1, 1))

    for size, stride in ((3, 1), (3, 2), (5, 1), (5, 2), (7, 1), (7, 2), (9, 1)):
        w = wide(64, 1, size, size)
        g = conv.geometry(x.shape, w.shape, stride, size // 2, groups=64)
        grad = zeros(*g.output_shape)
        conv_depthwise.forward(x, w, channels, g)
        conv_depthwise.input_gradient(grad, w, g)
        conv_depthwise.weight_gradient(grad, x, w, g)

    logits, targets = wide(64, 1000), device.asarray(np.zeros(64, np.int64))
    cross_entropy.backward(wide(), cross_entropy.forward(logits, targets)[1], targets)

    inputs, weight = [x] * 10, wide(10, 64)
    cross_layer.forward(inputs, weight)
    cross_layer.backward(y, inputs, weight, outputs=[zeros(*shape) for _ in inputs])
    cross_layer.centre(x, y, channels, channels, channels)

    _, indices = pool.max_forward(x, 3, 2, 1)
    pool.max_backward(small, indices, x.shape, 3, 2, 1)
    pool.max_forward(x, 2)
    pool.average_forward(x, 2)
    pool.average_backward(small, x.shape, 2)

    for momentum, nesterov in ((0.0, False), (0.9, False), (0.9, True)):
        parameter, velocity = wide(10**6), wide(10**6) if momentum else None
        for count in (1, 2):
            arrays = [parameter] * count, [parameter] * count, [velocity] * count
            sgd.step_groups([sgd.Group(*arrays, 0.1, momentum, 0.0, nesterov)])

    gradients.multiply([wide(10**6)] * 2, device.asarray(np.ones(())))
    gradients.square_sum([wide(10**6)] * 2)

    for group in (2, 4, 8, 16, 32):
        weights = [wide(64 // group, group, group) for _ in range(4)]
        for activation in whe.ACTIVATIONS:
            whe.forward(x, *weights, activation)
            whe.backward(y, x, *weights, activation)
