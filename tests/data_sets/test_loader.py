"""Batches: what is in them, and what their order and augmentation depend on."""

import numpy as np
import pytest

from cupynn.data import ArrayDataset, HorizontalFlip, RandomCrop, batches, load, names, train_and_test
from cupynn.data.dataset import channel_statistics
from cupynn.data.transforms import normalise
from cupynn.device import to_numpy, use_device

AUGMENT = [RandomCrop(2), HorizontalFlip()]


def numbered(count=23, channels=3):
    """A set in which image i holds i in its first pixel's first channel, so that it can be known again."""
    images = np.random.default_rng(4).integers(0, 256, (count, channels, 6, 6), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    labels = np.arange(count, dtype=np.int64) * 7 % 5
    return ArrayDataset(images, labels, tuple("abcde"), "numbered", (0.0,) * channels, (1.0,) * channels)


def collect(dataset, batch_size, **options):
    """All images and labels of an epoch, and the batches' sizes."""
    images, labels = zip(*batches(dataset, batch_size, **options), strict=True)
    joined = np.concatenate([to_numpy(x) for x in images]), np.concatenate([to_numpy(y) for y in labels])
    return *joined, [len(y) for y in labels]


def indices(images):
    return np.rint(images[:, 0, 0, 0] * 255).astype(int)


def test_plain_batches_are_the_set_in_order():
    dataset, _ = load("digits8x8")
    images, labels, sizes = collect(dataset, 100)
    np.testing.assert_array_equal(images, normalise(dataset.images, dataset.mean, dataset.std))
    np.testing.assert_array_equal(labels, dataset.labels)
    assert images.dtype == np.float32 and labels.dtype == np.int64
    assert sizes == [100] * 14 + [42]


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "sizes"),
    [
        (10, False, [10, 10, 3]),
        (10, True, [10, 10]),
        (23, True, [23]),
        (24, True, []),
        (24, False, [23]),
        (1, True, [1] * 23),
    ],
)
def test_sizes(batch_size, drop_last, sizes):
    epoch = batches(numbered(), batch_size, drop_last=drop_last)
    assert [len(labels) for _, labels in epoch] == sizes
    assert len(epoch) == len(sizes)
    assert [len(labels) for _, labels in epoch] == sizes  # it can be walked again


def test_shuffle_keeps_every_image_with_its_label():
    dataset = numbered()
    images, labels, _ = collect(dataset, 5, shuffle=True, seed=1, epoch=2)
    order = indices(images)
    assert sorted(order) == list(range(23)) and order.tolist() != list(range(23))
    np.testing.assert_array_equal(labels, dataset.labels[order])
    np.testing.assert_array_equal(images, (dataset.images[order] * np.float32(1 / 255)))


@pytest.mark.parametrize("transform", [None, AUGMENT])
def test_same_seed_and_epoch_same_batches(transform):
    options = {"shuffle": True, "seed": 3, "epoch": 1, "transform": transform}
    np.random.seed(0)
    first = collect(numbered(), 4, **options)
    np.random.seed(1)
    second = collect(numbered(), 4, **options)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.parametrize("other", [{"seed": 4}, {"epoch": 2}, {"seed": 1, "epoch": 3}])
def test_another_seed_or_epoch_another_order_and_augmentation(other):
    """seed=1, epoch=3 beside seed=3, epoch=1: the two must not be merely added up."""
    options = {"seed": 3, "epoch": 1}
    plain = numbered(200)
    orders = [indices(collect(plain, 50, shuffle=True, **(options | change))[0]) for change in ({}, other)]
    assert (orders[0] != orders[1]).mean() > 0.5
    augmented = [collect(plain, 50, transform=AUGMENT, **(options | change))[0] for change in ({}, other)]
    # the same crop and flip by chance: one in 50
    assert (augmented[0] != augmented[1]).any(axis=(1, 2, 3)).mean() > 0.8


def test_augmentation_belongs_to_the_image_not_to_the_batch():
    dataset = numbered()
    in_order, labels, _ = collect(dataset, 23, seed=6, transform=AUGMENT)
    np.testing.assert_array_equal(labels, dataset.labels)
    assert (in_order != dataset.images * np.float32(1 / 255)).any()
    for batch_size in (1, 4, 23):
        order = indices(collect(dataset, batch_size, seed=6, shuffle=True)[0])
        shuffled, labels, _ = collect(dataset, batch_size, seed=6, shuffle=True, transform=AUGMENT)
        np.testing.assert_array_equal(shuffled, in_order[order])
        np.testing.assert_array_equal(labels, dataset.labels[order])


def test_augmentation_leaves_the_set_alone():
    dataset = numbered()
    images, labels = dataset.images.copy(), dataset.labels.copy()
    collect(dataset, 4, shuffle=True, transform=AUGMENT)
    np.testing.assert_array_equal(dataset.images, images)
    np.testing.assert_array_equal(dataset.labels, labels)


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_lie_on_the_default_device(workers):
    cupy = pytest.importorskip("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("no GPU")
    on_cpu = collect(numbered(), 5, shuffle=True, transform=AUGMENT)
    with use_device("cuda:0"):
        images, labels = next(iter(batches(numbered(), 5)))
        assert isinstance(images, cupy.ndarray) and isinstance(labels, cupy.ndarray)
        on_gpu = collect(numbered(), 5, shuffle=True, transform=AUGMENT, workers=workers)
    # one product and one difference, each rounded the same way unless fused: one unit in the last place of 1
    np.testing.assert_allclose(on_gpu[0], on_cpu[0], rtol=0, atol=np.finfo(np.float32).eps)
    np.testing.assert_array_equal(on_gpu[1], on_cpu[1])


def test_loader_errors():
    with pytest.raises(ValueError, match="batches: batch_size must be at least 1; got 0"):
        batches(numbered(), 0)
    with pytest.raises(ValueError, match="batches: seed and epoch must be at least 0; got seed=-1, epoch=0"):
        batches(numbered(), 4, seed=-1)
    with pytest.raises(ValueError, match="batches: workers must be at least 0; got -1"):
        batches(numbered(), 4, workers=-1)
    for start in (-1, 7):
        with pytest.raises(ValueError, match=rf"the epoch has 6 batches, so start must lie in 0\.\.6; got {start}"):
            batches(numbered(), 4, start=start)
    with pytest.raises(TypeError, match="batches: transform must list"):
        batches(numbered(), 4, transform=[np.flip])


def replaced(**changes):
    fields = {name: getattr(numbered(), name) for name in ("images", "labels", "class_names", "name", "mean", "std")}
    return ArrayDataset(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": np.zeros((23, 3, 6, 6))}, TypeError, "images are float64, labels int64"),
        ({"labels": np.zeros(23, dtype=np.uint8)}, TypeError, "images are uint8, labels uint8"),
        ({"labels": np.zeros(22, dtype=np.int64)}, ValueError, r"shape \(23, 3, 6, 6\), labels \(22,\)"),
        ({"images": np.zeros((23, 6, 6), dtype=np.uint8)}, ValueError, r"images have shape \(23, 6, 6\)"),
        ({"mean": (0.5,)}, ValueError, r"images have 3 channels, .* mean is \(0\.5,\)"),
        ({"std": (1.0, 0.0, 1.0)}, ValueError, "std 3 positive numbers"),
        ({"class_names": ("a", "b")}, ValueError, r"labels must lie in 0\.\.1; they lie in 0\.\.4"),
        ({"labels": np.full(23, -1)}, ValueError, r"they lie in -1\.\.-1"),
    ],
)
def test_dataset_errors(changes, error, message):
    with pytest.raises(error, match=f"numbered: .*{message}"):
        replaced(**changes)


def test_statistics_of_more_images_than_a_chunk():
    images = np.random.default_rng(9).integers(0, 256, (2500, 2, 3, 5), dtype=np.uint8)
    images[1024:, 1] //= 2  # the chunks differ
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 2, 3)), rtol=1e-12)


def test_test_set_carries_the_training_statistics():
    bright, dark = numbered().images | 128, numbered().images & 127
    labels = numbered().labels
    train, test = train_and_test("made", tuple("abcde"), (bright, labels), (dark, labels))
    assert (test.mean, test.std) == (train.mean, train.std) == channel_statistics(bright)
    assert (train.name, test.name) == ("made train", "made test")


def test_load_pads():
    plain, padded = load("digits"), load("digits", pad_to=32)
    for before, after in zip(plain, padded, strict=True):
        assert after.images.shape == (len(before), 1, 32, 32)
        np.testing.assert_array_equal(after.images[:, :, 2:30, 2:30], before.images)
        assert (after.mean, after.std) == (before.mean, before.std)


def test_load_errors():
    installed, arrays = ["digits", "digits8x8", "photographs"], ["cifar10", "cifar100", "mnist", "fashionmnist"]
    assert names() == [*installed, *arrays, "tinyimagenet", "imagefolder"]
    with pytest.raises(
        ValueError, match="unknown data set 'letters'; there are digits, digits8x8, photographs, cifar10"
    ):
        load("letters")
    for name in names()[3:]:
        with pytest.raises(ValueError, match=f"load: {name} is read from a folder of its own files; pass folder="):
            load(name)
    with pytest.raises(ValueError, match="load: imagefolder holds image files, which are not padded; got pad_to=70"):
        load("imagefolder", folder="x", pad_to=70)
    with pytest.raises(ValueError, match="load: digits lies inside an installed package and takes no folder; got 'x'"):
        load("digits", folder="x")
