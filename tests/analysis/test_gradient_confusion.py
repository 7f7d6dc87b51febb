"""Cosine similarities of mini-batch gradients, and their density."""

import numpy as np
import pytest

import cupynn
from cupynn import data, models, nn
from cupynn.analysis.gradient_confusion import bandwidth, cosines, density, similarities
from cupynn.autograd import Tensor
from cupynn.data import ArrayDataset
from cupynn.device import generator, to_numpy


def pairs(gradients):
    """cos of every pair with a loop."""
    units = [g / np.linalg.norm(g) for g in gradients]
    return np.array([units[i] @ units[j] for i in range(len(units)) for j in range(i + 1, len(units))])


@pytest.mark.parametrize("held", [2, 3, 7, 100])
def test_a_quadratic(held):
    """Of f_i(w) = (w - c_i)' A (w - c_i) / 2 the gradient is A (w - c_i), A symmetric. In float64 all differences are
    a few roundings."""
    rng = np.random.default_rng(5)
    root, w, centres = rng.standard_normal((6, 6)), rng.standard_normal(6), rng.standard_normal((7, 6))
    matrix = root @ root.T
    computed = []

    def gradient(number):
        computed.append(number)
        weight = cupynn.tensor(w, requires_grad=True)
        away = weight - centres[number]
        ((away @ matrix) * away).sum().backward()
        return weight.grad / 2

    found = cosines(gradient, 7, held * w.nbytes)
    np.testing.assert_allclose(found, pairs((w - centres) @ matrix), atol=1e-13)
    once = list(range(7))
    assert computed == once if held >= 7 else computed == [n for start in range(0, 7, held) for n in once[start:]]


def test_the_gradient_of_softmax_regression():
    """(softmax(z) - onehot) x' / N by hand, batch by batch; float32 sums of 16 images: 1e-5."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (64, 1, 3, 3), dtype=np.uint8)
    labels = rng.integers(0, 4, 64)
    dataset = ArrayDataset(images, labels, tuple("abcd"), "random train", (0.5,), (0.25,))
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
    weight, bias = (to_numpy(parameter.data).astype(np.float64) for parameter in model.parameters())
    gradients = []
    for x, y in data.batches(dataset, 16, shuffle=True, seed=9):
        x, y = to_numpy(x).reshape(16, 9).astype(np.float64), to_numpy(y)
        logits = x @ weight.T + bias
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        difference = (p / p.sum(axis=1, keepdims=True) - np.eye(4)[y]) / 16
        gradients.append(np.concatenate([(difference.T @ x).ravel(), difference.sum(axis=0)]))
    np.testing.assert_allclose(similarities(model, dataset, 16, seed=9), pairs(gradients), atol=1e-5)
    np.testing.assert_allclose(similarities(model, dataset, 16, 3, seed=9), pairs(gradients[:3]), atol=1e-5)


def test_the_model_and_the_generator_are_as_before_and_dropout_repeats():
    model = nn.Sequential(models.create("smallnet", in_channels=1, image_size=8), nn.Dropout(0.5)).eval()
    dataset = data.load("digits8x8")[0]
    cupynn.manual_seed(4)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    drawn = generator().bit_generator.state
    told = []
    found = similarities(model, dataset, 32, 5, tell=lambda *place: told.append(place))
    assert told == [(done, 5) for done in range(1, 6)]
    assert generator().bit_generator.state == drawn
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, array in model.state_dict().items():
        assert array.tobytes() == before[name].tobytes(), name
    # a gradient that is computed again has the same dropout; only the order of BLAS's sums may differ
    np.testing.assert_allclose(similarities(model, dataset, 32, 5, held=1), found, atol=1e-5)


def test_what_has_no_direction_or_too_few_batches_is_refused():
    with pytest.raises(ValueError, match=r"gradient of batch 2 has norm 0\.0"):
        cosines(lambda number: np.ones(3) * (number != 2), 4)
    dataset = data.load("digits8x8")[0]
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match=r"three batches at least, and would take 2; digits8x8 train gives 2 of 700"):
        similarities(model, dataset, 700)


def test_the_density_integrates_to_one_and_is_scipys():
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(-0.3, 0.1, 80), rng.normal(0.4, 0.05, 40)])
    width = bandwidth(values)
    assert width == pytest.approx(np.sqrt(np.sum((values - values.mean()) ** 2) / 119) * 120 ** (-1 / 5), rel=1e-12)
    places = np.linspace(-3, 3, 4001)  # 10 bandwidths beyond all values
    found = density(values, places)
    assert np.trapezoid(found, places) == pytest.approx(1, abs=1e-9)
    stats = pytest.importorskip("scipy.stats")
    np.testing.assert_allclose(found, stats.gaussian_kde(values)(places), rtol=1e-9, atol=1e-300)
    with pytest.raises(ValueError, match="needs values that differ"):
        density(np.ones(5), places)


def test_opposed_batches_are_as_confused_as_can_be():
    """Two images that differ in their labels alone, at weights 0: opposite gradients."""
    images = np.full((60, 1, 2, 2), 255, np.uint8)
    labels = np.repeat(np.array([0, 1, 0]), 20)
    dataset = ArrayDataset(images, labels, ("a", "b"), "same train", (0.0,), (1.0,))
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    for parameter in model.parameters():
        parameter.data[...] = 0

    def gradient(number):
        model.zero_grad()
        chosen = slice(20 * number, 20 * number + 20)
        logits = model(Tensor(images[chosen].astype(np.float32)))
        cupynn.ops.cross_entropy(logits, dataset.labels[chosen]).backward()
        return np.concatenate([parameter.grad.ravel() for parameter in model.parameters()])

    np.testing.assert_allclose(cosines(gradient, 3), [-1, 1, -1], atol=1e-6)
