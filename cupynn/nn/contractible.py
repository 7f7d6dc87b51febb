"""What all layers have in common that are trained as more than one plain layer, and contract to one exactly."""

from __future__ import annotations

import contextlib
import copy

from cupynn.autograd import no_grad
from cupynn.device import generator
from cupynn.nn.conv import Conv2d
from cupynn.nn.linear import Linear
from cupynn.nn.module import Module

COMPOSITIONS = ("kernel", "feature")


class Contractible(Module):
    """A layer that computes what one plain layer could.

    composition="kernel" makes the plain layer's weight inside the graph and runs that one layer with it; "feature" runs
    the parts one after another, as the papers' definitions do. Both give the same outputs and gradients up to rounding.
    """

    def __init__(self, composition: str):
        if composition not in self.compositions:
            raise ValueError(
                f"{type(self).__name__}: composition must be one of {self.compositions}; got {composition!r}"
            )
        self.composition = composition

    @property
    def compositions(self) -> tuple[str, ...]:
        """The compositions that compute this layer."""
        return COMPOSITIONS

    @property
    def has_kernel(self) -> bool:
        """Whether one weight stands for the layer now: not while a batch norm inside it uses the batch's statistics."""
        parts = (part for part in self.modules() if isinstance(part, Contractible) and part is not self)
        return all(part.has_kernel for part in parts)

    def kernel(self):
        """The plain layer's (weight, bias), differentiable in all parameters; bias is None where there is none.

        A batch norm inside stands in it with its running statistics, in training too.
        """
        raise TypeError(f"{type(self).__name__} defines no kernel")

    def _plain(self, bias: bool) -> Conv2d | Linear:
        """A new plain layer of the contracted shape."""
        raise TypeError(f"{type(self).__name__} defines no plain layer")

    def contract(self) -> Conv2d | Linear:
        """The plain layer that computes the same in evaluation: computed in float64, rounded once to the dtype."""
        dtype = next(self.parameters()).dtype
        exact = copy.deepcopy(self).astype("float64")
        with no_grad(), undrawn():
            weight, bias = exact.kernel()
            plain = self._plain(bias is not None)
        plain.weight.data = weight.data.astype(dtype)
        if bias is not None:
            plain.bias.data = bias.data.astype(dtype)
        return plain.train(self.training)


def kernel_of(layer: Module):
    """(weight, bias) of a plain or a contractible layer."""
    return layer.kernel() if isinstance(layer, Contractible) else (layer.weight, layer.bias)


@contextlib.contextmanager
def undrawn():
    """Leave the generator as it was: a layer that gets its weights from elsewhere draws none."""
    state = generator().bit_generator.state
    try:
        yield
    finally:
        generator().bit_generator.state = state
