"""Checkpoints: what they hold, how many are kept, and what happens when disks, files and users fail."""

import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import shutil
import tempfile

import numpy as np
import pytest

import cupynn
from cupynn import data, models, nn
from cupynn.device import generator, to_numpy
from cupynn.optim import SGD
from cupynn.serialization import load_state
from cupynn.train import RunFolder, Settings, fit
from cupynn.train.checkpoints import Checkpoints, read
from cupynn.train.progress import Progress

SETTINGS = Settings(epochs=3, batch_size=32, lr=0.02)


def network(seed: int = 0, **options) -> nn.Module:
    cupynn.manual_seed(seed)
    return models.create("smallnet", kernel_size=5, in_channels=1, image_size=8, **options)


def trained(model: nn.Module, seed: int = 1) -> SGD:
    """An optimiser that has made a step with random gradients."""
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.grad = cupynn.device.asarray(rng.standard_normal(parameter.shape).astype(np.float32))
    optimizer.step()
    return optimizer


@pytest.fixture(scope="module")
def sets():
    """A hundred of the 8x8 digits, and thirty."""
    pytest.importorskip("sklearn", reason="the 8x8 digits lie inside scikit-learn")
    train, test = data.load("digits8x8")
    return few(train, 100), few(test, 30)


def few(dataset, count):
    chosen = np.linspace(0, len(dataset) - 1, count).astype(int)
    return dataclasses.replace(dataset, images=dataset.images[chosen], labels=dataset.labels[chosen])


def names(run: pathlib.Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_all_comes_back(tmp_path, device):
    model = network()
    optimizer = trained(model)
    optimizer.param_groups[0]["lr"] = 0.0625
    generator().random(3, dtype="float32")  # an odd number: half of a 64-bit draw is left over
    progress = Progress(
        epoch=2, step=5, images=160, loss=0.1 + 0.2, hits=77, seconds=1.5, best_accuracy=0.7, best_epoch=1
    )
    path = Checkpoints(tmp_path).save(model, optimizer, SETTINGS, progress)
    drawn = generator().random(5, dtype="float32")
    assert path.name == "model-epoch0002-step000005.safetensors"

    other = network(seed=9)
    fresh = SGD(other.parameters(), lr=0.5)
    assert read(path).restore(other, fresh, SETTINGS) == progress
    np.testing.assert_array_equal(generator().random(5, dtype="float32"), drawn)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(to_numpy(other.state_dict()[name]), to_numpy(array), err_msg=name)
    ours, theirs = fresh.state_dict(), optimizer.state_dict()
    assert ours["groups"] == theirs["groups"]
    for a, b in zip(ours["velocities"], theirs["velocities"], strict=True):
        np.testing.assert_array_equal(to_numpy(a), to_numpy(b))


def test_the_last_few_and_the_best_are_kept(tmp_path, sets):
    settings = dataclasses.replace(SETTINGS, keep=3, checkpoint_steps=2)
    records = fit(network(), *sets, settings, RunFolder(tmp_path / "run"), quiet=True)
    places = ["epoch0002-step000002", "epoch0002-step000004", "epoch0003-step000000"]
    assert names(tmp_path / "run") == ["model-best.safetensors", *(f"model-{place}.safetensors" for place in places)]
    last = read(tmp_path / "run" / "checkpoints" / f"model-{places[-1]}.safetensors")
    accuracies = [record["test_accuracy"] for record in records]
    assert last.progress.best_accuracy == max(accuracies)
    assert last.progress.best_epoch == 1 + accuracies.index(max(accuracies))
    best = cupynn.load(tmp_path / "run" / "checkpoints" / "model-best.safetensors")
    assert cupynn.train.evaluate(best, sets[1]).accuracy == max(accuracies)


def test_what_a_killed_process_did_not_come_to_remove_is_removed(tmp_path, sets):
    fit(network(), *sets, SETTINGS, RunFolder(tmp_path), quiet=True)
    kept = names(tmp_path)
    older = tmp_path / "checkpoints" / "model-epoch0001-step000003.safetensors"
    shutil.copy(tmp_path / "checkpoints" / kept[-1], older)
    fit(network(), *sets, SETTINGS, RunFolder.reopen(tmp_path), quiet=True, resume=True)
    assert names(tmp_path) == kept


def test_checkpoints_by_the_clock_and_none_at_all(tmp_path, sets, monkeypatch):
    saved = []
    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda *args: saved.append(args[-1].step) or save(*args))
    settings = dataclasses.replace(SETTINGS, epochs=1, checkpoint_seconds=0)
    fit(network(), *sets, settings, RunFolder(tmp_path / "often"), quiet=True)
    assert saved == [0, 1, 2, 3, 4, 0]
    fit(network(), *sets, dataclasses.replace(settings, keep=0), RunFolder(tmp_path / "never"), quiet=True)
    assert not (tmp_path / "never" / "checkpoints").exists() and len(saved) == 6


def test_a_finished_run_that_is_resumed_stays_as_it_is(tmp_path, sets):
    records = fit(network(), *sets, SETTINGS, RunFolder(tmp_path), quiet=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    model = network(seed=5)
    assert fit(model, *sets, SETTINGS, RunFolder.reopen(tmp_path), quiet=True, resume=True) == records
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    state, _ = load_state(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(to_numpy(model.state_dict()["0.weight"]), state["0.weight"])


def test_overwriting_a_run_takes_its_checkpoints_along_and_a_new_one_does_not_mix_with_them(tmp_path, sets):
    fit(network(), *sets, dataclasses.replace(SETTINGS, epochs=1), RunFolder(tmp_path), quiet=True)
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds a run already"):
        RunFolder(tmp_path)
    RunFolder(tmp_path, overwrite=True)
    assert names(tmp_path) == ["notes.txt"]


def test_lines_that_a_checkpoint_does_not_know_go_and_half_lines_too(tmp_path):
    run = RunFolder(tmp_path)
    run.add_config(networks={"model": None, "other": None})
    for epoch in (1, 2, 3):
        run.add_metrics({"network": "model", "epoch": epoch, "test_loss": 0.1 * epoch})
        run.add_metrics({"network": "other", "epoch": epoch, "test_loss": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"network": "model", "epo')
    kept = RunFolder.reopen(tmp_path).keep_metrics("model", 1)
    assert [record["epoch"] for record in kept] == [1]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["network"], line["epoch"]) for line in lines] == [
        ("model", 1),
        ("other", 1),
        ("other", 2),
        ("other", 3),
    ]


@pytest.fixture
def stopped(tmp_path, sets):
    """The folder of a run with two checkpoints and the best weights, of which one epoch is left to do."""
    run = tmp_path / "run"
    fit(network(), *sets, SETTINGS, RunFolder(run), quiet=True)
    (run / "checkpoints" / "model-epoch0003-step000000.safetensors").unlink()
    checkpoints = Checkpoints(run)
    checkpoint = read(checkpoints.files()[-1])
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    checkpoint.restore(model, optimizer, SETTINGS)
    earlier = dataclasses.replace(checkpoint.progress, epoch=1, best_accuracy=0, best_epoch=0)
    checkpoints.save(model, optimizer, SETTINGS, dataclasses.replace(earlier, step=1))
    checkpoints.save(model, optimizer, SETTINGS, dataclasses.replace(earlier, step=2))
    return run


def resume(run, sets, **options):
    return fit(network(3), *sets, SETTINGS, RunFolder.reopen(run), resume=True, **options)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1  # in the arrays, which safetensors does not check
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path):
    path.write_bytes(b"")


def other_text(path):
    content = path.read_bytes()
    assert b'\\"step\\": 2' in content
    path.write_bytes(content.replace(b'\\"step\\": 2', b'\\"step\\": 3'))


@pytest.mark.parametrize("damage", [flip_a_bit, cut, empty, other_text])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(stopped, sets, damage, capsys):
    older, newer = Checkpoints(stopped).files()
    damage(newer)
    records = resume(stopped, sets)
    printed = capsys.readouterr().out
    assert f"the checkpoint {newer} is damaged" in printed and f"going on from the one before, {older.name}" in printed
    assert "going on after 1 epochs and 1 steps of 3" in printed
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert names(stopped) == [
        "model-best.safetensors",
        "model-epoch0002-step000000.safetensors",
        "model-epoch0003-step000000.safetensors",
    ]


def test_a_checkpoint_that_cannot_be_read_is_as_good_as_damaged(stopped, sets, capsys):
    """As where a disk fails; here a link to nowhere."""
    older, newer = Checkpoints(stopped).files()
    newer.unlink()
    newer.symlink_to("nowhere")
    assert len(resume(stopped, sets)) == 3
    assert f"going on from the one before, {older.name}" in capsys.readouterr().out


def test_with_no_whole_checkpoint_it_does_not_start_again_from_nothing(stopped, sets):
    older, newer = Checkpoints(stopped).files()
    cut(older), flip_a_bit(newer)
    before = (stopped / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole: .*step000002.* is damaged.*step000001"):
        resume(stopped, sets)
    assert (stopped / "metrics.jsonl").read_bytes() == before and len(Checkpoints(stopped).files()) == 2


def test_with_its_checkpoints_gone_a_run_does_not_start_again_from_nothing(stopped, sets):
    shutil.rmtree(stopped / "checkpoints")
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="has no checkpoint to go on from, and epochs of it are done"):
        resume(stopped, sets)
    assert {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()} == before


def test_a_damaged_checkpoint_does_not_push_out_a_whole_one(stopped):
    """With keep=1: the damaged newer one goes, and the one just written stays."""
    older, newer = Checkpoints(stopped).files()
    cut(newer)
    model = network()
    checkpoints = Checkpoints(stopped, keep=1)
    checkpoint = checkpoints.newest(lambda text: None)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    progress = checkpoint.restore(model, optimizer, SETTINGS)
    assert checkpoint.path == older
    progress.epoch, progress.step = 1, 1
    assert checkpoints.save(model, optimizer, SETTINGS, progress) == older and checkpoints.files() == [older]


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (lambda: network(expand="ck", rate=2), SETTINGS, "is a checkpoint of another network: of .*'smallnet'"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), SETTINGS, "of another network: .* this one is None"),
        (network, dataclasses.replace(SETTINGS, lr=0.03), "with other settings: lr=0.02, not 0.03"),
        (lambda: network().astype("float64"), SETTINGS, "has dtype float32; this network has float64"),
    ],
)
def test_a_checkpoint_of_another_model_or_other_settings(stopped, sets, make, settings, message):
    model = make()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        fit(model, *sets, settings, RunFolder.reopen(stopped), resume=True, quiet=True)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_checkpoint_of_another_model_of_no_name(tmp_path):
    """Neither was made by models.create, so shapes tell them apart; nothing is changed."""
    one, other = (nn.Sequential(nn.Flatten(), nn.Linear(64, classes)) for classes in (10, 9))
    path = Checkpoints(tmp_path).save(one, trained(one), SETTINGS, Progress())
    optimizer = SGD(other.parameters(), lr=0.5, momentum=0.25)
    before = other.state_dict()["1.weight"].copy()
    with pytest.raises(ValueError, match=r"is a checkpoint of another model: .*\(9, 64\).*\(10, 64\)"):
        read(path).restore(other, optimizer, SETTINGS)
    np.testing.assert_array_equal(other.state_dict()["1.weight"], before)
    assert optimizer.param_groups[0]["lr"] == 0.5 and optimizer.state_dict()["velocities"] == [None, None]


def test_other_data(stopped, sets):
    with pytest.raises(ValueError, match=r"was trained on the data .*'train': 100.*; this is .*'train': 99"):
        resume(stopped, (few(sets[0], 99), sets[1]))


def test_files_that_are_no_checkpoints(tmp_path):
    model = network()
    cupynn.save(model, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="is no checkpoint: its metadata should hold"):
        read(tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing.safetensors")
    path = Checkpoints(tmp_path).save(model, trained(model), SETTINGS, Progress())
    with pytest.raises(ValueError, match="is a checkpoint of training; weights alone"):
        cupynn.load(path)


@contextlib.contextmanager
def full_disk(size):
    """No file of this process may grow beyond `size` bytes: a write that would fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("which", ["weights", "checkpoint"])
def test_a_full_disk_leaves_the_checkpoints_before(stopped, sets, which):
    before = {path: path.read_bytes() for path in Checkpoints(stopped).files()}
    newest = Checkpoints(stopped).files()[-1]
    # A checkpoint, with its velocities, is about twice as large as the weights alone.
    room = 1000 if which == "weights" else newest.stat().st_size - 1000
    with (
        full_disk(room),
        pytest.raises(OSError, match=r"fit: cannot write to .*; the last good checkpoint is ") as caught,
    ):
        resume(stopped, sets, quiet=True)
    assert str(newest) in str(caught.value) and "File too large" in str(caught.value)
    assert {path: path.read_bytes() for path in Checkpoints(stopped).files()} == before
    assert not list(stopped.rglob(".*.part"))
    # once there is room, it goes on
    assert [record["epoch"] for record in resume(stopped, sets, quiet=True)] == [1, 2, 3]
    assert (stopped / "metrics.jsonl").read_text().count("\n") == 3


def test_a_folder_that_takes_no_changes(sets):
    folder = pathlib.Path(tempfile.mkdtemp())  # pytest's own folders are closed to others than their owner
    try:
        run = RunFolder(folder / "run")
        fit(network(), *sets, dataclasses.replace(SETTINGS, epochs=1), run, quiet=True)
        before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
        model = network()
        folder.chmod(0o755)
        for path in (run.path, run.path / "checkpoints"):
            path.chmod(0o555)
        optimizer = trained(model)
        with as_somebody_without_rights(), pytest.raises(PermissionError) as caught:
            Checkpoints(run.path).save(model, optimizer, SETTINGS, Progress(epoch=2))
        assert str(run.path / "checkpoints") in str(caught.value)
        with as_somebody_without_rights(), pytest.raises(PermissionError, match=r"fit: cannot write to .*Permission"):
            fit(model, *sets, SETTINGS, run, quiet=True)
        assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    finally:
        for path in (folder / "run", folder / "run" / "checkpoints"):
            path.chmod(0o755)
        shutil.rmtree(folder)


@contextlib.contextmanager
def as_somebody_without_rights():
    """For root, whom no mode of a folder stops, another user inside a `with` block."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
