"""The site builds without a warning, its notebooks run, and its pages load nothing from elsewhere."""

import html
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

import cupynn
from bench.__main__ import BENCHES
from cupynn import cli
from cupynn.kernels import runtime
from cupynn.models.catalogue import ENTRIES
from cupynn.train import recipes

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
# What a browser fetches by itself: not the links that a reader follows.
FETCHED = re.compile(
    r"<(?:script|link|img|source|iframe|object|video|audio)\b[^>]*?\b(?:src|href|srcset|data)=\"([^\"]*)\""
)
IN_STYLE = re.compile(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)")


def test_the_site(tmp_path):
    """One test, so that the site is built once."""
    if runtime.mode() != "compiled":
        pytest.skip("the pages show compiled kernels")
    for needed in ("sphinx", "furo", "myst_nb", "matplotlib", "mlxtend", "scipy"):
        pytest.importorskip(needed)
    folders = {name: str(tmp_path / "jupyter") for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR")}
    build = subprocess.run(
        [sys.executable, ROOT / "docs" / "build.py", tmp_path],
        env={"OMP_NUM_THREADS": "1", **os.environ, **folders},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert build.returncode == 0, build.stdout + build.stderr
    pages = {
        path.relative_to(tmp_path / "html").as_posix(): path.read_text() for path in (tmp_path / "html").rglob("*.html")
    }
    nothing_is_fetched(pages, tmp_path / "html")
    all_is_there(pages)


def nothing_is_fetched(pages, folder):
    """From another address: no font, script, style or picture."""
    addresses = {address for page in pages.values() for address in FETCHED.findall(page)}
    for name, page in pages.items():  # and what is here is there
        local = [re.split("[?#]", address)[0] for address in FETCHED.findall(page) if not address.startswith("data:")]
        assert not [address for address in local if not (folder / name).parent.joinpath(address).exists()], name
    for style in folder.rglob("*.css"):
        addresses |= {first or second for first, second in IN_STYLE.findall(style.read_text())}
    assert addresses
    assert not [address for address in addresses if re.match(r"(https?:)?//", address)]


def all_is_there(pages):
    """Every kernel, notebook, network, recipe, command, option and public name."""
    kernels = {path.stem for path in (ROOT / "cupynn" / "kernels").glob("*.cu")}
    assert kernels == {name[8:-5] for name in pages if name.startswith("kernels/")} - {"index", "headers"}
    assert {f"examples/{path.stem}.html" for path in NOTEBOOKS} <= pages.keys()
    assert "Verification(" in pages["examples/tutorial.html"]  # outputs are there
    text = {name: html.unescape(re.sub(r"<[^>]*>", "", page)) for name, page in pages.items()}
    papers = " ".join(text[name] for name in text if name.startswith("papers/"))
    assert not [entry.id for entry in ENTRIES.values() if entry.id not in papers]
    assert not [name for name in recipes.names() if name not in papers]
    commands = text["reference/commands.html"]
    for parser in every_command(cli.parser()):
        assert parser.prog in commands
        options = {option for action in parser._actions for option in action.option_strings}
        assert not [option for option in options - {"-h", "--help"} if option not in commands]
    assert not [name for name in cupynn.__all__ if f"cupynn.{name}" not in text["api/index.html"]]


def every_command(parser):
    """The parsers below one."""
    for action in parser._actions:
        if hasattr(action, "add_parser"):
            for command in action.choices.values():
                yield command
                yield from every_command(command)


PAGES = [path for path in sorted((ROOT / "docs").rglob("*.md")) if path.parts[-2] in ("docs", "papers")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_commands_on_the_pages_are_commands(page):
    """Every line of a block of text that calls cupynn or a benchmark: its options and its recipe are there."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.S | re.M)
    blocks = "\n".join(block for language, block in found if language in ("", "text", "sh", "bash"))
    for name, rest in re.findall(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(cupynn|python -m bench) (.*)$", blocks, re.M):
        words = shlex.split(rest, comments=True)
        if name != "cupynn":
            assert words[0] in BENCHES
            continue
        arguments = cli.parser().parse_args(words)  # exits where something is unknown
        if getattr(arguments, "recipe", None):
            assert arguments.recipe in recipes.names()


@pytest.mark.parametrize("file", [*PAGES, *NOTEBOOKS], ids=lambda path: path.stem)
def test_links_work_where_the_files_lie(file):
    """All but those to pages that are made when the site is built."""
    addresses = re.findall(r"\]\(([^)#\s:]+)(?:#[^)\s]*)?\)", file.read_text())
    made = ("reference/commands.md", "api/index.md")
    assert not [address for address in addresses if address not in made and not (file.parent / address).exists()]


def test_notebooks_hold_no_outputs():
    assert len(NOTEBOOKS) >= 4
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code":
                assert not cell["outputs"] and cell["execution_count"] is None, path.name
