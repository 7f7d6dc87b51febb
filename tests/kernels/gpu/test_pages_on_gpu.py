"""The kernels that the documentation shows, on the fake GPU: the same lines, with CuPy's arrays."""

import json
import pathlib
import re

import numpy as np

import cupynn
from cupynn import device

ROOT = pathlib.Path(cupynn.__file__).parents[1]


def gradients(gpu_log, function, *shapes):
    """An output of `function` and the inputs' gradients for one that is not contiguous; all of it on the GPU."""
    numbers = np.random.default_rng(0)
    arrays = [numbers.standard_normal(shape, np.float32) for shape in shapes]
    inputs = [cupynn.tensor(array, requires_grad=True) for array in arrays]
    y = function(*inputs)
    gpu_log.clear()
    y.sum().backward()  # the gradient is a number with strides of 0
    assert len(gpu_log.launches) >= 2 and not gpu_log.waits
    return arrays, [device.to_numpy(array) for array in (y.data, *(tensor.grad for tensor in inputs))]


def test_writing_a_kernel(gpu_log, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "writing-a-kernel.md").read_text()
    (source,) = re.findall(r"```cuda\n(.*?)```", page, re.S)
    (tmp_path / "scale.cu").write_text(source)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(re.search(r"```python\n(.*?)```", page, re.S).group(1), names)
    (x, factor), given = gradients(gpu_log, lambda *inputs: names["ScaleRows"]()(*inputs), (3, 40), (3,))
    for ours, theirs in zip(
        given, (x * factor[:, None], np.broadcast_to(factor[:, None], x.shape), x.sum(1)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_a_kernel_of_ones_own(gpu_log, tmp_path, monkeypatch):
    """Its cells up to the `Function`; the arrays are moved to the GPU."""
    notebook = json.loads((ROOT / "examples" / "own_kernel.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"][:3]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec("\n".join(cells).partition("\n\ny = Distances")[0], names)
    (x, m), given = gradients(gpu_log, lambda *inputs: names["Distances"]()(*inputs), (2, 3, 40), (5, 3))
    difference = x[:, None] - m[None, :, :, None]  # n, k, c, p
    expected = names["distances"](x, m), 2 * difference.sum(1), -2 * difference.sum((0, 3))
    for ours, theirs in zip(given, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
