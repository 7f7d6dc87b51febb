"""cupynn evaluate: the confusion matrix as text, picture and JSON. Run in this process."""

import json
import re

import numpy as np
import pytest

import cupynn
from cupynn import cli, data
from cupynn.autograd import Tensor, no_grad
from cupynn.cli import common
from cupynn.cli import evaluate as command
from cupynn.data import ArrayDataset
from cupynn.device import to_numpy
from cupynn.pictures import DARK
from cupynn.train import evaluate
from cupynn.train.confusion import Confusion, draw_confusion

pytest.importorskip("sklearn", reason="the 8x8 digits lie inside scikit-learn")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that is good enough to be right often, and bad enough to be wrong often."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    before = cupynn.default_device()
    words = f"train smallnet --data digits8x8 --option kernel_size=5 --epochs 2 --lr 0.005 --device cpu --run {folder}"
    try:
        assert cli.main(words.split()) == 0
    finally:
        cupynn.set_default_device(before)
    return folder


@pytest.fixture
def run(command):
    return lambda *arguments: command("evaluate", *arguments, "--device", "cpu")


def by_hand(model, test_set):
    """The matrix with a loop, image by image."""
    counts = np.zeros((10, 10), int)
    for images, labels in data.batches(test_set, 1):
        with no_grad():
            logits = to_numpy(model.eval()(Tensor(images)).data)
        counts[int(labels[0]), int(logits[0].argmax())] += 1
    return counts


def test_matrix_and_figures_are_those_of_a_loop_over_the_images(trained, run):
    with cupynn.device.use_device("cpu"):
        test_set = data.load("digits8x8")[1]
        counts = by_hand(cupynn.load(trained / "model.safetensors"), test_set)
    status, printed, errors = run(trained, "--json")
    assert status == 0, errors
    record = json.loads(printed)
    # batches of 1 and of 250 round differently: an image with two equal largest logits may go either way
    assert np.abs(np.array(record["confusion"]) - counts).sum() <= 2
    counts = np.array(record["confusion"])
    assert record["images"] == counts.sum() == 355 and record["data"] == "digits8x8 test"
    assert record["accuracy"] == pytest.approx(np.trace(counts) / 355) and 0.3 < record["accuracy"] < 0.97
    for number, row in enumerate(record["classes"]):
        right, images, taken_for = counts[number, number], counts[number].sum(), counts[:, number].sum()
        answers = sum(
            counts[i, j] for i in range(10) for j in range(10) if (i == number) == (j == number)
        )  # "is it this class?" answered rightly
        assert (row["class"], row["images"], row["taken_for"]) == (str(number), images, taken_for)
        assert row["recall"] == pytest.approx(right / images)
        assert row["precision"] == (pytest.approx(right / taken_for) if taken_for else None)
        assert row["accuracy"] == pytest.approx(answers / 355)


def test_text_holds_the_same_numbers_in_columns(trained, run):
    record = json.loads(run(trained, "--json")[1])
    _, printed, _ = run(trained, "--confusion")
    lines = printed.splitlines()
    assert lines[0] == run(trained)[1].rstrip("\n")
    head = next(number for number, line in enumerate(lines) if line.split() == list("0123456789"))
    shown = [line.split() for line in lines[head + 1 : head + 11]]
    assert [[0 if cell == "." else int(cell) for cell in row[1:]] for row in shown] == record["confusion"]
    ends = [match.end() for match in re.finditer(r"\S+", lines[head])]
    for line in lines[head + 1 : head + 11]:
        assert [match.end() for match in re.finditer(r"\S+", line)][1:] == ends
    for row in record["classes"]:
        shares = ["-" if row[name] is None else f"{row[name]:.2%}" for name in ("accuracy", "precision", "recall")]
        assert [row["class"], str(row["images"]), *shares] in [line.split() for line in lines]


def confusion_of(counts, names=None):
    """A matrix that is given, through the door that networks use: logits and labels, in two batches."""
    classes = len(counts)
    confusion = Confusion(names or [f"class{number}" for number in range(classes)])
    pairs = [(i, j) for i in range(classes) for j in range(classes) for _ in range(counts[i][j])]
    labels, predicted = np.array(pairs, np.int64).reshape(-1, 2).T
    for part in (slice(0, 3), slice(3, None)):
        confusion.add(np.eye(classes, dtype=np.float32)[predicted[part]], labels[part])
    return confusion


def test_a_class_without_images_and_one_that_nothing_is_taken_for():
    confusion = confusion_of([[4, 1, 0], [2, 3, 0], [0, 0, 0]])
    assert confusion.counts.tolist() == [[4, 1, 0], [2, 3, 0], [0, 0, 0]] and confusion.counts.dtype == np.int64
    np.testing.assert_array_equal(confusion.recall, [4 / 5, 3 / 5, np.nan])
    np.testing.assert_array_equal(confusion.precision, [4 / 6, 3 / 4, np.nan])
    np.testing.assert_array_equal(confusion.accuracy, [7 / 10, 7 / 10, 1])
    assert confusion.largest(5) == [(1, 0, 2), (0, 1, 1)]
    confusion.add(np.array([[0, 0, 1.0]]), np.array([2]))  # the matrix was read already
    assert confusion.counts[2, 2] == 1
    assert Confusion(["a", "b"]).counts.tolist() == [[0, 0], [0, 0]]
    assert np.isnan(Confusion(["a", "b"]).accuracy).all()


def test_matrix_on_the_default_device(device):
    """The pairs stay on the device until they are read."""
    pytest.importorskip("sklearn")
    cupynn.manual_seed(0)
    model = cupynn.models.create("smallnet", kernel_size=5, in_channels=1, image_size=8)
    test_set = data.load("digits8x8")[1]
    confusion = Confusion(test_set.class_names)
    score = evaluate(model, test_set, 100, confusion)
    assert score == evaluate(model, test_set, 100)
    assert np.trace(confusion.counts) == round(score.accuracy * 355) and confusion.counts.sum() == 355
    np.testing.assert_array_equal(confusion.images, np.bincount(test_set.labels, minlength=10))


def test_names_too_long_for_columns_have_numbers(capsys):
    command._show(confusion_of([[5, 1], [0, 7]], ["automobile", "truck"]))
    lines = capsys.readouterr().out.splitlines()
    assert ["0", "1"] in [line.split() for line in lines]
    assert ["0", "automobile", "5", "1"] in [line.split() for line in lines]
    assert ["1", "truck", ".", "7"] in [line.split() for line in lines]


def test_of_many_classes_only_the_largest_confusions_and_the_worst_classes(capsys):
    counts = np.eye(100, dtype=int) * 50
    counts[7, 9], counts[9, 7], counts[3, 4] = 30, 20, 25
    counts[80:100, 5] = np.arange(1, 21)
    command._show(confusion_of(counts.tolist()))
    blocks = capsys.readouterr().out.strip().split("\n\n")
    assert len(blocks) == 2
    title, _, *rows = blocks[0].splitlines()
    assert "20 most frequent confusions of 100 classes" in title and len(rows) == 20
    assert rows[0].split() == ["class7", "class9", "30", "37.50%"]
    assert rows[1].split() == ["class3", "class4", "25", "33.33%"]
    title, _, *rows = blocks[1].splitlines()
    assert "20 classes with the lowest recall" in title and len(rows) == 20
    assert rows[0].split()[0] == "class7" and rows[0].split()[-1] == "62.50%"


@pytest.mark.parametrize(("classes", "dark"), [(3, False), (3, True), (20, False), (60, False), (130, True)])
def test_the_picture(tmp_path, classes, dark):
    pytest.importorskip("matplotlib")
    counts = np.eye(classes, dtype=int) * 7
    counts[0, 1] = 13
    draw_confusion(confusion_of(counts.tolist()), tmp_path / "confusion.svg", "digits: 13 wrong", dark)
    svg = (tmp_path / "confusion.svg").read_text()
    assert (DARK.background in svg) == dark
    texts = re.findall(r"<!-- (.*?) -->", svg)
    assert {"taken for", "class of the image", "share of the images of a class", "digits: 13 wrong"} <= set(texts)
    assert ("class2" in texts) == (classes <= 100)
    assert ("13" in texts) == (classes <= 20)


def test_picture_from_the_command(trained, run, tmp_path):
    pytest.importorskip("matplotlib")
    status, printed, errors = run(trained, "--picture", tmp_path / "confusion.png")
    assert status == 0, errors
    assert printed.endswith(f"confusion matrix in {tmp_path / 'confusion.png'}\n") and len(printed.splitlines()) == 2
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    status, printed, errors = run(trained, "--dark")
    assert status == 2 and not printed and "--dark is for --picture FILE" in errors
    for bad in (tmp_path / "confusion.xyz", tmp_path / "no" / "confusion.png"):
        status, printed, errors = run(trained, "--picture", bad)
        assert status == 1 and not printed and errors.startswith("cupynn: error: ") and errors.count("\n") == 1


def test_data_with_other_classes_is_refused(trained, run, monkeypatch):
    def hundred(*arguments):
        images = np.zeros((4, 1, 8, 8), np.uint8)
        names = tuple(map(str, range(100)))
        return [
            ArrayDataset(images, np.array([3, 99, 50, 0]), names, f"hundred {part}", (0.5,), (0.5,)) for part in "ab"
        ]

    monkeypatch.setattr(common, "load_data", hundred)
    status, printed, errors = run(trained)
    assert status == 1 and not printed and errors.count("\n") == 1
    assert "100 classes, so logits must have shape (N, 100); they have (4, 10)" in errors


def test_the_data_of_a_run_are_normalised_as_the_run_had_them(tmp_path, run):
    words = "train smallnet --data digits8x8 --option kernel_size=5 --epochs 1 --mean 0.2 --std 0.9 --device cpu --run"
    before = cupynn.default_device()
    try:
        assert cli.main([*words.split(), str(tmp_path / "run")]) == 0
    finally:
        cupynn.set_default_device(before)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    record = json.loads(run(tmp_path / "run", "--json")[1])
    assert (record["accuracy"], record["loss"]) == (last["test_accuracy"], last["test_loss"])
    assert json.loads(run(tmp_path / "run", "--json", "--data", "digits8x8")[1])["loss"] != last["test_loss"]
