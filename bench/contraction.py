"""Contractions of ExpandNets and DO-Conv, forward and backward to both factors, beside their floor, a BLAS and PyTorch.

The BLAS way is one product of the factors as matrices, whose result is added into the windows that the taps stand for;
for DO-Conv NumPy's batched product on strided views. PyTorch's is the papers' authors': a transposed convolution, or
einsum. There are no images here: --batch does nothing.
"""

from __future__ import annotations

from bench.timing import take_turns  # first: it sets the threads' environment

# isort: split

import numpy as np

from bench import floors
from bench.command import find_torch, read_options, report
from cupynn.kernels import contract
from cupynn.kernels.runtime import product

# name: channels in, in between and out of one group, kernel sizes, groups
CHAINS = {
    "SmallNet-7 CK, first pair": (16, 64, 128, 3, 3, 1),
    "SmallNet-7 CK, second pair": (16, 128, 32, 5, 3, 1),
    "SmallNet-7 CL, first pair": (16, 64, 128, 1, 7, 1),
    "SmallNet-7 CL, second pair": (16, 128, 32, 7, 1, 1),
    "FC 512-2048-64": (512, 2048, 64, 1, 1, 1),
    "depthwise CL, 256": (1, 4, 4, 1, 3, 256),
    "depthwise CL, 1024": (1, 4, 4, 1, 3, 1024),
}
# name: channels in and out
COMPOSITIONS = {"DO-Conv 16-16": (16, 16), "DO-Conv 128-128": (128, 128), "DO-Conv 512-512": (512, 512)}


def blas_forward(first: np.ndarray, second: np.ndarray, groups: int) -> np.ndarray:
    right, left = channels_last(first, groups), channels_last(second, groups)
    (g, p, ah, aw, i), (_, o, bh, bw, _) = right.shape, left.shape
    joined = product(left.reshape(g, o * bh * bw, p), right.reshape(g, p, -1)).reshape(g, o, bh, bw, ah, aw, i)
    w = np.zeros((g, o, ah + bh - 1, aw + bw - 1, i), first.dtype)
    for y, x in np.ndindex(bh, bw):
        w[:, :, y : y + ah, x : x + aw] += joined[:, :, y, x]
    return channels_first(w)


def blas_backward(grad: np.ndarray, first: np.ndarray, second: np.ndarray, groups: int) -> tuple:
    right, left = channels_last(first, groups), channels_last(second, groups)
    (g, p, ah, aw, i), (_, o, bh, bw, _) = right.shape, left.shape
    windows = np.lib.stride_tricks.sliding_window_view(channels_last(grad, groups), (ah, aw), axis=(2, 3))
    windows = windows.transpose(0, 1, 2, 3, 5, 6, 4).reshape(g, o * bh * bw, ah * aw * i)
    d_right = product(left.reshape(g, o * bh * bw, p).swapaxes(1, 2), windows)
    d_left = product(windows, right.reshape(g, p, -1).swapaxes(1, 2))
    return channels_first(d_right.reshape(right.shape)), channels_first(d_left.reshape(left.shape))


def channels_last(weight: np.ndarray, groups: int) -> np.ndarray:
    """(g O, I, KH, KW) as (g, O, KH, KW, I): the windows are then long rows."""
    o, *rest = weight.shape
    return np.ascontiguousarray(weight.reshape(groups, o // groups, *rest).transpose(0, 1, 3, 4, 2))


def channels_first(kernel: np.ndarray) -> np.ndarray:
    g, o, kh, kw, i = kernel.shape
    return np.ascontiguousarray(kernel.transpose(0, 1, 4, 2, 3)).reshape(g * o, i, kh, kw)


def chain(sizes: tuple[int, ...], torch) -> tuple[dict, dict, dict]:
    """The cost, and per contender its forward and its backward pass."""
    i, p, o, a, b, groups = sizes
    rng = np.random.default_rng(0)
    first = rng.standard_normal((groups * p, i, a, a), np.float32)
    second = rng.standard_normal((groups * o, p, b, b), np.float32)
    grad = rng.standard_normal((groups * o, i, a + b - 1, a + b - 1), np.float32)
    forward = {
        "cupynn": lambda: contract.forward(first, second, groups),
        "BLAS": lambda: blas_forward(first, second, groups),
    }
    backward = {
        "cupynn": lambda: contract.backward(grad, first, second, groups),
        "BLAS": lambda: blas_backward(grad, first, second, groups),
    }
    if torch:
        from bench.peers.torch_contraction import contracted

        leaves = [torch.from_numpy(array).requires_grad_() for array in (first, second)]
        _torch_passes(forward, backward, lambda: contracted(*leaves, groups), leaves, torch.from_numpy(grad), torch)
    return contract.cost(first.shape, second.shape, groups), forward, backward


def composition(channels: tuple[int, int], torch) -> tuple[dict, dict, dict]:
    """The same of DO-Conv with 3x3 kernels."""
    i, o = channels
    rng = np.random.default_rng(0)
    d, w = rng.standard_normal((i, 9, 9), np.float32), rng.standard_normal((o, i, 9), np.float32)
    grad = rng.standard_normal((o, i, 9), np.float32)
    forward = {"cupynn": lambda: contract.compose(d, w), "BLAS": lambda: contract.reference_compose(d, w)}
    backward = {
        "cupynn": lambda: contract.compose_backward(grad, d, w),
        "BLAS": lambda: contract.reference_compose_backward(grad, d, w),
    }
    if torch:
        from bench.peers.torch_contraction import composed

        leaves = [torch.from_numpy(array).requires_grad_() for array in (d, w)]
        _torch_passes(forward, backward, lambda: composed(*leaves), leaves, torch.from_numpy(grad), torch)
    return contract.compose_cost(d.shape, w.shape), forward, backward


def _torch_passes(forward, backward, run, leaves, grad, torch) -> None:
    result = run()
    forward["PyTorch"] = torch.no_grad()(run)
    backward["PyTorch"] = lambda: torch.autograd.grad(result, leaves, grad, retain_graph=True)


def main(arguments: list[str]) -> None:
    options = read_options("contraction", __doc__, arguments, batch=1, rounds=25)
    torch = find_torch()
    ceilings = floors.measure()
    cases = {name: chain(sizes, torch) for name, sizes in CHAINS.items()}
    cases |= {name: composition(channels, torch) for name, channels in COMPOSITIONS.items()}
    rows = []
    for name, (cost, forward, backward) in cases.items():
        for which, runs in {"forward": forward, "backward": backward}.items():
            times = take_turns(runs, options.rounds)
            ours, floor = times["cupynn"], ceilings.seconds(cost[which])
            row = {"composition": name, "pass": which, "cupynn us": ours.median * 1e6, "floor us": floor * 1e6}
            row["of floor"] = floor / ours.median
            for peer in [peer for peer in runs if peer != "cupynn"]:
                row[f"{peer} us"], row[f"to {peer}"] = times[peer].median * 1e6, ours.over(times[peer])
            rows.append(row)
    report(options, "Contractions", rows, ceilings)
