"""cupynn train, and train --resume, in this process."""

import json
import resource
import shlex
import shutil
import signal

import numpy as np
import pytest

import cupynn
from cupynn import cli
from cupynn.serialization import load_state
from cupynn.train import RunFolder, Settings
from cupynn.train.evaluation import RunningScore

pytest.importorskip("sklearn", reason="the 8x8 digits lie inside scikit-learn")
NETWORK = "--data digits8x8 smallnet --option kernel_size=5"


@pytest.fixture
def run(command):
    """A function that runs `cupynn ARGUMENTS` and gives its status, what it printed, and its errors."""
    return lambda arguments: command(*shlex.split(arguments))


def same_weights(one, other):
    (ours, _), (theirs, _) = (load_state(path / "model.safetensors") for path in (one, other))
    return all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_a_stopped_run_goes_on_to_the_bits_of_one_that_was_not(tmp_path, run, monkeypatch):
    """Ctrl-C after the fifth step of the second epoch; batches come from two threads."""
    recipe = f"{NETWORK} --epochs 2 --batch-size 100 --crop 1 --device cpu --workers 2 --seed 4"
    assert run(f"train {recipe} --run {tmp_path / 'whole'}")[0] == 0
    add, calls = RunningScore.add, []

    def interrupt(self, *args):
        add(self, *args)
        calls.append(self)
        if sum(score is self for score in calls) == 5 and len({id(score) for score in calls}) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunningScore, "add", interrupt)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where tests are run
    try:
        status, _, errors = run(f"train {recipe} --run {tmp_path / 'run'}")
    finally:
        signal.signal(signal.SIGINT, handler)
    assert status == 130 and f"stopped in epoch 2 of 2; the weights as they were are in {tmp_path}" in errors
    assert f"; cupynn train --resume {tmp_path / 'run'} goes on" in errors
    monkeypatch.undo()
    assert not same_weights(tmp_path / "run", tmp_path / "whole")
    status, printed, errors = run(f"train --resume {tmp_path / 'run'}")
    assert status == 0, errors
    assert "going on after 1 epochs and 5 steps of 2" in printed and "epoch 2/2" in printed and "1/2" not in printed
    assert same_weights(tmp_path / "run", tmp_path / "whole")
    status, printed, _ = run(f"train --resume {tmp_path / 'run'}")  # there is nothing left to do
    assert status == 0 and "epoch 2/2" not in printed and "going on after 2 epochs of 2" in printed


def test_every_setting_is_an_option_and_is_stored(tmp_path, run):
    options = "--epochs 1 --batch-size 300 --lr 0.01 --momentum 0.8 --no-nesterov --weight-decay 0.001 "
    options += "--no-decay-biases --schedule multistep --milestones 0.5 0.75 --milestone-factor 0.5 --warm-up 0.25 "
    options += "--warm-up-from 0.2 --clip-norm 3 --label-smoothing 0.1 --crop 1 --flip --seed 3 --workers 1 --keep 1 "
    options += "--checkpoint-seconds 30 --checkpoint-steps 4 --synchronise-batch-norm --cuda-graph --precision float16 "
    status, _, errors = run(f"train {NETWORK} --epochs 1 --device cpu --run {tmp_path / 'teacher'}")
    assert status == 0, errors
    options += f"--teacher {tmp_path / 'teacher'} --temperature 3 --teacher-weight 0.4 --product-decay 1e-4 --frozen 1"
    status, _, errors = run(f"train {options} {NETWORK} --expand ck --device cpu --run {tmp_path / 'run'}")
    assert status == 0, errors
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    wanted = Settings(
        epochs=1, batch_size=300, lr=0.01, momentum=0.8, nesterov=False, weight_decay=0.001, decay_biases=False,
        schedule="multistep", milestones=(0.5, 0.75), milestone_factor=0.5, warm_up=0.25, warm_up_from=0.2,
        clip_norm=3.0, label_smoothing=0.1, crop=1, flip=True, seed=3, workers=1, keep=1, checkpoint_seconds=30.0,
        checkpoint_steps=4, teacher=str(tmp_path / "teacher"), temperature=3.0, teacher_weight=0.4, product_decay=1e-4,
        frozen=("1",), synchronise_batch_norm=True, cuda_graph=True, precision="float16",
    )  # fmt: skip
    assert Settings.from_table(stored) == wanted
    default = Settings()
    left = [name for name, value in vars(wanted).items() if value == getattr(default, name)]
    assert left == ["colour_jitter", "lighting", "groups"]  # for colour images; see test_recipe_option.py
    assert len(list((tmp_path / "run" / "checkpoints").glob("model-epoch*"))) == 1
    frozen = cupynn.load(tmp_path / "run" / "model.safetensors")[1]
    assert (frozen.weight.data == 1).all() and (frozen.running_mean == 0).all()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    before = cupynn.default_device()
    try:
        words = f"train {NETWORK} --epochs 1 --batch-size 300 --device cpu --run {folder}".split()
        assert cli.main(words) == 0
    finally:
        cupynn.set_default_device(before)
    return folder


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("", 2, "the following arguments are required: MODEL, --data"),
        ("smallnet", 2, "the following arguments are required: --data"),
        ("--resume NOWHERE", 1, "is no run folder: it has no config.json"),
        ("--resume RUN --lr 0.1 --epochs 3", 2, "--resume takes all settings from the run; --epochs, --lr cannot be"),
        ("smallnet --resume RUN", 2, "MODEL cannot be given"),
        ("--resume RUN --data digits", 2, "--data cannot be given"),
        ("--resume RUN --option kernel_size=7", 2, "--option cannot be given"),
        ("--resume HALF", 1, "expected JSON"),
        ("--resume BARE", 1, "is not of a run that `cupynn train` began: KeyError('settings')"),
        ("--resume DAMAGED", 1, "is whole: the checkpoint"),
        ("smallnet --data digits8x8 --label-smoothing 2", 2, "label_smoothing must be at most 1"),
        ("smallnet --data digits8x8 --warm-up 10", 2, "Cosine: warm_up must be >= 0 and less than epochs"),
    ],
)
def test_errors_are_one_line(tmp_path, run, finished, arguments, status, message):
    half, bare, damaged = tmp_path / "half", tmp_path / "bare", tmp_path / "damaged"
    for folder in (half, damaged):
        folder.mkdir()
        (folder / "config.json").write_bytes((finished / "config.json").read_bytes())
        (folder / "checkpoints").mkdir()
    (half / "config.json").write_text('{"settings": ')
    RunFolder(bare).add_config(data={})
    for file in (finished / "checkpoints").glob("model-epoch*"):
        (damaged / "checkpoints" / file.name).write_bytes(file.read_bytes()[:-1])
    places = {"RUN": finished, "NOWHERE": tmp_path / "nowhere", "HALF": half, "BARE": bare, "DAMAGED": damaged}
    words = [str(places.get(word, word)) for word in arguments.split()]
    found, _, errors = run(shlex.join(["train", *words]))
    assert found == status, errors
    assert message in errors and errors.startswith("cupynn: error: ") and errors.count("\n") == 1


def test_a_run_killed_before_its_first_checkpoint_starts_anew(tmp_path, run, finished):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_bytes((finished / "config.json").read_bytes())
    status, _, errors = run(f"train --resume {folder}")
    assert status == 0, errors
    assert same_weights(folder, finished)


def test_what_runs_otherwise_now_is_said(tmp_path, run, finished):
    folder = tmp_path / "run"
    folder.mkdir()
    config = json.loads((finished / "config.json").read_text())
    config["versions"]["numpy"], config["environment"]["threads"] = "1.99", "77"
    (folder / "config.json").write_text(json.dumps(config))
    status, printed, _ = run(f"train --resume {folder}")
    assert status == 0 and printed.count("the bits may differ") == 2
    assert f"numpy: {np.__version__}, was 1.99; the bits may differ" in printed and ", was 77; the bits" in printed


@pytest.mark.parametrize(
    ("part", "value"),
    [("environment", []), ("versions", []), ("events", 3), ("events", {"every": "x"}), ("data", 5), ("networks", {})],
)
def test_a_config_with_something_else_in_it(tmp_path, run, finished, part, value):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(json.loads((finished / "config.json").read_text()) | {part: value}))
    status, _, errors = run(f"train --resume {folder}")
    assert status == 1 and f"{folder / 'config.json'} is not of a run that `cupynn train` began" in errors
    assert errors.count("\n") == 1


def test_what_comes_behind_a_run_that_is_done_does_not_fail_it(tmp_path, run, finished):
    """The picture on a full disk; the records of a run that is resumed."""
    pytest.importorskip("matplotlib")
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "curves.png").unlink()
    (folder / "curves.png").mkdir()
    status, printed, errors = run(f"train --resume {folder}")
    assert status == 0, errors
    assert "curves.png could not be drawn: " in printed and "test accuracy" in printed
    (folder / "metrics.jsonl").unlink()
    status, printed, errors = run(f"train --resume {folder}")
    assert status == 0, errors
    assert printed.endswith(f"weights in {folder / 'model.safetensors'}\n") and "test accuracy" not in printed


def test_a_network_of_which_all_is_frozen(tmp_path, run):
    """Its own name among its modules is empty."""
    status, _, errors = run(f"train {NETWORK} --frozen '' --device cpu --run {tmp_path / 'run'}")
    assert status == 1 and "has no parameter to train; frozen is (" in errors


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_lost_loss_names_step_layer_and_checkpoint(tmp_path, run):
    status, _, errors = run(f"train {NETWORK} --lr 1e30 --device cpu --run {tmp_path / 'run'}")
    assert status == 1 and errors.count("\n") == 1
    assert "the loss became nan in step 2 of epoch 1 of 10" in errors
    assert "it first appeared in layer " in errors
    assert str(tmp_path / "run" / "checkpoints" / "model-epoch0000-step000000.safetensors") in errors


def test_a_full_disk_is_one_line(tmp_path, run):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))  # room for config.json
    try:
        status, _, errors = run(f"train {NETWORK} --device cpu --run {tmp_path / 'run'}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1 and errors.count("\n") == 1
    assert "cannot write to" in errors and "File too large" in errors and "there is no checkpoint" in errors
