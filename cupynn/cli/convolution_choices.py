"""Which method computes the convolutions of SmallNet and ResNet-20, and how fast each is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from cupynn import device
from cupynn.kernels import conv, conv_tc, runtime
from cupynn.kernels.conv import Geometry
from cupynn.train.speed import median_seconds

BATCH = 128
PASSES = ("forward", "input gradient", "weight gradient")

# name: in channels, out channels, image size, kernel size, stride
SHAPES = {
    "SmallNet-7, convolution 1": (3, 8, 32, 7, 1),
    "SmallNet-7, convolution 2": (8, 16, 16, 7, 1),
    "SmallNet-7, convolution 3": (16, 32, 8, 7, 1),
    "ResNet-20, first": (3, 16, 32, 3, 1),
    "ResNet-20, stage 1": (16, 16, 32, 3, 1),
    "ResNet-20, into stage 2": (16, 32, 32, 3, 2),
    "ResNet-20, stage 2": (32, 32, 16, 3, 1),
    "ResNet-20, into stage 3": (32, 64, 16, 3, 2),
    "ResNet-20, stage 3": (64, 64, 8, 3, 1),
}


def geometries() -> Iterator[tuple[str, Geometry]]:
    """Name and geometry of each convolution, at batch 128."""
    for name, (channels, width, size, kernel, stride) in SHAPES.items():
        x_shape, w_shape = (BATCH, channels, size, size), (width, channels, kernel, kernel)
        yield name, conv.geometry(x_shape, w_shape, stride, kernel // 2)


def chosen(g: Geometry) -> str:
    """The method that is used where nothing is measured, or the methods, if passes differ."""
    like = device.asarray(np.zeros(0, np.float32))
    gpu, tensor_cores = runtime.is_gpu(like), conv_tc.fits(g, like)
    return ", ".join(dict.fromkeys(conv.method(g, gpu, which, tensor_cores=tensor_cores) for which in PASSES))


def measured(g: Geometry) -> list[dict[str, float]]:
    """Seconds of each method, for each pass."""
    numbers = np.random.default_rng(0)
    x, w, grad = (
        device.asarray(numbers.standard_normal(shape).astype(np.float32))
        for shape in ((g.n, g.c, g.h, g.w), (g.o, g.c_group, *g.kernel), g.output_shape)
    )
    calls: list[Callable] = [
        lambda method: method.forward(x, w, None, g),
        lambda method: method.input_gradient(grad, w, g),
        lambda method: method.weight_gradient(grad, x, w, g),
    ]
    return [
        {
            name: median_seconds(lambda call=call, name=name: call(conv.METHODS[name]), x, least=3, seconds=0)
            for name in conv.methods(g, x)
        }
        for call in calls
    ]
