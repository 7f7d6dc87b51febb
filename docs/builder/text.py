"""The plain text of docstrings and kernel headers as Markdown or reStructuredText.

The sources write paragraphs, indented equations and code, and arguments as "name: what it is", whose further lines may
be indented. Backticks hold code; every other mark of either language stands for itself.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Iterator

ITEM = re.compile(r"[a-z_]\w*(, [a-z_*]\w*)*: ")
CODE = re.compile(r"(`[^`]+`)")


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """("text" | "item" | "code", content) of each block; texts and items are one line, codes in a row are one."""
    code: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n").rstrip()):
        for kind, lines in _runs(paragraph.splitlines()):
            if kind == "code":
                code.append("\n".join(lines))
                continue
            if code:
                yield "code", textwrap.dedent("\n\n".join(code))
            code = []
            yield kind, " ".join(map(str.strip, lines))
    if code:
        yield "code", textwrap.dedent("\n\n".join(code))


def _runs(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Lines that belong together."""
    kind, run = "", []
    for line in lines:
        indented = line.startswith("  ")
        item = ITEM.match(line) and not (run and kind != "code" and run[-1][-1] not in ".:;")  # not amid a sentence
        if kind == "item":
            goes_on = indented or not (item or run[-1].startswith("  "))
        else:
            goes_on = indented == (kind == "code") and not (kind == "text" and item)
        if run and goes_on:
            run.append(line)
            continue
        if run:
            yield kind, run
        kind, run = "code" if indented else "item" if item else "text", [line]
    if run:
        yield kind, run


def markdown(text: str) -> str:
    """The text as Markdown."""
    return _joined(text, lambda content: f"```{_language(content)}\n{content}\n```", markdown_line)


def restructured(text: str) -> str:
    """The text as reStructuredText."""

    def code(content: str) -> str:
        return f".. code-block:: {_language(content)}\n\n{textwrap.indent(content, '    ')}"

    return _joined(text, code, _restructured_line)


def _language(code: str) -> str:
    try:
        ast.parse(code)
    except SyntaxError:
        return "text"
    return "python"


def markdown_line(text: str) -> str:
    """One line of plain text as Markdown."""
    line = "".join(
        part if part.startswith("`") else re.sub(r"([\\*_\[\]<>|~#])", r"\\\1", part) for part in CODE.split(text)
    )
    return re.sub(r"^([-+=]|\d+[.)])", r"\\\1", line)


def _restructured_line(text: str) -> str:
    line = ""
    for part in CODE.split(text):
        if not part.startswith("`"):
            line += re.sub(r"([\\*|_`])", r"\\\1", part)
        else:  # inline literals must stand apart from what is round them
            line += ("\\ " if line and not line[-1].isspace() else "") + f"``{part[1:-1]}``\\ "
    return re.sub(r"^([-+=]|\d+[.)])", r"\\\1", line)


def _joined(text: str, code: Callable[[str], str], line: Callable[[str], str]) -> str:
    """The blocks, written; items are a list where there are several in a row."""
    found = list(blocks(text))
    kinds = ["", *(kind for kind, _ in found), ""]
    parts = []
    for (kind, content), before, after in zip(found, kinds, kinds[2:], strict=False):
        listed = kind == "item" and kind in (before, after)
        if kind == "item":
            content = "`" + content.replace(": ", "`: ", 1)
        parts.append("\n" if listed and before == kind else "\n\n" if parts else "")
        parts += [code(content)] if kind == "code" else ["- " * listed, line(content)]
    return "".join(parts) + "\n"
