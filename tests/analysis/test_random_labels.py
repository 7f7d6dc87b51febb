"""Training with random labels."""

import numpy as np
import pytest

import cupynn
from cupynn import data, models
from cupynn.analysis import label_noise as module
from cupynn.analysis.label_noise import LabelNoise, Training, label_noise, some
from cupynn.data import corrupt_labels
from cupynn.train import Interrupted, RunFolder, Settings, evaluate, fit

SETTINGS = Settings(epochs=8, batch_size=64, lr=0.02, seed=5, keep=0)


def create():
    return models.create("smallnet", in_channels=1, image_size=8)


def test_each_share_is_a_run_of_its_own_from_the_same_seed(tmp_path):
    train_set, test_set = data.load("digits8x8")
    train_set = some(train_set, 300, 1)
    told = []
    found = label_noise("net", create, train_set, test_set, SETTINGS, [0.0, 1.0], lambda *place: told.append(place))
    assert told == [(1, 2), (2, 2)] and [one.share for one in found] == [0.0, 1.0]
    corrupted = corrupt_labels(train_set, 1.0, 5)
    cupynn.manual_seed(5)
    model = create()
    records = fit(model, corrupted, test_set, SETTINGS, RunFolder(tmp_path / "run"), quiet=True)
    last = found[1]
    assert last.train_accuracy == evaluate(model, corrupted).accuracy
    assert last.test_accuracy == records[-1]["test_accuracy"]
    assert last.best_test_accuracy == max(record["test_accuracy"] for record in records)
    assert found[0].test_accuracy > last.test_accuracy
    with pytest.raises(ValueError, match=r"share must lie in 0..1; got 1.5"):
        label_noise("net", create, train_set, test_set, SETTINGS, [0.0, 1.5])


def test_who_stops_it_is_not_sent_to_weights_that_are_gone(monkeypatch):
    def stopped(*arguments, **options):
        raise Interrupted("the weights as they were are in /somewhere", 15)

    monkeypatch.setattr(module, "fit", stopped)
    with pytest.raises(Interrupted, match=r"stopped at a share of 0\.5; nothing is kept") as caught:
        label_noise("net", create, *data.load("digits8x8"), SETTINGS, [0.5])
    assert caught.value.signal == 15


def test_the_gap():
    training = Training("net", 1000, 2, 0, 0.5, 0.75, 0.5, 0.625)
    found = LabelNoise([training])
    assert training.gap == 0.25 and found.record()["trainings"][0]["gap"] == 0.25
    assert found.rows()[1] == ["net", "1,000", "2", "50.0%", "75.0%", "50.0%", "62.5%", "25.0%"]


def test_some_images():
    train_set = data.load("digits8x8")[0]
    part = some(train_set, 40, 2)
    assert len(part) == 40 and part.mean == train_set.mean
    numbers = {image.tobytes(): place for place, image in reversed(list(enumerate(train_set.images)))}
    places = [numbers[image.tobytes()] for image in part.images]
    assert places == sorted(places) and (part.labels == train_set.labels[places]).all()
    assert (some(train_set, 40, 2).labels == part.labels).all() and (some(train_set, 40, 3).labels != part.labels).any()
    assert some(train_set, 10**6, 0) is train_set
    with pytest.raises(ValueError, match="got images=0"):
        some(train_set, 0, 0)
    files = data.Dataset()
    files.labels, files.name = np.zeros(5, np.int64), "photos train"
    with pytest.raises(ValueError, match="photos train is read from files"):
        some(files, 2, 0)
