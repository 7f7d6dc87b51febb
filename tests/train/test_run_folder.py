import json

import numpy as np
import pytest

import cupynn
from cupynn import models
from cupynn.pictures import DARK, LIGHT
from cupynn.serialization import replacing
from cupynn.train import RunFolder, draw_curves, read_config, throughput


def test_a_folder_that_holds_a_run_is_refused_or_overwritten(tmp_path):
    for name in ("notes.txt", "pretrained.safetensors"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds a run already \(pretrained.safetensors\)"):
        RunFolder(tmp_path)
    run = RunFolder(tmp_path, overwrite=True)
    run.add_config(networks={"plain": None})
    run.add_metrics({"network": "plain", "epoch": 1})
    run.save(models.create("smallnet"), "plain")
    run.save(models.create("smallnet"), "compact")
    for file in ("checkpoints/plain-epoch0001-step000000.safetensors", "events/plain/events.out.tfevents.000000"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    (tmp_path / "events" / "other").mkdir()
    with pytest.raises(FileExistsError, match=r"holds a run already \(config.json\)"):
        RunFolder(tmp_path)
    assert RunFolder(tmp_path, overwrite=True).metrics() == []
    # what the run did not write is left alone
    left = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*"))
    assert left == ["events", "events/other", "notes.txt", "pretrained.safetensors"]


def test_parts_of_the_config_are_merged(tmp_path):
    run = RunFolder(tmp_path)
    run.add_config(networks={"plain": {"name": "smallnet"}}, settings={"epochs": 1})
    run.add_config(networks={"model": None}, settings={"epochs": 1})
    assert read_config(tmp_path) == {
        "networks": {"plain": {"name": "smallnet"}, "model": None},
        "settings": {"epochs": 1},
    }


def test_metrics_are_json_also_where_a_number_is_not_finite(tmp_path):
    run = RunFolder(tmp_path)
    run.add_metrics({"epoch": 1, "test_loss": float("nan")})
    run.add_metrics({"epoch": np.int64(2), "test_loss": np.float32(0.5)})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == [
        {"epoch": 1, "test_loss": None},
        {"epoch": 2, "test_loss": 0.5},
    ]


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run folder: it has no config"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"settings": ')
    with pytest.raises(ValueError, match=r"config\.json: expected JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"config\.json: expected JSON; 'utf-8' codec"):
        read_config(tmp_path)


@pytest.mark.parametrize("line", [b"\xff\xfe", b"\0\0", b"[1]", b"{}", b'{"network": "model", "epoch": "2"}', b"7"])
def test_a_line_of_metrics_that_is_no_record_is_named(tmp_path, line):
    run = RunFolder(tmp_path)
    run.add_metrics({"network": "model", "epoch": 1})
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(whole + line + b"\n" + whole)
    for read in (run.metrics, lambda: run.keep_metrics("model", 1)):
        with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: expected the record of an epoch; found b"):
            read()
    (tmp_path / "metrics.jsonl").write_bytes(whole + line)  # half written
    assert run.metrics() == [{"network": "model", "epoch": 1}]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as beside:
        beside.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_throughput_leaves_the_model_as_it_is():
    cupynn.manual_seed(0)
    model = models.create("smallnet", kernel_size=5, in_channels=1, image_size=8)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    images = np.random.default_rng(0).standard_normal((16, 1, 8, 8)).astype(np.float32)
    assert throughput(model, images) > 0
    assert throughput(model, images, np.arange(16) % 10) > 0
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


def test_curves_are_a_picture_with_a_line_per_network(tmp_path):
    to_rgb = pytest.importorskip("matplotlib.colors").to_rgb
    from PIL import Image

    def record(network, epoch):
        return {
            "network": network,
            "epoch": epoch,
            "train_loss": 1 / epoch,
            "test_loss": None,  # was not finite
            "test_accuracy": 1 - 0.1 / epoch,
        }

    pictures = []
    for networks in (["model"], ["plain", "model"]):
        records = [record(network, epoch) for network in networks for epoch in (1, 2, 3)]
        draw_curves(records, tmp_path / "curves.png", {"model": "expanded"}, "a title")
        with Image.open(tmp_path / "curves.png") as picture:
            assert picture.size == (1500, 600)
            colours = {to_rgb(f"#{bytes(colour).hex()}") for _, colour in picture.convert("RGB").getcolors(1 << 20)}
        pictures.append([to_rgb(colour) in colours for colour in LIGHT.lines[:2]])
    assert pictures == [[True, False], [True, True]]


def test_curves_without_a_finite_number(tmp_path):
    pytest.importorskip("matplotlib")
    lost = {"network": "model", "epoch": 1, "train_loss": None, "test_loss": None, "test_accuracy": None}
    draw_curves([lost], tmp_path / "curves.svg", dark=True)
    assert DARK.background in (tmp_path / "curves.svg").read_text()
