"""Batch norm as networks use it, alone, with ReLU, with a residual and ReLU, and activations, beside floor and PyTorch.

Training, forward and backward. PyTorch's part is its eager operations one after another: batch norm, addition, ReLU.
"""

from __future__ import annotations

from bench.timing import take_turns  # first: it sets the threads' environment

# isort: split

import numpy as np

from bench import floors
from bench.command import find_torch, read_options, report
from cupynn.kernels import activations, batch_norm, dropout

# name: channels and image side
SHAPES = {
    "ResNet-20 stage 1": (16, 32),
    "ResNet-20 stage 3": (64, 8),
    "MobileNetV2 first": (144, 32),
    "MobileNetV2 middle": (576, 8),
    "MobileNetV2 last": (1280, 4),
    "DelugeNet-146 block 1": (64, 32),
    "DelugeNet-146 block 3": (256, 8),
    "ResNet-50 stage 4": (512, 7),
}
FORMS = {"": (False, False), " + ReLU": (True, False), " + residual + ReLU": (True, True)}


def norms(x, grad, residual, torch):
    """(what, cost, {contender: call}) of each form and pass."""
    gamma, beta = np.ones(x.shape[1], np.float32), np.zeros(x.shape[1], np.float32)
    aten = torch.ops.aten if torch else None
    for form, (relu, adds) in FORMS.items():
        more = residual if adds else None
        y, mean, _, inv_std = batch_norm.forward_train(x, gamma, beta, 1e-5, relu, None, more)
        args = grad, x, y, gamma, beta, mean, inv_std, relu, adds
        train = {
            "cupynn": lambda relu=relu, more=more: batch_norm.forward_train(x, gamma, beta, 1e-5, relu, None, more)
        }
        back = {"cupynn": lambda args=args: batch_norm.backward_train(*args)}
        if torch:
            tx, tg, tr, ty, tw, tb, tm, ti = map(torch.from_numpy, (x, grad, residual, y, gamma, beta, mean, inv_std))

            def forward(relu=relu, adds=adds, t=(tx, tw, tb, tr)):
                z = aten.native_batch_norm(*t[:3], None, None, True, 0.1, 1e-5)[0]
                z = z + t[3] if adds else z
                return torch.relu(z) if relu else z

            def backward(relu=relu, t=(tg, tx, ty, tw, tm, ti)):
                g = aten.threshold_backward(t[0], t[2], 0) if relu else t[0]
                return aten.native_batch_norm_backward(g, t[1], t[3], None, None, *t[4:], True, 1e-5, [True] * 3)

            train["PyTorch"], back["PyTorch"] = forward, backward
        cost = batch_norm.cost(x.shape, relu=relu, residual=adds)
        yield f"batch norm{form} forward", cost["forward_train"], train
        yield f"batch norm{form} backward", cost["backward_train"], back


def others(x, grad, torch):
    """The same of activations and dropout."""
    aten, tx, tg = (torch.ops.aten, torch.from_numpy(x), torch.from_numpy(grad)) if torch else (None, None, None)
    for name in ("relu", "relu6", "hardswish", "sigmoid"):
        y = activations.forward(name, x)
        saved = y if activations.saves_output(name) else x
        forward = {"cupynn": lambda name=name: activations.forward(name, x)}
        backward = {"cupynn": lambda name=name, saved=saved: activations.backward(name, grad, saved)}
        if torch:
            ts = torch.from_numpy(saved)
            backwards = {
                "relu": lambda ts=ts: aten.threshold_backward(tg, ts, 0),
                "relu6": lambda ts=ts: aten.hardtanh_backward(tg, ts, 0, 6),
                "hardswish": lambda ts=ts: aten.hardswish_backward(tg, ts),
                "sigmoid": lambda ts=ts: aten.sigmoid_backward(tg, ts),
            }
            function = getattr(torch.nn.functional, name)
            forward["PyTorch"], backward["PyTorch"] = (lambda function=function: function(tx)), backwards[name]
        cost = activations.cost(x.shape)
        yield f"{name} forward", cost["forward"], forward
        yield f"{name} backward", cost["backward"], backward
    drop = {"cupynn": lambda: dropout.forward(x, 0.1, (1, 2))}
    if torch:
        drop["PyTorch"] = lambda: torch.nn.functional.dropout(tx, 0.1)
    yield "dropout forward", dropout.cost(x.shape), drop


def main(arguments: list[str]) -> None:
    options = read_options("batch_norm", __doc__, arguments, batch=128, rounds=25)
    torch = find_torch()
    ceilings = floors.measure()
    rows = []
    for name, (channels, side) in SHAPES.items():
        shape = options.batch, channels, side, side
        x, grad, residual = np.random.default_rng(0).standard_normal((3, *shape), np.float32)
        cases = list(norms(x, grad, residual, torch))
        if name == "DelugeNet-146 block 3":  # its arrays are of middling size
            cases += others(x, grad, torch)
        for what, cost, runs in cases:
            times = take_turns(runs, options.rounds)
            ours, floor = times["cupynn"], ceilings.seconds(cost)
            row = {"layer": name, "what": what, "shape": "x".join(map(str, shape)), "cupynn us": ours.median * 1e6}
            row["floor us"], row["of floor"] = floor * 1e6, floor / ours.median
            if torch:
                row["PyTorch us"], row["ratio"] = times["PyTorch"].median * 1e6, ours.over(times["PyTorch"])
            rows.append(row)
    report(options, f"Batch {options.batch}", rows, ceilings)
