"""cupynn import-weights"""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import cupynn
from cupynn import models
from cupynn.cli import main


@pytest.fixture
def places(tmp_path):
    """A file for smallnet of 7 classes, one of which an array has another shape, and one that is not there."""
    state = models.create("smallnet", classes=7).state_dict()
    state = {f"module.{name}": array for name, array in state.items() if not name.endswith("num_batches_tracked")}
    files = {name: tmp_path / f"{name.lower()}.safetensors" for name in ("FITS", "PARTS", "OUT")}
    save_file(state, files["FITS"])
    save_file({**state, "module.0.bias": np.zeros(9, np.float32)}, files["PARTS"])
    return files


def run(places, arguments):
    try:
        return main([str(places.get(word, word)) for word in ["import-weights", *arguments.split()]])
    except SystemExit as stop:
        return stop.code


def test_command(places, capsys):
    assert run(places, "smallnet FITS OUT --option classes=7") == 0
    printed = capsys.readouterr().out
    model = cupynn.load(places["OUT"])
    state = load_file(places["FITS"])
    assert f"{len(state)} arrays match" in printed and f"wrote {places['OUT']}" in printed
    np.testing.assert_array_equal(model[0].weight.data, state["module.0.weight"])
    assert run(places, "smallnet PARTS OUT --option classes=7 --partial") == 0
    assert "shapes differ" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("smallnet FITS", 2, "the following arguments are required: FILE"),
        ("bignet FITS OUT", 2, "there is no network 'bignet'"),
        ("smallnet nowhere OUT", 1, "there is no file nowhere"),
        ("smallnet FITS OUT", 1, "shapes differ: "),
        ("smallnet nowhere FITS", 1, "there is no file nowhere"),
        ("smallnet FITS FITS", 2, "FILE must be another file than WEIGHTS"),
        ("smallnet FITS OUT --option width=3", 2, "has no option 'width'"),
    ],
)
def test_errors_of_the_command(places, capsys, arguments, status, message):
    before = places["FITS"].read_bytes()
    assert run(places, arguments) == status
    errors = capsys.readouterr().err
    assert message in errors and errors.startswith("cupynn") and errors.count("\n") == 1
    assert not places["OUT"].exists() and places["FITS"].read_bytes() == before
