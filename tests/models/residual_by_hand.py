"""Residual blocks in NumPy, as the papers define them, from the weights and running statistics of ours."""

import numpy as np

from cupynn import nn


def conv(x, layer):
    """Cross-correlation, tap by tap and group by group."""
    (stride, _), (padding, _), (size, _) = layer.stride, layer.padding, layer.kernel_size
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    height, width = ((side - size) // stride + 1 for side in x.shape[2:])
    inputs, outputs = np.split(x, layer.groups, 1), np.split(layer.weight.data, layer.groups)
    y = 0
    for i in range(size):
        for j in range(size):
            window = np.s_[:, :, i : i + stride * height : stride, j : j + stride * width : stride]
            taps = zip(inputs, outputs, strict=True)
            y = y + np.concatenate([np.einsum("nchw,oc->nohw", z[window], w[:, :, i, j]) for z, w in taps], 1)
    return y if layer.bias is None else y + layer.bias.data[:, None, None]


def norm(x, layer):
    """Batch norm with running statistics."""
    weight, bias = (1, 0) if layer.weight is None else (layer.weight.data, layer.bias.data)
    factor = weight / np.sqrt(layer.running_var + 1e-5)
    return x * factor[:, None, None] + (bias - layer.running_mean * factor)[:, None, None]


def relu(x):
    return np.maximum(x, 0)


def whe_block(x, block):
    """x + BN(y), y(i) = sum_j d(i,j) max(0, a(i,j) x(i) + b(i,j) x(j) + c(i,j)) inside each group."""
    a, b, c, d = (part.data for part in (block.whe.a, block.whe.b, block.whe.c, block.whe.d))
    g = a.shape[1]
    z = x.reshape(x.shape[0], -1, g, *x.shape[2:])
    hidden = np.einsum("kij,nkihw->nkijhw", a, z) + np.einsum("kij,nkjhw->nkijhw", b, z) + c[:, :, :, None, None]
    y = np.einsum("kij,nkijhw->nkihw", d, relu(hidden)).reshape(x.shape)
    return x + norm(y, block.bn)


def shortcut(x, block):
    return x if isinstance(block.downsample, nn.Identity) else norm(conv(x, block.downsample[0]), block.downsample[1])


def basic(x, block):
    y = relu(norm(conv(x, block.conv1), block.bn1))
    return relu(norm(conv(y, block.conv2), block.bn2) + shortcut(x, block))


def basic_with_whe_behind_convolutions(x, block):
    y = relu(norm(whe_block(conv(x, block.conv1[0]), block.conv1[1]), block.bn1))
    return relu(norm(whe_block(conv(y, block.conv2[0]), block.conv2[1]), block.bn2) + shortcut(x, block))


def basic_with_whe_behind_batch_norms(x, block):
    y = relu(whe_block(norm(conv(x, block.conv1), block.bn1[0]), block.bn1[1]))
    return relu(whe_block(norm(conv(y, block.conv2), block.bn2[0]), block.bn2[1]) + shortcut(x, block))


def basic_with_depthwise(x, block):
    def with_depthwise(x, convolutions):
        y = conv(x, convolutions[0])
        return y + norm(conv(y, convolutions[1].conv), convolutions[1].bn)

    y = relu(norm(with_depthwise(x, block.conv1), block.bn1))
    return relu(norm(with_depthwise(y, block.conv2), block.bn2) + shortcut(x, block))


def basic_with_squeeze_excitation(x, block):
    y = norm(conv(relu(norm(conv(x, block.conv1), block.bn1)), block.conv2), block.bn2)
    hidden = relu(y.mean((2, 3)) @ block.rescale.fc1.weight.data.T)
    scale = 1 / (1 + np.exp(-hidden @ block.rescale.fc2.weight.data.T))
    return relu(y * scale[:, :, None, None] + shortcut(x, block))


def basic_with_elu(x, block):
    def elu(x):
        return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))

    y = elu(norm(conv(x, block.conv1), block.bn1))
    return elu(norm(conv(y, block.conv2), block.bn2) + shortcut(x, block))


def basic_with_prelu(x, block):
    def prelu(x, layer):
        return np.where(x > 0, x, layer.weight.data[:, None, None] * x)

    y = prelu(norm(conv(x, block.conv1), block.bn1), block.activation1)
    return prelu(norm(conv(y, block.conv2), block.bn2) + shortcut(x, block), block.activation2)


def bottleneck(x, block):
    y = relu(norm(conv(x, block.conv1), block.bn1))
    y = relu(norm(conv(y, block.conv2), block.bn2))
    return relu(norm(conv(y, block.conv3), block.bn3) + shortcut(x, block))


def preactivation_basic(x, block):
    a = relu(norm(x, block.bn1))
    y = conv(relu(norm(conv(a, block.conv1), block.bn2)), block.conv2)
    return y + (x if block.downsample is None else conv(a, block.downsample))


def preactivation_bottleneck(x, block):
    a = relu(norm(x, block.bn1))
    y = relu(norm(conv(a, block.conv1), block.bn2))
    y = conv(relu(norm(conv(y, block.conv2), block.bn3)), block.conv3)
    return y + (x if block.downsample is None else conv(a, block.downsample))


def max_pool(x):
    """3x3 windows of stride 2; the padding of 1 never wins."""
    x = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=-np.inf)
    height, width = ((side - 3) // 2 + 1 for side in x.shape[2:])
    taps = [x[:, :, i : i + 2 * height : 2, j : j + 2 * width : 2] for i in range(3) for j in range(3)]
    return np.max(taps, axis=0)
