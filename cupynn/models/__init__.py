"""Networks by name: `create`, `names`, `count`. One file per family."""

from cupynn.models import smallnet
from cupynn.models.count import Count, LayerCount, count, count_layers
from cupynn.models.registry import create, names, register

__all__ = ["Count", "LayerCount", "count", "count_layers", "create", "names", "register", "smallnet"]
