"""Parameters and operations of a network."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cupynn.autograd import Tensor, no_grad
from cupynn.device import xp_of
from cupynn.kernels import conv
from cupynn.nn import BatchNorm2d, Conv2d, DOConv2d, Linear, MaxPool2d, Module, ReLU
from cupynn.nn.evaluation import evaluation_mode
from cupynn.reparam.expansion import layer_by_layer


@dataclass(frozen=True)
class Count:
    """What one image costs.

    parameters: learned numbers.
    macs: multiply-accumulates of convolutions and linear layers.
    operations: `macs`, and 1 for each element a convolution adds a bias to, 2 for each that batch norm scales; the
        figure that ExpandNets prints for its three-convolution networks (Table S10).
    all_operations: `operations`, and 1 for each element ReLU sees, and the window's size for each that max pooling
        gives; the figure that ExpandNets prints for its four-convolution networks (Table 6).
    """

    parameters: int
    macs: int
    operations: int
    all_operations: int


def count(model: Module, input_shape: tuple[int, ...]) -> Count:
    """Parameters and operations of `model` for one image of input_shape (C, H, W); a leading N is ignored.

    Expanded layers are counted layer after layer, as the paper does and as composition="feature" runs them; DO-Conv
    is counted as the convolution it runs with the composed kernel, which is made once for all images. What a contracted
    model costs is `count(contract(model), input_shape)`.
    """
    parameters = list(model.parameters())
    like = parameters[0].data
    shape = tuple(input_shape)[len(input_shape) % 2 == 0 :]
    image = Tensor(xp_of(like).zeros((1, *shape), like.dtype))
    seen = {"macs": 0, "operations": 0, "all_operations": 0}
    watched = [module for module in model.modules() if not list(module.children())]
    try:
        for module in watched:
            _watch(module, seen)
        with no_grad(), layer_by_layer(model), evaluation_mode(model):
            model(image)
    finally:
        for module in watched:
            vars(module).pop("forward", None)
    return Count(
        sum(parameter.size for parameter in parameters),
        seen["macs"],
        seen["macs"] + seen["operations"],
        seen["macs"] + seen["operations"] + seen["all_operations"],
    )


def _watch(module: Module, seen: dict[str, int]) -> None:
    """Put a `forward` on the module itself, before the class's, that adds up what each call costs.

    A convolution's does not compute: only the shape of what it gives is needed, and large networks are counted at once.
    """
    forward = module.forward

    def counted(x, *args, **options):
        if isinstance(module, (Conv2d, DOConv2d)):
            geometry = (module.stride, module.padding, module.dilation, module.groups)
            kernel = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
            shape = conv.geometry(x.shape, kernel, *geometry).output_shape
            seen["macs"] += math.prod(shape) * math.prod(kernel[1:])
            seen["operations"] += math.prod(shape) * (module.bias is not None)
            return Tensor(xp_of(x.data).zeros(shape, x.dtype))
        y = forward(x, *args, **options)
        if isinstance(module, Linear):
            seen["macs"] += y.size * module.in_features
        elif isinstance(module, BatchNorm2d):
            seen["operations"] += 2 * y.size
            seen["all_operations"] += y.size * bool(options.get("relu"))
        elif isinstance(module, ReLU):
            seen["all_operations"] += y.size
        elif isinstance(module, MaxPool2d):
            seen["all_operations"] += y.size * math.prod(module.kernel_size)
        return y

    module.forward = counted
