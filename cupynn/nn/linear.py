"""The fully connected layer."""

from __future__ import annotations

from cupynn import ops
from cupynn.nn import init
from cupynn.nn.arguments import need_positive
from cupynn.nn.module import Module, Parameter


class Linear(Module):
    """y = x weight^T + bias with a learned weight (out_features, in_features) and bias (out_features).

    Both start as PyTorch's do, uniform within 1 / sqrt(in_features). Raises ValueError for sizes below 1.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        sizes = need_positive("Linear", in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = sizes
        self.weight = Parameter(init.default_weight((self.out_features, self.in_features)))
        self.bias = Parameter(init.default_bias(self.weight.shape)) if bias else None

    def forward(self, x):
        return ops.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
