"""Links that work where the files lie, turned into links that work on the site."""

from __future__ import annotations

import os
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s:]+)((?:#[^)\s]*)?)\)")  # pictures are none


def for_site(page: str, file: pathlib.Path) -> str:
    """The text of `file`, with its links to other files as links to their pages; where there is no page, as names."""
    here = _place(file).parent

    def moved(found: re.Match) -> str:
        words, address, fragment = found.groups()
        target = (file.parent / address).resolve()
        if not (target.exists() and target.is_relative_to(ROOT)):
            return found[0]  # if it is a link, Sphinx says that it is broken
        place = _place(target)
        if place is None:
            return f"{words} (`{target.relative_to(ROOT).as_posix()}`)"
        return f"[{words}]({pathlib.Path(os.path.relpath(place, here)).as_posix()}{fragment})"

    return LINK.sub(moved, page)


def _place(file: pathlib.Path) -> pathlib.Path | None:
    """The page of a file, as a path from the site's top; None where it has none."""
    path = file.relative_to(ROOT)
    match path.parts:
        case ("docs", "dev", *_):
            return None
        case ("docs", *_, _) if path.suffix == ".md":
            return path.relative_to("docs")
        case ("examples", name) if name.endswith(".ipynb"):
            return path
        case ("cupynn", "kernels", name) if name.endswith(".cu"):
            return pathlib.Path("kernels", f"{path.stem}.md")
        case ("cupynn", "kernels"):
            return pathlib.Path("kernels", "index.md")
    return None
