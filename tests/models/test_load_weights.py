"""Weights under PyTorch's names, from safetensors files."""

import json
import struct

import numpy as np
import pytest
import safetensors.numpy

import cupynn
from cupynn import models, nn

GENERATOR = np.random.default_rng(4)


def theirs(model, dtype="float32", prefix=""):
    """A state of another library: the model's names and shapes, other numbers, counters left out."""
    return {
        prefix + name: GENERATOR.uniform(0.5, 1.5, array.shape).astype(dtype)
        for name, array in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def written(tmp_path, state, name="theirs.safetensors"):
    safetensors.numpy.save_file({key: np.asarray(array, order="C") for key, array in state.items()}, tmp_path / name)
    return tmp_path / name


def unchanged(model, before):
    return all(np.array_equal(array, before[name]) for name, array in model.state_dict().items())


def copied(model):
    return {name: array.copy() for name, array in model.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.", "_orig_mod.module."])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_names_prefixes_and_dtypes(tmp_path, prefix, dtype):
    model = models.create("cifar_resnet", depth=8)
    model.bn1.num_batches_tracked += 3
    state = theirs(model, dtype, prefix)
    counted = {f"{prefix}bn1.num_batches_tracked": np.array(70), f"{prefix}no.num_batches_tracked": np.array(1)}
    report = cupynn.load_weights(model, written(tmp_path, {**state, **counted}))
    assert report.complete and len(report.loaded) == len(state) and model.bn1.num_batches_tracked == 3
    for name, array in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, state[prefix + name].astype("float32"))


def test_a_prefix_that_is_the_networks_own_stays(tmp_path):
    model = models.create("mobilenet_v1", classes=2)
    assert any(name.startswith("model.") for name in model.state_dict())
    for prefix in ("", "module."):
        state = theirs(model, prefix=prefix)
        assert cupynn.load_weights(model, written(tmp_path, state)).complete
        np.testing.assert_array_equal(model.model[0][0].weight.data, state[f"{prefix}model.0.0.weight"])


def test_bfloat16_is_widened_exactly(tmp_path):
    """Written by hand: NumPy has no such type."""
    model = nn.Linear(2, 3, bias=False)
    wanted = np.array([[1.0, -2.5], [0.0, np.inf], [3e38, -1e-38]], "float32")
    upper = (wanted.view("uint32") >> 16).astype("<u2")
    header = json.dumps({"weight": {"dtype": "BF16", "shape": [3, 2], "data_offsets": [0, 12]}}).encode()
    (tmp_path / "bf16.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + upper.tobytes())
    cupynn.load_weights(model, tmp_path / "bf16.safetensors")
    np.testing.assert_array_equal(model.weight.data, (upper.astype("uint32") << 16).view("float32"))
    assert model.weight.data[0, 1] == -2.5


def test_what_does_not_match_is_listed_and_nothing_changes(tmp_path):
    model = models.create("cifar_resnet", depth=8)
    before = copied(model)
    state = theirs(model)
    state["classifier.fc.weight"] = state.pop("fc.weight")
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    state["extra"] = np.zeros(2, np.float32)
    path = written(tmp_path, state)
    with pytest.raises(ValueError) as error:
        cupynn.load_weights(model, path)
    lines = str(error.value).splitlines()
    assert lines[0] == f"load_weights: {path} does not fit CIFARResNet, which is unchanged"
    assert set(map(str.strip, lines[1:])) == {
        f"{len(state) - 3} arrays match",
        "the file has not: fc.weight (10, 64); the nearest is classifier.fc.weight (10, 64)",
        "the model has not: classifier.fc.weight (10, 64); the nearest is fc.weight (10, 64)",
        "the model has not: extra (2,)",
        "shapes differ: conv1.weight: (16, 3, 3, 3), in the file (16, 1, 3, 3)",
    }
    assert unchanged(model, before)
    report = cupynn.load_weights(model, path, strict=False)
    assert "fc.bias" in report.loaded and not {"conv1.weight", "fc.weight"} & set(report.loaded)
    assert not report.complete
    after = model.state_dict()
    for name in after:
        wanted = state[name] if name in report.loaded else before[name]
        np.testing.assert_array_equal(after[name], wanted)


def test_long_lists_are_cut(tmp_path):
    model = models.create("cifar_resnet", depth=8)
    state = theirs(models.create("cifar_resnet", depth=32))
    report = cupynn.load_weights(model, written(tmp_path, state), strict=False)
    text = str(report)
    assert f"the model has not: and {len(report.unexpected) - 10} more" in text and text.count("\n") < 35


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "no.safetensors", "there is no file"),
        (b"hello", "no.safetensors", r"\(5 bytes\) is no whole safetensors file"),
        (b"hello", "weights.pth", "is a pickle, which may run any program"),
        ({"other": np.zeros(2)}, "t.safetensors", "0 arrays match"),
        ({"weight": np.zeros((3, 2)), "module.weight": np.zeros((3, 2))}, "t.safetensors", "two arrays for weight"),
        ({"weight": np.zeros((3, 2), "uint16")}, "t.safetensors", "weight is U16; known are BF16, F16, F32"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_files_that_are_refused(tmp_path, content, name, message, strict):
    model = nn.Linear(2, 3, bias=False)
    before = copied(model)
    if isinstance(content, dict):
        written(tmp_path, content, name)
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        cupynn.load_weights(model, tmp_path / name, strict)
    assert unchanged(model, before)


def batch_norm(name):
    return [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]


def torchvision_resnet18():
    yield from ("conv1.weight", *batch_norm("bn1"), "fc.weight", "fc.bias")
    for layer in range(1, 5):
        for block in range(2):
            for number in (1, 2):
                yield f"layer{layer}.{block}.conv{number}.weight"
                yield from batch_norm(f"layer{layer}.{block}.bn{number}")
        if layer > 1:
            yield from (f"layer{layer}.0.downsample.0.weight", *batch_norm(f"layer{layer}.0.downsample.1"))


def torchvision_mobilenet_v2():
    yield from ("classifier.1.weight", "classifier.1.bias")
    for number in (0, 18):
        yield from (f"features.{number}.0.weight", *batch_norm(f"features.{number}.1"))
    for number in range(1, 18):
        units = ["0.0", "0.1", "1", "2"] if number == 1 else ["0.0", "0.1", "1.0", "1.1", "2", "3"]
        for conv, norm in zip(units[::2], units[1::2], strict=True):
            yield from (f"features.{number}.conv.{conv}.weight", *batch_norm(f"features.{number}.conv.{norm}"))


def torchvision_shufflenet_v2():
    yield from ("fc.weight", "fc.bias")
    for name in ("conv1", "conv5"):
        yield from (f"{name}.0.weight", *batch_norm(f"{name}.1"))
    for stage, units in ((2, 4), (3, 8), (4, 4)):
        for unit in range(units):
            pairs = [("branch1", 0), ("branch1", 2)] if unit == 0 else []
            for branch, conv in (*pairs, ("branch2", 0), ("branch2", 3), ("branch2", 5)):
                name = f"stage{stage}.{unit}.{branch}"
                yield from (f"{name}.{conv}.weight", *batch_norm(f"{name}.{conv + 1}"))


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("resnet", torchvision_resnet18),
        ("mobilenet_v2", torchvision_mobilenet_v2),
        ("shufflenet_v2", torchvision_shufflenet_v2),
    ],
)
def test_names_are_torchvisions(name, names):
    with nn.init.shapes_only():
        assert set(models.create(name).state_dict()) == set(names())


def test_a_file_that_torch_wrote(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(4 * 5 * 5, 2),
    )  # fmt: skip
    with torch.no_grad():
        theirs(torch.randn(8, 3, 5, 5))  # moves the running statistics
    ours = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(100, 2))
    images = torch.randn(3, 3, 5, 5)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 1e-6)):
        save_file({f"module.{k}": v.to(dtype) for k, v in theirs.state_dict().items()}, tmp_path / "t.safetensors")
        assert cupynn.load_weights(ours, tmp_path / "t.safetensors").complete
        rounded = theirs.to(dtype).float().eval()
        with torch.no_grad():
            wanted = rounded(images).numpy()
        found = ours.eval()(cupynn.tensor(images.numpy())).numpy()
        # sums of 27 and 100 terms in another order
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max() * 4)
