"""What the ranks of a test do. python -m mpi4py rank_programs.py PROGRAM FOLDER ARGUMENTS...

Each program returns arrays by name, which are left in FOLDER/RANK.npz.
"""

import pathlib
import sys

import numpy as np

import cupynn
from cupynn import data, distributed, nn, ops, optim
from cupynn.autograd import Tensor
from cupynn.device import compute_dtype


def collectives(world):
    """Every method of World once."""
    rank = world.rank
    summed = np.arange(5.0) + rank
    world.sum(summed)
    started = np.full(3, rank, np.int64)
    request = world.start_sum(started)
    request.Test()
    request.Wait()
    arrays = [np.full((2, 2), rank + 7.0), np.array(rank + 3), np.full((3, 4), rank, np.float32)[:, ::2]]
    world.broadcast(arrays)
    cupynn.manual_seed(0)
    world.seed(1, 2, 3)
    return {
        "sum": summed,
        "started": started,
        "table": world.table(np.array([rank, 10.0 * rank])),
        "total": world.total(rank, 0.5),
        "largest": world.largest(False, rank == 1, -rank),
        "first": world.first(f"from {rank}" if rank else ""),
        "copied": world.copied([rank, 42]),
        "broadcast": np.concatenate([array.ravel() for array in arrays]),
        "drawn": cupynn.device.generator().random(4),
        "place": (world.rank, world.size, world.local_rank),
    }


def network(batch_norm):
    """A small convolutional network in float64 with a parameter that the loss never depends on, and one frozen."""
    cupynn.manual_seed(5)
    norm = [nn.BatchNorm2d(6)] if batch_norm else []
    last = [nn.BatchNorm2d(5, affine=False)] if batch_norm else []
    layers = [nn.Conv2d(3, 6, 3, padding=1), *norm, nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2), *last, nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(5 * 9, 4)).astype(np.float64)
    model.unused = nn.Parameter(np.ones(7))
    model.frozen = nn.Parameter(np.ones(3), requires_grad=False)
    return model


def images_and_labels():
    rng = np.random.default_rng(11)
    images, labels = rng.integers(0, 256, (54, 3, 8, 8), np.uint8), rng.integers(0, 4, 54)
    return data.ArrayDataset(images, labels, ("a", "b", "c", "d"), "noise", (0.5,) * 3, (0.3,) * 3)


def train(world, batch_norm, bucket_bytes=512, steps=20):
    """20 steps of SGD on batches of 16, the last of an epoch of 6: parts differ. Returns the state."""
    batch_norm, bucket_bytes, steps = batch_norm in (True, "True"), int(bucket_bytes), int(steps)
    dataset, model = images_and_labels(), network(batch_norm)
    if world.rank:
        for parameter in model.parameters():
            parameter.data += 1  # what broadcast mends
    world.broadcast(model.state_dict().values())
    distributed.synchronise_batch_norm(model, world)
    gradients = distributed.GradientSum(model.parameters(), world, bucket_bytes)
    optimizer = optim.SGD(list(model.parameters()), lr=0.05, momentum=0.9, weight_decay=1e-3)
    transform, done, losses, counts = [data.HorizontalFlip()], 0, [], []
    for epoch in range(1 + steps // 4):
        batches = data.batches(dataset, 16, shuffle=True, seed=3, epoch=epoch, transform=transform)
        for images, labels in distributed.shard(batches, world):
            if done == steps:
                break
            done += 1
            optimizer.zero_grad()
            loss = ops.cross_entropy(model(Tensor(images.astype(np.float64))), labels)
            counts.append(gradients.backward(loss, len(labels)))
            optimizer.step()
            losses.append(loss.item() * len(labels))
    unused = model.unused.grad is None and model.frozen.grad is None
    state = {name: np.array(array) for name, array in model.state_dict().items()}
    buckets = len(gradients.buckets)
    return {**state, "losses": world.total(*losses), "counts": counts, "unused": unused, "buckets": buckets}


def normalised(world, relu, dtype):
    """Synchronised batch norm of this rank's part of a batch far from zero, and a residual where there is ReLU: what it
    returns, gradients, statistics."""
    rng = np.random.default_rng(8)
    x, grad = 100 + rng.standard_normal((2, 6, 5, 3, 4)).astype(dtype)
    grad -= 100
    layer = distributed.synchronise_batch_norm(nn.BatchNorm2d(5).astype(compute_dtype(np.dtype(dtype))), world)
    layer.weight.data[...], layer.bias.data[...] = rng.uniform(0.5, 2, 5), rng.uniform(-1, 1, 5)
    first, last = {1: (0, 6), 2: (0, 4) if world.rank == 0 else (4, 6)}[world.size]  # parts of unequal size
    part = Tensor(x[first:last], requires_grad=True)
    residual = Tensor(rng.standard_normal(x.shape).astype(dtype)[first:last], requires_grad=True)
    y = layer(part, relu=True, residual=residual) if int(relu) else layer(part)
    y.backward(grad[first:last])
    sums = np.stack([layer.weight.grad, layer.bias.grad])
    world.sum(sums)
    statistics = np.stack([layer.running_mean, layer.running_var])
    evaluated = layer.eval()(part).data
    counted = layer.num_batches_tracked
    shared = {"sums": sums, "statistics": statistics, "counted": counted}
    dresidual = np.zeros_like(x)[first:last] if residual.grad is None else residual.grad
    return {"y": y.data, "dx": part.grad, "dresidual": dresidual, "evaluated": evaluated, **shared}


class SeqConvs(nn.Module):
    """A residual block with reductions, a window and subgroups, behind a dense layer."""

    def __init__(self):
        self.head = nn.SeqConv2d(3, 8, 4, windowed=False)
        self.a = nn.SeqConv2d(8, 8, 4, bottleneck=True, subgroups=2)
        self.b = nn.SeqConv2d(8, 8, 2)

    def forward(self, x):
        raw, act = self.head(x)
        raw, act = self.b(self.a(act)[1], raw)
        return raw + 2 * act


class CrossLayers(nn.Module):
    """Outputs that two readers share, and a plain batch norm between these."""

    def __init__(self):
        self.convs = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1) for _ in range(2)])
        self.bn = nn.BatchNorm2d(3)
        self.crosses = nn.ModuleList([nn.CrossLayerDepthwise(3, count) for count in (2, 3)])

    def forward(self, x):
        outputs = [ops.LayerOutput(x), ops.LayerOutput(self.convs[0](x))]
        outputs.append(ops.LayerOutput(self.convs[1](self.bn(self.crosses[0](outputs), relu=True))))
        return self.crosses[1](outputs)


def normalised_within(world, layers):
    """What a network of layers that normalise by themselves gives in training, with gradients and state."""
    cupynn.manual_seed(6)
    model = {"seq_conv": SeqConvs, "cross_layer": CrossLayers}[layers]().astype(np.float64)
    rng = np.random.default_rng(9)
    for parameter in model.parameters():
        parameter.data += 0.3 * rng.standard_normal(parameter.shape)
    distributed.synchronise_batch_norm(model, world)
    x = 3 + rng.standard_normal((6, 3, 5, 4))
    first, last = {1: (0, 6), 2: (0, 4) if world.rank == 0 else (4, 6)}[world.size]  # parts of unequal size
    part = Tensor(x[first:last], requires_grad=True)
    y = model(part)
    y.backward(rng.standard_normal((6, *y.shape[1:]))[first:last])
    gradients = {f"gradient {name}": parameter.grad for name, parameter in model.named_parameters()}
    state = {f"state {name}": array for name, array in model.state_dict().items()}
    return {"y": y.data, "dx": part.grad, **gradients, **state}


def one_sided(world):
    """A parameter that only rank 1 uses, and one that none does."""
    a, b, c = (nn.Parameter(np.full(2, 3.0)) for _ in range(3))
    gradients = distributed.GradientSum([a, b, c], world, 16)
    loss = (a * 2).sum() if world.rank == 0 else (a * b).sum()
    gradients.backward(loss, 1)
    return {"a": a.grad, "b": b.grad, "c": c.grad is None}


PROGRAMS = {program.__name__: program for program in (collectives, train, normalised, normalised_within, one_sided)}

if __name__ == "__main__":
    name, folder, *arguments = sys.argv[1:]
    world = distributed.join()
    np.savez(pathlib.Path(folder, f"{world.rank}.npz"), **PROGRAMS[name](world, *arguments))
