"""The code on the pages of docs/ compiles, runs and says what the pages print."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import cupynn
from cupynn import cli
from cupynn.kernels import runtime
from cupynn.profile.measure import CATEGORIES

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "writing-a-kernel.md").read_text()
PROFILE = (DOCS / "profile.md").read_text()
GRAPHS = (DOCS / "graphs-and-reports.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def test_writing_a_kernel(tmp_path):
    """As the page says: in an empty folder, its source as scale.cu, its Python one after another in scale.py."""
    if not runtime.compiled_for(np.zeros(1)):
        pytest.skip("no compiled kernels in this mode")
    (source,) = blocks("cuda")
    (tmp_path / "scale.cu").write_text(source)
    assert len(blocks("python")) == 4
    (tmp_path / "scale.py").write_text("\n".join(blocks("python")))
    (message,) = re.findall(r"```text\n(.*?)\n```", PAGE, re.S)
    environment = {**os.environ, "PYTHONPATH": str(DOCS.parent)}  # what `pip install -e` does
    environment.pop("CUPYNN_KERNELS", None)  # the page sets the mode
    run = subprocess.run(
        [sys.executable, "scale.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert message in run.stdout
    assert "scale_rows" in (tmp_path / "trace.html").read_text()


def test_a_kernel_and_its_gradient_take_thirty_lines():
    """Of code: without comments, docstrings and empty lines."""
    lines = "\n".join([*blocks("cuda"), blocks("python")[0]]).splitlines()
    assert sum(not re.match(r'\s*(//|#(?!include)|"""|$)', line) for line in lines) <= 30


def without_figures(text):
    """Each printed line with # for every number that stands alone: words and shapes stay."""
    lines = (re.sub(r" +", " ", line) for line in text.splitlines())
    return [re.sub(r"(?<![\w.-])\d[\d.,]*%?(?![\w.-])", "#", line) for line in lines]


def test_the_profile_on_the_page_is_what_the_command_prints(capsys):
    if runtime.mode() != "compiled":
        pytest.skip("the page shows compiled kernels")
    words, printed = re.search(r"\$ OMP_NUM_THREADS=1 cupynn (.*?)\n.*?\n(.*?)\n\.\.\.\n```", PROFILE, re.S).groups()
    assert cli.main([*words.replace("--steps 15", "--steps 1").split(), "--device", "cpu"]) in (0, None)
    found = without_figures(capsys.readouterr().out)
    for line in without_figures(printed):
        assert line in found, (line, found)


def test_the_code_on_the_page_of_the_profile(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PROFILE, re.S)
    weight = cupynn.Tensor(np.ones((3, 4), np.float32), requires_grad=True)
    exec(code, {"step": lambda: (weight * weight).sum().backward()})
    printed = capsys.readouterr().out.splitlines()
    assert [line[:22].strip() for line in printed[:-1]] == list(CATEGORIES)
    assert sum(float(line[22:].strip(" %")) for line in printed[:-1]) == pytest.approx(100, abs=0.3)  # six roundings
    assert printed[-1].startswith("OperationRow(name=")


def test_the_code_on_the_page_of_graphs(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", GRAPHS, re.S)
    monkeypatch.chdir(tmp_path)
    exec(code, {"cupynn": cupynn, "images": cupynn.tensor(np.ones((2, 3, 32, 32), np.float32))})
    assert (tmp_path / "tape.svg").stat().st_size and (tmp_path / "both.html").stat().st_size


def test_the_code_on_the_page_of_the_gpu():
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "gpu.md").read_text(), re.S)
    names = {}
    exec(code, names)
    assert names["loss"].shape == () and names["loss"].record is None
