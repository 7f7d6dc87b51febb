"""Colours on a light and on a dark ground."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours of one ground, as #rrggbb, told apart by colour-blind eyes."""

    name: str
    background: str
    ink: str  # text, axes
    faint: str  # what stands behind: grids, borders, lines without a name
    panel: str  # a ground that sets off: boxes, code, heads of tables
    lines: tuple[str, ...]  # series in their order
    sequential: str  # matplotlib's colour maps: 0 is the ground's
    diverging: str


LIGHT = Theme(
    name="light",
    background="#ffffff",
    ink="#22262b",
    faint="#b4bac2",
    panel="#f2f4f7",
    lines=("#0072b2", "#d55e00", "#009e73", "#a6337a", "#b8860b", "#5a5a5a"),
    sequential="Blues",
    diverging="RdBu_r",
)
DARK = Theme(
    name="dark",
    background="#15181d",
    ink="#d9dde3",
    faint="#565d68",
    panel="#20252c",
    lines=("#5ab4f0", "#ff8f5a", "#35cf9f", "#ee94cc", "#f0c550", "#e8eaed"),
    sequential="magma",
    diverging="berlin",
)


def css_variables(selector: str) -> str:
    """CSS that gives what `selector` names the colours --background, --ink, --faint, --panel and --line-1 to --line-6,
    light or dark as its reader's screen is."""
    light, dark = (f"{selector} {{ {_variables(theme)} }}" for theme in (LIGHT, DARK))
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n"


def _variables(theme: Theme) -> str:
    named = {"background": theme.background, "ink": theme.ink, "faint": theme.faint, "panel": theme.panel}
    named |= {f"line-{number}": colour for number, colour in enumerate(theme.lines, 1)}
    return "".join(f"--{name}:{colour};" for name, colour in named.items())
