"""Modules: layers with parameters, their state and initialisation. State names are PyTorch's."""

from cupynn.nn import init
from cupynn.nn.activations import (
    APL,
    ELU,
    Hardsigmoid,
    Hardswish,
    LeakyReLU,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    Tanh,
)
from cupynn.nn.asymmetric import ACBlock
from cupynn.nn.batch_norm import BatchNorm2d
from cupynn.nn.containers import ModuleList, Sequential
from cupynn.nn.conv import Conv2d
from cupynn.nn.cross_layer import CrossLayerDepthwise
from cupynn.nn.do_conv import DOConv2d
from cupynn.nn.expanded import ExpandedConv2d, ExpandedLinear
from cupynn.nn.linear import Linear
from cupynn.nn.module import Module, Parameter
from cupynn.nn.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from cupynn.nn.seq_conv import SeqConv2d
from cupynn.nn.shaping import Dropout, Dropout2d, Flatten, Identity
from cupynn.nn.whe import WHE, WHEBlock

__all__ = [
    "APL",
    "ELU",
    "WHE",
    "ACBlock",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm2d",
    "Conv2d",
    "CrossLayerDepthwise",
    "DOConv2d",
    "Dropout",
    "Dropout2d",
    "ExpandedConv2d",
    "ExpandedLinear",
    "Flatten",
    "Hardsigmoid",
    "Hardswish",
    "Identity",
    "LeakyReLU",
    "Linear",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "PReLU",
    "Parameter",
    "ReLU",
    "ReLU6",
    "SeqConv2d",
    "Sequential",
    "Sigmoid",
    "Tanh",
    "WHEBlock",
    "init",
]
