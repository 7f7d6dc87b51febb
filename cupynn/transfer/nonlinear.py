"""The nonlinear counterpart of an expanded network, whose weights are a better start for the linear one.

"+Init" [ExpandNets, Appendix A.1]: train `nonlinear(model)` by the same recipe, `initialise_from` it, train `model`.
"""

from __future__ import annotations

import copy

from cupynn import ops
from cupynn.nn import Module, ModuleList
from cupynn.nn.expanded import Expanded


class NonlinearChain(Module):
    """The layers of an expanded layer, one after another, with ReLU between them; none behind the last.

    State: `layers.0.weight`, `layers.0.bias`, ..., the expanded layer's own names.
    """

    def __init__(self, layers: ModuleList):
        self.layers = layers

    def forward(self, x):
        first, *others = self.layers
        x = first(x)
        for layer in others:
            x = layer(ops.relu(x))
        return x


def nonlinear(model: Module) -> Module:
    """A copy of `model` with every `ExpandedConv2d` and `ExpandedLinear` made nonlinear: ReLU behind each of its layers
    but the last, and no batch norm inside. Names and shapes of its state are those of `model`, and so are its weights.

    It cannot be contracted, and runs layer by layer: a step costs several times that of composition="kernel".
    Raises ValueError where nothing is expanded so.
    """
    twin = copy.deepcopy(model)
    twin.zero_grad()
    chains = {
        id(layer): NonlinearChain(layer.layers).train(layer.training)
        for layer in twin.modules()
        if isinstance(layer, Expanded)
    }
    if not chains:
        raise ValueError(f"nonlinear: {type(model).__name__} has no ExpandedConv2d or ExpandedLinear")
    for module in list(twin.modules()):
        for name, child in list(module.named_children()):
            if id(child) in chains:
                setattr(module, name, chains[id(child)])
    if hasattr(twin, "creation"):
        del twin.creation  # `models.create` makes no such network
    return chains.get(id(twin), twin)


def initialise_from(expanded: Module, twin: Module) -> None:
    """Give `expanded` the weights and buffers of its trained nonlinear counterpart.

    Running statistics of batch norms come along: in training they soon follow the linear network.
    Raises ValueError, before anything is changed, where `twin` is not the counterpart of `expanded`.
    """
    chains = {name for name, module in twin.named_modules() if isinstance(module, NonlinearChain)}
    layers = {name for name, module in expanded.named_modules() if isinstance(module, Expanded)}
    if different := sorted(chains ^ layers):
        raise ValueError(
            f"initialise_from: {different[0] or 'the model'} must be an expanded layer in one model and a "
            f"NonlinearChain in the other; {type(expanded).__name__} has {len(layers)} expanded layers, "
            f"{type(twin).__name__} {len(chains)} chains"
        )
    expanded.load_state_dict(twin.state_dict())
