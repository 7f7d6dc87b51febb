"""docs/analysis.md: its commands parse, its code runs, its pictures are there."""

import pathlib
import re
import shlex

import pytest

from cupynn import cli
from cupynn.cli.analyse_kinds import KINDS

DOCS = pathlib.Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "analysis.md").read_text()


def test_every_command_parses_and_every_kind_has_one():
    parsed = [cli.parser().parse_args(shlex.split(command)) for command in re.findall(r"^cupynn (.*)$", PAGE, re.M)]
    trained = {arguments.folder for arguments in parsed if hasattr(arguments, "folder")}
    analyses = [arguments for arguments in parsed if hasattr(arguments, "kind")]
    assert {arguments.kind for arguments in analyses} == set(KINDS)
    for arguments in analyses:
        for path in getattr(arguments, "paths", None) or [arguments.path]:
            assert path in trained or "/" not in path, path


def test_the_code_runs(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(code, {})
    assert (tmp_path / "h.svg").exists()


def test_every_kind_has_a_small_picture_for_light_and_for_dark():
    named = set(re.findall(r'"pictures/(analysis-[\w-]+\.svg)"', PAGE))
    assert named == {f"analysis-{kind}{ground}.svg" for kind in KINDS for ground in ("", "-dark")}
    for name in named:
        assert (DOCS / "pictures" / name).stat().st_size < 150_000, name
