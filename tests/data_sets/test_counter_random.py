"""The counter-based generator: published vectors, independence of the batch, and the statistics of its numbers."""

import numpy as np
import pytest

from cupynn.data.counter_random import SampleNumbers, philox

# "philox4x32 10" in kat_vectors of the Random123 library: counter, key, result.
PUBLISHED = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_published_vectors(counter, key, expected):
    assert philox(np.array(counter, dtype=np.uint64), key).tolist() == list(expected)


def numbers(seed=3, epoch=5, samples=range(1000), stream=0, count=4):
    return SampleNumbers(seed, epoch, np.array(samples)).uniforms(stream, count)


def test_a_samples_numbers_are_its_own():
    """Whatever samples are asked for beside it, in whatever order, and however many numbers."""
    whole = numbers(count=9)
    order = np.random.default_rng(0).permutation(1000)
    np.testing.assert_array_equal(numbers(samples=order, count=9), whole[order])
    np.testing.assert_array_equal(numbers(samples=[17], count=9), whole[17:18])
    for count in range(9):
        np.testing.assert_array_equal(numbers(count=count), whole[:, :count])


@pytest.mark.parametrize(
    "other",
    [{"seed": 4}, {"epoch": 6}, {"seed": 5, "epoch": 3}, {"stream": 1}, {"samples": range(2**32, 2**32 + 1000)}],
    ids=str,
)
def test_another_seed_epoch_stream_or_sample_other_numbers(other):
    """Also a seed and an epoch that changed places, and samples that agree in their low half."""
    one, another = numbers(), numbers(**other)
    assert not (one == another).any()
    # 4000 pairs: independent ones correlate with standard deviation 1/sqrt(4000) = 0.016; five of them
    assert abs(np.corrcoef(one.ravel(), another.ravel())[0, 1]) < 0.08


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_evenly_spread(seed):
    """Per draw: chi-square over 100 cells; between draws and between neighbouring samples: no correlation."""
    count = 20_000
    u = numbers(seed=seed, samples=range(count), count=5)
    assert u.dtype == np.float64 and 0 < u.min() and u.max() < 1
    for column in u.T:
        cells = np.bincount((column * 100).astype(int), minlength=100)
        chi_square = ((cells - count / 100) ** 2 / (count / 100)).sum()
        assert abs(chi_square - 99) < 5 * np.sqrt(2 * 99)  # mean and deviation of chi-square with 99 degrees
    five_deviations = 5 / np.sqrt(count)
    assert np.abs(np.corrcoef(u.T) - np.eye(5)).max() < five_deviations
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < five_deviations


def test_extreme_words_stay_inside_the_interval(monkeypatch):
    """0 and 2^32 - 1 become 2^-33 and 1 - 2^-33: a logarithm of either is finite."""
    for word in (0, 0xFFFFFFFF):
        words = np.full((4, 1, 1), word, dtype=np.uint64)
        monkeypatch.setattr("cupynn.data.counter_random.philox", lambda counter, key, words=words: words)
        assert numbers(samples=[0]).tolist() == [[(word + 0.5) / 2**32] * 4]
        assert 0 < numbers(samples=[0])[0, 0] < 1
