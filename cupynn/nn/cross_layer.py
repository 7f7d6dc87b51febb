"""The cross-layer depthwise convolution of DelugeNets."""

from __future__ import annotations

from cupynn import ops
from cupynn.nn import init
from cupynn.nn.arguments import need_positive
from cupynn.nn.module import Module, Parameter
from cupynn.ops.cross_layer import OWN_BATCH


class CrossLayerDepthwise(Module):
    """Channel by channel, a learned sum of the outputs of `layers` preceding layers, each (N, channels, H, W).

    With `norm`, the authors' form: every output is normalised by its own statistics; weight and bias are (layers,
    channels), and so are running_mean and running_var. Without it, the paper's equation 1: weight (layers, channels)
    and one bias (channels). Weights start at 1 / layers, biases at 0. The order of the outputs is the caller's (the
    authors put the newest first), and stays the order of the weights.

    Outputs that several layers read are best given as `ops.LayerOutput`: they carry their batch statistics, computed
    once, and gather their gradient in place:

        outputs = []
        for layer, cross in zip(layers, crosses):
            x = layer(cross(outputs) if len(outputs) > 1 else x)
            outputs.insert(0, ops.LayerOutput(x))
    """

    batch = OWN_BATCH  # what `ops.cross_layer_batch_norm` calls so

    def __init__(self, channels: int, layers: int, norm: bool = True, eps: float = 1e-5, momentum: float = 0.1):
        need_positive("CrossLayerDepthwise", channels=channels, layers=layers)
        self.channels, self.layers, self.norm, self.eps, self.momentum = channels, layers, norm, eps, momentum
        shape = (layers, channels)
        self.weight = Parameter(init.constant(shape, 1 / layers))
        self.bias = Parameter(init.constant(shape if norm else shape[1:], 0.0))
        if norm:
            self.register_buffer("running_mean", init.constant(shape, 0.0))
            self.register_buffer("running_var", init.constant(shape, 1.0))

    def forward(self, outputs):
        if len(outputs) != self.layers:
            raise ValueError(f"CrossLayerDepthwise: needs the outputs of {self.layers} layers; got {len(outputs)}")
        if not self.norm:
            return ops.cross_layer_depthwise(outputs, self.weight, self.bias)
        statistics = self.running_mean, self.running_var
        return ops.cross_layer_batch_norm(
            outputs, self.weight, self.bias, *statistics, self.training, self.momentum, self.eps, self.batch
        )

    def extra_repr(self) -> str:
        return f"{self.channels}, layers={self.layers}, norm={self.norm}"
