"""Convolutions against scipy's correlation and against sums written out."""

import numpy as np
import pytest
from scipy.signal import correlate

from cupynn import ops
from cupynn.autograd import Tensor, tensor
from cupynn.device import asarray, to_numpy

pytestmark = pytest.mark.usefixtures("device")

# Sums of at most 300 products of unit normals, in float64: rounding is below 300 * 2e-16 * 30.
TOLERANCE = {"rtol": 0, "atol": 1e-11}


def correlated(x, w, b, stride, padding, groups):
    """The definition, by scipy: correlate every channel, add, take every stride-th pixel."""
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    per_group, outputs = w.shape[1], w.shape[0] // groups
    y = []
    for image in x:
        maps = []
        for o, kernel in enumerate(w):
            first = o // outputs * per_group
            maps.append(sum(correlate(image[first + c], kernel[c], "valid", "direct") for c in range(per_group)) + b[o])
        y.append(np.stack(maps)[:, :: stride[0], :: stride[1]])
    return np.stack(y)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("stride", "padding", "groups"), [((1, 1), (0, 0), 1), ((2, 1), (1, 3), 2), ((3, 2), (2, 0), 4)]
)
def test_conv2d_is_correlation(seed, stride, padding, groups):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, 4, 9, 7))
    w = rng.standard_normal((8, 4 // groups, 3 + seed % 2, 5 - seed))
    b = rng.standard_normal(8)
    y = ops.conv2d(tensor(x), tensor(w), tensor(b), stride=stride, padding=padding, groups=groups)
    np.testing.assert_allclose(y.numpy(), correlated(x, w, b, stride, padding, groups), **TOLERANCE)


def test_dilation_is_a_kernel_with_holes():
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((2, 3, 9, 8)), rng.standard_normal((4, 3, 3, 2))
    holes = np.zeros((4, 3, 5, 4))
    holes[:, :, ::2, ::3] = w
    y = ops.conv2d(tensor(x), tensor(w), dilation=(2, 3), padding=1)
    np.testing.assert_allclose(y.numpy(), correlated(x, holes, np.zeros(4), (1, 1), (1, 1), 1), **TOLERANCE)


def test_lists_and_numpy_integers_are_pairs():
    rng = np.random.default_rng(6)
    x, w = tensor(rng.standard_normal((1, 2, 6, 6))), tensor(rng.standard_normal((3, 2, 3, 3)))
    y = ops.conv2d(x, w, stride=[2, np.int64(1)], padding=np.int64(1))
    np.testing.assert_array_equal(y.numpy(), ops.conv2d(x, w, stride=(2, 1), padding=(1, 1)).numpy())


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_channel_order(multiplier):
    """Channel c * multiplier + m comes from channel c of x and w[c, m]."""
    rng = np.random.default_rng(7)
    x, w = rng.standard_normal((2, 3, 6, 5)), rng.standard_normal((3, multiplier, 3, 2))
    y = ops.depthwise_conv2d(tensor(x), tensor(w)).numpy()
    for c in range(3):
        for m in range(multiplier):
            for n in range(2):
                np.testing.assert_allclose(
                    y[n, c * multiplier + m], correlate(x[n, c], w[c, m], "valid", "direct"), **TOLERANCE
                )


@pytest.mark.parametrize("seed", range(3))
def test_conv_transpose2d_spreads_every_pixel(seed):
    rng = np.random.default_rng(seed)
    groups, stride, padding, dilation, output_padding = [
        (1, (1, 1), (0, 0), (1, 1), (0, 0)),
        (2, (2, 3), (1, 2), (1, 1), (1, 0)),
        (2, (1, 2), (1, 0), (2, 1), (0, 1)),
    ][seed]
    x, w, b = rng.standard_normal((2, 4, 3, 5)), rng.standard_normal((4, 3, 3, 2)), rng.standard_normal(3 * groups)
    height = (3 - 1) * stride[0] + dilation[0] * 2 + 1 + output_padding[0]
    width = (5 - 1) * stride[1] + dilation[1] * 1 + 1 + output_padding[1]
    spread = np.zeros((2, 3 * groups, height, width))
    for n, c, p, q, o, i, j in np.ndindex(2, 4, 3, 5, 3, 3, 2):
        group = c // (4 // groups)
        row, column = p * stride[0] + i * dilation[0], q * stride[1] + j * dilation[1]
        spread[n, group * 3 + o, row, column] += x[n, c, p, q] * w[c, o, i, j]
    expected = spread[:, :, padding[0] : height - padding[0], padding[1] : width - padding[1]] + b[:, None, None]
    y = ops.conv_transpose2d(
        tensor(x),
        tensor(w),
        tensor(b),
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
    )
    np.testing.assert_allclose(y.numpy(), expected, **TOLERANCE)


def test_float32_stays_float32():
    x, w = tensor(np.ones((1, 2, 4, 4), np.float32)), tensor(np.ones((3, 2, 3, 3), np.float32))
    assert ops.conv2d(x, w).dtype == np.float32
    assert ops.conv_transpose2d(x, tensor(np.ones((2, 3, 3, 3), np.float32))).dtype == np.float32


def test_strided_inputs():
    """Arrays that are views in another order, as transposes are, give what their copies give."""
    rng = np.random.default_rng(8)
    results = []
    for copy in (np.ascontiguousarray, np.asarray):
        x = Tensor(asarray(copy(rng.standard_normal((5, 6, 4, 2)).transpose(3, 2, 0, 1))), requires_grad=True)
        w = Tensor(asarray(copy(rng.standard_normal((3, 2, 4, 6)).transpose(3, 2, 0, 1))), requires_grad=True)
        y = ops.conv2d(x, w, stride=2, padding=1)
        y.transpose(0, 1, 3, 2).sum(axis=2).sum().backward()
        results.append([to_numpy(array) for array in (y.data, x.grad, w.grad)])
        rng = np.random.default_rng(8)
    for contiguous, strided in zip(*results, strict=True):
        np.testing.assert_allclose(strided, contiguous, **TOLERANCE)


def zeros(*shape):
    return tensor(np.zeros(shape))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.conv2d(zeros(4, 3, 32, 32), zeros(16, 8, 3, 3)), r"x needs 8 channels .* \(4, 3, 32, 32\)"),
        (
            lambda: ops.conv2d(zeros(1, 3, 9, 9), zeros(4, 3, 3, 3), zeros(3)),
            r"bias must have shape \(4,\), .* got \(3,\)",
        ),
        (lambda: ops.conv2d(zeros(1, 3, 9, 9), zeros(4, 3, 3, 3), stride=0), r"stride must be an integer >= 1"),
        (lambda: ops.conv2d(zeros(1, 3, 9, 9), zeros(4, 3, 3, 3), padding=(1, 2, 3)), r"conv2d: padding .* pair"),
        (lambda: ops.conv2d(zeros(1, 3, 9, 9), zeros(4, 3, 3, 3), padding="same"), r"conv2d: padding .* 'same'"),
        (
            lambda: ops.depthwise_conv2d(zeros(1, 3, 9, 9), zeros(4, 1, 3, 3)),
            r"weight must be \(3, multiplier, KH, KW\)",
        ),
        (lambda: ops.depthwise_conv2d(zeros(3, 9, 9), zeros(3, 1, 3, 3)), r"x must be \(N, C, H, W\)"),
        (lambda: ops.conv_transpose2d(zeros(1, 3, 4, 4), zeros(4, 3, 3, 3)), r"weight must be \(3, O/groups, KH, KW\)"),
        (lambda: ops.conv_transpose2d(zeros(1, 3, 4, 4), zeros(3, 2, 3, 3), zeros(3)), r"bias must be \(2,\)"),
        (
            lambda: ops.conv_transpose2d(zeros(1, 3, 4, 4), zeros(3, 2, 3, 3), output_padding=1),
            r"output_padding must be smaller than stride \(1, 1\); got \(1, 1\)",
        ),
        (lambda: ops.conv_transpose2d(zeros(1, 1, 1, 1), zeros(1, 1, 2, 2), padding=1), r"the result would be 0 x 0"),
    ],
)
def test_errors_name_operation_argument_and_shapes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
