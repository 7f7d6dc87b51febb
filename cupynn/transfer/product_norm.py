"""Weight decay of what an expanded layer computes, in place of what it is made of."""

from __future__ import annotations

from collections.abc import Iterator

from cupynn.autograd import Tensor, square
from cupynn.nn import DOConv2d, Module
from cupynn.nn.expanded import Expanded


def product_norm(model: Module) -> Tensor:
    """The sum over expanded layers of |W|^2, W = W_l ... W_2 W_1 the layer's contracted weight; biases are left out.

    [Arora, Cohen and Hazan 2018, "On the Optimization of Deep Networks: Implicit Acceleration by Overparameterization";
    ExpandNets, eq. S.1]  Layers: `ExpandedConv2d`, `ExpandedLinear`, `DOConv2d`; one inside another counts with it.

    With loss + decay / 2 * product_norm(model), contracted layers decay as plain ones do with weight_decay=decay. Leave
    their own weights out of ordinary weight decay then:
    `optim.Group(layers=("ExpandedConv2d", "ExpandedLinear", "DOConv2d"), weight_decay=0.0)`. The paper's FC(Arora18)
    has ordinary weight decay of each factor, not this.

    Returns a scalar. Raises ValueError where nothing is expanded.
    """
    norms = [square(layer.kernel()[0]).sum() for layer in _outermost(model)]
    if not norms:
        raise ValueError(f"product_norm: {type(model).__name__} has no ExpandedConv2d, ExpandedLinear or DOConv2d")
    total = norms[0]
    for norm in norms[1:]:
        total = total + norm
    return total


def _outermost(model: Module) -> Iterator[Module]:
    """Expanded layers that are not inside another, each once."""
    inside: set[int] = set()
    for module in model.modules():  # parents come before what is inside them
        if isinstance(module, (Expanded, DOConv2d)) and id(module) not in inside:
            inside.update(id(part) for part in module.modules())
            yield module
