import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupynn.device import asarray, to_numpy, wide
from cupynn.kernels import dropout

KEY = (0x12345678, 0x9ABCDEF0)
SIZES = st.sampled_from([1, 31, 1023, 1025, 4095, 4096, 4097, 9000])


@given(SIZES, st.floats(0, 1), st.integers(0, 2**32 - 1), st.sampled_from([np.float16, np.float32, np.float64]))
def test_equals_the_reference(size, p, word, dtype):
    x = np.random.default_rng(0).standard_normal(size).astype(dtype)
    x[size // 2] = np.nan
    key = (word, word ^ 77)
    got, want = dropout.forward(x, p, key), dropout.reference_forward(wide(x), p, key).astype(dtype)
    assert got.dtype == dtype  # of float16 rounded once
    np.testing.assert_array_equal(got, want)


def test_an_element_is_dropped_by_its_place_alone():
    x = np.ones(10_000, np.float32)
    whole = dropout.forward(x, 0.4, KEY)
    np.testing.assert_array_equal(dropout.forward(x[:5000], 0.4, KEY), whole[:5000])
    np.testing.assert_array_equal(dropout.forward(x.reshape(100, 100).T, 0.4, KEY), whole.reshape(100, 100))


def test_the_key_may_lie_in_an_array():
    x = np.random.default_rng(2).standard_normal(5000).astype(np.float32)
    key = np.array(KEY, np.uint32)
    np.testing.assert_array_equal(dropout.forward(x, 0.4, key), dropout.forward(x, 0.4, KEY))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_and_the_neighbours(p):
    """The share kept is a mean of n draws; the product of neighbours one of about n: five standard errors each."""
    n = 200_000
    kept = dropout.forward(np.ones(n), p, KEY) > 0
    assert abs(kept.mean() - (1 - p)) < 5 * np.sqrt(p * (1 - p) / n)
    centred = (kept - (1 - p)) / np.sqrt(p * (1 - p))
    for distance in (1, 2, dropout.QUARTER, dropout.TILE):
        assert abs((centred[distance:] * centred[:-distance]).mean()) < 5 / np.sqrt(n - distance)
    other = (dropout.forward(np.ones(n), p, (KEY[0], KEY[1] + 1)) > 0) - (1 - p)
    assert abs((centred * other).mean() / np.sqrt(p * (1 - p))) < 5 / np.sqrt(n)


def test_words_are_philox():
    """The first words of "philox4x32 10" at counter and key 0, from kat_vectors of the Random123 library."""
    words = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    for place, word in enumerate(words):
        x = np.ones(dropout.TILE)
        for p, kept in (((word - 1) / 2**32, True), ((word + 1) / 2**32, False)):
            assert bool(dropout.forward(x, p, (0, 0))[place * dropout.QUARTER]) is kept


def test_on_each_device(device):
    x = np.random.default_rng(1).standard_normal((9, 1111)).astype(np.float32)
    np.testing.assert_array_equal(
        to_numpy(dropout.forward(asarray(x), 0.3, KEY)), dropout.reference_forward(x, 0.3, KEY)
    )
