"""The file that `export_onnx` writes, and what it refuses."""

import builtins

import numpy as np
import pytest

import cupynn
from cupynn import nn, ops

onnx = pytest.importorskip("onnx", reason="cupynn[onnx] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="cupynn[onnx] is not installed")
from cupynn.export import onnx_file  # noqa: E402


class Net(nn.Module):
    """A network of one layer, `layer`, that is a function."""

    def __init__(self, compute):
        self.layer = Layer(compute)

    def forward(self, x):
        return self.layer(x)


class Layer(nn.Module):
    def __init__(self, compute):
        self.compute = compute

    def forward(self, x):
        return self.compute(x)


def run(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


def test_what_netron_shows(tmp_path):
    model = cupynn.models.create("smallnet", expand="ck", rate=2)
    written = cupynn.export_onnx(model, tmp_path / "net.onnx", (3, 32, 32))
    proto = onnx.load(tmp_path / "net.onnx")
    assert proto.producer_name == "cupynn" and proto.producer_version == cupynn.__version__
    assert proto.ir_version == 8 and [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]
    assert proto.graph.name == "smallnet"
    assert {entry.key: entry.value for entry in proto.metadata_props}["expand"] == "ck"
    shapes = {}
    for value in (*proto.graph.input, *proto.graph.output):
        shapes[value.name] = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
    assert shapes == {"images": ["N", 3, 32, 32], "logits": ["N", 10]}
    state = cupynn.contract(model, fold_batch_norm=True).state_dict()
    found = {array.name: onnx.numpy_helper.to_array(array) for array in proto.graph.initializer}
    assert all(np.array_equal(found[name], array) for name, array in state.items())
    assert proto.graph.node[0].name == "0/Conv"
    assert written.nodes == {"Conv": 3, "Relu": 4, "MaxPool": 3, "Reshape": 1, "Gemm": 2}


def test_batch_norm_is_folded_or_kept(tmp_path):
    model = cupynn.models.create("cifar_resnet", depth=8)
    options = [True, False]
    folded, kept = (cupynn.export_onnx(model, tmp_path / f"{o}.onnx", (3, 16, 16), fold_batch_norm=o) for o in options)
    assert folded.nodes["BatchNormalization"] == 0 and kept.nodes["BatchNormalization"] == 7
    names = {array.name for array in onnx.load(tmp_path / "False.onnx").graph.initializer}
    assert {"bn1.weight", "bn1.running_var", "layer3.0.conv2.weight"} <= names
    images = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype("float32")
    answers = [run(tmp_path / f"{o}.onnx", images) for o in options]
    np.testing.assert_allclose(*answers, rtol=0, atol=1e-5 * np.abs(answers[0]).max())  # as export_onnx's own bound


def test_the_model_is_left_as_it_was(tmp_path):
    model = cupynn.models.create("smallnet", expand="cl", rate=1)
    model[1].training = False
    before = {name: array.copy() for name, array in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    cupynn.export_onnx(model, tmp_path / "net.onnx", (3, 32, 32))
    assert modes == [module.training for module in model.modules()]
    assert all(np.array_equal(array, before[name]) for name, array in model.state_dict().items())
    assert "cl" in repr(model) and all(parameter.grad is None for parameter in model.parameters())


def test_float64_is_exported_in_float32(tmp_path):
    model = cupynn.models.create("smallnet").astype("float64")
    assert cupynn.export_onnx(model, tmp_path / "net.onnx", (3, 32, 32)).difference < 1e-5
    assert run(tmp_path / "net.onnx", np.zeros((7, 3, 32, 32), np.float32)).dtype == np.float32


def test_shared_layers_and_functions_of_weights(tmp_path):
    """One weight in two places stands in the file once; what is made of weights alone is a constant."""

    class Shared(nn.Module):
        def __init__(self):
            self.a = self.b = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.b(ops.relu(self.a(x))) + ops.conv2d(x, self.a.weight * 2 + 1)

    cupynn.export_onnx(Shared(), tmp_path / "net.onnx", (3, 4, 4))
    constants = [array.name for array in onnx.load(tmp_path / "net.onnx").graph.initializer]
    assert constants == ["a.weight", "a.bias", "constant"]


def test_the_number_of_images_is_free(tmp_path):
    """Where a length follows from it, and where a constant has a row for every image."""

    def compute(x):
        n = x.shape[0]
        zeros = np.zeros((n, 2, 4, 4), np.float32)
        y = ops.concatenate([zeros, x, x, zeros[:, :1]], axis=1).reshape(n * 3, 3, 16)
        return (y * np.full((n * 3, 3, 1), 2, np.float32)).reshape(n, -1)

    model = Net(compute)
    written = cupynn.export_onnx(model, tmp_path / "net.onnx", (3, 4, 4))
    assert written.nodes == {"Concat": 1, "Pad": 1, "Reshape": 2, "Mul": 1}
    for count in (1, 3, 8):
        images = np.random.default_rng(count).standard_normal((count, 3, 4, 4)).astype("float32")
        wanted = model(cupynn.tensor(images)).numpy()
        np.testing.assert_array_equal(run(tmp_path / "net.onnx", images), wanted)


REFUSED = {
    "no form": (lambda x: ops.dropout(x, 0.5), "layer layer: Dropout: it has no form in ONNX here$"),
    "float64": (lambda x: x * np.ones(4), "layer layer: Multiply: it computes float64"),
    "outside": (lambda x: x * np.tanh(x.data), "layer layer: Multiply: an input differs from run to run"),
    "row": (lambda x: x * np.arange(len(x), dtype="f4")[:, None, None, None], "Multiply: an input differs from run"),
    "rows": (
        lambda x: ops.concatenate([x, np.arange(x[:, :1].size, dtype="f4").reshape(x[:, :1].shape)], axis=1),
        "Concatenate: an input differs from run to run",
    ),
    "rows between": (
        lambda x: ops.concatenate([x, np.zeros(x.shape, "f4"), x], axis=1),
        "Concatenate: constants with a row for every image must stand at an end",
    ),
    "first values": (lambda x: x * np.tanh(x.data[:1]), "layer layer: Multiply: an input differs from run to run"),
    "index": (lambda x: ops.relu(x)[:, int(x.data[0].argmax()) % 3], "onnxruntime's logits differ by"),
    "mask": (lambda x: ops.relu(x)[:, np.array([True, False, True])], "GetItem: of arrays, an index may hold one"),
    "first image": (lambda x: ops.relu(x)[0], "GetItem: it picks images out of the batch"),
    "first images": (lambda x: ops.relu(x)[:1], "GetItem: it picks images out of the batch"),
    "tiled": (lambda x: cupynn.autograd.broadcast_to(x.mean(axis=0), x.shape), "BroadcastTo: it repeats an array to"),
    "loop": (lambda x: sum((ops.relu(x) for _ in range(len(x))), x), "calls 2 functions for 1 images and 4 for 2"),
    "branch": (lambda x: ops.relu(x) if len(x) == 1 else ops.elu(x), "ReLU: the calls of the forward pass depend on"),
    "squeeze": (lambda x: cupynn.autograd.squeeze(x[:, :1]), "Reshape: the number of axes of its result depends on"),
    "constant": (lambda x: ops.relu(np.zeros((len(x), 2), np.float32)), "no function of cupynn makes what Net returns"),
    "tuple": (lambda x: (x, x), "Net must return a tensor; it returns tuple"),
    "variance": (lambda x: x.var(axis=(0, 2), ddof=1), "Var: a variance over all images has no fixed number"),
}


@pytest.mark.parametrize("name", [name for name in REFUSED if REFUSED[name][1]])
def test_refusals_name_layer_and_function_and_write_nothing(name, tmp_path):
    compute, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^export_onnx: .*{message}"):
        cupynn.export_onnx(Net(compute), tmp_path / "net.onnx", (3, 4, 4))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(3, 4), (1, 3, 4, 4), ()])
def test_the_shape_is_that_of_one_image(shape, tmp_path):
    with pytest.raises(ValueError, match=r"input_shape must be \(C, H, W\); got \("):
        cupynn.export_onnx(Net(ops.relu), tmp_path / "net.onnx", shape)


def test_a_wrong_file_never_gets_the_name(tmp_path, monkeypatch):
    (tmp_path / "net.onnx").write_text("the one before")
    wrong = {**onnx_file.TABLE, ops.activations.ReLU: lambda graph, x: graph.node("Softplus", x)}
    monkeypatch.setattr(onnx_file, "TABLE", wrong)
    with pytest.raises(ValueError, match=r"onnxruntime's logits differ by .* of the largest; the bound is 1e-05"):
        cupynn.export_onnx(cupynn.models.create("smallnet"), tmp_path / "net.onnx", (3, 32, 32))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("net.onnx", "the one before")]


def test_a_network_that_magnifies_rounding_is_compared_with_its_own(tmp_path):
    """Sums of terms a thousand times as large as what remains of them."""
    weight = np.random.default_rng(1).standard_normal((2, 5, 48)).astype("float32")
    both = np.concatenate([1000 * weight[0], weight[1] - 1000 * weight[0]], axis=1)
    net = Net(lambda x: net.sums(ops.concatenate([x, x], axis=1).flatten(1)))
    net.sums = nn.Linear(96, 5, bias=False)
    net.sums.weight.data[...] = both
    written = cupynn.export_onnx(net, tmp_path / "net.onnx", (3, 4, 4))
    assert 1e-5 < written.difference <= written.bound


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="differ by nan"):
        cupynn.export_onnx(Net(lambda x: ops.relu(x) * np.float32(np.nan)), tmp_path / "net.onnx", (3, 4, 4))


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_the_extra(tmp_path, monkeypatch, missing):
    real = builtins.__import__

    def without(name, *args, **options):
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    model = cupynn.models.create("smallnet")
    if missing == "onnx":
        with pytest.raises(ModuleNotFoundError, match=r"export_onnx: .*onnx.*; pip install 'cupynn\[onnx\]'"):
            cupynn.export_onnx(model, tmp_path / "net.onnx", (3, 32, 32))
    else:
        assert cupynn.export_onnx(model, tmp_path / "net.onnx", (3, 32, 32)).difference is None
        assert (tmp_path / "net.onnx").exists()
