"""The cross-layer layer against the authors' arrays, alone and in a block."""

import pathlib

import numpy as np
import pytest

import cupynn
from cupynn import nn, ops, optim
from cupynn.autograd import tensor
from cupynn.kernels import cross_layer

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "golden"
STATE = {"weight": "weight", "bias": "bias", "running_mean": "running_mean_before", "running_var": "running_var_before"}


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("deluge_cross_layer_*.npz")), ids=lambda path: path.stem)
@pytest.mark.parametrize("wrap", [ops.LayerOutput, lambda h: h], ids=["shared", "separate"])
def test_the_authors_arrays(path, wrap):
    """The arrays have (C, L) where this library has (L, C)."""
    arrays = np.load(path)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)  # noqa: E731
    layers, _, channels = arrays["h"].shape[:3]
    layer = nn.CrossLayerDepthwise(channels, layers, eps=float(arrays["eps"]), momentum=float(arrays["momentum"]))
    layer.astype(np.float64).load_state_dict({name: arrays[key].T for name, key in STATE.items()})
    inputs = [tensor(h, requires_grad=True) for h in arrays["h"]]
    close(layer.eval()(inputs).numpy(), arrays["y_eval"])
    y = layer.train()([wrap(h) for h in inputs])
    close(y.numpy(), arrays["y_train"])
    y.backward(arrays["gy"])
    close(np.stack([h.grad for h in inputs]), arrays["gh"])
    close(layer.weight.grad, arrays["gweight"].T)
    close(layer.bias.grad, arrays["gbias"].T)
    close(layer.running_mean, arrays["running_mean_after"].T)
    close(layer.running_var, arrays["running_var_after"].T)


def test_the_golden_arrays_are_there():
    assert list(GOLDEN.glob("deluge_cross_layer_*.npz"))


def test_it_starts_as_the_mean_of_its_inputs():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((3, 2, 4, 5, 5)).astype(np.float32)
    plain, norm = nn.CrossLayerDepthwise(4, 3, norm=False), nn.CrossLayerDepthwise(4, 3)
    np.testing.assert_allclose(plain(list(inputs)).numpy(), inputs.mean(axis=0), rtol=0, atol=1e-6)
    shapes = {name: array.shape for name, array in norm.state_dict().items()}
    assert shapes == dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (3, 4))
    assert {name: array.shape for name, array in plain.state_dict().items()} == {"weight": (3, 4), "bias": (4,)}
    assert sum(p.size for p in norm.parameters()) == 2 * 4 * 3
    assert (norm.weight.numpy() == np.float32(1 / 3)).all() and not norm.bias.numpy().any()


class Block(nn.Module):
    """Composite layers (a 3x3 convolution for each), every one reading all before it, newest first."""

    def __init__(self, channels, layers, norm):
        self.layers = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1) for _ in range(layers)])
        self.crosses = nn.ModuleList([nn.CrossLayerDepthwise(channels, i + 1, norm) for i in range(layers)])

    def forward(self, x):
        outputs = [ops.LayerOutput(x)]
        for layer, cross in zip(self.layers, self.crosses, strict=True):
            outputs.insert(0, ops.LayerOutput(ops.relu(layer(cross(outputs)))))
        return outputs[0].tensor


def test_a_block_takes_one_statistics_pass_per_output(monkeypatch):
    calls, compute = [], cross_layer.statistics
    monkeypatch.setattr(cross_layer, "statistics", lambda h: calls.append(h) or compute(h))
    x = tensor(np.random.default_rng(1).standard_normal((2, 3, 5, 5)).astype(np.float32))
    Block(3, 6, True)(x)
    assert len(calls) == 6  # x and the first five outputs, though the readers have 21 inputs


@pytest.mark.parametrize("norm", [True, False])
def test_training_a_block_twice_gives_the_same_bits(norm):
    def train():
        cupynn.manual_seed(3)
        model, rng = Block(4, 3, norm), np.random.default_rng(4)
        optimiser = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        for _ in range(50):
            x = tensor(rng.standard_normal((4, 4, 6, 6)).astype(np.float32))
            optimiser.zero_grad()
            ((model(x) - x * 2) ** 2).mean().backward()
            optimiser.step()
        return b"".join(array.tobytes() for array in model.state_dict().values())

    first = train()
    assert first == train()
    assert np.isfinite(np.frombuffer(first, np.float32)).all()


def test_errors_and_repr():
    layer = nn.CrossLayerDepthwise(4, 3)
    with pytest.raises(ValueError, match="needs the outputs of 3 layers; got 2"):
        layer([np.zeros((1, 4, 2, 2), np.float32)] * 2)
    with pytest.raises(ValueError, match="CrossLayerDepthwise: layers must be an integer >= 1; got 0"):
        nn.CrossLayerDepthwise(4, 0)
    assert repr(layer) == "CrossLayerDepthwise(4, layers=3, norm=True)"
