"""A chain of linear layers (convolutions or fully connected) contracted to one, differentiably.

Two convolutions in a row, w1 (P, I, a, a) with bias b1 and then w2 (O, P, b, b) with bias b2, nothing between them and
no stride in the first, are one convolution [ExpandNets, Sec. 3; Appendix D]:

    W[o, i, u] = sum_{p, v} w2[o, p, v] w1[p, i, u - v]        a full convolution of the two kernels, size a + b - 1
    B[o]       = b2[o] + sum_p (sum_v w2[o, p, v]) b1[p]

It is exact at the border too when the first layer has all the padding. The sum over p is one matrix product,
(o, v) x p times p x (u, i); its O b b I a a results are then added into the b*b shifted windows of W. Kernels are kept
channels-last, (groups, O, KH, KW, I), in between: that layout is both factors' matrix without another copy, and the
windows are then long contiguous rows. A 1x1 kernel is the case with nothing to add.
"""

from __future__ import annotations

from functools import lru_cache

from cupynn.autograd import Function
from cupynn.device import Array, xp_of
from cupynn.kernels.runtime import product

# What it costs to add one element of a product into its window, and to start on a window at all, in
# multiply-accumulates of a matrix product (measured on a CPU).
ELEMENT_COST, WINDOW_COST = 20, 100_000

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
                first, second = grown[i][middle], grown[middle + 1][j]
                taps = second[0] * second[1]
                elements = channels[i] * channels[j + 1] * first[0] * first[1] * taps
                windows = 0 if (1, 1) in (first, second) else elements * ELEMENT_COST + taps * WINDOW_COST
                return cost[i][middle] + cost[middle + 1][j] + elements * channels[middle + 1] + windows

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


def _contract_pair(first: Array, second: Array) -> Array:
    """Contract (g, P, ah, aw, I), then (g, O, bh, bw, P), to (g, O, ah + bh - 1, aw + bw - 1, I)."""
    (g, p, ah, aw, i), (_, o, bh, bw, _) = first.shape, second.shape
    joined = product(second.reshape(g, o * bh * bw, p), first.reshape(g, p, ah * aw * i))
    if ah == aw == 1 or bh == bw == 1:
        return joined.reshape(g, o, ah + bh - 1, aw + bw - 1, i)
    joined = joined.reshape(g, o, bh, bw, ah, aw, i)
    result = xp_of(first).zeros((g, o, ah + bh - 1, aw + bw - 1, i), joined.dtype)
    for y in range(bh):
        for x in range(bw):
            result[:, :, y : y + ah, x : x + aw] += joined[:, :, y, x]
    return result


def _contract_pair_backward(grad: Array, first: Array, second: Array, needs: tuple[bool, bool]):
    """Gradients of `_contract_pair` to first and second: the same product, transposed, on the windows of grad."""
    (g, p, ah, aw, i), (_, o, bh, bw, _) = first.shape, second.shape
    if not (ah == aw == 1 or bh == bw == 1):
        windows = xp_of(grad).lib.stride_tricks.sliding_window_view(grad, (ah, aw), axis=(2, 3))
        grad = windows.transpose(0, 1, 2, 3, 5, 6, 4)  # (g, O, bh, bw, ah, aw, I), copied by reshape
    grad = grad.reshape(g, o * bh * bw, ah * aw * i)
    d_first = d_second = None
    if needs[0]:
        d_first = product(second.reshape(g, o * bh * bw, p).swapaxes(1, 2), grad).reshape(first.shape)
    if needs[1]:
        d_second = product(grad, first.reshape(g, p, ah * aw * i).swapaxes(1, 2)).reshape(second.shape)
    return d_first, d_second


def _channels_last(weight: Array, groups: int) -> Array:
    """(g O, I, KH, KW), or (g O, I), as (g, O, KH, KW, I)."""
    o, i, kh, kw = weight.shape if weight.ndim == 4 else (*weight.shape, 1, 1)
    kernel = weight.reshape(groups, o // groups, i, kh, kw).transpose(0, 1, 3, 4, 2)
    return xp_of(weight).ascontiguousarray(kernel)


def _channels_first(kernel: Array, ndim: int) -> Array:
    """(g, O, KH, KW, I) as (g O, I, KH, KW), or with ndim=2 as (O, I)."""
    g, o, kh, kw, i = kernel.shape
    shape = (g * o, i, kh, kw) if ndim == 4 else (o, i)
    return xp_of(kernel).ascontiguousarray(kernel.transpose(0, 1, 4, 2, 3)).reshape(shape)


class ContractChain(Function):
    """Inputs: w1 ... wl, then b1 ... bl (any may be None). Outputs: W, and B where some bias is not None."""

    def forward(self, *arrays):
        weights, biases = arrays[: len(arrays) // 2], arrays[len(arrays) // 2 :]
        xp, groups = xp_of(weights[0]), self.groups
        kernels = [_channels_last(w, groups) for w in weights]
        channels = (kernels[0].shape[4], *(kernel.shape[1] for kernel in kernels))
        self.steps = contraction_order(channels, tuple(kernel.shape[2:4] for kernel in kernels))
        self.layers = len(weights)

        # The bias of the chain, layer by layer: a constant map passes a kernel as the sum of its taps.
        sums, carried, bias = [], [], None
        for kernel, b in zip(kernels, biases, strict=True):
            carried.append(bias)  # the bias that enters this layer
            sums.append(None)
            if bias is not None:
                g, o, kh, kw, i = kernel.shape
                taps = kernel.reshape(g, o, kh * kw, i)  # summed by a product, which is faster than sum(axis=2)
                sums[-1] = (xp.ones((1, kh * kw), kernel.dtype) @ taps if kh * kw > 1 else taps).reshape(g, o, i)
                bias = (sums[-1] @ bias[:, :, None])[:, :, 0]
            if b is not None:
                own = b.reshape(groups, -1)
                bias = own if bias is None else bias + own

        for first, second in self.steps:
            kernels.append(_contract_pair(kernels[first], kernels[second]))
        result = kernels.pop()
        if any(self.needs_grad):
            self.save(*kernels, *sums, *carried)
        weight = _channels_first(result, weights[0].ndim)
        return weight if bias is None else (weight, bias.reshape(-1).copy())

    def backward(self, d_weight, d_bias=None):
        layers, groups = self.layers, self.groups
        kernels, sums, carried = self.saved[: -2 * layers], self.saved[-2 * layers : -layers], self.saved[-layers:]
        needs_weight, needs_bias = self.needs_grad[:layers], self.needs_grad[layers:]

        # Gradients to the kernels, from the last step to the first. A step's result needs one if a layer in it does.
        needed = list(needs_weight)
        for first, second in self.steps:
            needed.append(needed[first] or needed[second])
        grads = [None] * len(needed)
        grads[-1] = _channels_last(d_weight, groups)
        for number in range(len(needed) - 1, layers - 1, -1):
            first, second = self.steps[number - layers]
            if needed[number]:
                grads[first], grads[second] = _contract_pair_backward(
                    grads[number], kernels[first], kernels[second], (needed[first], needed[second])
                )
                grads[number] = None

        # Gradients to the biases, from the last layer to the first, and through them to the sums of the taps.
        d_carried = None if d_bias is None else d_bias.reshape(groups, -1)
        d_biases: list[Array | None] = [None] * layers
        for layer in range(layers - 1, -1, -1):
            if d_carried is None:
                break
            if needs_bias[layer]:
                d_biases[layer] = d_carried.reshape(-1)
            if carried[layer] is None:
                break
            if grads[layer] is not None:
                grads[layer] += (d_carried[:, :, None] * carried[layer][:, None, :])[:, :, None, None, :]
            d_carried = (d_carried[:, None, :] @ sums[layer])[:, 0]
        d_weights = [None if kernel is None else _channels_first(kernel, d_weight.ndim) for kernel in grads[:layers]]
        return (*d_weights, *d_biases)


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
