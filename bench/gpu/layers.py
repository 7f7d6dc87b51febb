"""The kernels that move more than they compute, and those of the papers: {family: its layers at a batch}.

Shapes are ImageNet's or the papers' networks', large enough that no array stays in a GPU's second-level cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from bench.gpu.layer import Layer, Pass, normal, size_of
from cupynn import device
from cupynn.kernels import activations, batch_norm, contract, cross_entropy, cross_layer, dropout, pool, sgd, whe


def whe_layers(batch: int) -> Iterator[Layer]:
    for g, dtype in ((16, "float32"), (8, "float32"), (4, "float32"), (16, "float16")):
        shape = (batch, 64, 32, 32)
        x, grad, weights = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype), []
        for _ in range(4):
            weights.append(normal(64 // g, g, g) * np.float32(0.1))
        cost = whe.cost(shape, g, size_of(dtype))
        passes = [
            Pass("forward", cost["forward"], {"": partial(whe.forward, x, *weights)}),
            Pass("backward", cost["backward"], {"": partial(whe.backward, grad, x, *weights)}, (0, 1, 2, 3, 4)),
        ]
        yield Layer(f"WHE g={g}", shape, dtype, [x, *weights], grad, passes, "whe", fused=True)


def cross_layers(batch: int) -> Iterator[Layer]:
    layers, shape = 16, (batch, 64, 32, 32)
    for dtype in ("float32", "float16"):
        inputs, weight = [normal(*shape, dtype=dtype) for _ in range(layers)], normal(layers, 64)
        grad = normal(*shape, dtype=dtype)
        cost = cross_layer.cost(layers, shape, size_of(dtype))

        def backward(grad=grad, inputs=inputs, weight=weight):
            outputs = [device.xp_of(grad).empty_like(grad) for _ in inputs]
            return cross_layer.backward(grad, inputs, weight, outputs=outputs)[0], *outputs

        passes = [
            Pass("forward", cost["forward"], {"": partial(cross_layer.forward, inputs, weight)}),
            Pass("backward", cost["backward"], {"": backward}, tuple(range(layers + 1))),
        ]
        yield Layer("cross-layer, 16 layers", shape, dtype, [weight, *inputs], grad, passes, "cross_layer", fused=True)


# channels in, in between and out of one group, kernel sizes, groups
CONTRACTIONS = {
    "contraction CK 3x3-3x3": (64, 256, 256, 3, 3, 1),
    "contraction CL 3x3-1x1": (256, 1024, 256, 3, 1, 1),
    "contraction FC": (512, 2048, 64, 1, 1, 1),
    "contraction depthwise": (1, 4, 4, 1, 3, 1024),
}


def contractions(batch: int) -> Iterator[Layer]:
    """No images are there: `batch` does nothing."""
    for name, (i, p, o, a, b, groups) in CONTRACTIONS.items():
        first, second = normal(groups * p, i, a, a), normal(groups * o, p, b, b)
        grad = normal(groups * o, i, a + b - 1, a + b - 1)
        cost = contract.cost(first.shape, second.shape, groups)
        passes = [
            Pass("forward", cost["forward"], {"": partial(contract.forward, first, second, groups)}),
            Pass("backward", cost["backward"], {"": partial(contract.backward, grad, first, second, groups)}, (0, 1)),
        ]
        yield Layer(name, grad.shape, "float32", [first, second], grad, passes, "contracted", {"groups": groups})
    for channels in (128, 512):
        d, w, grad = normal(channels, 9, 9), normal(channels, channels, 9), normal(channels, channels, 9)
        cost = contract.compose_cost(d.shape, w.shape)
        passes = [
            Pass("forward", cost["forward"], {"": partial(contract.compose, d, w)}),
            Pass("backward", cost["backward"], {"": partial(contract.compose_backward, grad, d, w)}, (0, 1)),
        ]
        yield Layer("DO-Conv composition", w.shape, "float32", [d, w], grad, passes, "composed")


NORMS = {"batch norm": (False, False), "batch norm + ReLU": (True, False), "batch norm + add + ReLU": (True, True)}


def batch_norms(batch: int) -> Iterator[Layer]:
    cases = [(name, (batch, 64, 56, 56), "float32") for name in NORMS]
    cases += [
        ("batch norm + ReLU", (batch, 64, 56, 56), "float16"),
        ("batch norm + ReLU", (batch, 512, 7, 7), "float32"),
    ]
    for name, shape, dtype in cases:
        relu, adds = NORMS[name]
        x, grad, gamma, beta = (
            normal(*shape, dtype=dtype),
            normal(*shape, dtype=dtype),
            normal(shape[1]),
            normal(shape[1]),
        )
        inputs = [x, gamma, beta]
        if adds:
            inputs.append(normal(*shape, dtype=dtype))
        more = inputs[3] if adds else None
        y, mean, _, inv_std = batch_norm.forward_train(x, gamma, beta, 1e-5, relu, None, more)
        cost = batch_norm.cost(shape, size_of(dtype), relu, adds)
        forward = partial(batch_norm.forward_train, x, gamma, beta, 1e-5, relu, None, more)
        backward = partial(batch_norm.backward_train, grad, x, y, gamma, beta, mean, inv_std, relu, adds)
        passes = [
            Pass("forward", cost["forward_train"], {"": forward}),
            Pass("backward", cost["backward_train"], {"": backward}, tuple(range(len(inputs)))),
        ]
        yield Layer(name, shape, dtype, inputs, grad, passes, "batch_norm", {"relu": relu}, fused=True)


def pools(batch: int) -> Iterator[Layer]:
    for name, peer, shape, taps in (
        ("max pool 3x3/2", "max_pool", (batch, 64, 112, 112), 9),
        ("average pool 2x2", "average_pool", (batch, 256, 28, 28), 4),
        ("global average pool", "global_average_pool", (batch, 512, 7, 7), 49),
    ):
        x = normal(*shape)
        if peer == "max_pool":
            y, indices = pool.max_forward(x, 3, 2, 1)
            grad = normal(*y.shape)
            runs = partial(pool.max_forward, x, 3, 2, 1), partial(pool.max_backward, grad, indices, shape, 3, 2, 1)
        elif peer == "average_pool":
            grad = normal(*pool.average_forward(x, 2).shape)
            runs = partial(pool.average_forward, x, 2), partial(pool.average_backward, grad, shape, 2)
        else:
            grad = normal(*shape[:2], 1, 1)
            runs = partial(pool.adaptive_average_forward, x, 1), partial(pool.adaptive_average_backward, grad, shape)
        cost = pool.cost(shape, grad.shape[2:], taps)
        kind = "max" if peer == "max_pool" else "average"
        passes = [
            Pass("forward", cost[f"{kind}_forward"], {"": runs[0]}),
            Pass("backward", cost[f"{kind}_backward"], {"": runs[1]}, (0,)),
        ]
        yield Layer(name, shape, "float32", [x], grad, passes, peer)


def elementwise(batch: int) -> Iterator[Layer]:
    shape = (batch, 64, 56, 56)
    for name, dtype in (("relu", "float32"), ("relu", "float16"), ("hardswish", "float32"), ("sigmoid", "float32")):
        x, grad = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype)
        saved = activations.forward(name, x) if activations.saves_output(name) else x
        cost = activations.cost(shape, size_of(dtype))
        passes = [
            Pass("forward", cost["forward"], {"": partial(activations.forward, name, x)}),
            Pass("backward", cost["backward"], {"": partial(activations.backward, name, grad, saved)}, (0,)),
        ]
        yield Layer(name, shape, dtype, [x], grad, passes, "activation", {"name": name})
    x = normal(*shape)
    passes = [Pass("forward", dropout.cost(shape), {"": partial(dropout.forward, x, 0.1, (1, 2))})]
    yield Layer("dropout", shape, "float32", [x], None, passes, "dropout")


def losses_and_steps(batch: int) -> Iterator[Layer]:
    logits, targets = normal(8 * batch, 1000), device.asarray(np.arange(8 * batch) % 1000)
    one = device.asarray(np.float32(1))
    probabilities = cross_entropy.forward(logits, targets)[1]
    cost = cross_entropy.cost(*logits.shape)
    passes = [
        Pass("forward", cost["forward"], {"": partial(cross_entropy.forward, logits, targets)}),
        Pass("backward", cost["backward"], {"": partial(cross_entropy.backward, one, probabilities, targets)}, (0,)),
    ]
    yield Layer("cross-entropy", logits.shape, "float32", [logits, targets], None, passes, "cross_entropy")

    shape = (batch << 17,)
    weights, slopes, velocities = normal(*shape), normal(*shape), normal(*shape)
    step = partial(sgd.step, weights, slopes, velocities, 0.01, 0.9, 1e-4, True)

    passes = [Pass("step", sgd.cost(shape[0]), {"": step})]
    yield Layer("SGD", shape, "float32", [weights, slopes, velocities], None, passes, "sgd_step")


FAMILIES: dict[str, Callable[[int], Iterator[Layer]]] = {
    "WHE": whe_layers,
    "cross-layer": cross_layers,
    "contraction": contractions,
    "batch norm": batch_norms,
    "pooling": pools,
    "activations": elementwise,
    "loss and SGD": losses_and_steps,
}
