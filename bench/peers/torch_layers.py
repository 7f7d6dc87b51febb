"""Each kernel's layer in PyTorch, from tensors in the order of `bench.gpu.layer.Layer.inputs` to the output."""

from __future__ import annotations

import torch
from torch.nn import functional

from bench.peers.torch_contraction import composed, contracted
from bench.peers.torch_whe import whe

__all__ = ["composed", "contracted", "whe"]


def cross_layer(weight, *arrays):
    return (torch.stack(arrays) * weight[:, None, :, None, None]).sum(0)


def conv(x, w, **options):
    return functional.conv2d(x, w, None, **options)


def batch_norm(x, gamma, beta, residual=None, relu: bool = False):
    y = functional.batch_norm(x, None, None, gamma, beta, True, 0.1, 1e-5)
    y = y if residual is None else y + residual
    return torch.relu(y) if relu else y


def max_pool(x):
    return functional.max_pool2d(x, 3, 2, 1)


def average_pool(x):
    return functional.avg_pool2d(x, 2)


def global_average_pool(x):
    return functional.adaptive_avg_pool2d(x, 1)


def activation(x, name: str):
    return getattr(functional, name)(x)


def dropout(x):
    return functional.dropout(x, 0.1)


def cross_entropy(logits, targets):
    return functional.cross_entropy(logits, targets)


def sgd_step(parameter, grad, velocity):
    """A call that steps; `velocity` is PyTorch's own."""
    parameter.grad = grad.detach()
    return torch.optim.SGD([parameter], lr=0.01, momentum=0.9, weight_decay=1e-4, nesterov=True).step
