"""Label corruption: how many, which, and what stays as it is."""

import numpy as np
import pytest

from cupynn.data import ArrayDataset, FileDataset, Whole, corrupt_labels

COUNT, CLASSES = 20_000, 10


def training_set(name="made train"):
    labels = np.arange(COUNT, dtype=np.int64) % CLASSES
    images = np.zeros((COUNT, 1, 1, 1), dtype=np.uint8)
    return ArrayDataset(images, labels, tuple("0123456789"), name, (0.5,), (0.5,))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_share_of_wrong_labels(share, seed):
    before = training_set()
    after = corrupt_labels(before, share, seed)
    wrong = after.labels != before.labels
    expected = share * (1 - 1 / CLASSES)  # a random label is the true one by chance
    assert abs(wrong.mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / COUNT)
    # whatever the true class, the wrong labels are evenly spread over the nine others
    shifts = np.bincount((after.labels - before.labels)[wrong] % CLASSES, minlength=CLASSES)[1:]
    assert np.abs(shifts - wrong.sum() / 9).max() < 5 * np.sqrt(wrong.sum() / 9)
    assert after.labels.dtype == np.int64 and after.images is before.images
    np.testing.assert_array_equal(before.labels, training_set().labels)


def test_none_and_all():
    np.testing.assert_array_equal(corrupt_labels(training_set(), 0, 1).labels, training_set().labels)
    agreeing = (corrupt_labels(training_set(), 1, 1).labels == training_set().labels).mean()
    assert abs(agreeing - 0.1) < 5 * np.sqrt(0.1 * 0.9 / COUNT)


def test_drawn_once_from_the_seed():
    once, again, other = (corrupt_labels(training_set(), 0.5, seed).labels for seed in (7, 7, 8))
    np.testing.assert_array_equal(once, again)
    assert (once != other).mean() > 0.5


def test_set_of_files():
    files = FileDataset("x", ("a.png",) * 100, np.zeros(100, dtype=np.int64), ("a", "b"), "made train", Whole(4))
    after = corrupt_labels(files, 1.0, 0)
    assert 20 < after.labels.sum() < 80 and after.files is files.files  # 50, deviation 5


def test_errors():
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"corrupt_labels: share must lie in 0\.\.1; got"):
            corrupt_labels(training_set(), share, 0)
    with pytest.raises(ValueError, match="corrupt_labels: expected a training set; got 'made test'"):
        corrupt_labels(training_set("made test"), 0.5, 0)
