"""Every operation on float16 and bfloat16 tensors with float32 parameters, against the same in float32.

Inputs are rounded first. An operation rounds its result once, and the gradient to x once; those made of several round
each: within 4 u of the largest value, u = 2^-11 or 2^-8.
"""

import numpy as np
import pytest

import cupynn
from cupynn import autograd, nn, ops
from cupynn.autograd import Tensor
from cupynn.device import dtype_named, wide

ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


@pytest.fixture(params=["float16", "bfloat16"])
def dtype(request):
    if request.param == "bfloat16":
        pytest.importorskip("ml_dtypes")
    return dtype_named(request.param)


def cross_layers(x, w, b):
    """Two readers of the same two outputs, so that gradients are gathered in place."""
    outputs = [ops.LayerOutput(x), ops.LayerOutput(x * 0.5)]
    statistics = np.zeros((2, 8), np.float32), np.ones((2, 8), np.float32)
    first = ops.cross_layer_batch_norm(outputs, w, b, *statistics, training=True)
    return first + ops.cross_layer_depthwise(outputs, w)


def normalised(x, w, b):
    return ops.batch_norm(x, w, b, np.zeros(8, np.float32), np.ones(8, np.float32), training=True, relu=True)


# The operation, and its parameters' shapes. x is (4, 8, 6, 6).
OPERATIONS = {
    "conv2d": (lambda x, w, b: ops.conv2d(x, w, b, padding=1), (16, 8, 3, 3), (16,)),
    "conv2d 1x1": (lambda x, w: ops.conv2d(x, w), (16, 8, 1, 1)),
    "conv_transpose2d": (lambda x, w, b: ops.conv_transpose2d(x, w, b, stride=2), (8, 4, 3, 3), (4,)),
    "depthwise_conv2d": (lambda x, w, b: ops.depthwise_conv2d(x, w, b, padding=1), (8, 2, 3, 3), (16,)),
    "whe": (lambda x, *w: ops.whe(x, *w), *[(2, 4, 4)] * 4),
    "batch_norm": (normalised, (8,), (8,)),
    "cross layers": (cross_layers, (2, 8), (2, 8)),
    "linear": (lambda x, w, b: ops.linear(x.flatten(1), w, b), (10, 288), (10,)),
    "prelu": (lambda x, w: ops.prelu(x, w), (8,)),
    "apl": (lambda x, a, b: ops.apl(x, a, b), (2, 8), (2, 8)),
    "max_pool2d": (lambda x: ops.max_pool2d(x, 3, 2, 1),),
    "avg_pool2d": (lambda x: ops.avg_pool2d(x, 3, 2, 1),),
    "adaptive_avg_pool2d": (lambda x: ops.adaptive_avg_pool2d(x, 1),),
    "softmax": (lambda x: ops.softmax(x, axis=1),),
    "log_softmax": (lambda x: ops.log_softmax(x, axis=1),),
    "upsample2d": (lambda x: ops.upsample2d(x, scale_factor=2, mode="bilinear"),),
    "pad2d": (lambda x: ops.pad2d(x, 2),),
    "leaky_relu": (lambda x: ops.leaky_relu(x),),
    "elu": (lambda x: ops.elu(x),),
    "sigmoid": (lambda x: ops.sigmoid(x),),
    "hardswish": (lambda x: ops.hardswish(x),),
    "tanh": (lambda x: ops.tanh(x),),
    "dropout": (lambda x: ops.dropout(x, 0.5),),
    "dropout2d": (lambda x: ops.dropout2d(x, 0.5),),
    "x + x relu(x)": (lambda x: x + x * ops.relu(x),),
    "Python numbers": (lambda x: (1.5 - x * 0.5 + 2.0) / 3.0 + 1 / (x * x + 1.0) + abs(x) ** 1.5,),
    "choices": (lambda x: autograd.where(x.data > 0, x, 0.25) + autograd.maximum(x, -0.5) + x.clip(-1, 1.5),),
    "concatenate": (lambda x: ops.concatenate([x, x * 2.0], axis=1),),
    "slices": (lambda x: x[:, 1:3, ::2],),
    "sum": (lambda x: x.sum(axis=(0, 2, 3)),),
    "mean": (lambda x: x.mean(axis=(2, 3)),),
    "var": (lambda x: x.var(axis=(2, 3)),),
    "scaled by channels": (lambda x: x * x.mean(axis=(2, 3), keepdims=True),),
    "matmul": (lambda x: x @ x.transpose(0, 1, 3, 2),),
    "einsum": (lambda x: autograd.einsum("nchw,ndhw->ncd", x, x),),
}


def outcome(operation, x, parameters, grad, scale=1.0):
    """y and all gradients, of fresh leaves."""
    cupynn.manual_seed(0)
    leaves = [Tensor(x.copy(), requires_grad=True), *(Tensor(p.copy(), requires_grad=True) for p in parameters)]
    y = operation(*leaves)
    y.backward(grad(y.shape).astype(y.dtype))
    return [y.data, *(leaf.grad for leaf in leaves)]


# Those that one kernel computes, the same template for both types: for bfloat16 it need not be compiled once more.
BY_KERNELS = (
    "conv_transpose2d",
    "depthwise_conv2d",
    "avg_pool2d",
    "leaky_relu",
    "elu",
    "sigmoid",
    "hardswish",
    "dropout",
)
PAIRS = [("float16", name) for name in OPERATIONS] + [
    ("bfloat16", name) for name in OPERATIONS if name not in BY_KERNELS
]


@pytest.mark.parametrize(("dtype", "name"), PAIRS, indirect=["dtype"])
def test_values_and_gradients(dtype, name):
    operation, *shapes = OPERATIONS[name]
    rng = np.random.default_rng(len(name))
    x = rng.standard_normal((4, 8, 6, 6)).astype(dtype)
    parameters = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    seed = int(rng.integers(1 << 30))

    def grad(shape):  # rounded already
        return wide(np.random.default_rng(seed).standard_normal(shape).astype(dtype))

    got = outcome(operation, x, parameters, grad)
    want = outcome(operation, wide(x), parameters, grad)
    assert [a.dtype for a in got] == [dtype, dtype, *[np.float32] * len(parameters)]
    for array, right in zip(got, want, strict=True):
        np.testing.assert_allclose(wide(array), right, rtol=0, atol=4 * ROUNDING[dtype.name] * np.abs(right).max())


def test_the_loss_is_float32(dtype):
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((50, 10)).astype(dtype), rng.integers(0, 10, 50)
    x = Tensor(logits, requires_grad=True)
    loss = ops.cross_entropy(x, targets, label_smoothing=0.1)
    assert loss.dtype == np.float32
    assert float(loss) == float(ops.cross_entropy(wide(logits), targets, label_smoothing=0.1))
    loss.backward()
    assert x.grad.dtype == dtype


def test_sums_of_more_than_16_bits_can_count(dtype):
    """4096 ones, added one by one in 16 bits, stop at 2048 or 256."""
    x = Tensor(np.ones((4096, 1), dtype), requires_grad=True)
    bias = Tensor(np.zeros(1, dtype), requires_grad=True)
    y = (x + bias).sum()
    assert float(y) == 4096
    y.backward()
    assert float(bias.grad[0]) == 4096


class Block(nn.Module):
    def __init__(self):
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(
            nn.ExpandedConv2d("cl", 8, 8, 3, padding=1, rate=2),
            nn.DOConv2d(8, 8, 3, padding=1),
            nn.ACBlock(8, 8, 3, padding=1),
            nn.WHEBlock(8, 4),
        )
        self.sequence = nn.SeqConv2d(8, 8, 4)
        self.out = nn.ExpandedLinear(8, 10, rate=2)

    def forward(self, x):
        x = self.body(self.stem(x))
        return self.out(self.sequence(x)[1].mean(axis=(2, 3)))


def test_a_network_of_all_layers(dtype):
    """One forward pass and one backward pass, in 16 bits and in float32 from the same numbers."""
    cupynn.manual_seed(3)
    model = Block()
    rng = np.random.default_rng(3)
    x, targets = rng.standard_normal((16, 3, 8, 8)).astype(dtype), rng.integers(0, 10, 16)
    sides = []
    for images in (x, wide(x)):
        for parameter in model.parameters():
            parameter.grad = None
        loss = ops.cross_entropy(model(Tensor(images)), targets)
        saved = autograd.tape(loss).saved_bytes
        loss.backward()
        gradient = np.concatenate([p.grad.ravel() for p in model.parameters()])
        assert {p.grad.dtype for p in model.parameters()} == {np.dtype(np.float32)}
        sides.append((float(loss), gradient, saved))
    (loss, gradient, saved), (right, exactly, all_saved) = sides
    # some 20 roundings one after another, and batch norm in between
    assert abs(loss - right) <= 20 * ROUNDING[dtype.name]
    cosine = gradient @ exactly / np.linalg.norm(gradient) / np.linalg.norm(exactly)
    assert cosine > 1 - (30 * ROUNDING[dtype.name]) ** 2
    assert saved < 0.75 * all_saved  # parameters and statistics stay float32


def test_a_convolutional_network_saves_half(dtype):
    cupynn.manual_seed(0)
    model = nn.Sequential(
        *(layer for _ in range(4) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()))
    )
    saved = [
        autograd.tape(model(Tensor(np.ones((64, 8, 16, 16), kind))).sum()).saved_bytes for kind in (dtype, np.float32)
    ]
    assert 0.5 <= saved[0] / saved[1] < 0.51
