"""Transforms against loops over single images, and the chances they promise."""

import numpy as np
import pytest

from cupynn.data import HorizontalFlip, RandomCrop, normalise, pad_images
from cupynn.data.transforms import to_float


def pictures(seed, shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def uniforms(seed, images, transform):
    return np.random.default_rng(seed).random((len(images), transform.uniforms))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(7, 3, 6, 5), (1, 1, 1, 1), (0, 3, 4, 4)])
def test_flip_equals_loop(seed, shape):
    images = pictures(seed, shape)
    before = images.copy()
    u = uniforms(seed, images, HorizontalFlip())
    expected = [x[:, :, ::-1] if number < 0.5 else x for x, (number,) in zip(images, u, strict=True)]
    result = HorizontalFlip()(images, u)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, np.array(expected).reshape(shape))
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("probability", [0, 0.3, 1])
def test_flip_probability(probability):
    """Of evenly spread numbers 30 % lie below 0.3: the share is exact, with no chance in it."""
    images = np.arange(2000, dtype=np.float32).reshape(1000, 1, 1, 2)
    flipped = HorizontalFlip(probability)(images, (np.arange(1000)[:, None] + 0.5) / 1000)
    assert (flipped != images).any(axis=(1, 2, 3)).sum() == 1000 * probability


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("shape", "padding"), [((9, 3, 6, 5), 2), ((4, 1, 3, 3), 0), ((2, 1, 2, 2), 5), ((0, 3, 4, 4), 1)]
)
def test_crop_equals_loop(seed, shape, padding):
    images = pictures(seed, shape)
    before = images.copy()
    u = uniforms(seed, images, RandomCrop(padding))
    result = RandomCrop(padding)(images, u)
    assert result.shape == images.shape and result.dtype == np.uint8
    for image, numbers, crop in zip(images, u, result, strict=True):
        top, left = (int(number * (2 * padding + 1)) for number in numbers)
        for row in range(shape[2]):
            for column in range(shape[3]):
                y, x = row + top - padding, column + left - padding
                inside = 0 <= y < shape[2] and 0 <= x < shape[3]
                assert crop[:, row, column].tolist() == (image[:, y, x].tolist() if inside else [0] * shape[1])
    np.testing.assert_array_equal(images, before)


def test_crop_reaches_every_place_equally():
    """One white pixel in the middle, a lattice of 90 x 90 numbers: it comes to lie 900 times in each of nine places."""
    lattice = np.stack(np.meshgrid(*[(np.arange(90) + 0.5) / 90] * 2), axis=-1).reshape(-1, 2)
    images = np.zeros((len(lattice), 1, 3, 3), dtype=np.uint8)
    images[:, :, 1, 1] = 1
    np.testing.assert_array_equal(RandomCrop(1)(images, lattice).sum(axis=(0, 1)), np.full((3, 3), 900))


def test_crop_and_flip_take_floats():
    """On the scale 0..1 black is 0 as well."""
    images = pictures(0, (5, 3, 6, 6))
    for transform in (RandomCrop(2), HorizontalFlip()):
        u = uniforms(1, images, transform)
        np.testing.assert_array_equal(transform(to_float(images), u), to_float(transform(images, u)))


@pytest.mark.parametrize("seed", range(3))
def test_normalise_equals_its_formula(seed):
    images = pictures(seed, (5, 3, 4, 6))
    mean, std = (0.5, 0.1, 0.9), (0.25, 0.01, 1.0)
    result = normalise(images, mean, std)
    columns = np.array(mean)[:, None, None], np.array(std)[:, None, None]
    expected = (images / 255 - columns[0]) / columns[1]
    assert result.dtype == np.float32 and result.flags.c_contiguous
    # y = x scale - shift: scale, product, shift and difference are each rounded once, relative to 1/std at most
    bound = 4 * np.finfo(np.float32).eps / columns[1]
    assert (np.abs(result - expected) <= bound).all()
    # the division by 255 adds one rounding
    assert (np.abs(normalise(to_float(images), mean, std) - expected) <= 1.25 * bound).all()


def test_normalised_set_has_mean_0_and_std_1():
    images = pictures(1, (50, 2, 8, 8)) // np.array([1, 3], dtype=np.uint8)[:, None, None]
    scaled = images / 255
    result = normalise(images, scaled.mean(axis=(0, 2, 3)), scaled.std(axis=(0, 2, 3))).astype(np.float64)
    np.testing.assert_allclose(result.mean(axis=(0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(result.std(axis=(0, 2, 3)), 1, atol=1e-6)


@pytest.mark.parametrize(("height", "width", "size"), [(28, 28, 32), (3, 6, 9), (4, 4, 4), (1, 2, 4)])
def test_pad_images(height, width, size):
    images = pictures(2, (3, 2, height, width)) | 1  # no zeros, so that the frame can be told apart
    padded = pad_images(images, size)
    assert padded.shape == (3, 2, size, size) and padded.dtype == np.uint8
    top, left = (size - height) // 2, (size - width) // 2
    np.testing.assert_array_equal(padded[:, :, top : top + height, left : left + width], images)
    assert np.count_nonzero(padded) == images.size


def test_errors():
    images = pictures(0, (2, 3, 4, 5))
    with pytest.raises(
        ValueError, match=r"normalise: mean has 1 numbers and std 1, so images need shape \(N, 1, H, W\)"
    ):
        normalise(images, (0.5,), (0.5,))
    with pytest.raises(ValueError, match=r"mean has 3 numbers and std 2"):
        normalise(images, (0.5,) * 3, (0.5,) * 2)
    with pytest.raises(ValueError, match=r"pad_images: images have shape \(2, 3, 4, 5\), so size must be at least 5"):
        pad_images(images, 4)
    with pytest.raises(ValueError, match=r"HorizontalFlip: probability must lie in 0\.\.1; got 1\.5"):
        HorizontalFlip(1.5)
    with pytest.raises(ValueError, match="RandomCrop: padding must be at least 0; got -1"):
        RandomCrop(-1)
