"""The page of a run: every section, of a run that is whole and of ones where something is missing."""

import json
import re
import shutil

import pytest
from markup import Markup

import cupynn
from cupynn import cli
from cupynn.kernels import runtime
from cupynn.pictures import page as pages
from cupynn.report import findings, report

pytest.importorskip("matplotlib")

SECTIONS = [
    *("Summary", "What is missing", "Training curves", "Networks", "Confusion matrix", "Contraction"),
    *("Where a training step goes", "Tape", "Settings", "Environment"),
]


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu():
    with cupynn.device.use_device("cpu"):
        yield


@pytest.fixture
def copied(run, tmp_path, monkeypatch):
    """A run of which a page is quick to make: what it measures and draws, `markup` has seen."""
    monkeypatch.setattr(findings, "throughput", lambda *arguments: 1000.0)
    monkeypatch.setattr(findings, "STEPS", 1)
    monkeypatch.setattr(pages, "picture_bytes", lambda *arguments: b"<svg/>")
    return shutil.copytree(run, tmp_path / "run")


def headings(text):
    return re.findall(r"<h2[^>]*>(.*?)</h2>", text)


def test_all_is_on_one_page(run, markup):
    page = Markup(markup)
    assert headings(markup) == SECTIONS
    assert not re.search(r'(?:src|href|srcset)="(?!data:|#)|@import|url\(', markup)
    assert markup.count("<picture>") == 3 and markup.count("<svg ") == 1
    assert "Nothing: the run is done" in page.text or runtime.mode() != "compiled"
    cells = {row[0]: row[1:] for row in page.rows}
    model = cupynn.load(run / "model.safetensors")
    compact = cupynn.contract(model)
    for title, network in {"smallnet": model, "smallnet, contracted": compact}.items():
        assert cells[title][0] == f"{sum(p.size for p in network.parameters()):,}"
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert cells["smallnet"][2] == f"{last['test_accuracy']:.2%}" == cells["smallnet, contracted"][2]
    assert float(cells["float32"][0]) < 1e-4 and float(cells["float64"][0]) < 1e-10
    assert cells["epochs"] == ["2", "10"] and cells["data.load.name"][0] == "digits8x8"
    assert cells["cupynn"] == [cupynn.__version__] and cells["device"] == ["cpu"]


def test_reading_changes_nothing(copied):
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    report(copied)
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


def change(folder, **parts):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


def test_a_run_that_was_stopped(copied):
    settings = json.loads((copied / "config.json").read_text())["settings"]
    change(copied, settings=settings | {"epochs": 9})
    text = Markup(report(copied).markup()).text
    assert "run has done 2 of 9 epochs: it was stopped, or it still runs." in text and "2 of 9" in text


def test_in_which_precision_speed_was_measured_is_said(copied):
    """Also where it is not that of the run."""
    settings = json.loads((copied / "config.json").read_text())["settings"]
    change(copied, settings=settings | {"precision": "float16"})
    page = Markup(report(copied).markup())
    assert ["precision", "float16", "float32"] in page.rows
    assert len(re.findall(r"at batch 32, in float32[.,]", page.text)) == 2


def test_data_that_is_gone(copied):
    change(copied, data={"load": {"name": "cifar10", "folder": str(copied / "nowhere"), "pad_to": None}})
    text = report(copied).markup()
    assert "The data could not be loaded, so no network was evaluated: " in text
    assert "No network could be evaluated." in text and headings(text) == SECTIONS


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_weights_that_are_gone(copied, damage):
    weights = copied / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        weights.unlink()
    text = report(copied).markup()
    assert f"The weights model.safetensors {'cannot be read' if damage == 'cut' else 'are not there'}" in text
    assert text.count("No weights could be read.") == 3 and headings(text) == SECTIONS


def test_a_run_before_its_first_epoch(copied):
    (copied / "metrics.jsonl").unlink()
    (copied / "model.safetensors").unlink()
    change(copied, environment=None, versions=None, settings={}, data=3)
    text = report(copied).markup()
    for sentence in ("No epoch is done.", "config.json does not tell", "does not say how the data was loaded"):
        assert sentence in text
    assert headings(text) == SECTIONS and Markup(text).text


def test_two_networks_in_the_order_of_their_training(copied):
    config = json.loads((copied / "config.json").read_text())
    change(copied, networks={"plain": config["networks"]["model"], "model": config["networks"]["model"]})
    cupynn.save(cupynn.contract(cupynn.load(copied / "model.safetensors")), copied / "plain.safetensors")
    rows = Markup(report(copied).markup()).rows
    names = [row[0] for row in rows if len(row) == 7]
    assert names == ["network", "plain", "model", "model, contracted"]


def test_names_are_escaped(copied):
    evil = copied.with_name("<img src=x>")
    copied.rename(evil)
    change(evil, environment={"<script>": "<b>"})
    text = report(evil).markup()
    assert "<img src=x" not in text and "<script>" not in text and "&lt;script&gt;" in text


def test_what_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no run folder: it has no config\.json"):
        report(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"is no run folder: its config\.json is not of a run"):
        report(tmp_path)


def test_the_command(run, copied, capsys):
    assert not cli.main(["report", str(copied), "--device", "cpu"])
    assert capsys.readouterr().out == f"report in {copied / 'report.html'}\n"
    assert (copied / "report.html").read_text().startswith("<!doctype html>")
    for words, message in {
        (str(copied / "no"),): "is no run folder",
        (str(copied / "model.safetensors"),): "is no run folder",
        (str(copied), "--out", str(copied / "no" / "a.html")): "there is no folder",
    }.items():
        assert cli.main(["report", *words, "--device", "cpu"]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
