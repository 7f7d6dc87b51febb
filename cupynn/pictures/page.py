"""One HTML file that holds all it shows: no other file, no network; light or dark as its reader's screen is."""

from __future__ import annotations

import base64
import html
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cupynn.pictures.figure import Draw, picture_bytes
from cupynn.pictures.theme import DARK, LIGHT, css_variables


class Page:
    """A page that grows from top to bottom. What is given as text is escaped; `add` takes HTML as it is.

    css, script: what a page needs beyond this module's style; colours are the variables --background, --ink, --faint,
    --panel and --line-1 to --line-6.
    """

    def __init__(self, title: str, css: str = "", script: str = ""):
        self.title, self.css, self.script = title, css, script
        self._body: list[str] = []

    def add(self, markup: str) -> None:
        """Append HTML."""
        self._body.append(markup)

    def heading(self, text: str) -> None:
        """Begin a section. Its anchor is the text in small letters with hyphens: #training-curves."""
        anchor = "-".join("".join(letter if letter.isalnum() else " " for letter in text.lower()).split())
        self.add(f'<h2 id="{anchor}">{html.escape(text)}</h2>')

    def paragraph(self, text: str) -> None:
        """A paragraph of plain text."""
        self.add(f"<p>{html.escape(text)}</p>")

    def code(self, text: str) -> None:
        """Text in lines of a fixed width."""
        self.add(f"<pre>{html.escape(text)}</pre>")

    def table(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows of equal keys, which are the columns' heads; numbers stand to the right."""
        if not rows:
            raise ValueError("page: a table needs at least one row")
        heads = "".join(f"<th>{html.escape(str(name))}</th>" for name in rows[0])
        lines = "".join(f"<tr>{''.join(map(_cell, row.values()))}</tr>" for row in rows)
        self.add(f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>')

    def picture(self, draw: Draw, size: tuple[float, float], description: str) -> None:
        """A figure, drawn for light and for dark; description: what a reader who can't see it is told."""
        dark, light = (_data_address(picture_bytes(draw, size, theme)) for theme in (DARK, LIGHT))
        self.add(
            f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
            f'<img src="{light}" alt="{html.escape(description)}" width="{round(size[0] * 96)}"></picture>'
        )

    def markup(self) -> str:
        """The whole file's text."""
        script = f"<script>\n{self.script}\n</script>\n" if self.script else ""
        return _SHELL.format(
            title=html.escape(self.title), style=_STYLE + self.css, body="\n".join(self._body), script=script
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write the file."""
        pathlib.Path(path).write_text(self.markup(), encoding="utf-8")


def _cell(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f'<td class="number">{value}</td>' if number else f"<td>{html.escape(str(value))}</td>"


def _data_address(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


_STYLE = (
    css_variables(":root")
    + """
:root { color-scheme: light dark; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 78rem; background: var(--background); color: var(--ink);
       font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
a { color: var(--line-1); }
pre, code { font-family: ui-monospace, monospace; font-size: 0.85rem; }
pre { background: var(--panel); padding: 0.8rem; overflow-x: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.8rem; border-bottom: 1px solid var(--faint); text-align: left; }
th { background: var(--panel); font-weight: 600; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; }
"""
)

_SHELL = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
{script}</body>
</html>
"""
