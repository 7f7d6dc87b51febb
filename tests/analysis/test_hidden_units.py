"""How often hidden units of WHE layers are active."""

import numpy as np
import pytest

from cupynn import data, models
from cupynn.analysis import hidden_units as module
from cupynn.analysis.hidden_units import active_units, hidden_units
from cupynn.data import ArrayDataset
from cupynn.nn import WHE, Flatten, Linear, Sequential


def planted():
    """Two groups of two channels. h(i, j) is x_i, -x_j, 1 or -1 in group 0; x_i + x_j - 1 in group 1."""
    layer = WHE(4, 2)
    a, b, c = (part.data for part in (layer.a, layer.b, layer.c))
    a[0], b[0], c[0] = [[1, 0], [0, 0]], [[0, -1], [0, 0]], [[0, 0], [1, -1]]
    a[1], b[1], c[1] = 1, 1, -1
    return layer


def images(rng, count):
    """Values of 0, a half and 1, in float32 exact: 0, 128 and 255 at std 1 would not be."""
    return rng.integers(-1, 3, (count, 4, 3, 3)).astype(np.float32) / 2


@pytest.mark.parametrize("chunk", [1, 2000, 2**26])
def test_planted_units(chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", chunk)
    x = images(np.random.default_rng(2), 30)
    found = active_units(planted(), x)
    pixels = 30 * 9
    first = [[(x[:, 0] > 0).sum(), (x[:, 1] < 0).sum()], [pixels, 0]]
    pairs = [[(x[:, i] + x[:, j] > 1).sum() for j in (2, 3)] for i in (2, 3)]
    assert found.tolist() == [first, pairs]


def test_a_model_over_a_set_and_its_figures():
    rng = np.random.default_rng(7)
    pixels = rng.integers(0, 2, (50, 4, 2, 2), dtype=np.uint8) * 255
    dataset = ArrayDataset(pixels, np.zeros(50, np.int64), ("a", "b"), "bits test", (0.25,) * 4, (0.5,) * 4)
    model = Sequential(planted(), Flatten(), Linear(16, 2))
    found = hidden_units(model, dataset, images=23, batch_size=10)
    (layer,) = found.layers
    ones = pixels[:23] > 0  # -0.5 and 1.5 behind the normalisation
    shares = [[[ones[:, 0].mean(), 1 - ones[:, 1].mean()], [1, 0]]]
    shares += [
        [[(ones[:, i] & ones[:, j] if i == j else ones[:, i] | ones[:, j]).mean() for j in (2, 3)] for i in (2, 3)]
    ]
    shares[1][0][1] = shares[1][1][0] = (ones[:, 2] & ones[:, 3]).mean()  # -0.5 + 1.5 - 1 is 0, not above it
    np.testing.assert_allclose(layer.shares, shares, rtol=1e-12)
    assert (found.images, layer.pixels, layer.layer) == (23, 23 * 4, "0")
    assert layer.dead == 1 / 8 and layer.linear == 1 / 8 and layer.histogram.sum() == pytest.approx(1)
    record = found.record()["layers"][0]
    assert record["dead"] == 1 / 8 and len(record["histogram"]) == 20 and np.shape(record["shares"]) == (2, 2, 2)
    assert "forward" not in vars(model[0]) and model.training


def test_a_networks_layers_are_those_it_has():
    model = models.create("cifar_resnet", depth=8, whe=4, in_channels=1)
    names = [name for name, layer in model.named_modules() if isinstance(layer, WHE)]
    found = hidden_units(model, data.load("digits8x8")[1], images=8)
    assert [layer.layer for layer in found.layers] == names and len(found.rows()) == len(names) + 1
    assert all(0 < layer.shares.mean() < 1 for layer in found.layers)


def test_errors():
    test_set = data.load("digits8x8")[1]
    with pytest.raises(ValueError, match="hidden-units: looks for layers of type WHE; smallnet has"):
        hidden_units(models.create("smallnet"), test_set)
    with pytest.raises(ValueError, match="needs one image at least; got images=0"):
        hidden_units(models.create("cifar_resnet", depth=8, whe=4), test_set, images=0)
