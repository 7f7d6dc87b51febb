import dataclasses
import json
import math
import threading

import numpy as np
import pytest

import cupynn
from cupynn import data, models, nn
from cupynn.autograd import Tensor, no_grad
from cupynn.data import ArrayDataset
from cupynn.device import to_numpy
from cupynn.train import Diverged, RunFolder, Settings, evaluate, fit

pytest.importorskip("sklearn", reason="the 8x8 digits lie inside scikit-learn")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits8x8")


def few(dataset: ArrayDataset, count: int) -> ArrayDataset:
    """Images spread over the whole set, which is sorted by class."""
    chosen = np.linspace(0, len(dataset) - 1, count).astype(int)
    return dataclasses.replace(dataset, images=dataset.images[chosen], labels=dataset.labels[chosen])


def network(seed: int = 0, **options) -> nn.Module:
    cupynn.manual_seed(seed)
    return models.create("smallnet", kernel_size=5, in_channels=1, image_size=8, **options)


def test_worker_threads_read_the_test_set_too(tmp_path, digits, monkeypatch):
    """Decoding the files of a large set in one thread would take longer than the epoch."""
    test_set, readers = few(digits[1], 20), set()
    read = ArrayDataset.read

    def watched(self, indices, uniforms):
        if self is test_set:
            readers.add(threading.current_thread().name)
        return read(self, indices, uniforms)

    monkeypatch.setattr(ArrayDataset, "read", watched)
    settings = Settings(epochs=1, batch_size=20, workers=1)
    fit(network(), few(digits[0], 20), test_set, settings, RunFolder(tmp_path), quiet=True)
    assert len(readers) == 1 and all(name.startswith("cupynn-batches") for name in readers)


def test_learns_and_leaves_a_run_folder(tmp_path, digits, device):
    model = network(expand="ck", rate=2)
    settings = Settings(epochs=4, lr=0.05)
    records = fit(model, *digits, settings, RunFolder(tmp_path / "run"), quiet=True)
    assert records[-1]["test_accuracy"] > 0.9
    assert records[-1]["train_loss"] < records[0]["train_loss"] / 2

    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == records
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert all(line["seconds"] > 0 and line["network"] == "model" for line in lines)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert Settings.from_table(config["settings"]) == settings
    assert config["networks"]["model"]["options"]["expand"] == "ck"
    assert config["data"] == {"name": "digits8x8", "train": 1442, "test": 355}
    assert config["input_shape"] == [1, 8, 8]
    assert config["normalisation"] == {"mean": list(digits[0].mean), "std": list(digits[0].std)}
    assert config["versions"]["numpy"] == np.__version__
    assert config["environment"]["device"].startswith(device)

    again = cupynn.load(tmp_path / "run" / "model.safetensors")
    assert evaluate(again, digits[1]).accuracy == records[-1]["test_accuracy"]
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == [
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
    ]


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(tmp_path, digits):
    train_set, test_set = few(digits[0], 300), few(digits[1], 50)
    states = []
    for number, seed in enumerate((5, 5, 6)):
        model = network()
        settings = Settings(epochs=2, seed=seed, crop=1, flip=True)
        fit(model, train_set, test_set, settings, RunFolder(tmp_path / str(number)), quiet=True)
        states.append(model.state_dict())
    first, second, third = states
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert not np.array_equal(first["0.weight"], third["0.weight"])


def test_the_loop_is_sgd_by_its_formula(tmp_path, digits):
    """One linear layer, no momentum: the weights follow from softmax regression's gradient, written out in float64."""
    train_set = few(digits[0], 60)
    cupynn.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).astype("float64")
    weight, bias = (np.array(p.data) for p in model.parameters())
    settings = Settings(
        epochs=3,
        batch_size=20,
        lr=0.2,
        momentum=0,
        nesterov=False,
        weight_decay=0.01,
        schedule="multistep",
        milestones=(1, 2),
    )
    for epoch in range(3):
        for images, labels in data.batches(train_set, 20, shuffle=True, seed=0, epoch=epoch):
            x = images.reshape(len(images), 64).astype(np.float64)
            logits = x @ weight.T + bias
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            error = (p - np.eye(10)[labels]) / len(x)
            lr = 0.2 * 0.1**epoch
            weight -= lr * (error.T @ x + 0.01 * weight)
            bias -= lr * (error.sum(axis=0) + 0.01 * bias)

    class InDouble(nn.Module):
        def __init__(self):
            self.inner = model

        def forward(self, x):
            return self.inner(Tensor(x.data.astype("float64")))

    fit(InDouble(), train_set, train_set, settings, RunFolder(tmp_path), quiet=True)
    trained_weight, trained_bias = (p.data for p in model.parameters())
    # nine steps in float64, each a sum over 64 products
    np.testing.assert_allclose(trained_weight, weight, rtol=0, atol=1e-12)
    np.testing.assert_allclose(trained_bias, bias, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_lost_stops_and_keeps_the_weights_before(tmp_path, digits):
    train_set, test_set = few(digits[0], 128), few(digits[1], 20)
    model = network()
    wanted = r"fit: the loss became (nan|inf) in step 2 of epoch 1 of 3, at lr=.*e\+29; .*the last good checkpoint is "
    with pytest.raises(Diverged, match=wanted + r".*model-epoch0000-step000000\.safetensors"):
        fit(model, train_set, test_set, Settings(epochs=3, lr=1e30), RunFolder(tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_weights_that_are_lost_in_the_last_step_are_not_saved(tmp_path, digits):
    """The mean training loss of the epoch is still finite; the step after it was too large."""
    train, test = few(digits[0], 64), few(digits[1], 20)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    settings = Settings(epochs=3, batch_size=64, lr=1e38, weight_decay=1e5, schedule="constant", keep=0)
    run = RunFolder(tmp_path)
    with pytest.raises(Diverged, match=r"is no longer finite by step 1 of epoch 1 of 3.*there is no checkpoint"):
        fit(model, train, test, settings, run, quiet=True)
    assert not run.weights().exists()


def test_an_empty_training_set_is_refused(tmp_path, digits):
    train, test = few(digits[0], 0), few(digits[1], 20)
    with pytest.raises(ValueError, match="the training set holds no images"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), train, test, Settings(), RunFolder(tmp_path), quiet=True)


def test_evaluate_counts_over_all_batches_and_restores_the_mode(digits):
    test_set = few(digits[1], 23)
    model = network().train()
    model[1].eval()
    scores = [evaluate(model, test_set, batch_size) for batch_size in (23, 10, 1)]
    assert model.training and not model[1].training
    images, labels = next(iter(data.batches(test_set, 23)))
    with no_grad():
        logits = to_numpy(model.eval()(Tensor(images)).data).astype(np.float64)
    wanted = -(logits[np.arange(23), labels] - np.log(np.exp(logits).sum(axis=1))).mean()
    for score in scores:
        assert score.accuracy == (logits.argmax(axis=1) == labels).mean()
        assert math.isclose(score.loss, wanted, rel_tol=1e-5)  # float32 logits


def test_no_images_give_no_number(digits):
    nothing = few(digits[1], 23)
    nothing = dataclasses.replace(nothing, images=nothing.images[:0], labels=nothing.labels[:0])
    score = evaluate(network(), nothing)
    assert math.isnan(score.loss) and math.isnan(score.accuracy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"lr": 0}, "lr must be above 0"),
        ({"lr": math.nan}, "lr must be above 0"),
        ({"momentum": 0}, "nesterov needs momentum"),
        ({"schedule": "square"}, "schedule must be one of constant, cosine, linear, multistep; got 'square'"),
        ({"schedule": "multistep"}, "milestones"),
        ({"milestones": (3,)}, "milestones"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Settings(**options)


def test_schedules_of_the_settings():
    cosine, steps = Settings(epochs=4), Settings(epochs=4, schedule="multistep", milestones=(1, 3))
    assert [round(cosine.lr_factor()(t), 6) for t in (0, 2, 4)] == [1, 0.5, 0]
    assert np.allclose([steps.lr_factor()(t) for t in (0, 0.9, 1, 3)], [1, 1, 0.1, 0.01])
    assert {Settings(schedule="constant").lr_factor()(t) for t in range(10)} == {1}
