"""MNIST's files: plain and gzipped, under both of their names, and damaged in every way."""

import gzip
import itertools
import struct

import numpy as np
import pytest

from cupynn import data
from cupynn.data.idx import CLOTHES, read_idx

SHAPES = {"train": (12, 5, 4), "t10k": (6, 5, 4)}


def idx_bytes(array, code=8):
    return struct.pack(">HBB", 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def contents():
    """Pixels and labels of both parts; every one of ten classes occurs in training."""
    generator = np.random.default_rng(11)
    return {
        part: (generator.integers(0, 256, shape, dtype=np.uint8), np.arange(shape[0], dtype=np.uint8) % 10)
        for part, shape in SHAPES.items()
    }


def write(folder, mark="-", packed=False):
    for part, (images, labels) in contents().items():
        for kind, array in (("images", images), ("labels", labels)):
            content = idx_bytes(array)
            file = folder / f"{part}-{kind}{mark}idx{array.ndim}-ubyte{'.gz' if packed else ''}"
            file.write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("name", ["mnist", "fashionmnist"])
def test_both_sets(name, mark, packed, tmp_path):
    write(tmp_path, mark, packed)
    train, test = data.load(name, folder=tmp_path)
    for dataset, (images, labels) in zip((train, test), contents().values(), strict=True):
        np.testing.assert_array_equal(dataset.images, images[:, None])
        np.testing.assert_array_equal(dataset.labels, labels)
    scaled = train.images / 255
    assert test.mean == train.mean == pytest.approx((scaled.mean(),)) and train.std == pytest.approx((scaled.std(),))
    assert train.class_names == (CLOTHES if name == "fashionmnist" else tuple("0123456789"))
    assert (train.name, test.name) == (f"{name} train", f"{name} test")
    padded, _ = data.load(name, folder=tmp_path, pad_to=8)
    assert padded.images.shape == (12, 1, 8, 8)


def test_bytes_of_the_format():
    """As its page describes it: magic 0x00000803, big-endian sizes, then the pixels row by row."""
    assert idx_bytes(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)).hex() == (
        "00000803000000010000000200000003010203040506"
    )


GOOD = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


PACKED = gzip.compress(GOOD, mtime=0)  # the same bytes in every worker of the tests


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "it begins with the bytes  and has 0 in all"),
        (GOOD[:3], "it begins with the bytes 00 00 08 and has 3 in all"),
        (GOOD[:15], "it begins with the bytes 00 00 08 03 and has 15 in all"),
        (GOOD[:16], "its sizes are (2, 3, 4), but 0 values follow"),
        (GOOD[:-1], "its sizes are (2, 3, 4), but 23 values follow"),
        (GOOD + b"x", "its sizes are (2, 3, 4), but 25 values follow"),
        (GOOD[:4] + b"\xff" * 12 + GOOD[16:], "its sizes are (4294967295, 4294967295, 4294967295), but 24"),
        (idx_bytes(np.zeros(4, dtype=np.uint8)), "it begins with the bytes 00 00 08 01"),
        (idx_bytes(np.zeros((1, 1, 1), dtype=">f4"), code=0x0D), "it begins with the bytes 00 00 0d 03"),
        (PACKED, "it begins with the bytes 1f 8b 08"),
        (b"<html>404</html>", "it begins with the bytes 3c 68 74 6d"),
    ],
    ids=itertools.count(),
)
def test_damaged_file(content, found, tmp_path):
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_idx("mnist", file, 3)
    message = str(caught.value)
    assert message.startswith(f"mnist: {file}: expected an IDX file of unsigned bytes with 3 dimensions; ")
    assert found in message


@pytest.mark.parametrize("content", [GOOD, PACKED[:-12], b"", PACKED[:15], b"\x1f\x8b junk"], ids=itertools.count())
def test_damaged_gzip(content, tmp_path):
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"idx3-ubyte\.gz: expected an IDX file of unsigned bytes with 3 dimensions; "):
        read_idx("mnist", file, 3)


def test_missing_files_and_parts_that_do_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mnist: .*nowhere: expected one of train-images-idx3-ubyte, train-im"):
        data.load("mnist", folder=tmp_path / "nowhere")
    images, labels = contents()["t10k"]
    changes = [
        ("t10k-labels-idx1-ubyte", None, FileNotFoundError, "expected one of t10k-labels-idx1-ubyte, "),
        ("t10k-labels-idx1-ubyte", labels[:-1], ValueError, "holds 6 images, .*t10k-labels-idx1-ubyte 5 labels"),
        ("t10k-labels-idx1-ubyte", labels + 5, ValueError, r"expected labels 0\.\.9; found 10"),
        ("train-images-idx3-ubyte", images[:0], ValueError, "holds 0 images"),
        ("t10k-images-idx3-ubyte", images.transpose(0, 2, 1).copy(), ValueError, "expected one size of images; found"),
    ]
    for name, array, error, message in changes:
        write(tmp_path)
        if array is None:
            (tmp_path / name).unlink()
        else:
            (tmp_path / name).write_bytes(idx_bytes(array))
        with pytest.raises(error, match=f"mnist: .*{message}"):
            data.load("mnist", folder=tmp_path)


@pytest.mark.parametrize("part", SHAPES)
def test_empty_part(part, tmp_path):
    write(tmp_path)
    for kind, shape in (("images", (0, 5, 4)), ("labels", (0,))):
        file = tmp_path / f"{part}-{kind}-idx{len(shape)}-ubyte"
        file.write_bytes(idx_bytes(np.zeros(shape, dtype=np.uint8)))
    with pytest.raises(ValueError, match=rf"mnist: expected as many labels as images, and some; .*{part}.* 0 labels"):
        data.load("mnist", folder=tmp_path)
