"""Networks by name: `create`, `names`, `count`, and the papers' in `catalogue`. One file per family."""

from cupynn.models import (
    alexnet,
    catalogue,
    cifar_resnet,
    delugenet,
    delugenet_baselines,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    resnet,
    seqresnet,
    shufflenet_v2,
    smallnet,
)
from cupynn.models.count import Count, LayerCount, count, count_layers
from cupynn.models.registry import create, names, register, takes

__all__ = [
    "Count",
    "LayerCount",
    "alexnet",
    "catalogue",
    "cifar_resnet",
    "count",
    "count_layers",
    "create",
    "delugenet",
    "delugenet_baselines",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3",
    "names",
    "register",
    "resnet",
    "seqresnet",
    "shufflenet_v2",
    "smallnet",
    "takes",
]
