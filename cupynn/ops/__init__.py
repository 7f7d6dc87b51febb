"""Differentiable operations that networks are built from. Arguments mean what they mean in PyTorch.

Images are (N, C, H, W). Each operation takes tensors or arrays and returns a tensor.
"""

from cupynn.autograd import concatenate, tanh
from cupynn.ops.activations import elu, hardsigmoid, hardswish, leaky_relu, relu, relu6, sigmoid
from cupynn.ops.batch_norm import batch_norm
from cupynn.ops.conv import conv2d, conv_transpose2d
from cupynn.ops.cross_layer import LayerOutput, cross_layer_batch_norm, cross_layer_depthwise
from cupynn.ops.depthwise import depthwise_conv2d
from cupynn.ops.do_composition import depthwise_separable_conv2d
from cupynn.ops.dropout import dropout, dropout2d
from cupynn.ops.learned_activations import apl, prelu
from cupynn.ops.linear import linear
from cupynn.ops.padding import pad2d
from cupynn.ops.pooling import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d
from cupynn.ops.seq_conv import seq_conv
from cupynn.ops.softmax import cross_entropy, log_softmax, softmax
from cupynn.ops.upsample import upsample2d
from cupynn.ops.whe import whe

__all__ = [
    "LayerOutput",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "apl",
    "avg_pool2d",
    "batch_norm",
    "concatenate",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "cross_layer_batch_norm",
    "cross_layer_depthwise",
    "depthwise_conv2d",
    "depthwise_separable_conv2d",
    "dropout",
    "dropout2d",
    "elu",
    "hardsigmoid",
    "hardswish",
    "leaky_relu",
    "linear",
    "log_softmax",
    "max_pool2d",
    "pad2d",
    "prelu",
    "relu",
    "relu6",
    "seq_conv",
    "sigmoid",
    "softmax",
    "tanh",
    "upsample2d",
    "whe",
]
