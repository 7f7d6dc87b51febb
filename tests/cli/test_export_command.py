"""cupynn export"""

import builtins
import json
import re

import numpy as np
import pytest

import cupynn
from cupynn import cli, data
from cupynn.train import RunFolder, Settings, fit

onnx = pytest.importorskip("onnx", reason="cupynn[onnx] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="cupynn[onnx] is not installed")


@pytest.fixture
def folder(tmp_path):
    """A run folder of an expanded network that was trained on images of 24 x 24."""
    run = tmp_path / "run"
    run.mkdir()
    cupynn.save(cupynn.models.create("cifar_resnet", depth=8, expand="cl", rate=1), run / "model.safetensors")
    normalisation = {"mean": [0.5, 0.25, 0.75], "std": [1.0, 2.0, 3.0]}
    (run / "config.json").write_text(json.dumps({"input_shape": [3, 24, 24], "normalisation": normalisation}))
    return run


def image_shape(path):
    (images,) = onnx.load(path).graph.input
    return [dim.dim_param or dim.dim_value for dim in images.type.tensor_type.shape.dim]


def done(capsys, *arguments):
    assert cli.main(["export", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_a_run_for_images_of_the_size_it_was_trained_on(folder, tmp_path, capsys):
    output = tmp_path / "net.onnx"
    output.write_text("the one before")
    printed = done(capsys, folder, output)
    assert image_shape(output) == ["N", 3, 24, 24]
    assert re.search(r"^23 nodes of opset 17: 7 Conv, 7 Relu, 3 Add, ", printed), printed
    found = re.search(r"on 1 and 4 random images: the logits differ by (\S+) of the largest \(bound 1.0e-05\)", printed)
    assert float(found[1]) < 1e-5
    assert "mean [0.5, 0.25, 0.75] and std [1.0, 2.0, 3.0]" in printed
    metadata = {entry.key: entry.value for entry in onnx.load(output).metadata_props}
    assert json.loads(metadata["std"]) == [1.0, 2.0, 3.0] and metadata["depth"] == "8"
    assert f"wrote {output}, {output.stat().st_size:,} bytes, for images of 3 x 24 x 24" in printed


def test_a_file_for_images_of_any_size_with_its_batch_norms(folder, tmp_path, capsys):
    alone = (folder / "model.safetensors").rename(tmp_path / "alone.safetensors")
    printed = done(capsys, alone, tmp_path / "net.onnx", "--keep-batch-norm")
    assert image_shape(tmp_path / "net.onnx") == ["N", 3, 32, 32] and "7 BatchNormalization" in printed
    done(capsys, alone, tmp_path / "net.onnx", "--size", 16)
    assert image_shape(tmp_path / "net.onnx") == ["N", 3, 16, 16]


def test_with_its_metadata_a_file_does_what_the_run_did(tmp_path, capsys):
    pytest.importorskip("sklearn", reason="the 8x8 digits lie inside scikit-learn")
    train_set, test_set = data.load("digits8x8")
    model = cupynn.models.create("smallnet", kernel_size=5, image_size=8, in_channels=1, expand="cl", rate=1)
    (record,) = fit(model, train_set, test_set, Settings(epochs=1, keep=0), RunFolder(tmp_path / "run"), quiet=True)
    done(capsys, tmp_path / "run", tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    mean, std = (np.array(json.loads(metadata[name]))[:, None, None] for name in ("mean", "std"))
    images = ((test_set.images / 255 - mean) / std).astype(np.float32)
    (logits,) = session.run(["logits"], {"images": images})
    assert (logits.argmax(axis=1) == test_set.labels).mean() == pytest.approx(record["test_accuracy"], abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("RUN", 2, "the following arguments are required: FILE"),
        ("RUN RUN/model.safetensors", 2, "FILE must end in .onnx; got"),
        ("RUN net.onnx --size 0", 2, "--size must be at least 1; got 0"),
        ("EMPTY EMPTY/net.onnx", 1, "there is no file"),
        ("nowhere EMPTY/net.onnx", 1, "there is no file nowhere"),
        ("RUN/config.json EMPTY/net.onnx", 1, "is no whole safetensors file"),
        ("RUN EMPTY/nowhere/net.onnx", 1, "nowhere/net.onnx cannot be written: there is no folder"),
        ("SMALL EMPTY/net.onnx --size 3", 1, "no window fits"),
    ],
)
def test_errors_are_one_line_and_write_nothing(folder, tmp_path, capsys, arguments, status, message):
    empty = tmp_path / "empty"
    empty.mkdir()
    cupynn.save(cupynn.models.create("smallnet"), tmp_path / "small.safetensors")
    for name, place in {"RUN": folder, "EMPTY": empty, "SMALL": tmp_path / "small.safetensors"}.items():
        arguments = arguments.replace(name, str(place))
    before = (folder / "model.safetensors").read_bytes()
    try:
        found = cli.main(["export", *arguments.split()])
    except SystemExit as stop:  # argparse's way out
        found = stop.code
    errors = capsys.readouterr().err
    assert found == status, errors
    assert message in errors and errors.startswith("cupynn") and errors.count("\n") == 1
    assert not list(empty.iterdir()) and (folder / "model.safetensors").read_bytes() == before


def test_without_the_extra(folder, tmp_path, capsys, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name == "onnx":
            raise ModuleNotFoundError("No module named 'onnx'", name=name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert cli.main(["export", str(folder), str(tmp_path / "net.onnx")]) == 1
    errors = capsys.readouterr().err
    assert "No module named 'onnx'; pip install 'cupynn[onnx]'" in errors and errors.count("\n") == 1
