"""DO-Conv by kernel composition, forward and backward, beside the authors' way in PyTorch: einsum, then conv2d."""

from __future__ import annotations

from bench.timing import take_turns  # first: it sets the threads' environment

# isort: split

import numpy as np

from bench.command import find_torch, read_options, report
from cupynn import nn, ops
from cupynn.autograd import Tensor
from cupynn.ops.do_composition import composition_macs

# name: channels in, channels out, image side, kernel, groups
SHAPES = {
    "SmallNet-7 second": (8, 16, 16, 7, 1),
    "ResNet-20 stage 1": (16, 16, 32, 3, 1),
    "ResNet-20 stage 3": (64, 64, 8, 3, 1),
    "ResNet-18 stage 2": (128, 128, 28, 3, 1),
    "ResNeXt, 32 groups": (128, 128, 28, 3, 32),
    "MobileNet depthwise": (128, 128, 28, 3, 128),
}
BAR = 1.0


def ours(shape: tuple[int, ...], images: np.ndarray, composition: str) -> tuple:
    """The composition of the kernel alone, and a step: forward, and backward to image, D, W and bias."""
    i, o, _, k, groups = shape
    layer = nn.DOConv2d(i, o, k, padding=k // 2, groups=groups, composition=composition)
    grad = np.ones((len(images), o, *images.shape[2:]), np.float32)

    def step():
        layer.zero_grad()
        layer(Tensor(images, requires_grad=True)).backward(grad)

    def compose():
        layer.zero_grad()
        layer.kernel()[0].backward(np.ones((o, i // groups, k, k), np.float32))

    return compose, step


def plain(shape: tuple[int, ...], images: np.ndarray):
    """The same step of a convolution that is not over-parameterised."""
    i, o, _, k, groups = shape
    layer = nn.Conv2d(i, o, k, padding=k // 2, groups=groups)
    grad = np.ones((len(images), o, *images.shape[2:]), np.float32)

    def step():
        layer.zero_grad()
        x = Tensor(images, requires_grad=True)
        ops.conv2d(x, layer.weight, layer.bias, 1, k // 2, 1, groups).backward(grad)

    return step


def authors(shape: tuple[int, ...], images: np.ndarray, torch) -> tuple:
    """The authors' expressions, with their identity as a constant."""
    i, o, _, k, groups = shape
    taps = k * k
    parameters = [torch.randn(s, requires_grad=True) for s in ((i, taps, taps), (o, i // groups, taps), (o,))]
    d, w, bias = parameters
    identity = torch.eye(taps).repeat(i, 1, 1)
    x = torch.from_numpy(images).requires_grad_()
    grad, kernel_grad = torch.ones(len(images), o, *images.shape[2:]), torch.ones(o, i // groups, k, k)

    def kernel():
        for leaf in (*parameters, x):
            leaf.grad = None
        composed = torch.einsum("ims,ois->oim", d + identity, w.reshape(o // groups, i, taps))
        return composed.reshape(o, i // groups, k, k)

    def step():
        torch.nn.functional.conv2d(x, kernel(), bias, 1, k // 2, 1, groups).backward(grad)

    return lambda: kernel().backward(kernel_grad), step


def main(arguments: list[str]) -> None:
    options = read_options("do_conv", __doc__, arguments, batch=32, rounds=25)
    torch = find_torch()
    rng = np.random.default_rng(0)
    rows = []
    for name, shape in SHAPES.items():
        i, o, side, k, groups = shape
        images = rng.standard_normal((options.batch, i, side, side), np.float32)
        compose, step = ours(shape, images, "kernel")
        contenders = {"compose": compose, "kernel": step, "feature": ours(shape, images, "feature")[1]}
        contenders["plain"] = plain(shape, images)
        if torch:
            contenders["authors' compose"], contenders["authors"] = authors(shape, images, torch)
        times = take_turns(contenders, options.rounds)
        macs = composition_macs(i, o, k, side, options.batch, groups=groups)
        row = {"layer": name, "compose us": times["compose"].median * 1e6}
        if torch:
            row["PyTorch us"] = times["authors' compose"].median * 1e6
        row["step ms"] = times["kernel"].median * 1e3
        row["of plain"] = times["kernel"].over(times["plain"])
        row["feature/kernel"] = times["feature"].over(times["kernel"])
        row["counted"] = macs["feature"] / macs["kernel"]
        if torch:
            row["PyTorch ms"] = times["authors"].median * 1e3
            row["ratio"], row["bar"] = times["kernel"].over(times["authors"]), BAR
        rows.append(row)
    report(options, f"DO-Conv, D_mul = KH*KW, forward and backward, batch {options.batch}", rows)
