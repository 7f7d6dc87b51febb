"""A chain of linear layers (convolutions or fully connected) contracted to one, differentiably.

Two convolutions in a row, w1 (P, I, a, a) with bias b1 and then w2 (O, P, b, b) with bias b2, nothing between them and
no stride in the first, are one convolution [ExpandNets, Sec. 3; Appendix D]:

    W[o, i, u] = sum_{p, v} w2[o, p, v] w1[p, i, u - v]        a full convolution of the two kernels, size a + b - 1
    B[o]       = b2[o] + sum_p (sum_v w2[o, p, v]) b1[p]

It is exact at the border too when the first layer has all the padding. `kernels.contract` makes W, and its gradients,
of two kernels at a time; a fully connected layer is a convolution with a 1x1 kernel.
"""

from __future__ import annotations

import math
from functools import lru_cache

from cupynn.autograd import Function
from cupynn.device import Array, xp_of
from cupynn.kernels import contract, runtime

Step = tuple[int, int]


@lru_cache(maxsize=256)
def contraction_order(channels: tuple[int, ...], kernel_sizes: tuple[tuple[int, int], ...]) -> tuple[Step, ...]:
    """The cheapest order of the pairwise contractions, by the matrix-chain recursion.

    channels: (inputs, outputs of layer 0, outputs of layer 1, ...) of one group. Each step (first, second) contracts
    two kernels, numbered as the layers, and its result takes the next free number.
    """
    layers = len(kernel_sizes)
    grown = [[(1, 1)] * layers for _ in range(layers)]  # kernel size of the contracted layers i..j
    cost = [[0] * layers for _ in range(layers)]
    split = [[0] * layers for _ in range(layers)]
    for i in range(layers):
        grown[i][i] = kernel_sizes[i]
        for j in range(i + 1, layers):
            grown[i][j] = tuple(a + b - 1 for a, b in zip(grown[i][j - 1], kernel_sizes[j], strict=True))
    for length in range(1, layers):
        for i in range(layers - length):
            j = i + length

            def cost_of(middle: int, i: int = i, j: int = j) -> int:
                taps = math.prod(grown[i][middle]) * math.prod(grown[middle + 1][j])
                products = taps * channels[i] * channels[middle + 1] * channels[j + 1]
                return cost[i][middle] + cost[middle + 1][j] + products

            split[i][j] = min(range(i, j), key=cost_of)
            cost[i][j] = cost_of(split[i][j])

    steps: list[Step] = []

    def walk(i: int, j: int) -> int:
        if i == j:
            return i
        steps.append((walk(i, split[i][j]), walk(split[i][j] + 1, j)))
        return layers + len(steps) - 1

    walk(0, layers - 1)
    return tuple(steps)


class ContractChain(Function):
    """Inputs: w1 ... wl, then b1 ... bl (any may be None). Outputs: W, and B where some bias is not None."""

    def forward(self, *arrays):
        weights, biases = arrays[: len(arrays) // 2], arrays[len(arrays) // 2 :]
        groups, self.layers, taps = self.groups, len(weights), (1, 1) if weights[0].ndim == 2 else ()
        kernels = [w.reshape(w.shape + taps) for w in weights]
        channels = (weights[0].shape[1], *(len(w) // groups for w in weights))
        self.steps = contraction_order(channels, tuple(kernel.shape[2:] for kernel in kernels))

        # The bias of the chain, layer by layer: to a layer it is a constant map, the same under every tap.
        carried, bias = [], None
        for kernel, b in zip(kernels, biases, strict=True):
            entering = None if bias is None else xp_of(bias).repeat(bias, math.prod(kernel.shape[2:]), axis=1)
            carried.append(entering)  # (g, I taps, 1)
            if entering is not None:
                bias = runtime.matmul(self._matrix(kernel), entering)
            if b is not None:
                own = b.reshape(groups, -1, 1)
                bias = own if bias is None else bias + own

        for first, second in self.steps:
            kernels.append(contract.forward(kernels[first], kernels[second], groups))
        weight = kernels.pop() if self.steps else kernels[0].copy()
        if any(self.needs_grad):
            self.save(*kernels, *carried)
        weight = weight.reshape(weight.shape[: weights[0].ndim])
        return weight if bias is None else (weight, bias.reshape(-1).copy())

    def backward(self, d_weight, d_bias=None):
        layers, groups = self.layers, self.groups
        kernels, carried = self.saved[:-layers], self.saved[-layers:]
        needs_weight, needs_bias = self.needs_grad[:layers], self.needs_grad[layers:]

        # Gradients to the kernels, from the last step to the first. A step's result needs one if a layer in it does.
        needed = list(needs_weight)
        for first, second in self.steps:
            needed.append(needed[first] or needed[second])
        grads: list[Array | None] = [None] * len(needed)
        grads[-1] = d_weight.reshape(d_weight.shape + kernels[0].shape[d_weight.ndim :])
        for number in range(len(needed) - 1, layers - 1, -1):
            first, second = self.steps[number - layers]
            if needed[number]:
                needs = needed[first], needed[second]
                grads[first], grads[second] = contract.backward(
                    grads[number], kernels[first], kernels[second], groups, needs
                )
                grads[number] = None

        # Gradients to the biases, from the last layer to the first; where one enters a layer, to that layer's kernel.
        d_carried = None if d_bias is None else d_bias.reshape(groups, -1, 1)
        d_biases: list[Array | None] = [None] * layers
        for layer in range(layers - 1, -1, -1):
            if d_carried is None:
                break
            if needs_bias[layer]:
                d_biases[layer] = d_carried.reshape(-1)
            if carried[layer] is None:
                break
            if grads[layer] is not None:
                grads[layer] += (d_carried * carried[layer].swapaxes(1, 2)).reshape(grads[layer].shape)
            taps = math.prod(kernels[layer].shape[2:])
            entering = runtime.matmul(self._matrix(kernels[layer]).swapaxes(1, 2), d_carried)
            d_carried = entering.reshape(groups, -1, taps).sum(axis=2, keepdims=True)
        d_weights = [None if grad is None else grad.reshape(grad.shape[: d_weight.ndim]) for grad in grads[:layers]]
        return (*d_weights, *d_biases)

    def _matrix(self, kernel: Array) -> Array:
        """(g O, I, KH, KW) as (g, O, I taps)."""
        return kernel.reshape(self.groups, kernel.shape[0] // self.groups, -1)


def contract_chain(weights, biases=None, groups: int = 1):
    """Contract layers applied in the order given to one: (weight, bias).

    weights: tensors (O, I/groups, KH, KW) of convolutions that share `groups`, or (O, I) of fully connected layers.
    biases: a tensor (O) or None for each, or None for no bias at all. The result's weight is (O, I/groups, KH, KW) with
    KH = sum of the kernels' KH - 1, plus 1; its bias is None where every layer's is. Gradients flow to all of them.

    Raises ValueError for layers that do not follow on each other.
    """
    weights = list(weights)
    biases = [None] * len(weights) if biases is None else list(biases)
    _check(weights, biases, groups)
    result = ContractChain(groups=groups)(*weights, *biases)
    return result if isinstance(result, tuple) else (result, None)


def _check(weights, biases, groups) -> None:
    if not weights or len(weights) != len(biases):
        raise ValueError(
            f"contract_chain: needs one or more weights and as many biases; got {len(weights)} and {len(biases)}"
        )
    for number, (w, b) in enumerate(zip(weights, biases, strict=True)):
        if w.ndim not in (2, 4) or w.ndim != weights[0].ndim or (w.ndim == 2 and groups != 1):
            raise ValueError(
                "contract_chain: weights must all be (O, I/groups, KH, KW), or at groups=1 all (O, I); "
                f"weights[{number}] has shape {w.shape} at groups={groups}"
            )
        if groups < 1 or w.shape[0] % groups:
            raise ValueError(
                f"contract_chain: groups={groups} does not divide the outputs of weights[{number}], {w.shape}"
            )
        if number and w.shape[1] * groups != weights[number - 1].shape[0]:
            raise ValueError(
                f"contract_chain: weights[{number}] has shape {w.shape}, so weights[{number - 1}] needs "
                f"{w.shape[1] * groups} outputs at groups={groups}; it has shape {weights[number - 1].shape}"
            )
        if b is not None and b.shape != (w.shape[0],):
            raise ValueError(
                f"contract_chain: weights[{number}] has shape {w.shape}, so biases[{number}] must be ({w.shape[0]},); "
                f"it has shape {b.shape}"
            )
