"""ImageNet-style folders and Tiny ImageNet: tiny trees of files, whole and damaged."""

import os
import sys

import numpy as np
import pytest
from PIL import Image

from cupynn import data
from cupynn.data import CentreCrop, RandomResizedCrop, Whole, batches

CLASSES = ("n01443537", "n01629819", "n02106662")


def write_image(file, colour, size=(64, 64)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file, format="PNG" if file.suffix == ".png" else "JPEG", quality=100)


def write_folder(folder):
    """Class `label` holds label + 1 images for training and one for the test, all of the grey 50 * label + number."""
    for label, name in enumerate(CLASSES):
        for number in range(label + 1):
            suffix = (".jpg", ".JPEG", ".png")[number]
            write_image(folder / "train" / name / f"{number}{suffix}", (50 * label + number,) * 3, (300, 260))
        write_image(folder / "val" / name / "0.jpg", (50 * label + 9,) * 3, (280, 300))


def write_tiny(folder):
    for label, name in enumerate(CLASSES):
        for number in range(2):
            write_image(folder / "train" / name / "images" / f"{name}_{number}.JPEG", (50 * label + number,) * 3)
        (folder / "train" / name / f"{name}_boxes.txt").write_text("not an image")
    lines = []
    for number, label in enumerate([2, 0, 1, 2]):
        write_image(folder / "val" / "images" / f"val_{number}.JPEG", (50 * label + 9,) * 3)
        lines.append(f"val_{number}.JPEG\t{CLASSES[label]}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "test" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("".join(f"{name}\n" for name in reversed(CLASSES)))


def greys(dataset):
    """The grey of each image, which JPEG keeps exactly, with its label."""
    images = dataset.read(np.arange(len(dataset)), np.full((len(dataset), dataset.uniforms), 0.5))
    assert all(np.ptp(image) == 0 for image in images)
    return list(zip(images[:, 0, 0, 0].tolist(), dataset.labels.tolist(), strict=True))


def test_image_folder(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train" / CLASSES[0] / "notes.txt").write_text("not an image")
    (tmp_path / "train" / CLASSES[0] / "._0.jpg").write_text("what macOS writes beside a file")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "list.txt").write_text("not a class")
    train, test = data.load("imagefolder", folder=tmp_path)
    assert (train.name, test.name) == ("imagefolder train", "imagefolder test")
    assert train.class_names == test.class_names == CLASSES
    assert greys(train) == [(0, 0), (50, 1), (51, 1), (100, 2), (101, 2), (102, 2)]
    assert greys(test) == [(9, 0), (59, 1), (109, 2)]
    assert train.framing == RandomResizedCrop(224) and test.framing == CentreCrop(224, 256)
    assert train.image_shape == (3, 224, 224)
    small = train.framed(RandomResizedCrop(150))
    (images, labels), *_ = batches(small, 4, shuffle=True, workers=2)
    assert images.shape == (4, 3, 150, 150) and images.dtype == np.float32 and labels.dtype == np.int64


def test_a_class_may_lack_test_images(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "val" / CLASSES[1] / "0.jpg").unlink()
    (tmp_path / "val" / CLASSES[1]).rmdir()
    _, test = data.load("imagefolder", folder=tmp_path)
    assert greys(test) == [(9, 0), (109, 2)]


@pytest.mark.parametrize("above", [False, True])
def test_tiny_imagenet(above, tmp_path):
    """From the unpacked folder or the one above it; labels follow the names of the classes, not wnids.txt."""
    write_tiny(tmp_path / "tiny-imagenet-200")
    train, test = data.load("tinyimagenet", folder=tmp_path if above else tmp_path / "tiny-imagenet-200")
    assert train.class_names == test.class_names == CLASSES
    assert greys(train) == [(0, 0), (1, 0), (50, 1), (51, 1), (100, 2), (101, 2)]
    assert greys(test) == [(109, 2), (9, 0), (59, 1), (109, 2)]
    assert train.framing == test.framing == Whole(64) and train.image_shape == (3, 64, 64)
    padded_crop = batches(train, 6, transform=[data.RandomCrop(4), data.HorizontalFlip()], workers=1)
    assert [images.shape for images, _ in padded_crop] == [(6, 3, 64, 64)]


def refused(name, folder, error, *texts):
    with pytest.raises(error) as caught:
        data.load(name, folder=folder)
    message = str(caught.value)
    assert message.startswith(f"{name}: ") and all(text in message for text in texts), message


@pytest.mark.parametrize("name", ["imagefolder", "tinyimagenet"])
def test_missing_folders(name, tmp_path):
    refused(name, tmp_path / "nowhere", FileNotFoundError, f"{tmp_path / 'nowhere'} is no folder")
    refused(name, tmp_path, FileNotFoundError, f"{tmp_path / 'train'} is no folder")
    (tmp_path / "train").mkdir()
    refused(name, tmp_path, FileNotFoundError, f"a folder per class in {tmp_path / 'train'}; found none")


def test_image_folder_errors(tmp_path):
    write_folder(tmp_path)
    os.rename(tmp_path / "val", tmp_path / "test")
    refused("imagefolder", tmp_path, FileNotFoundError, f"{tmp_path / 'val'} is no folder")
    write_image(tmp_path / "val" / "n1" / "0.jpg", (0, 0, 0))
    refused("imagefolder", tmp_path, ValueError, f"{tmp_path / 'val'}: the class 'n1' is not in {tmp_path / 'train'}")
    empty = tmp_path / "train" / CLASSES[0]
    os.rename(tmp_path / "val" / "n1", tmp_path / "val" / CLASSES[0])
    (empty / "0.jpg").rename(empty / "0.txt")
    refused("imagefolder", tmp_path, FileNotFoundError, "image files (.jpg, ", f"in {empty}; found none")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("val_9.JPEG\tn01443537\t0\t0\t1\t1", "'val_9.JPEG' is not in"),
        ("val_0.JPEG\tn01443537\t0\t0\t1\t1", "'val_0.JPEG' was named before"),
        ("../../x.JPEG\tn01443537", "'../../x.JPEG' is not in"),
        ("val_1.JPEG\tn99999999", "one of the 3 in train; found 'val_1.JPEG\\tn99999999'"),
        ("val_1.JPEG n01443537", "found 'val_1.JPEG n01443537'"),
        ("", "found ''"),
        ("\x00\xff" * 500, "found '\\x00"),
    ],
)
def test_annotations_that_do_not_fit(line, found, tmp_path):
    write_tiny(tmp_path)
    annotations = tmp_path / "val" / "val_annotations.txt"
    lines = annotations.read_text().splitlines()
    annotations.write_text("\n".join([lines[0], line, *lines[1:]]), encoding="latin-1")
    refused("tinyimagenet", tmp_path, ValueError, f"{annotations}, line 2: expected an image's name", found)


def test_annotations_that_are_missing(tmp_path):
    write_tiny(tmp_path)
    annotations = tmp_path / "val" / "val_annotations.txt"
    lines = annotations.read_text().splitlines()
    annotations.write_text("\n".join(lines[:2]))
    refused("tinyimagenet", tmp_path, ValueError, f"{annotations}: 2 images have no line, the first is 'val_2.JPEG'")
    annotations.unlink()
    refused("tinyimagenet", tmp_path, FileNotFoundError, f"expected the file {annotations}")


def test_image_of_another_size_than_tiny_imagenets(tmp_path):
    write_tiny(tmp_path)
    file = tmp_path / "train" / CLASSES[1] / "images" / f"{CLASSES[1]}_0.JPEG"
    write_image(file, (0, 0, 0), (64, 32))
    train, _ = data.load("tinyimagenet", folder=tmp_path)
    with pytest.raises(ValueError, match=r"tinyimagenet train: .*expected 64 x 64 pixels; found 64 x 32") as caught:
        list(batches(train, 2))
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(("name", "write"), [("imagefolder", write_folder), ("tinyimagenet", write_tiny)])
def test_missing_pillow_is_told_before_training(name, write, tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ModuleNotFoundError, match=rf"{name}: needs the package pillow.*cupynn\[data\]"):
        data.load(name, folder=tmp_path)
