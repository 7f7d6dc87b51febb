"""Losses along filter-normalised random directions."""

import numpy as np
import pytest

from cupynn import data, models
from cupynn.analysis.landscape import Landscape, RunLandscape, direction, landscape, scores, surface
from cupynn.data import ArrayDataset
from cupynn.nn import BatchNorm2d, Module, Parameter
from cupynn.pictures import picture_bytes
from cupynn.train.evaluation import Score, evaluate


class Quadratic(Module):
    """||w||^2 / 2 + ||b||^2."""

    def __init__(self, rng):
        self.w = Parameter(rng.standard_normal((3, 2, 2, 2)))
        self.w.data[1] = 0
        self.b = Parameter(rng.standard_normal(3))

    def measure(self):
        w, b = self.w.data, self.b.data
        return Score(float((w**2).sum() / 2 + (b**2).sum()), float(w.size))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_quadratic_loss_is_a_paraboloid(seed):
    """L(a, b) = L(0, 0) + a <w, d> + b <w, e> + |a d + b e|^2 / 2: in float64 to a few roundings."""
    model = Quadratic(np.random.default_rng(seed))
    rng = np.random.default_rng(seed + 10)
    d, e = (direction(model, rng) for _ in range(2))
    w = model.w.data.copy()
    for along in (d, e):
        np.testing.assert_allclose(
            np.linalg.norm(along["w"].reshape(3, -1), axis=1), np.linalg.norm(w.reshape(3, -1), axis=1), rtol=1e-12
        )
        assert not along["b"].any() and not along["w"][1].any() and along["w"][0].any()
    steps = np.linspace(-2, 2, 5)
    loss, accuracy = surface(model, [d, e], steps, model.measure)
    a, b = np.meshgrid(steps, steps, indexing="ij")
    products = {(x, y): np.vdot(one, other) for x, one in parts(w, d, e) for y, other in parts(w, d, e)}
    expected = model.measure().loss + a * products["w", "d"] + b * products["w", "e"]
    expected += (a**2 * products["d", "d"] + 2 * a * b * products["d", "e"] + b**2 * products["e", "e"]) / 2
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    assert (accuracy == 24).all()
    np.testing.assert_array_equal(surface(model, [d], steps, model.measure)[0], loss[:, 2])


def parts(w, d, e):
    return (("w", w), ("d", d["w"]), ("e", e["w"]))


def test_the_model_is_as_before_to_the_bit_also_when_measuring_fails():
    model = models.create("smallnet", in_channels=1, image_size=8)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    along = direction(model, np.random.default_rng(0))

    def fail():
        assert any((array != before[name]).any() for name, array in model.state_dict().items())
        raise ArithmeticError("stop")

    with pytest.raises(ArithmeticError):
        surface(model, [along], np.array([0.1]), fail)
    train_set = data.load("digits8x8")[0]
    landscape(model, train_set, np.linspace(-1, 1, 3), 2, images=50)
    for name, array in model.state_dict().items():
        assert array.tobytes() == before[name].tobytes(), name
    assert all(module.training for module in model.modules())


def test_batch_norm_and_biases_stay():
    model = models.create("smallnet", in_channels=1, image_size=8)
    along = direction(model, np.random.default_rng(0))
    moved = {name for name, array in along.items() if array.any()}
    assert moved == {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    norms = [name for name, module in model.named_modules() if isinstance(module, BatchNorm2d)]
    assert norms and not any(name.rpartition(".")[0] in norms for name in moved)


def test_the_seed_decides_and_the_middle_is_the_network():
    model = models.create("smallnet", in_channels=1, image_size=8)
    train_set = data.load("digits8x8")[0]
    steps = np.linspace(-0.5, 0.5, 3)
    told = []
    loss, accuracy = landscape(model, train_set, steps, images=120, seed=2, tell=lambda *place: told.append(place))
    assert told == [(1, 3), (2, 3), (3, 3)]
    again = landscape(model, train_set, steps, images=120, seed=2)
    assert (again[0] == loss).all() and (again[1] == accuracy).all()
    other = landscape(model, train_set, steps, images=120, seed=3)[0]
    assert (other != loss).all()
    score = scores(model, train_set, 120, seed=2)()
    assert (score.loss, score.accuracy) == (loss[1], accuracy[1])
    # a subset of all images, but in another order: float32 sums of a batch
    whole, every = scores(model, train_set, len(train_set), batch_size=100)(), evaluate(model, train_set)
    assert whole.loss == pytest.approx(every.loss, rel=1e-5)
    assert whole.accuracy == pytest.approx(every.accuracy, abs=1.5 / len(train_set))


def test_images_are_counted():
    images = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1)
    dataset = ArrayDataset(images, np.zeros(20, np.int64), ("a", "b"), "few train", (0.0,), (1.0,))
    seen = []

    class Seeing(Module):
        def forward(self, x):
            seen.extend((x.data.ravel() * 255).round().astype(int).tolist())
            return x.reshape(len(x.data), 1) * np.array([[1.0, 0.0]], np.float32)

    scores(Seeing(), dataset, 7, batch_size=5)()
    assert len(seen) == 7 == len(set(seen))


def test_errors():
    model, train_set = models.create("smallnet", in_channels=1, image_size=8), data.load("digits8x8")[0]
    with pytest.raises(ValueError, match="needs 1 or 2 dimensions and 1 image or more; got 3 and 500"):
        landscape(model, train_set, np.zeros(3), 3)
    with pytest.raises(ValueError, match="got 1 and 0"):
        landscape(model, train_set, np.zeros(3), images=0)


@pytest.mark.parametrize("away", [2.0, 1e-9, np.inf, np.nan], ids=["2", "1e-9", "infinite", "nan"])
@pytest.mark.parametrize("here", [2.0, np.nan], ids=["2", "nan"])
def test_contours_of_a_loss_that_is_flat_or_not_finite(here, away):
    pytest.importorskip("matplotlib")
    loss = np.full((3, 3), away)
    loss[1, 1] = here
    found = Landscape(np.linspace(-1, 1, 3), 0, [RunLandscape("run", 5, loss, np.ones((3, 3)))])
    assert picture_bytes(found.draw, found.size, kind="png").startswith(b"\x89PNG")
