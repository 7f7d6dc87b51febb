"""The sum of all gradients' squares, and a factor for them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupynn.device import asarray, to_numpy
from cupynn.kernels import gradients

SHAPES = st.lists(st.sampled_from([(1,), (7,), (3, 4, 5, 5), (), (0,), (200, 197), (70_001,)]), min_size=1, max_size=5)


def drawn(seed, shapes, dtypes=(np.float32, np.float64)):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape)).astype(rng.choice(dtypes)) for shape in shapes]


@given(st.integers(0, 2**32 - 1), SHAPES)
@settings(max_examples=25, deadline=None, print_blob=True)
def test_equal_numpy(seed, shapes):
    arrays = drawn(seed, shapes)
    arrays.append(np.asfortranarray(np.ones((3, 5), np.float32)))
    total = gradients.square_sum(arrays)
    assert total.shape == () and total.dtype == np.float64
    exact = sum(np.square(array, dtype=np.float64).sum() for array in arrays)
    # Every sum of n positive terms is within n roundings; blocks and lanes make n less than 2^15 + 2^7 here.
    np.testing.assert_allclose(total, exact, rtol=2**16 * 2.0**-53)
    wanted = [array * array.dtype.type(0.3) for array in arrays]
    gradients.multiply(arrays, np.array(0.3))
    for array, want in zip(arrays, wanted, strict=True):
        np.testing.assert_array_equal(array, want)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_shows(bad):
    arrays = drawn(3, [(5000,), (40_000,)], [np.float32])
    arrays[0][0] = np.finfo(np.float32).max
    assert np.isfinite(gradients.square_sum(arrays))
    arrays[1][39_999] = bad
    assert not np.isfinite(gradients.square_sum(arrays))


def test_the_same_bits_again():
    arrays = drawn(4, [(300_000,), (1000,)], [np.float32])
    assert gradients.square_sum(arrays).tobytes() == gradients.square_sum(arrays).tobytes()


def test_integers_are_refused():
    with pytest.raises(TypeError, match=r"gradients.square_sum: array 1 must be floating point; it is int64"):
        gradients.square_sum([np.ones(3), np.ones(3, np.int64)])


def test_on_each_device(device):
    host = drawn(5, [(3,), (130, 177), ()], [np.float32])
    arrays = [asarray(array.copy()) for array in host]
    exact = sum(np.square(array, dtype=np.float64).sum() for array in host)
    np.testing.assert_allclose(to_numpy(gradients.square_sum(arrays)), exact, rtol=2**16 * 2.0**-53)
    gradients.multiply(arrays, asarray(np.array(0.5)))
    for array, before in zip(arrays, host, strict=True):
        np.testing.assert_array_equal(to_numpy(array), before * np.float32(0.5))
