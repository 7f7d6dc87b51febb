"""PyTorch's side of `bench gpu` computes what ours does: on the CPU, where both libraries run."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from bench.gpu import layers, steps, timed
from bench.gpu.layer import Layer, Torch
from bench.networks import child
from bench.networks.cases import GPU_CASES, Case, batch_of
from bench.timing import Times
from cupynn.device import to_numpy, wide
from cupynn.kernels import runtime

RANDOM = ("dropout",)  # each library draws its own mask


def flat(result):
    """The arrays of a result, in their order."""
    if isinstance(result, (tuple, list)):
        return [array for part in result for array in flat(part)]
    return [] if result is None else [result]


@pytest.mark.parametrize("family", timed.FAMILIES)
def test_layers_agree(family):
    torch = pytest.importorskip("torch")
    if runtime.mode() != "compiled":
        pytest.skip("large maps: for compiled kernels")
    for layer in timed.FAMILIES[family](1):
        if layer.kernel not in RANDOM:
            agree(torch, layer)


def agree(torch, layer: Layer):
    """Both libraries' results of every pass, by the norm of their difference: sums of at most some 100,000 terms round
    to less than 1e-4 in float32. PyTorch rounds to 16 bits in between, and a ReLU may then be on where ours is off."""
    tolerance = 1e-4 if layer.dtype == "float32" else 3e-2
    theirs = Torch(torch, "cpu").runs(layer)
    assert theirs.keys() == {each.name for each in layer.passes}
    for each in layer.passes:
        for method, run in each.runs.items():
            ours = flat(run())
            if each.name == "step":  # it moves the arrays that PyTorch has copies of
                theirs["step"]()
                continue
            expected = flat(theirs[each.name]())
            for mine, its in zip(ours, expected, strict=False):  # ours may have more: statistics, a bias's gradient
                mine, its = wide(to_numpy(mine)), its.detach().float().numpy()
                where = f"{layer.kernel} {method} {each.name} {layer.dtype}"
                assert mine.shape == its.shape, where
                assert np.linalg.norm(mine - its) <= tolerance * np.linalg.norm(its), where


def test_both_libraries_take_the_same_sgd_step():
    torch = pytest.importorskip("torch")
    *_, layer = layers.losses_and_steps(1)
    weights = layer.inputs[0]
    before, velocity = weights.copy(), layer.inputs[2].copy()
    peer = Torch(torch, "cpu")
    leaves = peer.tensors(layer)
    from bench.peers import torch_layers

    velocity[...] = layer.inputs[2][...] = 0  # as PyTorch's starts
    torch_layers.sgd_step(*leaves)()
    layer.passes[0].runs[""]()
    assert (weights != before).any()
    np.testing.assert_allclose(weights, leaves[0].detach().numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, case in GPU_CASES.items() if not case.builder.startswith("cifar")])
def test_networks_are_the_same(name):
    """The others are those of `bench networks`, whose test this is, too."""
    pytest.importorskip("torch")
    answer = child.compare(GPU_CASES[name], *batch_of(2, 64, 10))
    assert answer["parameters"][0] == answer["parameters"][1]
    for key in ("evaluation", "contracted", "training", "gradient"):
        assert answer[key] < 1e-9, (key, answer)


@pytest.mark.parametrize("precision", steps.PRECISIONS)
def test_a_step_of_pytorch(precision):
    torch = pytest.importorskip("torch")
    case = replace(GPU_CASES["MobileNet+CL r=4"], side=32)
    step = steps.peer_step(torch, case, 2, precision, on="cpu")
    first = step().item()
    assert np.isfinite(first)
    if precision != "float16":  # whose first loss scale may be too large: then no weight moves
        assert step().item() != first


class StandInClock:
    """Runs every contender once, and says that ours takes a second and others two."""

    def kernels(self, contenders, rounds, seconds):
        for run in contenders.values():
            run()
        return {name: Times([1.0 + (not name.startswith("cupynn"))] * rounds) for name in contenders}

    steps = kernels

    def wait(self):
        pass


@pytest.fixture
def torch_on_cpu(monkeypatch):
    """PyTorch, whose part in rows is done on the CPU and not compiled, so that the rows themselves can be looked at."""
    torch = pytest.importorskip("torch")
    if runtime.mode() != "compiled":
        pytest.skip("large maps: for compiled kernels")
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    for module in (timed, steps):
        monkeypatch.setattr(module, "Clock", StandInClock)
        monkeypatch.setattr(module, "release", lambda torch: None)
    monkeypatch.setattr(timed, "Torch", lambda torch, where: Torch(torch, "cpu"))
    monkeypatch.setattr(steps, "peer_step", partial(steps.peer_step, on="cpu"))
    monkeypatch.setattr(steps, "our_memory", lambda step: {"peak_bytes": 1})
    monkeypatch.setattr(steps, "peer_memory", lambda torch, step: {"peak_bytes": 2})
    monkeypatch.setattr(steps, "precisions", lambda: ["float32"])
    monkeypatch.setitem(GPU_CASES, "SmallNet", Case("smallnet", {"kernel_size": 3}))
    return torch


def test_rows_of_kernels_beside_pytorch(torch_on_cpu):
    keys = [row["compiled"] for row in timed.warm("cross-layer", 1, torch_on_cpu)]
    assert keys == [f"cross-layer, 16 layers {dtype} 1x64x32x32" for dtype in ("float32", "float16")]
    rows = list(timed.rows("cross-layer", 1, 3, 1.0, torch_on_cpu, keys[:1]))
    assert ["compile_seconds" in row for row in rows] == [False, False, True, True, False, False]
    for row in rows:
        assert (row["seconds"], row["eager_seconds"], row["to_eager"]) == (1.0, 2.0, 0.5)
        assert row.get("to_compile", 0.5) == 0.5


def test_what_pytorch_cannot_do_is_said_beside_our_time(torch_on_cpu, monkeypatch):
    def runs(self, layer, compiled=False):
        raise RuntimeError("CUDA out of memory.\nMore of it")

    monkeypatch.setattr(Torch, "runs", runs)
    for row in timed.rows("loss and SGD", 1, 3, 1.0, torch_on_cpu, []):
        assert row["eager"] == "RuntimeError: CUDA out of memory." and row["seconds"] == 1.0


def test_rows_of_networks_beside_pytorch(torch_on_cpu, monkeypatch):
    assert [*steps.warm("SmallNet", 2, torch_on_cpu)] == [{"compiled": "SmallNet float32"}]
    rows = list(steps.rows("SmallNet", 2, 3, 1.0, torch_on_cpu, ["SmallNet float32"]))
    assert [row.get("compile_seconds") for row in rows] == [None, 2.0]
    for row in rows:
        assert row["eager_seconds"] == 2.0 and row["to_eager"] == 0.5
        assert (row["peak_bytes"], row["eager_peak_bytes"]) == (1, 2)
    monkeypatch.setattr(steps, "peer_memory", lambda torch, step: 1 / 0)
    (row,) = steps.rows("SmallNet", 2, 3, 1.0, torch_on_cpu, [])
    assert row["eager"].startswith("ZeroDivisionError") and row["seconds"] == 1.0
    monkeypatch.setattr(steps, "our_step", lambda *arguments: 1 / 0)
    (row,) = steps.rows("SmallNet", 2, 3, 1.0, torch_on_cpu, [])
    assert row["failed"].startswith("ZeroDivisionError") and "seconds" not in row
