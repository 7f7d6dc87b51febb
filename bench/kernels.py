"""Every kernel but the convolutions beside its floor and PyTorch, at the shapes of SmallNet-7."""

from __future__ import annotations

from bench.timing import take_turns  # first: it sets the threads' environment

# isort: split

import numpy as np

from bench import floors
from bench.command import find_torch, read_options, report
from cupynn.kernels import batch_norm, cross_entropy, gradients, im2col, pool, sgd

SHAPES = [(8, 32), (16, 16), (32, 8)]  # channels and image side after each convolution


def cases(batch: int, torch):
    """(name, shape, cost, {contender: call}) of each kernel."""
    rng = np.random.default_rng(0)
    for c, side in SHAPES:
        x, grad = rng.standard_normal((2, batch, c, side, side), np.float32)
        gamma, beta = np.ones(c, np.float32), np.zeros(c, np.float32)
        y, mean, variance, inv_std = batch_norm.forward_train(x, gamma, beta, 1e-5, relu=True)
        cost = batch_norm.cost(x.shape, relu=True)
        yield from _norm(x, grad, y, gamma, beta, mean, variance, inv_std, cost, torch)
        pooled, indices = pool.max_forward(x, 2, 2, 0)
        small = rng.standard_normal(pooled.shape, np.float32)
        cost = pool.cost(x.shape, pooled.shape[2:], 4)
        ours = {"cupynn": lambda x=x: pool.max_forward(x, 2, 2, 0)}
        back = {"cupynn": lambda g=small, i=indices, s=x.shape: pool.max_backward(g, i, s, 2, 2, 0)}
        if torch:
            tx, tg = torch.from_numpy(x), torch.from_numpy(small)
            places = torch.nn.functional.max_pool2d(tx, 2, return_indices=True)[1]
            ours["PyTorch"] = lambda tx=tx: torch.nn.functional.max_pool2d(tx, 2, return_indices=True)
            back["PyTorch"] = lambda tg=tg, tx=tx, p=places: torch.ops.aten.max_pool2d_with_indices_backward(
                tg, tx, [2, 2], [2, 2], [0, 0], [1, 1], False, p
            )
        yield "max pool 2x2 forward", x.shape, cost["max_forward"], ours
        yield "max pool 2x2 backward", x.shape, cost["max_backward"], back
    window = (7, 7), (1, 1), (3, 3), (1, 1)
    image = rng.standard_normal((4, 8, 16, 16), np.float32)  # the tile that one matrix product takes
    columns = im2col.im2col(image, *window)
    cost = im2col.cost(4, 8, (16, 16), (7, 7), (16, 16))
    yield "im2col 7x7", image.shape, cost["im2col"], {"cupynn": lambda: im2col.im2col(image, *window)}
    yield "col2im 7x7", image.shape, cost["col2im"], {"cupynn": lambda: im2col.col2im(columns, image.shape, *window)}
    logits, labels = rng.standard_normal((batch, 10), np.float32), rng.integers(0, 10, batch)
    ours = {"cupynn": lambda: cross_entropy.forward(logits, labels)}
    if torch:
        tl, tt = torch.from_numpy(logits), torch.from_numpy(labels)
        ours["PyTorch"] = lambda: torch.nn.functional.cross_entropy(tl, tt)
    yield "cross-entropy forward", logits.shape, cross_entropy.cost(batch, 10)["forward"], ours
    weights, slopes, velocities = np.zeros((3, 1 << 20), np.float32)
    ours = {"cupynn": lambda: sgd.step(weights, slopes, velocities, 0.1, 0.9, 1e-4, True)}
    if torch:
        parameter = torch.nn.Parameter(torch.zeros(1 << 20))
        parameter.grad = torch.zeros(1 << 20)
        optimiser = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
        ours["PyTorch"] = optimiser.step
    yield "SGD step", weights.shape, sgd.cost(weights.size), ours
    cost, factor = gradients.cost(slopes.size), np.array(1.0)
    total, scale = (
        {"cupynn": lambda: gradients.square_sum([slopes])},
        {"cupynn": lambda: gradients.multiply([slopes], factor)},
    )
    if torch:
        tg, tf = parameter.grad, torch.tensor(1.0)
        total["PyTorch"] = lambda: torch.linalg.vector_norm(tg)
        scale["PyTorch"] = lambda: tg.mul_(tf)
    yield "gradients' squares", slopes.shape, cost["square_sum"], total
    yield "factor for gradients", slopes.shape, cost["multiply"], scale


def _norm(x, grad, y, gamma, beta, mean, variance, inv_std, cost, torch):
    """Batch norm with ReLU: training forward and backward, inference."""
    train = {"cupynn": lambda: batch_norm.forward_train(x, gamma, beta, 1e-5, relu=True)}
    back = {"cupynn": lambda: batch_norm.backward_train(grad, x, None, gamma, beta, mean, inv_std, relu=True)}
    infer = {"cupynn": lambda: batch_norm.forward_eval(x, gamma, beta, mean, variance, 1e-5, relu=True)}
    if torch:
        aten = torch.ops.aten
        tx, tg, ty, tw, tb, tm, tv, ti = map(torch.from_numpy, (x, grad, y, gamma, beta, mean, variance, inv_std))
        train["PyTorch"] = lambda: torch.relu(aten.native_batch_norm(tx, tw, tb, None, None, True, 0.1, 1e-5)[0])
        back["PyTorch"] = lambda: aten.native_batch_norm_backward(
            aten.threshold_backward(tg, ty, 0), tx, tw, None, None, tm, ti, True, 1e-5, [True, True, True]
        )
        infer["PyTorch"] = lambda: torch.relu(aten.native_batch_norm(tx, tw, tb, tm, tv, False, 0.1, 1e-5)[0])
    yield "batch norm + ReLU training forward", x.shape, cost["forward_train"], train
    yield "batch norm + ReLU training backward", x.shape, cost["backward_train"], back
    yield "batch norm + ReLU inference", x.shape, cost["forward_eval"], infer


def main(arguments: list[str]) -> None:
    options = read_options("kernels", __doc__, arguments, batch=128, rounds=25)
    torch = find_torch()
    ceilings = floors.measure()
    rows = []
    for name, shape, cost, runs in cases(options.batch, torch):
        times = take_turns(runs, options.rounds)
        ours, floor = times["cupynn"], ceilings.seconds(cost)
        row = {"kernel": name, "shape": "x".join(map(str, shape)), "cupynn us": ours.median * 1e6}
        row["floor us"], row["of floor"] = floor * 1e6, floor / ours.median
        if "PyTorch" in times:
            row["PyTorch us"], row["ratio"] = times["PyTorch"].median * 1e6, ours.over(times["PyTorch"])
        rows.append(row)
    report(options, f"Batch {options.batch}", rows, ceilings)
