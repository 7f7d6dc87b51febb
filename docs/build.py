"""Build the site: `python docs/build.py [FOLDER]`, by default docs/_build; its pages are in FOLDER/html.

The pages of docs/, the notebooks of examples/ and the pages that `docs/builder` makes are put together in
FOLDER/source, and Sphinx makes HTML of them. Links work where the files lie, and on the site: see `builder/links.py`.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]

from builder import api, commands, images, kernels, links, papers  # noqa: E402
from pictures import draw  # noqa: E402

NO_PAGES = ("_build", "builder", "dev", "static")


def assemble(folder: pathlib.Path) -> None:
    """Write everything that Sphinx reads into an empty folder."""
    for file in sorted(path for path in HERE.rglob("*") if path.is_file() and path.suffix in (".md", ".svg", ".png")):
        place = file.relative_to(HERE)
        if place.parts[0] in NO_PAGES:
            continue
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".md":
            (folder / place).write_text(papers.fill(images.for_site(links.for_site(file.read_text(), file))))
        else:
            shutil.copy2(file, folder / place)
    for notebook in (ROOT / "examples").glob("*.ipynb"):
        _put(folder / "examples" / notebook.name, links.for_site(notebook.read_text(), notebook))
    kernels.write(folder / "kernels", draw.write_all(folder / "pictures"))
    _put(folder / "reference" / "commands.md", commands.page())
    for name, page in api.pages().items():
        _put(folder / "api" / f"{name}.md", page)


def _put(path: pathlib.Path, content: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)


def build(folder: pathlib.Path) -> int:
    """Assemble and run Sphinx, whose warnings are errors; returns its exit status."""
    from sphinx.cmd.build import main

    source = folder / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    # Notebooks run in processes of their own: they are to import what stands beside this file.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    assemble(source)
    flags = ["-q", "-W", "--keep-going", "-b", "html", "-c", str(HERE), "-d", str(folder / "doctrees")]
    return main([*flags, str(source), str(folder / "html")])


if __name__ == "__main__":
    place = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "_build"
    status = build(place.resolve())
    if status == 0:
        print(f"The site is in {place}/html; open index.html")
    sys.exit(status)
