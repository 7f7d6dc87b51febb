"""What a notebook shows of a module: a tree that opens and closes, with shapes and numbers of parameters."""

from __future__ import annotations

import html

from cupynn.nn.module import Module, Parameter

OPEN = 1  # levels that are open at first


def module_markup(module: Module, name: str = "", level: int = 0) -> str:
    """A module and all below it. Colours are the page's own."""
    own = [(part, value) for part, value in vars(module).items() if isinstance(value, Parameter)]
    line = f"{html.escape(f'({name}) ' if name else '')}<b>{html.escape(type(module).__name__)}</b>"
    facts = [module.extra_repr(), *(f"{part} {'x'.join(map(str, value.shape)) or 1}" for part, value in own)]
    if count := sum(parameter.size for parameter in module.parameters()):
        facts.append(f"{count:,} parameters")
    line += "".join(f" &middot; {html.escape(fact)}" for fact in facts if fact)
    parts = "".join(module_markup(child, part, level + 1) for part, child in module.named_children())
    font = "" if level else "; font-family: monospace; font-size: 90%; color: inherit"
    style = f'style="margin-left: 1.2em{font}"'
    if not parts:
        return f"<div {style}>{line}</div>"
    opened = " open" if level < OPEN else ""
    return f"<details{opened} {style}><summary>{line}</summary>{parts}</details>"
