"""Pictures that there are twice, for a light and for a dark ground: the site shows the one that fits."""

from __future__ import annotations

import re

# As a page writes them that is read where its file lies, too.
PICTURE = re.compile(
    r'<picture>\s*<source [^>]*srcset="(?P<dark>[^"]*)"[^>]*>\s*'
    r'<img src="(?P<light>[^"]*)" alt="(?P<shows>[^"]*)"[^>]*>\s*</picture>'
)


def themed(light: str, dark: str, shows: str) -> str:
    """Both files, in MyST's words; shows: what a reader who can't see them is told."""
    files = {"light": light, "dark": dark}
    return "".join(
        f"```{{image}} {file}\n:class: only-{ground}\n:alt: {shows}\n```\n" for ground, file in files.items()
    )


def drawn(path: str, shows: str) -> str:
    """A drawing that the build made: PATH-light.svg and PATH-dark.svg."""
    return themed(f"{path}-light.svg", f"{path}-dark.svg", shows)


def for_site(page: str) -> str:
    """The page with its <picture> elements, which the browser's preference decides, as the site's own."""
    return PICTURE.sub(lambda found: themed(found["light"], found["dark"], found["shows"]), page)
