"""One network of a paper: how to make it, and the figures the paper prints for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cupynn.models.count import Count, count
from cupynn.models.registry import create
from cupynn.nn import Module, init

# How a paper counts the operations it prints. "thop" is an early version of a tool of that name: it adds the biases of
# convolutions and two operations an element of batch norm; ReLU and pooling are in it where they are modules.
CONVENTIONS = {
    "macs": lambda count: count.macs,
    "thop": lambda count: count.operations,
    "thop+relu": lambda count: count.operations + count.relu,
    "thop+relu+linear bias": lambda count: count.operations + count.relu + count.linear_bias,
    "thop+relu+pool": lambda count: count.all_operations,
    "whe": lambda count: count.whe,
    "2macs+4cross": lambda count: 2 * (count.convolution + count.linear) + 4 * count.cross_layer,
}
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True)
class Entry:
    """A network under the name it has in the catalogue.

    id: "CIFAR ResNet-20+WHE g=4 both convs/10"; name and options: what `create` takes; input: (height, width).
    paper_params, paper_operations: what the paper prints, "0.28M", or None where it prints none; convention: how it
    counts the operations, one of CONVENTIONS. source: where it stands. note: why ours is another figure, or what was
    chosen where the paper is silent.
    """

    id: str
    name: str
    options: Mapping[str, Any]
    input: tuple[int, int] = (224, 224)
    paper_params: str | None = None
    paper_operations: str | None = None
    convention: str = "macs"
    source: str = ""
    note: str = ""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that the figures are for."""
        return (3, *self.input)

    def create(self, **options: Any) -> Module:
        """The network with random weights; options replace the entry's own."""
        return create(self.name, **{**self.options, **options})

    def count(self) -> Count:
        """What it costs for one image. No weights are made."""
        with init.shapes_only():
            return count(self.create(), self.input_shape)

    def operations(self, counted: Count) -> int:
        """Operations as the paper counts them."""
        return CONVENTIONS[self.convention](counted)


def rounds_to(value: int, printed: str) -> bool:
    """Whether a count, rounded to the last printed decimal, is the printed figure: 66186 and "66.19K"."""
    digits, decimals, unit = _parts(printed)
    return f"{value / UNITS[unit]:.{decimals}f}" == digits


def difference(value: int, printed: str) -> str:
    """A count minus the printed figure, in percent of it; "" where the one rounds to the other."""
    if rounds_to(value, printed):
        return ""
    digits, _, unit = _parts(printed)
    return f"{100 * (value / (float(digits) * UNITS[unit]) - 1):+.1f} %"


def _parts(printed: str) -> tuple[str, int, str]:
    """ "66.19K" -> digits "66.19", decimals 2, unit "K"."""
    digits, fraction, unit = re.fullmatch(r"(\d+(?:\.(\d+))?)([KMG]?)", printed).groups()
    return digits, len(fraction or ""), unit
