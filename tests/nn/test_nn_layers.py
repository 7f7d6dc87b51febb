"""Layers: what they compute, their initial values, their errors."""

import numpy as np
import pytest

import cupynn
from cupynn import nn, ops
from cupynn.autograd import gradcheck, no_grad, tape, tensor


def images(seed, *shape, dtype=np.float32):
    return tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


def test_layers_call_their_operations():
    cupynn.manual_seed(0)
    x = images(0, 2, 4, 9, 7)
    conv = nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0), dilation=(2, 1), groups=2)
    expected = ops.conv2d(x, conv.weight, conv.bias, 2, (1, 0), (2, 1), 2)
    np.testing.assert_array_equal(conv(x).numpy(), expected.numpy())
    linear = nn.Linear(7, 5)
    np.testing.assert_array_equal(linear(x).numpy(), ops.linear(x, linear.weight, linear.bias).numpy())
    pairs = [
        (nn.MaxPool2d(3, 2, 1, 1, True), ops.max_pool2d(x, 3, 2, 1, 1, True)),
        (nn.AvgPool2d((3, 2), 2, 1, True, False), ops.avg_pool2d(x, (3, 2), 2, 1, True, False)),
        (nn.AdaptiveAvgPool2d((2, None)), ops.adaptive_avg_pool2d(x, (2, None))),
        (nn.ReLU(), ops.relu(x)),
        (nn.ReLU6(), ops.relu6(x)),
        (nn.LeakyReLU(0.2), ops.leaky_relu(x, 0.2)),
        (nn.PReLU(4), ops.prelu(x, tensor(np.full(4, 0.25, np.float32)))),
        (nn.ELU(0.5), ops.elu(x, 0.5)),
        (nn.Sigmoid(), ops.sigmoid(x)),
        (nn.Tanh(), ops.tanh(x)),
        (nn.Hardswish(), ops.hardswish(x)),
        (nn.Hardsigmoid(), ops.hardsigmoid(x)),
        (nn.APL(4), ops.relu(x)),
        (nn.Flatten(), x.reshape(2, 4 * 9 * 7)),
        (nn.Identity(), x),
    ]
    for layer, y in pairs:
        np.testing.assert_array_equal(layer(x).numpy(), y.numpy(), err_msg=repr(layer))


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.Dropout2d(0.5)])
def test_dropout_only_while_training(layer):
    cupynn.manual_seed(1)
    x = images(1, 4, 8, 3, 3)
    assert (layer.train()(x).numpy() == 0).any()
    np.testing.assert_array_equal(layer.eval()(x).numpy(), x.numpy())


def test_batch_norm_trains_and_evaluates():
    layer, x = nn.BatchNorm2d(3, momentum=0.5), images(2, 4, 3, 5, 6)
    axes = (0, 2, 3)
    y = layer(x).numpy()
    # A mean of 120 float32 numbers of size 1: rounding stays below 120 * 6e-8.
    np.testing.assert_allclose(y.mean(axes), 0, atol=1e-5)
    np.testing.assert_allclose(y.var(axes), 1, atol=1e-4)
    np.testing.assert_allclose(layer.running_mean, 0.5 * x.numpy().mean(axes), atol=1e-6)
    np.testing.assert_allclose(layer.running_var, 0.5 + 0.5 * x.numpy().var(axes, ddof=1), rtol=1e-5)
    assert layer.num_batches_tracked == 1
    mean = layer.running_mean.copy()
    layer.eval()(x)
    np.testing.assert_array_equal(layer.running_mean, mean)
    assert layer.num_batches_tracked == 1
    with no_grad():
        layer.train()(x)
    assert layer.num_batches_tracked == 2
    plain = nn.BatchNorm2d(3, affine=False)
    assert list(plain.parameters()) == []
    np.testing.assert_allclose(plain(x).numpy(), y, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_sequential_fuses_batch_norm_and_relu(training):
    def net():
        norm = nn.BatchNorm2d(3).astype(np.float64)
        norm.weight.data[...], norm.bias.data[...] = [0.5, -1, 2], [0.1, 0.2, -0.3]
        return norm.train(training)

    one, other = net(), net()
    fused = nn.Sequential(one, nn.ReLU6(), nn.ReLU(), other, nn.ReLU())
    x = images(3, 4, 3, 5, 6, dtype=np.float64)
    y = fused(x)
    one, other = net(), net()
    z = ops.relu(other(ops.relu(ops.relu6(one(x)))))
    np.testing.assert_allclose(y.numpy(), z.numpy(), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(fused[0].running_mean, one.running_mean, rtol=1e-13)
    names = [entry.record.name for entry in tape(y)]
    assert names.count("ReLU") == 1 and "ReLU6" not in names, "they run in the batch norms' kernels"
    y.sum().backward()
    z.sum().backward()
    np.testing.assert_allclose(fused[0].weight.grad, one.weight.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("end", ["batch norm", "nested", "identity", "convolution", "activation", "nothing"])
def test_sequential_adds_a_residual(end):
    norm, conv = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
    ends = {
        "batch norm": [conv, norm],
        "nested": [nn.ReLU6(), nn.Sequential(conv, norm)],
        "identity": [conv, nn.Identity()],
        "convolution": [norm, conv],
        "activation": [conv, norm, nn.ReLU6()],
        "nothing": [],
    }
    net = nn.Sequential(*ends[end]).astype(np.float64).eval()
    x, more = images(3, 4, 3, 5, 6, dtype=np.float64), images(4, 4, 3, 5, 6, dtype=np.float64)
    y = net(x, residual=more)
    np.testing.assert_allclose(y.numpy(), net(x).numpy() + more.numpy(), rtol=1e-13, atol=1e-14)
    names = [entry.record.name for entry in tape(y)]
    assert names.count("Add") == (end in ("identity", "convolution", "activation"))


def test_sequential_leaves_subclasses_alone():
    """Only the plain classes are fused: a subclass may compute something else."""

    class Shifted(nn.ReLU):
        def forward(self, x):
            return super().forward(x) + 1

    net = nn.Sequential(nn.BatchNorm2d(2), Shifted())
    assert net(images(4, 3, 2, 4, 4)).numpy().min() == 1


def test_gradients_reach_parameters_through_a_net():
    cupynn.manual_seed(5)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).astype(np.float64)
    x = images(5, 3, 2, 4, 4, dtype=np.float64)
    parameters = list(net.parameters())
    gradcheck(lambda *_: ops.cross_entropy(net(x), np.array([0, 2, 1])), parameters)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("layer", "fan_in"), [(lambda: nn.Conv2d(24, 36, 5, groups=2), 300), (lambda: nn.Linear(200, 150), 200)]
)
def test_default_initialisation(layer, fan_in, seed):
    """Uniform within 1/sqrt(fan-in), as PyTorch's layers."""
    cupynn.manual_seed(seed)
    layer = layer()
    bound = 1 / np.sqrt(fan_in)
    weight, bias = layer.weight.data, layer.bias.data
    assert weight.dtype == bias.dtype == np.float32
    assert 0.999 * bound < np.abs(weight).max() <= bound * (1 + 1e-6)
    assert 0.8 * bound < np.abs(bias).max() <= bound * (1 + 1e-6)
    # A uniform's fourth moment is 9/5 of its variance squared: n squares' mean deviates by sqrt(0.8 / n) of itself.
    assert abs(weight.var() / (bound**2 / 3) - 1) < 5 * np.sqrt(0.8 / weight.size)
    assert abs(weight.mean()) < 5 * bound / np.sqrt(3 * weight.size)


DRAWS = [  # draw, expected deviation for a weight of shape (60, 40, 3, 2): fan-in 240, fan-out 360
    (nn.init.kaiming_uniform, np.sqrt(2 / 240)),
    (lambda shape: nn.init.kaiming_uniform(shape, slope=np.sqrt(5)), np.sqrt(1 / 3 / 240)),
    (lambda shape: nn.init.kaiming_uniform(shape, fan_mode="fan_out", nonlinearity="linear"), np.sqrt(1 / 360)),
    (lambda shape: nn.init.kaiming_normal(shape, nonlinearity="relu"), np.sqrt(2 / 240)),
    (lambda shape: nn.init.kaiming_normal(shape, fan_mode="fan_out", nonlinearity="tanh"), 5 / 3 * np.sqrt(1 / 360)),
    (nn.init.xavier_uniform, np.sqrt(2 / 600)),
    (lambda shape: nn.init.xavier_normal(shape, gain=3.0), 3 * np.sqrt(2 / 600)),
    (lambda shape: nn.init.normal(shape, 0.0, 0.01), 0.01),
    (lambda shape: nn.init.uniform(shape, -0.1, 0.1), 0.1 / np.sqrt(3)),
]


@pytest.mark.parametrize(("draw", "deviation"), DRAWS)
def test_initial_distributions(draw, deviation):
    cupynn.manual_seed(6)
    weight = draw((60, 40, 3, 2))
    assert weight.dtype == np.float32
    assert weight.shape == (60, 40, 3, 2)
    # 14,400 draws; a normal's sample variance deviates by sqrt(2 / n), a uniform's by less: five times that is 6 %.
    assert abs(weight.var() / deviation**2 - 1) < 5 * np.sqrt(2 / weight.size)
    assert abs(weight.mean()) < 5 * deviation / np.sqrt(weight.size)
    cupynn.manual_seed(6)
    np.testing.assert_array_equal(draw((60, 40, 3, 2)), weight)


@pytest.mark.parametrize("draw", [nn.init.kaiming_uniform, nn.init.xavier_uniform])
def test_uniform_draws_fill_their_bounds_evenly(draw):
    cupynn.manual_seed(7)
    weight = draw((100, 100))
    bound = np.sqrt(3) * (np.sqrt(2) if draw is nn.init.kaiming_uniform else 1) / 10
    counts, _ = np.histogram(weight, bins=10, range=(-bound * (1 + 1e-6), bound * (1 + 1e-6)))
    assert counts.sum() == weight.size
    assert np.abs(counts - 1000).max() < 5 * 30  # a bin of 10^4 draws at 1/10 deviates by 30


def test_fans_and_gains():
    assert nn.init.fans((8, 4, 3, 5)) == (60, 120)
    assert nn.init.fans((8, 4)) == (4, 8)
    assert nn.init.gain("leaky_relu", 1.0) == 1.0
    assert nn.init.gain("relu") == np.sqrt(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(0, 4, 3), "Conv2d: in_channels must be an integer >= 1; got 0"),
        (lambda: nn.Conv2d(4, 4.0, 3), "Conv2d: out_channels must be an integer >= 1; got 4.0"),
        (lambda: nn.Conv2d(4, 6, 3, groups=4), "Conv2d: groups must divide .*groups=4, in_channels=4, out_channels=6"),
        (lambda: nn.Conv2d(4, 4, 0), "Conv2d: kernel_size must be an integer >= 1"),
        (lambda: nn.Conv2d(4, 4, 3, padding=-1), "Conv2d: padding must be an integer >= 0"),
        (lambda: nn.Linear(3, 0), "Linear: out_features must be an integer >= 1; got 0"),
        (lambda: nn.BatchNorm2d(0), "BatchNorm2d: num_features must be an integer >= 1; got 0"),
        (lambda: nn.BatchNorm2d(3)(images(8, 2, 4, 3, 3)), r"BatchNorm2d: x must be \(N, 3, H, W\); .* \(2, 4, 3, 3\)"),
        (lambda: nn.MaxPool2d(0), "MaxPool2d: kernel_size must be an integer >= 1"),
        (lambda: nn.Dropout2d(-0.1), "Dropout2d: p must be a probability from 0 to 1; got -0.1"),
        (lambda: nn.init.kaiming_normal((3,)), r"init: a fan needs .* got shape \(3,\)"),
        (lambda: nn.init.kaiming_normal((3, 3), fan_mode="in"), "init: fan_mode must be .*got 'in'"),
        (lambda: nn.init.gain("selu"), "init: nonlinearity must be one of linear, .*got 'selu'"),
    ],
)
def test_errors_name_layer_and_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numpy_integers_are_sizes():
    n = np.int64
    for layer, x in [
        (nn.Linear(n(3), n(2)), images(0, 5, 3)),
        (nn.BatchNorm2d(n(4)), images(0, 2, 4, 3, 3)),
        (nn.Conv2d(n(4), n(2), n(3), groups=n(2)), images(0, 2, 4, 3, 3)),
        (nn.MaxPool2d(n(2)), images(0, 2, 4, 3, 3)),
    ]:
        layer(x)
        assert not any(isinstance(value, np.integer) for value in vars(layer).values())
    assert nn.AdaptiveAvgPool2d(n(2))(images(0, 2, 4, 3, 3)).shape == (2, 4, 2, 2)


def test_inside_shapes_only_layers_take_no_memory():
    with nn.init.shapes_only():
        model = nn.Sequential(
            nn.Conv2d(512, 4096, 7), nn.DOConv2d(256, 256, 3), nn.WHE(4096, 16), nn.Linear(10**6, 10**6)
        )
    arrays = list(model.state_dict().values())
    assert sum(array.nbytes for array in arrays) > 4e12
    assert all(array.strides == (0,) * array.ndim for array in arrays)
    assert not nn.init.is_shapes_only() and nn.Conv2d(1, 1, 1).weight.data.flags.writeable
