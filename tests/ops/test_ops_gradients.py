"""Every operation's gradient against central differences in float64, over odd shapes."""

import numpy as np
import pytest

import cupynn
from cupynn import ops
from cupynn.autograd import gradcheck, tensor
from cupynn.device import asarray

pytestmark = pytest.mark.usefixtures("device")


def draws(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [tensor(rng.standard_normal(shape), requires_grad=True) for shape in shapes]


CONVOLUTIONS = [  # x, weight, options
    ((2, 3, 5, 7), (4, 3, 3, 3), {}),
    ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    ((2, 3, 7, 6), (5, 3, 3, 2), {"stride": 2, "padding": 1}),
    ((2, 4, 9, 5), (6, 2, 3, 1), {"stride": (1, 2), "padding": (2, 0), "groups": 2}),
    ((1, 2, 9, 8), (2, 2, 3, 3), {"dilation": 2, "padding": 2}),
    ((3, 3, 4, 5), (3, 1, 3, 3), {"padding": 1, "groups": 3}),
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("x_shape", "w_shape", "options"), CONVOLUTIONS)
def test_conv2d(x_shape, w_shape, options, bias):
    x, w, b = draws(0, x_shape, w_shape, w_shape[:1])
    gradcheck(lambda *inputs: ops.conv2d(*inputs, **options), (x, w, b) if bias else (x, w))


@pytest.mark.parametrize("multiplier", [1, 3])
def test_depthwise_conv2d(multiplier):
    x, w, b = draws(1, (2, 3, 5, 4), (3, multiplier, 3, 2), (3 * multiplier,))
    gradcheck(lambda *inputs: ops.depthwise_conv2d(*inputs, stride=2, padding=1), (x, w, b))


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((2, 3, 3, 4), (3, 2, 3, 3), {}),
        ((1, 4, 3, 2), (4, 3, 3, 2), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
        ((2, 2, 3, 3), (2, 1, 3, 3), {"stride": (2, 3), "dilation": 2, "output_padding": (0, 1)}),
    ],
)
def test_conv_transpose2d(x_shape, w_shape, options):
    x, w, b = draws(2, x_shape, w_shape, (w_shape[1] * options.get("groups", 1),))
    gradcheck(lambda *inputs: ops.conv_transpose2d(*inputs, **options), (x, w, b))


@pytest.mark.parametrize("shape", [(3, 5), (1, 5), (2, 3, 5), (5,)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape, bias):
    x, w, b = draws(3, shape, (4, 5), (4,))
    gradcheck(ops.linear, (x, w, b) if bias else (x, w))


@pytest.mark.parametrize("relu", [False, True, 6])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(3, 2, 5, 3), (7, 3), (2, 1, 1, 1), (1, 5, 3, 1)])
def test_batch_norm(shape, training, relu):
    rng = np.random.default_rng(4)
    x, weight, bias = draws(5, shape, shape[1:2], shape[1:2])
    mean, variance = asarray(rng.standard_normal(shape[1])), asarray(rng.uniform(0.5, 2, shape[1]))

    def normalise(*inputs, residual=None):
        options = {"relu": relu, "eps": 1e-2, "residual": residual}
        return ops.batch_norm(*inputs, mean.copy(), variance.copy(), training, **options)

    gradcheck(normalise, (x, weight, bias))
    gradcheck(lambda x: normalise(x, None, None), (x,))
    (more,) = draws(6, shape)
    gradcheck(lambda x, weight, more: normalise(x, weight, None, residual=5 * more), (x, weight, more))
    if not relu:  # its gradient is the incoming array itself, for x and the residual of another call too
        gradcheck(lambda x: normalise(normalise(x, None, None, residual=x), None, None, residual=x), (x,))


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0), "ceil_mode": True},
    ],
)
@pytest.mark.parametrize("pool", [ops.max_pool2d, ops.avg_pool2d])
def test_pooling(pool, options):
    (x,) = draws(6, (2, 3, 7, 5))
    gradcheck(lambda x: pool(x, **options), (x,))


def test_pooling_options_of_one_kind():
    (x,) = draws(7, (2, 2, 7, 6))
    gradcheck(lambda x: ops.max_pool2d(x, 2, stride=1, dilation=2), (x,))
    gradcheck(lambda x: ops.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False), (x,))


@pytest.mark.parametrize("size", [1, 3, (2, 5), (None, 2), (9, 7)])
@pytest.mark.parametrize("pool", [ops.adaptive_avg_pool2d, ops.adaptive_max_pool2d])
def test_adaptive_pooling(pool, size):
    (x,) = draws(8, (2, 2, 7, 5))
    gradcheck(lambda x: pool(x, size), (x,))


@pytest.mark.parametrize(
    "activation",
    [ops.relu, ops.relu6, ops.leaky_relu, ops.elu, ops.sigmoid, ops.tanh, ops.hardswish, ops.hardsigmoid],
    ids=lambda f: f.__name__,
)
def test_activations(activation):
    (x,) = draws(9, (3, 5, 7))
    gradcheck(lambda x: activation(4 * x), (x,))


def test_activations_with_options():
    (x,) = draws(10, (3, 5))
    gradcheck(lambda x: ops.leaky_relu(x, 0.3), (x,))
    gradcheck(lambda x: ops.elu(x, 1.7), (x,))


@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 3, 5), (2, 4, 3)])
def test_learned_activations(shape):
    x, one, each, a, b = draws(11, shape, (1,), (4,), (3, 4), (3, 4))
    gradcheck(ops.prelu, (x, one))
    gradcheck(ops.prelu, (x, each))
    gradcheck(ops.apl, (x, a, b))


@pytest.mark.parametrize("function", [ops.softmax, ops.log_softmax], ids=lambda f: f.__name__)
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_softmax(function, axis):
    (x,) = draws(12, (3, 5, 2))
    gradcheck(lambda x: function(x, axis=axis), (x,))


@pytest.mark.parametrize("shape", [(5, 3), (1, 7), (4, 1)])
def test_cross_entropy(shape):
    (logits,) = draws(13, shape)
    targets = np.random.default_rng(14).integers(shape[1], size=shape[0])
    gradcheck(lambda logits: ops.cross_entropy(logits, targets), (logits,))


@pytest.mark.parametrize("function", [ops.dropout, ops.dropout2d], ids=lambda f: f.__name__)
def test_dropout(function):
    (x,) = draws(15, (2, 3, 3, 2))

    def same_mask(x):
        cupynn.manual_seed(16)
        return function(x, 0.4)

    gradcheck(same_mask, (x,))


def test_pad2d_and_concatenate():
    x, y = draws(17, (2, 3, 2, 3), (2, 1, 2, 3))
    gradcheck(lambda x: ops.pad2d(x, (0, 2, 1, 3), value=1.5), (x,))
    gradcheck(lambda x, y: ops.concatenate([x, y, x], axis=1), (x, y))


@pytest.mark.parametrize(
    "options",
    [
        {"scale_factor": 2},
        {"size": (5, 7)},
        {"size": (2, 3)},
        {"scale_factor": 2, "mode": "bilinear"},
        {"size": (7, 9), "mode": "bilinear"},
        {"size": (2, 1), "mode": "bilinear"},
        {"size": (5, 7), "mode": "bilinear", "align_corners": True},
        {"size": (1, 6), "mode": "bilinear", "align_corners": True},
    ],
)
def test_upsample2d(options):
    (x,) = draws(18, (2, 2, 3, 4))
    gradcheck(lambda x: ops.upsample2d(x, **options), (x,))
