"""WHE in PyTorch, as its users write it: every hidden unit is an element of an array (N, C/g, g, g, H, W)."""

from __future__ import annotations

import torch


def whe(x, a, b, c, d):
    """x (N, C, H, W), weights (C/g, g, g), ReLU."""
    groups = x.unflatten(1, a.shape[:2])
    a, b, c, d = (w[None, :, :, :, None, None] for w in (a, b, c, d))
    hidden = torch.relu(a * groups[:, :, :, None] + b * groups[:, :, None] + c)
    return (d * hidden).sum(3).flatten(1, 2)


def passes(x, grad, weights) -> dict[str, dict]:
    """{"forward", "forward + backward"} of {"eager", "compile"}, on arrays."""
    inputs = [torch.from_numpy(array).requires_grad_() for array in (x, *weights)]
    upstream = torch.from_numpy(grad)

    def infer(function):
        with torch.no_grad():
            return function(*inputs)

    def train(function):
        return torch.autograd.grad(function(*inputs), inputs, upstream)

    contenders = {"eager": whe, "compile": torch.compile(whe, dynamic=False)}
    return {
        name: {key: lambda call=call, function=function: call(function) for key, function in contenders.items()}
        for name, call in {"forward": infer, "forward + backward": train}.items()
    }
