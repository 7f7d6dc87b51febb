"""What each pass of a kernel's face must cost: which functions of `cupynn.kernels` a profile looks at, and how it asks
their `cost`. A cost belongs to a pass, which may launch several kernels; so it is not known of a single launch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from cupynn.kernels import (
    activations,
    batch_norm,
    contract,
    contract_fold,
    conv,
    cross_entropy,
    cross_layer,
    dropout,
    gradients,
    im2col,
    pool,
    sgd,
    whe,
)

Cost = tuple[int, int]  # bytes, operations
Ask = Callable[[dict[str, Any], Any], Cost | None]  # of a call's arguments by name, and of its result


def faces() -> Iterator[tuple[ModuleType, str, Ask]]:
    """(module, function, how to ask for its cost) of every pass."""
    for method in conv.METHODS.values():
        for which in ("forward", "input_gradient", "weight_gradient"):
            yield method, which, lambda a, _, which=which: _conv(a)[which.replace("_", " ")]
    for which in ("forward_train", "forward_eval", "backward_train", "backward_eval"):
        yield batch_norm, which, lambda a, _, which=which: _batch_norm(a)[which]
    for kind in ("max", "average"):
        yield pool, f"{kind}_forward", lambda a, y, kind=kind: _pool(a, _first(y).shape)[f"{kind}_forward"]
        yield pool, f"{kind}_backward", lambda a, _, kind=kind: _pool(a, a["grad"].shape)[f"{kind}_backward"]
        yield pool, f"adaptive_{kind}_forward", lambda a, y, kind=kind: _pool(a, _first(y).shape)[f"{kind}_forward"]
        yield pool, f"adaptive_{kind}_backward", lambda a, _, kind=kind: _pool(a, a["grad"].shape)[f"{kind}_backward"]
    for which in ("forward", "backward"):
        yield whe, which, lambda a, _, w=which: whe.cost(a["x"].shape, a["a"].shape[-1], _size(a["x"]))[w]
        yield activations, which, lambda a, _, w=which: _activation(a)[w]
        yield cross_entropy, which, lambda a, _, w=which: _cross_entropy(a)[w]
        yield contract, which, lambda a, _, w=which: _contract(contract.cost, a, "first", "second", a["groups"])[w]
        yield cross_layer, which, lambda a, _, w=which: _cross_layer(a)[w]
    yield contract, "compose", lambda a, _: _contract(contract.compose_cost, a, "d", "w")["forward"]
    yield contract, "compose_backward", lambda a, _: _contract(contract.compose_cost, a, "d", "w")["backward"]
    yield contract_fold, "fold", lambda a, _: contract_fold.cost(a["weight"].shape, _size(a["weight"]))["forward"]
    yield contract_fold, "fold_backward", lambda a, _: _fold(a)["backward"]
    yield im2col, "im2col", lambda a, columns: _columns(a, a["image"].shape, columns)["im2col"]
    yield im2col, "col2im", lambda a, _: _columns(a, a["image_shape"], a["columns"])["col2im"]
    yield dropout, "forward", lambda a, _: dropout.cost(a["x"].shape, _size(a["x"]))
    yield sgd, "step_groups", _sgd
    for which in ("square_sum", "multiply"):
        yield gradients, which, lambda a, _, w=which: _gradients(a)[w]


def _size(array: Any) -> int:
    return array.dtype.itemsize


def _first(result: Any) -> Any:
    return result[0] if isinstance(result, tuple) else result


def _conv(a: dict[str, Any]) -> dict[str, Cost]:
    maps = a["x"] if "x" in a else a["grad"]  # weights may be wider
    return conv.cost(a["g"], _size(maps))


def _activation(a: dict[str, Any]) -> dict[str, Cost]:
    maps = a["x"] if "x" in a else a["saved"]
    return activations.cost(maps.shape, _size(maps))


def _batch_norm(a: dict[str, Any]) -> dict[str, Cost]:
    adds = a["residual"] is not None and a["residual"] is not False  # an array forward, a bool backward
    return batch_norm.cost(a["x"].shape, _size(a["x"]), a["relu"], adds)


def _pool(a: dict[str, Any], output: tuple[int, ...]) -> dict[str, Cost]:
    array = a["x"] if "x" in a else a["grad"]
    image = a["x"].shape if "x" in a else a["x_shape"]
    if "kernel_size" in a:
        kernel = a["kernel_size"]
        taps = math.prod(kernel) if isinstance(kernel, tuple) else kernel * kernel
    else:  # adaptive
        taps = math.prod(-(-image[i] // output[i]) for i in (2, 3))
    return pool.cost(image, output[2:], taps, _size(array))


def _cross_entropy(a: dict[str, Any]) -> dict[str, Cost]:
    rows = a["logits"] if "logits" in a else a["probabilities"]
    return cross_entropy.cost(*rows.shape, _size(rows))


def _contract(cost: Callable, a: dict[str, Any], first: str, second: str, *groups: int) -> dict[str, Cost | None]:
    costs = cost(a[first].shape, a[second].shape, *groups, itemsize=_size(a[first]))
    return costs if all(a.get("needs", ())) else {"backward": None}  # a gradient to one of the two is not costed


def _cross_layer(a: dict[str, Any]) -> dict[str, Cost]:
    inputs = a["inputs"]
    return cross_layer.cost(len(inputs), inputs[0].shape, _size(inputs[0]), sum(a.get("add") or ()))


def _fold(a: dict[str, Any]) -> dict[str, Cost]:
    return contract_fold.cost(a["weight"].shape, _size(a["weight"]))


def _columns(a: dict[str, Any], image: tuple[int, ...], columns: Any) -> dict[str, Cost]:
    n, c, height, width = image
    kernel = a["kernel_size"]
    pixels = columns.shape[2]
    reach = (
        pixels * a["stride"][0] * a["stride"][1] + kernel[0] * width
    )  # of the image, where a tile is some rows of it
    return im2col.cost(n, c, (1, min(height * width, reach)), kernel, (1, pixels), _size(columns))


def _sgd(a: dict[str, Any], _: Any) -> Cost:
    costs = [
        sgd.cost(array.size, _size(array), bool(group.momentum)) for group in a["groups"] for array in group.parameters
    ]
    return sum(moved for moved, _ in costs), sum(operations for _, operations in costs)


def _gradients(a: dict[str, Any]) -> dict[str, Cost]:
    return gradients.cost(sum(array.size for array in a["arrays"]), _size(a["arrays"][0]))
