"""What is timed of a kernel: a layer on arrays that lie on the default device, its passes, and PyTorch's way to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from cupynn import device
from cupynn.device import Array

Run = Callable[[], Any]


class Pass(NamedTuple):
    """One direction of a layer.

    cost: the bytes and operations that it must take; runs: ours, by the method's name, "" where there is but one.
    gradients_to: positions among the layer's inputs that PyTorch differentiates by in this pass; none in forward.
    """

    name: str
    cost: tuple[int, int]
    runs: dict[str, Run]
    gradients_to: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layer:
    """A kernel's face at work.

    kernel, shape, dtype name it in tables; dtype "TF32" is float32 whose factors may be rounded to TF32.
    peer: the function of bench/peers/torch_layers.py that computes the same output from `inputs`; its options.
    grad: the output's gradient; None for that of a scalar, 1.
    fused: whether torch.compile has several operations to join.
    """

    kernel: str
    shape: tuple[int, ...]
    dtype: str
    inputs: Sequence[Array]
    grad: Array | None
    passes: list[Pass]
    peer: str
    options: dict[str, Any] = field(default_factory=dict)
    fused: bool = False


class Torch:
    """PyTorch's runs of a layer's passes, on a device of its own ("cuda", or "cpu" in a test)."""

    def __init__(self, torch: Any, where: str) -> None:
        self.torch, self.where = torch, where

    def tensors(self, layer: Layer) -> list:
        """The layer's inputs as leaves. Where activations have 16 bits so have weights, as autocast makes it; what is
        one number for each channel stays float32."""
        leaves = [self.tensor(array) for array in layer.inputs]
        kind = getattr(self.torch, stored_as(layer.dtype))
        leaves = [leaf.to(kind) if leaf.is_floating_point() and leaf.ndim > 1 else leaf for leaf in leaves]
        return [leaf.requires_grad_() if leaf.is_floating_point() else leaf for leaf in leaves]

    def tensor(self, array: Array) -> Any:
        values = device.to_numpy(array)
        if values.dtype.kind == "V":  # bfloat16, which PyTorch does not take from NumPy
            return self.torch.tensor(values.astype(np.float32), device=self.where).bfloat16()
        return self.torch.tensor(values, device=self.where)

    def runs(self, layer: Layer, compiled: bool = False) -> dict[str, Run]:
        """{pass: a call}; forward without a graph, backward from a graph that is kept."""
        from bench.peers import torch_layers

        torch, leaves = self.torch, self.tensors(layer)
        peer = getattr(torch_layers, layer.peer)
        if layer.peer.endswith("step"):
            return {"step": peer(*leaves)}

        def function(*tensors):
            return peer(*tensors, **layer.options)

        if compiled:
            function = torch.compile(function, dynamic=False)
            import torch._functorch.config as functorch

            functorch.donated_buffer = False  # the graph is walked more than once
        passes = {}
        for each in layer.passes:
            if not each.gradients_to:
                passes[each.name] = torch.no_grad()(lambda: function(*leaves))
                continue
            wanted = [leaves[position] for position in each.gradients_to]
            output = function(*leaves)
            grad = torch.ones_like(output) if layer.grad is None else self.tensor(layer.grad).to(output.dtype)
            passes[each.name] = lambda output=output, wanted=wanted, grad=grad: torch.autograd.grad(
                output, wanted, grad, retain_graph=True
            )
        if layer.dtype != "TF32":
            return passes

        def rounding(run: Run) -> Any:
            allow_tf32(torch, True)
            try:
                return run()
            finally:
                allow_tf32(torch, False)

        return {name: partial(rounding, run) for name, run in passes.items()}


def allow_tf32(torch: Any, allowed: bool) -> None:
    """Whether PyTorch may round factors of float32 products and convolutions to TF32."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


_numbers = np.random.default_rng(0)
_pool = _numbers.standard_normal(1 << 21, np.float32)


def normal(*shape: int, dtype: str = "float32") -> Array:
    """Standard normal numbers on the default device: a part of two million of them, over and over, from a random one
    on. Drawn on the host, since CuPy's generator is one more library that may be missing."""
    begin = int(_numbers.integers(_pool.size // 2))
    values = np.resize(_pool[begin : begin + _pool.size // 2], shape)
    return device.asarray(values.astype(device.dtype_named(dtype), copy=False))


def stored_as(dtype: str) -> str:
    return "float32" if dtype == "TF32" else dtype


def size_of(dtype: str) -> int:
    return device.dtype_named(dtype).itemsize
