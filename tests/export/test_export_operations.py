"""Every function that has a form in ONNX, through `export_onnx`, which compares onnxruntime's results with ours."""

import numpy as np
import pytest

import cupynn
from cupynn import autograd as F
from cupynn import nn, ops

onnx = pytest.importorskip("onnx", reason="cupynn[onnx] is not installed")
pytest.importorskip("onnxruntime", reason="cupynn[onnx] is not installed")
from cupynn.export import onnx_file  # noqa: E402
from cupynn.export.trace import trace  # noqa: E402

GENERATOR = np.random.default_rng(3)


def drawn(*shape):
    return GENERATOR.standard_normal(shape).astype("float32")


class Net(nn.Module):
    """One function of images (N, 4, 5, 6) and of `state`."""

    def __init__(self, compute, **state):
        self.compute = compute
        for name, array in state.items():
            setattr(self, name, nn.Parameter(array))

    def forward(self, x):
        return self.compute(self, x)


def cases():
    """name: (the function of (net, x), its parameters)."""
    c = np.float32
    yield "add", lambda net, x: x + 2 + x, {}
    yield "subtract", lambda net, x: 1 - (x - net.w), {"w": drawn(4, 1, 1)}
    yield "multiply", lambda net, x: net.w * x * x, {"w": drawn(5, 6)}
    yield "divide", lambda net, x: 1 / (abs(x) + 1) / 3, {}
    yield "power", lambda net, x: x**2 + abs(x) ** 0.5 + c(2) ** x, {}
    yield (
        "exp, log, sqrt, sin, cos",
        lambda net, x: F.exp(-F.sqrt(abs(x))) + F.log(abs(x) + 1) * F.sin(x) + F.cos(x),
        {},
    )
    yield "tanh", lambda net, x: F.tanh(x), {}
    yield "maximum, minimum", lambda net, x: F.maximum(x, 0.25) - F.minimum(net.w, x), {"w": drawn(6)}
    yield "where", lambda net, x: F.where(np.arange(6) % 2 == 0, x, -x), {}
    yield "clip", lambda net, x: F.clip(x, -0.5, 0.7) + F.clip(x, max=0.1) + F.clip(x, drawn(6) * 0, None), {}
    yield "matmul", lambda net, x: x @ net.w @ net.v, {"w": drawn(6, 3), "v": drawn(3)}
    yield "einsum", lambda net, x: F.einsum("...chw,hk->...kwc", x, net.w), {"w": drawn(5, 2)}
    yield "sum", lambda net, x: x.sum(axis=(1, -1)) + x.sum(axis=2, keepdims=True).sum(axis=(1, 2)).sum(), {}
    yield "mean", lambda net, x: x.mean(axis=(2, 3)) + x.mean(axis=3, keepdims=True)[:, :, 0, 0], {}
    yield "max, min", lambda net, x: x.max(axis=1) - x.min(axis=(1,), keepdims=True)[:, 0], {}
    yield "variance", lambda net, x: x.var(axis=(2, 3), ddof=1, keepdims=True) + x.var(axis=1, keepdims=True), {}
    yield "reshape", lambda net, x: x.reshape(x.shape[0] * 2, -1).reshape(-1, 3, 20).flatten(1), {}
    yield "transpose", lambda net, x: x.transpose(0, 3, 1, -2) * x.T.T.transpose(0, 3, 1, 2), {}
    yield (
        "broadcast",
        lambda net, x: F.broadcast_to(x[:, :, :1], x.shape) + F.broadcast_to(net.w, x.shape),
        {"w": drawn(6)},
    )
    yield "pad", lambda net, x: F.pad(x, ((0, 0), (1, 0), (0, 2), (3, 1)), 0.5), {}
    yield "pad2d", lambda net, x: ops.pad2d(x, (1, 0, 2, 3), -1.5), {}
    yield "astype", lambda net, x: x.astype("float32") + x.astype("int32").astype("float32"), {}
    yield "concatenate", lambda net, x: ops.concatenate([x[:, :, :0] + 1, x, x * net.w], axis=2), {"w": drawn(6)}
    yield "stack", lambda net, x: F.stack([x, -x, x], axis=-1), {}
    yield "index", lambda net, x: x[:, 1:3, ::-2, None, -4:-1:2] + x[..., :1, 2, :1, None, None], {}
    yield "index by an array", lambda net, x: x[:, [3, 0, 0]] + x[:, np.int64(1), None], {}
    yield "index whole", lambda net, x: x[...] + x[:], {}
    for name in ("relu", "relu6", "leaky_relu", "elu", "sigmoid", "hardswish", "hardsigmoid"):
        yield name, lambda net, x, name=name: getattr(ops, name)(4 * x), {}
    yield "elu with alpha", lambda net, x: ops.elu(x, 0.3) + ops.leaky_relu(x, 0.2), {}
    yield "prelu", lambda net, x: ops.prelu(x, net.w) + ops.prelu(x, net.v), {"w": drawn(4), "v": drawn(1)}
    yield "apl", lambda net, x: ops.apl(x, net.a, net.b), {"a": drawn(3, 4), "b": drawn(3, 4)}
    yield "linear", lambda net, x: ops.linear(x.flatten(1), net.w, net.b), {"w": drawn(7, 120), "b": drawn(7)}
    yield "linear on axes", lambda net, x: ops.linear(ops.linear(x, net.w, net.b), net.v), {
        "w": drawn(3, 6), "b": drawn(3), "v": drawn(2, 3)
    }  # fmt: skip
    yield "conv2d", lambda net, x: ops.conv2d(x, net.w, net.b, (2, 1), (1, 2), (1, 2), 2), {
        "w": drawn(6, 2, 3, 2), "b": drawn(6)
    }  # fmt: skip
    yield "depthwise_conv2d", lambda net, x: ops.depthwise_conv2d(x, net.w, net.b, 2, 1), {
        "w": drawn(4, 3, 3, 3), "b": drawn(12)
    }  # fmt: skip
    yield "conv_transpose2d", lambda net, x: ops.conv_transpose2d(x, net.w, net.b, (2, 3), (1, 0), (1, 2), 2, (1, 2)), {
        "w": drawn(4, 3, 3, 2), "b": drawn(6)
    }  # fmt: skip
    yield "max_pool2d", lambda net, x: ops.max_pool2d(x, (3, 2), 2, 1, (1, 2)), {}
    for stride in (2, 3, 4):
        yield (
            f"max_pool2d, ceil mode, stride {stride}",
            (lambda net, x, stride=stride: ops.max_pool2d(x, 3, stride, 1, ceil_mode=True)),
            {},
        )
        for counts in (True, False):
            yield (
                f"avg_pool2d, ceil mode, stride {stride}, counts padding {counts}",
                (lambda net, x, stride=stride, counts=counts: ops.avg_pool2d(x, 3, stride, 1, True, counts)),
                {},
            )
    for counts in (True, False):
        yield (
            f"avg_pool2d, counts padding {counts}",
            (lambda net, x, counts=counts: ops.avg_pool2d(x, (3, 2), (2, 1), 1, count_include_pad=counts)),
            {},
        )
    for output in (1, (5, 2), (1, 3), (3, 4), (None, 7)):
        yield f"adaptive_avg_pool2d {output}", lambda net, x, output=output: ops.adaptive_avg_pool2d(x, output), {}
        yield f"adaptive_max_pool2d {output}", lambda net, x, output=output: ops.adaptive_max_pool2d(x, output), {}
    for size in ((10, 12), (7, 4), (2, 3)):
        yield f"upsample2d nearest {size}", lambda net, x, size=size: ops.upsample2d(x, size), {}
        for corners in (True, False):
            yield (
                f"upsample2d bilinear {size}, corners {corners}",
                (lambda net, x, size=size, corners=corners: ops.upsample2d(x, size, None, "bilinear", corners)),
                {},
            )
    yield "upsample2d by a factor", lambda net, x: ops.upsample2d(x, scale_factor=1.7, mode="bilinear"), {}
    yield "softmax", lambda net, x: ops.softmax(x, 1) + ops.log_softmax(x), {}
    whe = {name: drawn(2, 2, 2) for name in "abcd"}
    for activation in ("relu", "leaky_relu", "elu", "tanh", "identity"):
        yield (
            f"whe, {activation}",
            (lambda net, x, activation=activation: ops.whe(x, net.a, net.b, net.c, net.d, activation)),
            whe,
        )
    yield "cross_layer_depthwise", lambda net, x: ops.cross_layer_depthwise([x, x * x], net.w, net.b), {
        "w": drawn(2, 4), "b": drawn(4)
    }  # fmt: skip
    yield "cross_layer_depthwise without bias", lambda net, x: ops.cross_layer_depthwise([x, -x], net.w), {
        "w": drawn(2, 4)
    }  # fmt: skip
    yield "dropout", lambda net, x: ops.dropout(x, 0.5, net.training) + ops.dropout2d(x, 0.5, net.training), {}


CASES = {name: (compute, state) for name, compute, state in cases()}


@pytest.mark.parametrize("name", CASES)
def test_function(name, tmp_path):
    compute, state = CASES[name]
    written = cupynn.export_onnx(Net(compute, **state), tmp_path / "net.onnx", (4, 5, 6))
    # 1e-6 is 8 units in the last place of the largest: an order of summation, no other function
    assert written.difference < 2e-6


def calibrated(module, *shape):
    """Batch norms with statistics that are not 0 and 1."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for name in ("running_mean", "running_var"):
                getattr(part, name)[...] = GENERATOR.uniform(0.5, 2, part.num_features)
            for parameter in part.parameters():
                parameter.data[...] = GENERATOR.uniform(-1, 2, parameter.shape)
    return module


class Normalised(nn.Module):
    """Batch norms in every form."""

    def __init__(self):
        self.bare, self.norm = nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, eps=0.1)

    def forward(self, x):
        y = self.norm(self.bare(x), relu=True)
        return self.norm(y, relu=6, residual=x) + self.norm(x, residual=y)


@pytest.mark.parametrize("norm", [True, False])
def test_cross_layer_convolution(norm, tmp_path):
    cross = nn.CrossLayerDepthwise(4, 2, norm)
    cross.bias.data[...] = drawn(*cross.bias.shape)
    if norm:
        cross.running_mean[...], cross.running_var[...] = drawn(2, 4), drawn(2, 4) ** 2

    class Crossing(nn.Module):
        def __init__(self):
            self.cross = cross

        def forward(self, x):
            output = ops.LayerOutput(x)
            return self.cross([ops.LayerOutput(x * x), output])

    written = cupynn.export_onnx(Crossing(), tmp_path / "net.onnx", (4, 5, 6))
    assert written.difference < 2e-6 and written.nodes["Sum"] == 1 and written.nodes["Mul"] == 3


def test_batch_norm(tmp_path):
    written = cupynn.export_onnx(calibrated(Normalised()), tmp_path / "net.onnx", (4, 5, 6))
    assert written.difference < 2e-6 and written.nodes["BatchNormalization"] == 4


class Sequential(nn.Module):
    """Two SeqConv layers as in a residual block; both results are read."""

    def __init__(self, windowed, bottleneck, subgroups):
        options = {"windowed": windowed, "bottleneck": bottleneck, "subgroups": subgroups, "dropout": 0.2}
        self.first, self.second = nn.SeqConv2d(5, 8, 4, **options), nn.SeqConv2d(8, 8, 2 * subgroups, **options)

    def forward(self, x):
        raw, act = self.first(x)
        return ops.concatenate(self.second(act, raw), axis=1)


@pytest.mark.parametrize("windowed", [True, False])
@pytest.mark.parametrize(("bottleneck", "subgroups"), [(False, 1), (True, 1), (True, 2)])
def test_seq_conv(windowed, bottleneck, subgroups, tmp_path):
    net = calibrated(Sequential(windowed, bottleneck, subgroups))
    written = cupynn.export_onnx(net, tmp_path / "net.onnx", (5, 6, 7))
    assert written.difference < 2e-6


def test_every_function_of_the_table_is_exercised():
    """The cases above reach all of the table."""
    reached = set()
    nets = [(Net(compute, **state), (2, 4, 5, 6)) for compute, state in CASES.values()]
    nets += [(Normalised(), (2, 4, 5, 6)), (Sequential(True, False, 1), (2, 5, 6, 7))]
    for net, shape in nets:
        reached |= {type(call.function) for call in trace(net, drawn(*shape))[0]}
    assert set(onnx_file.TABLE) <= reached
