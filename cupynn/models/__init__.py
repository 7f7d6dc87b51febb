"""Networks by name: `create`, `names`, `count`. One file per family."""

from cupynn.models import smallnet
from cupynn.models.count import Count, count
from cupynn.models.registry import create, names, register

__all__ = ["Count", "count", "create", "names", "register", "smallnet"]
