from unittest import mock

import numpy as np
import pytest
from central_differences import TOLERANCE, central_differences
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cupynn.device import asarray, to_numpy
from cupynn.kernels import pool
from cupynn.kernels.pool_windows import windows

quick = settings(max_examples=25, deadline=None, print_blob=True)
pair = {low: st.tuples(st.integers(low, 4), st.integers(low, 4)) for low in (0, 1)}
dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)


@st.composite
def geometries(draw, dilated):
    """Plane, kernel, stride (also larger than the kernel), padding, dilation, ceil mode: one that has a window."""
    plane = draw(st.tuples(st.integers(1, 17), st.integers(1, 17)))
    kernel, stride = draw(pair[1]), draw(st.one_of(st.none(), st.integers(1, 5), pair[1]))
    padding = tuple(min(p, k // 2) for p, k in zip(draw(pair[0]), kernel, strict=True))
    dilation = draw(pair[1]) if dilated else 1
    ceil_mode = draw(st.booleans())
    try:
        windows("pool", plane, kernel, stride, padding, dilation, ceil_mode)
    except ValueError:
        assume(False)
    return plane, (kernel, stride, padding, *([dilation] if dilated else []), ceil_mode)


def planes(seed, plane, dtype, special=False):
    """(2, 3, H, W) of small halves, so that equal maxima occur and sums are exact; with NaN and -inf if asked."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-4, 5, size=(2, 3, *plane)).astype(dtype) / 2
    if special:
        x[rng.random(x.shape) < 0.1] = np.nan
        x[rng.random(x.shape) < 0.1] = -np.inf
    return x


@given(geometries(dilated=True), seeds, dtypes, st.booleans())
@quick
def test_max_equals_the_reference_exactly(geometry, seed, dtype, special):
    plane, options = geometry
    x = planes(seed, plane, dtype, special)
    w = windows("pool", plane, *options)
    y, indices = pool.max_forward(x, *options)
    want = pool.reference_max_forward(x, w)
    assert y.dtype == dtype and indices.dtype == np.int32
    np.testing.assert_array_equal(y, want[0])
    np.testing.assert_array_equal(indices, want[1])
    grad = planes(seed + 1, w.output, dtype)
    dx = pool.reference_max_backward(grad, indices, x.shape, w)
    np.testing.assert_array_equal(pool.max_backward(grad, indices, x.shape, *options), dx)
    with mock.patch.object(pool, "_gathers", lambda grad: True):
        np.testing.assert_array_equal(pool.max_backward(grad, indices, x.shape, *options), dx)


@given(st.integers(1, 40), st.integers(1, 70), seeds, dtypes)
@quick
def test_max_of_2x2_tiles_equals_the_reference_exactly(height, width, seed, dtype):
    """The path of its own that windows of 2 x 2 take, over odd sides and every way to divide a row into strips."""
    assume(height >= 2 and width >= 2)
    x = planes(seed, (height, width), dtype, special=True)
    y, indices = pool.max_forward(x, 2)
    want = pool.reference_max_forward(x, windows("pool", x.shape[2:], 2))
    np.testing.assert_array_equal(y, want[0])
    np.testing.assert_array_equal(indices, want[1])


@given(geometries(dilated=False), seeds, dtypes, st.booleans())
@quick
def test_average_equals_the_reference(geometry, seed, dtype, count_include_pad):
    plane, options = geometry
    x = planes(seed, plane, dtype)
    w = windows("pool", plane, options[0], options[1], options[2], 1, options[3])
    y = pool.average_forward(x, *options, count_include_pad)
    # The sums of halves are exact; one division is rounded, once for each of the 16 windows that may cover a pixel.
    close = {"rtol": 2 * np.finfo(dtype).eps, "atol": 0}
    np.testing.assert_allclose(y, pool.reference_average_forward(x, w, count_include_pad), **close)
    grad = planes(seed + 1, w.output, dtype)
    want = pool.reference_average_backward(grad, x.shape, w, count_include_pad)
    close = {"rtol": 0, "atol": 32 * np.finfo(dtype).eps * np.abs(grad).max()}
    np.testing.assert_allclose(pool.average_backward(grad, x.shape, *options, count_include_pad), want, **close)
    with mock.patch.object(pool, "_gathers", lambda grad: True):
        np.testing.assert_allclose(pool.average_backward(grad, x.shape, *options, count_include_pad), want, **close)


@given(st.tuples(*[st.integers(1, 20)] * 2), st.tuples(*[st.integers(1, 9)] * 2), seeds, dtypes, st.booleans())
@quick
def test_adaptive_equals_the_reference(plane, output, seed, dtype, gathers):
    """Also more windows than pixels."""
    x = planes(seed, plane, dtype)
    grad = planes(seed + 1, output, dtype)
    average, (y, indices) = pool.adaptive_average_forward(x, output), pool.adaptive_max_forward(x, output)
    want = pool.reference_adaptive_max_forward(x, output)
    np.testing.assert_array_equal(y, want[0])
    np.testing.assert_array_equal(indices, want[1])
    close = {"rtol": 2 * np.finfo(dtype).eps, "atol": 0}
    np.testing.assert_allclose(average, pool.reference_adaptive_average_forward(x, output), **close)
    with mock.patch.object(pool, "_gathers", lambda grad: gathers):
        dx, share = pool.adaptive_max_backward(grad, indices, x.shape), pool.adaptive_average_backward(grad, x.shape)
    np.testing.assert_array_equal(dx, pool.reference_adaptive_max_backward(grad, indices, x.shape))
    # A pixel lies in at most ceil(9 / 1) + 1 windows a side, each with one rounded division and one rounded sum.
    close = {"rtol": 0, "atol": 200 * np.finfo(dtype).eps * np.abs(grad).max()}
    np.testing.assert_allclose(share, pool.reference_adaptive_average_backward(grad, x.shape), **close)


@pytest.mark.parametrize("geometry", [(2,), (3, 2, 1), ((2, 3), (3, 1), (1, 0), (1, 2), True)])
def test_reference_max_backward_is_the_gradient(geometry):
    rng = np.random.default_rng(11)
    x = rng.permutation(2 * 5 * 7).reshape(1, 2, 5, 7) / 7.0  # all differ by far more than a step
    w = windows("pool", (5, 7), *geometry)
    y, indices = pool.reference_max_forward(x, w)
    grad = rng.normal(size=y.shape)
    want = central_differences(lambda v: pool.reference_max_forward(v, w)[0], x, grad)
    np.testing.assert_allclose(pool.reference_max_backward(grad, indices, x.shape, w), want, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("geometry", [(2,), (3, 2, 1, 1, True), ((2, 3), (3, 1), (1, 0))])
def test_reference_average_backward_is_the_gradient(geometry, include):
    rng = np.random.default_rng(12)
    x = rng.normal(size=(1, 2, 5, 7))
    w = windows("pool", (5, 7), *geometry)
    grad = rng.normal(size=(1, 2, *w.output))
    want = central_differences(lambda v: pool.reference_average_forward(v, w, include), x, grad)
    got = pool.reference_average_backward(grad, x.shape, w, include)
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("output", [(1, 1), (2, 3), (6, 8)])
def test_reference_adaptive_backward_is_the_gradient(output):
    rng = np.random.default_rng(13)
    x = rng.permutation(2 * 5 * 7).reshape(1, 2, 5, 7) / 7.0
    grad = rng.normal(size=(1, 2, *output))
    want = central_differences(lambda v: pool.reference_adaptive_average_forward(v, output), x, grad)
    got = pool.reference_adaptive_average_backward(grad, x.shape)
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE)
    indices = pool.reference_adaptive_max_forward(x, output)[1]
    want = central_differences(lambda v: pool.reference_adaptive_max_forward(v, output)[0], x, grad)
    got = pool.reference_adaptive_max_backward(grad, indices, x.shape)
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("size", "options", "count"),
    [
        # PyTorch's sizes: floor and ceil; in ceil mode no window starts in the far padding.
        (7, (2, 2, 0, 1, False), 3),
        (7, (2, 2, 0, 1, True), 4),
        (8, (3, 2, 1, 1, False), 4),
        (8, (3, 2, 1, 1, True), 5),
        (5, (2, 3, 1, 1, True), 2),
        (9, (3, 1, 0, 3, False), 3),
        (1, (1, 5, 0, 1, True), 1),
    ],
)
def test_number_of_windows(size, options, count):
    assert windows("pool", (size, size), *options).output == (count, count)


def test_the_first_of_equals_and_the_first_nan_count():
    x = np.array([[5.0, 5, 1, np.nan], [5, 2, np.nan, 9]])[None, None]
    y, indices = pool.max_forward(x, 2)
    np.testing.assert_array_equal(y, [[[[5, np.nan]]]])
    np.testing.assert_array_equal(indices, [[[[0, 3]]]])


def test_a_window_with_no_pixel_is_minus_infinity_and_passes_no_gradient():
    x = np.ones((1, 1, 1, 5), np.float32)
    options = ((2, 1), 1, (1, 0), (2, 1))  # rows -1 and 1 of a plane with row 0 only
    y, indices = pool.max_forward(x, *options)
    assert np.isneginf(y).all() and (indices == -1).all()
    assert not pool.max_backward(np.ones_like(y), indices, x.shape, *options).any()


def test_empty_batch_gives_empty_outputs():
    x = np.empty((0, 3, 6, 6), np.float32)
    y, indices = pool.max_forward(x, 2)
    assert y.shape == indices.shape == (0, 3, 3, 3)
    assert pool.max_backward(y, indices, x.shape, 2).shape == x.shape
    assert pool.average_backward(pool.average_forward(x, 3, 1, 1), x.shape, 3, 1, 1).shape == x.shape
    assert pool.adaptive_average_backward(pool.adaptive_average_forward(x, 2), x.shape).shape == x.shape


def test_two_runs_give_the_same_bits():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(8, 6, 31, 31)).astype(np.float32)
    y, indices = pool.max_forward(x, 3, 2, 1)
    grad = rng.normal(size=y.shape).astype(np.float32)

    def run():
        return pool.max_backward(grad, indices, x.shape, 3, 2, 1), pool.average_backward(grad, x.shape, 3, 2, 1)

    for one, other in zip(run(), run(), strict=True):
        assert one.tobytes() == other.tobytes()


def test_errors_name_the_argument():
    x = np.ones((1, 2, 4, 4), np.float32)
    with pytest.raises(ValueError, match=r"max_pool2d: no window fits: kernel_size \(5, 5\).* plane of 4 x 4"):
        pool.max_forward(x, 5)
    with pytest.raises(ValueError, match="avg_pool2d: padding may be at most half the kernel size"):
        pool.average_forward(x, 3, 1, 2)
    with pytest.raises(ValueError, match="stride must be an int or a pair of ints >= 1; it is 0"):
        pool.max_forward(x, 2, 0)
    with pytest.raises(ValueError, match="output_size must be an int or a pair of ints >= 1"):
        pool.adaptive_average_forward(x, (0, 1))
    with pytest.raises(TypeError, match="avg_pool2d: x must be float16, bfloat16, float32 or float64; it is int64"):
        pool.average_forward(x.astype(np.int64), 2)
    with pytest.raises(ValueError, match=r"max_pool2d: x must have shape \(N, C, H, W\); it has shape \(2, 4, 4\)"):
        pool.max_forward(x[0], 2)
    with pytest.raises(ValueError, match=r"so grad needs shape \(1, 2, 2, 2\); it has shape \(1, 2, 4, 4\)"):
        pool.average_backward(x, x.shape, 2)
    with pytest.raises(ValueError, match="indices must be int32 of shape"):
        pool.max_backward(x[:, :, :2, :2], np.zeros((1, 2, 2, 2), np.int64), x.shape, 2)


@pytest.mark.parametrize("plane", [(1, 1), (7, 7), (13, 40), (300, 5)])
@pytest.mark.parametrize("options", [(1,), (2, 2), (3, 2, 1), (3, 1, 1), (2, 5, 1)])
def test_on_each_device(device, plane, options):
    if plane == (1, 1) and options == (2, 2):
        plane = (2, 2)  # no window fits otherwise
    x = planes(31, plane, np.float32)
    w = windows("pool", plane, *options)
    grad = planes(32, w.output, np.float32)
    y, indices = pool.max_forward(asarray(x), *options)
    want = pool.reference_max_forward(x, w)
    np.testing.assert_array_equal(to_numpy(y), want[0])
    np.testing.assert_array_equal(to_numpy(indices), want[1])
    dx = pool.max_backward(asarray(grad), indices, x.shape, *options)
    np.testing.assert_array_equal(to_numpy(dx), pool.reference_max_backward(grad, want[1], x.shape, w))
    close = {"rtol": 0, "atol": 32 * np.finfo(np.float32).eps * 2}  # as above; all values are at most 2
    y = pool.average_forward(asarray(x), *options)
    np.testing.assert_allclose(to_numpy(y), pool.reference_average_forward(x, w), **close)
    dx = pool.average_backward(asarray(grad), x.shape, *options)
    np.testing.assert_allclose(to_numpy(dx), pool.reference_average_backward(grad, x.shape, w), **close)
    y = pool.adaptive_average_forward(asarray(x), (2, 3))
    np.testing.assert_allclose(to_numpy(y), pool.reference_adaptive_average_forward(x, (2, 3)), **close)
