"""Sections of a page in Markdown that programs write."""

from __future__ import annotations

import pathlib
import re


def markdown_table(rows: list[dict[str, str]]) -> str:
    """Rows of equal keys as a table; all columns but the first are aligned to the right."""
    names = list(rows[0])
    widths = [max(3, len(name), *(len(row[name]) for row in rows)) for name in names]

    def line(row: dict[str, str]) -> str:
        cells = [row[name].rjust(width) for name, width in zip(names, widths, strict=True)]
        cells[0] = cells[0].strip().ljust(widths[0])
        return f"| {' | '.join(cells)} |"

    rule = ["-" * (width + 2) if column == 0 else "-" * (width + 1) + ":" for column, width in enumerate(widths)]
    return "\n".join([line(dict(zip(names, names, strict=True))), f"|{'|'.join(rule)}|", *map(line, rows)])


def put_section(path: pathlib.Path, name: str, body: str) -> None:
    """Put `body` between the comments of section `name`, in place of what stands there, or at the page's end."""
    begin, end = f"<!-- {name}: written by python -m bench {name} -->", f"<!-- end of {name} -->"
    section = f"{begin}\n\n{body}\n\n{end}"
    text = path.read_text() if path.exists() else "# Results\n"
    earlier = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.S)
    if earlier.search(text):
        text = earlier.sub(lambda _: section, text)
    else:
        text = f"{text.rstrip()}\n\n{section}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
