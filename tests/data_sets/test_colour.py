"""Colour jitter and lighting against hand-computed pixels and loops, and the spread of their draws."""

import itertools

import numpy as np
import pytest

from cupynn.data import ColourJitter, Lighting
from cupynn.data.colour import AXES, EIGENVALUES
from cupynn.data.counter_random import SampleNumbers

EPS = np.finfo(np.float32).eps


def pixels(*values):
    """One row of RGB pixels as an image (1, 3, 1, N)."""
    return np.array(values, dtype=np.uint8).T[None, :, None]


# Two pixels, 255 times (1, 0, 0) and (0, 1, 0): greys 0.299 and 0.587, mean grey 0.443.
TWO = pixels((255, 0, 0), (0, 255, 0))
NOTHING, MOST = 0.5, 1 - 2.0**-33  # factor 1; factor 1 + v
FIRST = 0.0  # the order brightness, contrast, saturation


@pytest.mark.parametrize(
    ("uniforms", "expected"),
    [
        ((NOTHING, NOTHING, NOTHING), ((1, 0, 0), (0, 1, 0))),
        ((MOST, NOTHING, NOTHING), ((1.4, 0, 0), (0, 1.4, 0))),
        ((0, NOTHING, NOTHING), ((0.6, 0, 0), (0, 0.6, 0))),
        # 1.4 x - 0.4 * 0.443
        ((NOTHING, MOST, NOTHING), ((1.2228, -0.1772, -0.1772), (-0.1772, 1.2228, -0.1772))),
        # 0.6 x + 0.4 * grey: 0.1196 and 0.2348
        ((NOTHING, NOTHING, 0), ((0.7196, 0.1196, 0.1196), (0.2348, 0.8348, 0.2348))),
        # brightness 1.4 first, so that the greys are 1.4 times as large: 0.16744, 0.32872
        ((MOST, NOTHING, 0), ((1.00744, 0.16744, 0.16744), (0.32872, 1.16872, 0.32872))),
    ],
)
def test_jitter_of_two_pixels_by_hand(uniforms, expected):
    result = ColourJitter()(TWO, np.array([[*uniforms, FIRST]]))
    assert result.dtype == np.float32
    # up to three operations of three roundings each on values up to 1.4
    np.testing.assert_allclose(result[0, :, 0].T, expected, rtol=0, atol=2 * 9 * EPS)


def jittered(image, factors, order):
    """In float64, pixel by pixel."""
    x = image / 255
    for operation in order:
        grey = 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]
        other = (0.0, grey.mean(), grey)[operation]
        x = factors[operation] * x + (1 - factors[operation]) * other
    return x


@pytest.mark.parametrize("seed", range(3))
def test_jitter_equals_loop_in_every_order(seed):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (12, 3, 5, 7), dtype=np.uint8)
    before = images.copy()
    uniforms = generator.random((12, 4))
    uniforms[:, 3] = (np.arange(12) + 0.5) / 12  # each order twice
    result = ColourJitter(0.4, 0.3, 0.2)(images, uniforms)
    orders = list(itertools.permutations(range(3)))
    for number, (image, u) in enumerate(zip(images, uniforms, strict=True)):
        factors = 1 + np.array([0.4, 0.3, 0.2]) * (2 * u[:3] - 1)
        expected = jittered(image, factors, orders[number // 2])
        np.testing.assert_allclose(result[number], expected, rtol=0, atol=4 * 9 * EPS)
    np.testing.assert_array_equal(images, before)


def test_jitter_changes_a_float_image_into_a_new_one():
    images = np.full((2, 3, 2, 2), 0.5, dtype=np.float32)
    result = ColourJitter()(images, np.full((2, 4), MOST))
    assert result is not images and (images == 0.5).all() and (result != 0.5).all()


def test_jitters_draws():
    """On a grey image only brightness shows: its factor is evenly spread over 0.6..1.4, every order equally likely."""
    count = 10_000
    white = np.full((count, 3, 1, 1), 255, dtype=np.uint8)
    uniforms = SampleNumbers(1, 2, np.arange(count)).uniforms(3, 4)
    factors = ColourJitter()(white, uniforms)[:, 0, 0, 0]
    assert 0.6 <= factors.min() < 0.61 and 1.39 < factors.max() <= 1.4 + EPS
    deviation = 0.8 / np.sqrt(12)
    assert abs(factors.mean() - 1) < 5 * deviation / np.sqrt(count) and abs(factors.std() - deviation) < 0.01
    orders = np.bincount((uniforms[:, 3] * 6).astype(int), minlength=6)
    assert np.abs(orders - count / 6).max() < 5 * np.sqrt(count / 6)


def test_lightings_axes_are_orthonormal():
    """Four published digits: so are their squares and products to a few units of the fourth."""
    np.testing.assert_allclose(AXES.T @ AXES, np.eye(3), atol=5e-4)


def test_lighting_by_hand():
    """The normal's value at 0.8413447460685429 is 1: along each axis: 0.1 * 0.2175 * (-0.5675, ...)."""
    one = 0.8413447460685429
    images = np.full((4, 3, 1, 2), 51, dtype=np.uint8)  # 0.2
    uniforms = np.full((4, 3), 0.5)
    uniforms[1, 0] = uniforms[2, 1] = uniforms[3, 2] = one
    result = Lighting(0.1)(images, uniforms)
    colours = [(0, 0, 0), (-0.01234313, -0.0126324, -0.0126933), (0.001352096, -8.46e-06, -0.001306224)]
    colours.append((0.000180405, -0.0003663, 0.000189135))
    assert result.dtype == np.float32
    for image, colour in zip(result, colours, strict=True):
        np.testing.assert_allclose(image[:, 0, 0], 0.2 + np.array(colour), rtol=0, atol=2 * EPS)
        np.testing.assert_array_equal(image[:, 0, 0], image[:, 0, 1])  # one colour for all pixels
    assert (images == 51).all()


def test_lightings_draws():
    """Covariance of the colours: axes diag((0.1 eigenvalues)^2) axes^T."""
    count = 20_000
    black = np.zeros((count, 3, 1, 1), dtype=np.uint8)
    colours = Lighting(0.1)(black, SampleNumbers(0, 0, np.arange(count)).uniforms(1, 3))[:, :, 0, 0]
    expected = AXES @ np.diag((0.1 * EIGENVALUES) ** 2) @ AXES.T
    # an entry of a sample covariance deviates by at most sqrt(2 / N) of the largest variance
    five_deviations = 5 * np.sqrt(2 / count) * expected.max()
    np.testing.assert_allclose(np.cov(colours.T), expected, rtol=0, atol=five_deviations)
    assert np.abs(colours.mean(axis=0)).max() < 5 * np.sqrt(expected.max() / count)


def test_lighting_at_the_ends_of_the_interval_is_finite():
    images = np.zeros((2, 3, 1, 1), dtype=np.uint8)
    assert np.isfinite(Lighting()(images, np.array([[2.0**-33] * 3, [1 - 2.0**-33] * 3]))).all()


def test_errors():
    for name in ("brightness", "contrast", "saturation"):
        for value in (-0.1, 1.1):
            with pytest.raises(ValueError, match=rf"ColourJitter: {name} must lie in 0\.\.1; got {value}"):
                ColourJitter(**{name: value})
    with pytest.raises(ValueError, match="Lighting: std must be at least 0; got -1"):
        Lighting(-1)
    grey = np.zeros((2, 1, 4, 4), dtype=np.uint8)
    for transform in (ColourJitter(), Lighting()):
        message = rf"{type(transform).__name__}: images must have shape \(N, 3, H, W\); they have shape \(2, 1, 4, 4\)"
        with pytest.raises(ValueError, match=message):
            transform(grey, np.full((2, transform.uniforms), 0.5))
