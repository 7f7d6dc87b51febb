"""The code in docs/writing-a-kernel.md compiles, runs and says what the page prints."""

import pathlib
import re

import numpy as np
import pytest

from cupynn.kernels import runtime

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "writing-a-kernel.md").read_text()


def test_writing_a_kernel(tmp_path, monkeypatch, capsys):
    if not runtime.compiled_for(np.zeros(1)):
        pytest.skip("no compiled kernels in this mode")
    before = runtime.mode()
    (kernel,) = re.findall(r"```cuda\n(.*?)```", PAGE, re.S)
    first, second = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    (message,) = re.findall(r"```text\n(.*?)\n```", PAGE, re.S)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scale.cu").write_text(kernel)
    names = {}
    try:
        exec(first, names)
        exec(second, names)
    finally:
        runtime.set_mode(before)
    printed = capsys.readouterr().out
    assert message in printed
