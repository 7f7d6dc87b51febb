"""Forward values of the remaining operations against plain NumPy formulas, and PyTorch's derivatives at corners."""

import numpy as np
import pytest

import cupynn
from cupynn import ops
from cupynn.autograd import tensor
from cupynn.device import asarray, to_numpy

pytestmark = pytest.mark.usefixtures("device")

ROUNDING = {"rtol": 1e-14, "atol": 1e-14}  # a few float64 operations per value


@pytest.mark.parametrize(
    ("activation", "formula"),
    [
        (ops.relu, lambda x: np.maximum(x, 0)),
        (ops.relu6, lambda x: np.minimum(np.maximum(x, 0), 6)),
        (ops.leaky_relu, lambda x: np.where(x > 0, x, 0.01 * x)),
        (lambda x: ops.elu(x, 1.5), lambda x: np.where(x > 0, x, 1.5 * (np.exp(x) - 1))),
        (ops.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
        (ops.tanh, np.tanh),
        (ops.hardswish, lambda x: x * np.clip(x + 3, 0, 6) / 6),
        (ops.hardsigmoid, lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    ],
)
def test_activation_values(activation, formula):
    x = np.linspace(-8, 8, 321)
    np.testing.assert_allclose(activation(tensor(x)).numpy(), formula(x), **ROUNDING)
    assert activation(tensor(x.astype(np.float32))).dtype == np.float32
    assert np.isnan(activation(tensor(np.array([np.nan, 1.0]))).numpy()).tolist() == [True, False]


@pytest.mark.parametrize(
    ("activation", "points", "derivatives"),
    [
        (ops.relu, [0.0], [0.0]),
        (ops.relu6, [0.0, 6.0], [0.0, 0.0]),
        (lambda x: ops.leaky_relu(x, 0.25), [0.0], [0.25]),
        (lambda x: ops.elu(x, 2.0), [0.0], [2.0]),
        (ops.hardswish, [-3.0, 3.0], [0.0, 1.0]),
        (ops.hardsigmoid, [-3.0, 3.0], [0.0, 0.0]),
        (lambda x: ops.prelu(x, tensor(np.array([0.5]))), [0.0], [0.5]),
        (lambda x: ops.apl(x, tensor(np.full((1, 1), 0.5)), tensor(np.zeros((1, 1)))), [[0.0]], [[0.0]]),
    ],
)
def test_derivatives_at_corners(activation, points, derivatives):
    x = tensor(np.array(points), requires_grad=True)
    activation(x).sum().backward()
    np.testing.assert_array_equal(to_numpy(x.grad), derivatives)


def test_sigmoid_and_softmax_do_not_overflow():
    x = np.array([[-1e4, 0.0, 1e4]])
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_array_equal(ops.sigmoid(tensor(x)).numpy(), [[0, 0.5, 1]])
        np.testing.assert_array_equal(ops.softmax(tensor(x)).numpy(), [[0, 0, 1]])
        np.testing.assert_array_equal(ops.log_softmax(tensor(x)).numpy(), [[-2e4, -1e4, 0]])
        np.testing.assert_array_equal(ops.elu(tensor(x)).numpy(), [[-1, 0, 1e4]])


def test_prelu_and_apl_values():
    rng = np.random.default_rng(0)
    x, slope = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal(3)
    expected = np.where(x > 0, x, slope[:, None, None] * x)
    np.testing.assert_array_equal(ops.prelu(tensor(x), tensor(slope)).numpy(), expected)
    a, b = rng.standard_normal((2, 3)), rng.standard_normal((2, 3))
    expected = np.maximum(x, 0)
    for s, c in np.ndindex(2, 3):
        expected[:, c] += a[s, c] * np.maximum(-x[:, c] + b[s, c], 0)
    np.testing.assert_allclose(ops.apl(tensor(x), tensor(a), tensor(b)).numpy(), expected, **ROUNDING)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_values(axis):
    x = np.random.default_rng(1).standard_normal((3, 4, 5))
    expected = np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)
    np.testing.assert_allclose(ops.softmax(tensor(x), axis).numpy(), expected, **ROUNDING)
    np.testing.assert_allclose(ops.log_softmax(tensor(x), axis).numpy(), np.log(expected), **ROUNDING)


def test_cross_entropy_value_and_target_kinds():
    rng = np.random.default_rng(2)
    logits, targets = rng.standard_normal((6, 4)), rng.integers(4, size=6)
    expected = -np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[np.arange(6), targets].mean()
    for kind in (targets, targets.astype(np.int32), tensor(targets), targets.tolist()):
        loss = ops.cross_entropy(tensor(logits), kind)
        assert loss.shape == ()
        np.testing.assert_allclose(loss.item(), expected, **ROUNDING)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_value(bias):
    rng = np.random.default_rng(3)
    x, w, b = rng.standard_normal((2, 3, 5)), rng.standard_normal((4, 5)), rng.standard_normal(4)
    y = ops.linear(tensor(x), tensor(w), tensor(b) if bias else None).numpy()
    np.testing.assert_allclose(y, np.einsum("abi,oi->abo", x, w) + (b if bias else 0), **ROUNDING)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5, 2)])
@pytest.mark.parametrize("relu", [False, True])
def test_batch_norm_values_and_running_statistics(shape, relu):
    rng = np.random.default_rng(4)
    x, gamma, beta = rng.standard_normal(shape) * 3 + 1, rng.standard_normal(3), rng.standard_normal(3)
    mean, variance = rng.standard_normal(3), rng.uniform(0.5, 2, 3)
    axes, column = (0, *range(2, len(shape))), (3,) + (1,) * (len(shape) - 2)

    def formula(m, v):
        y = (x - m.reshape(column)) / np.sqrt(v.reshape(column) + 1e-5) * gamma.reshape(column) + beta.reshape(column)
        return np.maximum(y, 0) if relu else y

    arguments = [tensor(v) for v in (x, gamma, beta)]
    running_mean, running_var = asarray(mean.copy()), asarray(variance.copy())
    y = ops.batch_norm(*arguments, running_mean, running_var, training=False, relu=relu)
    np.testing.assert_allclose(y.numpy(), formula(mean, variance), rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(to_numpy(running_mean), mean)
    np.testing.assert_array_equal(to_numpy(running_var), variance)

    y = ops.batch_norm(*arguments, running_mean, running_var, training=True, momentum=0.3, relu=relu)
    np.testing.assert_allclose(y.numpy(), formula(x.mean(axes), x.var(axes)), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(to_numpy(running_mean), 0.7 * mean + 0.3 * x.mean(axes), rtol=1e-13)
    np.testing.assert_allclose(to_numpy(running_var), 0.7 * variance + 0.3 * x.var(axes, ddof=1), rtol=1e-13)


def test_batch_norm_gradient_uses_the_statistics_of_its_own_forward():
    """A training step between an evaluation's forward and backward changes the running statistics."""
    rng = np.random.default_rng(5)
    x, weight = tensor(rng.standard_normal((4, 2)), requires_grad=True), tensor(np.ones(2))
    mean, variance = asarray(np.zeros(2)), asarray(np.full(2, 4.0))
    y = ops.batch_norm(x, weight, None, mean, variance, training=False, eps=0.0)
    ops.batch_norm(x.detach(), weight, None, mean, variance, training=True)
    y.sum().backward()
    np.testing.assert_allclose(to_numpy(x.grad), np.full((4, 2), 0.5), **ROUNDING)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dropout_keeps_the_mean_and_the_seed(dtype):
    x = tensor(np.ones((100, 100), dtype))
    cupynn.manual_seed(6)
    first = ops.dropout(x, 0.2)
    assert first.dtype == dtype
    assert set(np.unique(first.numpy())) == {0, dtype(1.25)}
    # The share kept is a mean of 10^4 draws of deviation 0.4: five standard errors are 0.02.
    assert abs((first.numpy() > 0).mean() - 0.8) < 0.02
    cupynn.manual_seed(6)
    np.testing.assert_array_equal(ops.dropout(x, 0.2).numpy(), first.numpy())
    assert ops.dropout(x, 0.2, training=False) is x
    assert ops.dropout(x, 0.0) is x
    assert not ops.dropout(x, 1.0).numpy().any()


def test_dropout2d_drops_whole_channels():
    cupynn.manual_seed(7)
    y = ops.dropout2d(tensor(np.ones((20, 30, 3, 2))), 0.5).numpy()
    assert (y == y[:, :, :1, :1]).all()
    assert set(np.unique(y)) == {0, 2}
    assert abs((y[:, :, 0, 0] > 0).mean() - 0.5) < 0.1  # 600 draws: five standard errors


def test_pad2d_order_is_left_right_top_bottom():
    x = np.random.default_rng(8).standard_normal((2, 3, 4, 5))
    y = ops.pad2d(tensor(x), (1, 2, 3, 0), value=-1.0).numpy()
    np.testing.assert_array_equal(y, np.pad(x, ((0, 0), (0, 0), (3, 0), (1, 2)), constant_values=-1))
    assert ops.pad2d(tensor(x), 2).shape == (2, 3, 8, 9)


def test_pooling_values():
    x = np.arange(24.0).reshape(1, 1, 4, 6)
    blocks = x.reshape(2, 2, 3, 2)
    np.testing.assert_array_equal(ops.max_pool2d(tensor(x), 2).numpy()[0, 0], blocks.max(axis=(1, 3)))
    np.testing.assert_array_equal(ops.avg_pool2d(tensor(x), 2).numpy()[0, 0], blocks.mean(axis=(1, 3)))
    np.testing.assert_array_equal(ops.adaptive_avg_pool2d(tensor(x), (2, 3)).numpy()[0, 0], blocks.mean(axis=(1, 3)))
    np.testing.assert_array_equal(ops.adaptive_max_pool2d(tensor(x), (None, 1)).numpy()[0, 0, :, 0], x[0, 0, :, -1])
    padded = np.pad(x[0, 0], 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))[::2, ::2]
    y = ops.avg_pool2d(tensor(x), 3, stride=2, padding=1).numpy()[0, 0]
    np.testing.assert_allclose(y, windows.mean(axis=(2, 3)), **ROUNDING)
    counted = np.lib.stride_tricks.sliding_window_view(np.pad(np.ones((4, 6)), 1), (3, 3))[::2, ::2].sum(axis=(2, 3))
    y = ops.avg_pool2d(tensor(x), 3, stride=2, padding=1, count_include_pad=False).numpy()[0, 0]
    np.testing.assert_allclose(y, windows.sum(axis=(2, 3)) / counted, **ROUNDING)
    np.testing.assert_array_equal(ops.max_pool2d(tensor(-x), 3, stride=2, padding=1).numpy()[0, 0, 0], [0, -1, -3])


def bilinear(image, size, align_corners):
    """The definition, pixel by pixel."""
    height, width = image.shape
    out = np.empty(size)
    for i, j in np.ndindex(size):
        places = []
        for index, old, new in ((i, height, size[0]), (j, width, size[1])):
            if align_corners:
                places.append(index * (old - 1) / (new - 1) if new > 1 else 0)
            else:
                places.append(max((index + 0.5) * old / new - 0.5, 0))
        (top, down), (left, right) = (divmod(place, 1) for place in places)
        top, left = int(top), int(left)
        below, beside = min(top + 1, height - 1), min(left + 1, width - 1)
        out[i, j] = (1 - down) * ((1 - right) * image[top, left] + right * image[top, beside]) + down * (
            (1 - right) * image[below, left] + right * image[below, beside]
        )
    return out


@pytest.mark.parametrize("size", [(6, 8), (5, 9), (2, 3), (1, 1), (3, 4)])
def test_upsample2d_values(size):
    x = np.random.default_rng(9).standard_normal((2, 1, 3, 4))
    rows, columns = np.arange(size[0]) * 3 // size[0], np.arange(size[1]) * 4 // size[1]
    y = ops.upsample2d(tensor(x), size=size)
    np.testing.assert_array_equal(y.numpy(), x[:, :, rows][:, :, :, columns])
    for corners in (False, True):
        y = ops.upsample2d(tensor(x), size=size, mode="bilinear", align_corners=corners).numpy()
        np.testing.assert_allclose(y[1, 0], bilinear(x[1, 0], size, corners), rtol=1e-13, atol=1e-14)


def test_upsample2d_by_a_factor():
    x = np.random.default_rng(10).standard_normal((1, 2, 3, 4)).astype(np.float32)
    y = ops.upsample2d(tensor(x), scale_factor=(2, 3))
    np.testing.assert_array_equal(y.numpy(), x.repeat(2, axis=2).repeat(3, axis=3))
    assert y.dtype == np.float32
    assert ops.upsample2d(tensor(x), scale_factor=1.5, mode="bilinear").shape == (1, 2, 4, 6)


def zeros(*shape):
    return tensor(np.zeros(shape))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.linear(zeros(2, 5), zeros(4, 3)), r"linear: .*x has shape \(2, 5\), weight \(4, 3\)"),
        (lambda: ops.linear(zeros(2, 3), zeros(4, 3), zeros(3)), r"linear: .*bias must be \(4,\); it has \(3,\)"),
        (lambda: ops.prelu(zeros(2, 3), zeros(2)), r"prelu: weight must be \(1,\) or \(C,\)"),
        (lambda: ops.apl(zeros(2, 3), zeros(1, 3), zeros(2, 3)), r"apl: a and b must both be \(S, C\)"),
        (lambda: ops.batch_norm(zeros(2, 3), zeros(3), zeros(3)), r"batch_norm: running_mean and running_var"),
        (lambda: ops.dropout(zeros(2, 3), 1.5), r"dropout: p must be a probability from 0 to 1; got 1.5"),
        (lambda: ops.dropout2d(zeros(2, 3), 0.5), r"dropout2d: x must be \(N, C, H, W\)"),
        (lambda: ops.pad2d(zeros(1, 1, 2, 2), (1, 2)), r"pad2d: padding must be .*; got \(1, 2\)"),
        (lambda: ops.pad2d(zeros(1, 1, 2, 2), -1), r"pad2d: padding must be .*; got -1"),
        (lambda: ops.max_pool2d(zeros(1, 1, 4, 4), 2, padding=2), r"max_pool2d: padding"),
        (lambda: ops.avg_pool2d(zeros(1, 1, 4, 4), 5), r"avg_pool2d: no window fits"),
        (lambda: ops.adaptive_avg_pool2d(zeros(1, 1, 4, 4), 0), r"adaptive_avg_pool2d: output_size"),
        (lambda: ops.upsample2d(zeros(1, 1, 4, 4)), r"upsample2d: give size or scale_factor"),
        (lambda: ops.upsample2d(zeros(1, 1, 4, 4), size=3, mode="cubic"), r"upsample2d: mode must be"),
        (lambda: ops.upsample2d(zeros(1, 1, 4, 4), size=3, align_corners=True), r"upsample2d: align_corners"),
        (lambda: ops.upsample2d(zeros(1, 1, 4, 4), scale_factor=0.1), r"upsample2d: scale_factor 0.1 leaves no pixel"),
        (lambda: ops.cross_entropy(zeros(2, 3), np.array([0, 3])), r"cross_entropy: targets\[1\] is 3"),
    ],
)
def test_errors_name_operation_argument_and_shapes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
