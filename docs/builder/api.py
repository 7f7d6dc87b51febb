"""A page for every public package: its names, from their docstrings."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

import cupynn
from builder import text

NO_PAGES = ("__main__", "cli", "kernels")  # the command line and the kernels have pages of their own
INNER = ("kernels.runtime", "models.entry", "nn.init", "optim.schedules", "train.recipes")


def pages() -> dict[str, str]:
    """{name of a page: its MyST Markdown}."""
    packages = [module.name for module in pkgutil.iter_modules(cupynn.__path__) if module.name not in NO_PAGES]
    modules = {package: importlib.import_module(f"cupynn.{package}") for package in sorted([*packages, *INNER])}
    found = {package: _page(module, f"cupynn.{package}", modules) for package, module in modules.items()}
    found["index"] = _index(modules)
    return found


def _page(module: ModuleType, name: str, modules: dict[str, ModuleType]) -> str:
    parts = [
        f"# {name}\n",
        text.markdown(module.__doc__),
        "```{eval-rst}",
        f".. currentmodule:: {name}\n",
    ]
    elsewhere = []
    for member, value in _public(module):
        home = next((other for other, m in modules.items() if m is not module and _belongs(value, member, m)), None)
        if home and not _belongs(value, member, module):
            elsewhere.append(f"- :py:obj:`cupynn.{home}.{member}`")
        elif inspect.isclass(value):
            bases = "" if value.__bases__ == (object,) else "\n   :show-inheritance:"
            parts.append(f".. autoclass:: {member}\n   :members:{bases}\n")
        elif callable(value):
            parts.append(f".. autofunction:: {member}\n")
    if elsewhere:
        parts += ["From elsewhere:\n", *elsewhere]
    return "\n".join([*parts, "```\n"])


def _public(module: ModuleType) -> list[tuple[str, Any]]:
    """Names and values, classes first, each in the order of the alphabet."""
    names = getattr(module, "__all__", None)
    if names is None:
        names = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__ and n[0] != "_"]
    values = [(name, getattr(module, name)) for name in names if not inspect.ismodule(getattr(module, name))]
    return sorted(values, key=lambda pair: (not inspect.isclass(pair[1]), pair[0].lower()))


def _belongs(value: Any, name: str, module: ModuleType) -> bool:
    """Whether a module's page is where a name of it is described: it was written in that package."""
    written = getattr(value, "__module__", "") or ""
    return getattr(module, name, None) is value and (
        written == module.__name__ or written.startswith(f"{module.__name__}.")
    )


def _index(modules: dict[str, ModuleType]) -> str:
    parts = ["# Python\n", text.markdown(cupynn.__doc__), "## cupynn\n", "```{eval-rst}"]
    for name, value in _public(cupynn):
        home = next((other for other, module in modules.items() if _belongs(value, name, module)), None)
        if home is None:
            raise ValueError(f"site: cupynn.{name} is on no page of the API")
        parts.append(f"- :py:obj:`cupynn.{name} <cupynn.{home}.{name}>`")
    parts += ["```\n", "## Packages\n"]
    for package, module in modules.items():
        first = next(text.blocks(module.__doc__))[1]
        parts.append(f"- [cupynn.{package}]({package}.md): {text.markdown_line(first)}")
    return "\n".join([*parts, "\n```{toctree}\n:hidden:\n", *modules, "```\n"])
