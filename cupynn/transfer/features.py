"""What the layers inside a model put out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from cupynn.kernels.batch_norm import Relu
from cupynn.nn import BatchNorm2d, Module, Sequential
from cupynn.nn.containers import relu_of


class Outputs(dict):
    """Outputs by the names of modules. A name whose module has not run raises KeyError with the reason."""

    def __missing__(self, name: str) -> Any:
        raise KeyError(
            f"{name} has no output: it was not asked for, or it did not run inside the block, as parts of a layer do "
            f'not that computes by composition="kernel"; there are {", ".join(self) or "none"}'
        )


@contextlib.contextmanager
def recorded_outputs(model: Module, names: Sequence[str]) -> Iterator[Outputs]:
    """Inside a `with` block, each time `model` runs, keep what its modules of these dotted names return.

        with recorded_outputs(model, ["layer2"]) as outputs:
            logits = model(x)
        outputs["layer2"]  # the tensor, in the graph

    Of a module that runs several times the last output is kept. The model computes the same as without. Where a batch
    norm applies the ReLU behind it in its own kernel, in a `Sequential`, each of the two still has its own output; in
    a block that asks its batch norm for an addition or the ReLU, the batch norm's output is what it returns, behind
    both.

    Raises ValueError for a name the model has not.
    """
    known = dict(model.named_modules())
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"recorded_outputs: {type(model).__name__} has no module {unknown[0]!r}; there are {', '.join(known)}"
        )
    outputs = Outputs()
    wanted = {id(known[name]): name for name in names}
    before = []  # modules, and the forward that an earlier watcher had given them
    try:
        for module in known.values():
            if id(module) in wanted:
                before.append((module, vars(module).get("forward")))
                vars(module)["forward"] = _recorder(module.forward, wanted[id(module)], outputs)
        for norm, relu in _fused_pairs(model):
            if id(norm) in wanted or id(relu) in wanted:
                before.append((norm, vars(norm).get("forward")))
                vars(norm)["forward"] = _apart(norm.forward, relu)
        yield outputs
    finally:
        for module, forward in reversed(before):
            if forward is None:
                del vars(module)["forward"]
            else:
                vars(module)["forward"] = forward


def _recorder(forward: Callable, name: str, outputs: Outputs) -> Callable:
    def call(*args: Any, **options: Any) -> Any:
        outputs[name] = y = forward(*args, **options)
        return y

    return call


def _fused_pairs(model: Module) -> Iterator[tuple[BatchNorm2d, Module]]:
    """Each batch norm with the ReLU or ReLU6 that `Sequential` has it apply."""
    for module in model.modules():
        if isinstance(module, Sequential):
            for norm, relu in pairwise(module.children()):
                if relu_of(norm, relu):
                    yield norm, relu


def _apart(forward: Callable, behind: Module) -> Callable:
    """The forward of a batch norm that calls the ReLU behind it where it was to apply it itself."""

    def call(x: Any, relu: Relu = False, **options: Any) -> Any:
        y = forward(x, **options)
        return behind(y) if relu else y

    return call
