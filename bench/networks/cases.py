"""The networks that are timed, and how each is made here and in PyTorch."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

IMAGE, CLASSES = (3, 32, 32), 10


@dataclass(frozen=True)
class Case:
    """A network of `models.create`, whose peer is the function of the same name and options in bench/peers."""

    builder: str
    options: dict[str, Any] = field(default_factory=dict)
    side: int = IMAGE[1]  # of the images
    classes: int = CLASSES

    @property
    def expanded(self) -> bool:
        return "expand" in self.options

    def ours(self, **options: Any):
        """`options` replace the case's own."""
        import cupynn

        return cupynn.models.create(self.builder, **{**self.options, **options})

    def peer(self, **options: Any):
        make = getattr(importlib.import_module(f"bench.peers.torch_{self.builder}"), self.builder)
        return make(**{**self.options, **options})

    def compact(self) -> Case:
        """The network that this one contracts to."""
        compact = {key: value for key, value in self.options.items() if key not in ("expand", "rate")}
        return dataclasses.replace(self, options=compact)


def _smallnets() -> dict[str, Case]:
    cases = {"SmallNet-7": Case("smallnet")}
    for strategy in ("cl", "ck", "ck+fc"):
        for rate in (2, 4, 8):
            cases[f"SmallNet-7+{strategy.upper()} r={rate}"] = Case("smallnet", {"expand": strategy, "rate": rate})
    return cases


CASES = {
    **_smallnets(),
    "ResNet-20": Case("cifar_resnet"),
    "ResNet-20+WHE": Case("cifar_resnet", {"whe": 4, "dropout": 0.1}),
    "ResNet-20+DO-Conv": Case("cifar_resnet", {"expand": "do"}),
    "MobileNetV2": Case("mobilenet_v2", {"classes": CLASSES, "cifar": True}),
    "DelugeNet-146": Case("cifar_delugenet"),
    "SeqResNet-B 0.8M": Case("cifar_seqresnet", {"widening": 7, "k": 16, "bottleneck": True}),
    "SeqResNet 1.2M": Case("cifar_seqresnet"),
}


# Of `bench gpu`: the papers' networks on images of the papers' size.
GPU_CASES = {
    "ResNet-18": Case("resnet", {"depth": 18}, 224, 1000),
    "ResNet-18+WHE": Case("resnet", {"depth": 18, "whe": 16}, 224, 1000),
    "MobileNetV2": Case("mobilenet_v2", {}, 224, 1000),
    "DelugeNet-146": CASES["DelugeNet-146"],
    "SeqResNet 1.2M": CASES["SeqResNet 1.2M"],
    "MobileNet+CL r=4": Case("mobilenet_v1", {"expand": "cl", "rate": 4}, 224, 1000),
}


def batch_of(count: int, side: int = IMAGE[1], classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Random images and labels."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, IMAGE[0], side, side), dtype=np.float32), rng.integers(0, classes, count)
