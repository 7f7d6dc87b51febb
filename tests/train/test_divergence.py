"""A loss that is lost: the step, the layer or the parameter where it began, the last good checkpoint."""

import dataclasses
import re

import numpy as np
import pytest

import cupynn
from cupynn import data, device, nn
from cupynn.autograd import Tensor, no_grad
from cupynn.data import ArrayDataset
from cupynn.nn import init
from cupynn.train import Diverged, RunFolder, Settings, fit, loop
from cupynn.train.diagnosis import explain_loss

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
SETTINGS = Settings(epochs=2, batch_size=10, lr=0.01, keep=2, checkpoint_steps=3)


@pytest.fixture
def images():
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (80, 1, 6, 6), dtype=np.uint8)
    labels = rng.integers(0, 3, 80)
    return ArrayDataset(pixels, labels, tuple("abc"), "noise train", (0.5,), (0.25,))


class LosesAt(nn.Module):
    """x, and from its call `call` on in training, counted from 1, with one NaN."""

    def __init__(self, call: int):
        self.call, self.calls = call, 0

    def forward(self, x):
        self.calls += self.training
        if self.training and self.calls >= self.call:
            x = Tensor(x.data.copy())
            x.data.flat[3] = np.nan
        return x


def network(*inside: nn.Module) -> nn.Sequential:
    cupynn.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), *inside, nn.Flatten(), nn.Linear(64, 3)
    )


def diverged(model, images, path, settings=SETTINGS) -> str:
    with pytest.raises(Diverged) as caught:
        fit(model, images, images, settings, RunFolder(path), quiet=True)
    return str(caught.value)


def test_the_step_the_layer_and_the_checkpoint_are_named(tmp_path, images):
    message = diverged(network(nn.Sequential(LosesAt(call=13))), images, tmp_path)
    assert "the loss became nan in step 5 of epoch 2 of 2" in message
    assert "it first appeared in layer 4.0, a LosesAt: its output holds nan" in message
    last = tmp_path / "checkpoints" / "model-epoch0001-step000003.safetensors"
    assert last.exists() and message.endswith(f"the last good checkpoint is {last}")
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_no_watchers_are_left(tmp_path, images):
    model = network(LosesAt(call=1))
    diverged(model, images, tmp_path)
    assert not [module for module in model.modules() if "forward" in vars(module)]


def test_a_gradient_that_is_lost_is_told_from_an_output(tmp_path, images):
    """The forward pass of step 2 is fine, and the gradient of one parameter is NaN: then step 3 cannot be right."""

    class Poisoned(nn.Module):
        def __init__(self):
            self.scale = nn.Parameter(init.constant((4, 1, 1), 1.0))
            self.calls = 0

        def forward(self, x):
            self.calls += self.training
            # its gradient is x * 0 * inf
            return x * self.scale if self.calls != 2 else x * self.scale + (self.scale * 0.0) ** 0.5 * 0.0

    message = diverged(network(Poisoned()), images, tmp_path)
    assert "the loss became nan in step 3 of epoch 1 of 2" in message
    assert "4.scale was not finite before this step" in message


def test_a_loss_beyond_all_numbers_of_finite_logits():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    for parameter in model.parameters():
        parameter.data[...] = 0
    model[1].bias.data[:] = [3e38, -3e38, 0]
    text = explain_loss(model, np.zeros((2, 1, 2, 2), np.float32), np.array([1, 1]))
    assert text == "it first appeared in the cross-entropy, of finite logits"


def test_layers_that_give_more_than_one_tensor():
    class Two(nn.Module):
        def forward(self, x):
            return x, (x, Tensor(x.data / 0))

    class First(nn.Module):
        def forward(self, pair):
            return pair[0]

    model = nn.Sequential(Two(), First(), nn.Flatten(), nn.Linear(4, 3))
    text = explain_loss(model, np.ones((2, 1, 2, 2), np.float32), np.array([1, 1]))
    assert text == "it first appeared in layer 0, a Two: its output holds inf"


class LosesOnImage(nn.Module):
    """x, with a NaN where one image is in the batch: the same however often it is run."""

    def __init__(self, image):
        self.image = image

    def forward(self, x):
        if self.training and (x.data == self.image).all(axis=(1, 2, 3)).any():
            x = Tensor(x.data * np.float32(np.nan))
        return x


def test_steps_that_are_not_watched_are_done_again_from_the_last_checkpoint(tmp_path, images, monkeypatch, capsys):
    """As on a GPU, where each look would wait for the device: the step and the layer are found all the same."""
    settings = dataclasses.replace(SETTINGS, checkpoint_steps=0)
    image = next(iter(data.batches(images, 1)))[0][0]
    model = nn.Sequential(LosesOnImage(image), *network())
    monkeypatch.setattr(loop, "_looks_cost_nothing", lambda: False)
    with pytest.raises(Diverged) as caught:
        fit(model, images, images, settings, RunFolder(tmp_path), quiet=True)
    shuffled = data.batches(images, settings.batch_size, shuffle=True, seed=settings.seed)
    step = 1 + next(number for number, (x, _) in enumerate(shuffled) if (x == image).all(axis=(1, 2, 3)).any())
    assert f"the loss became nan in step {step} of epoch 1 of 2" in str(caught.value)
    assert "it first appeared in layer 0, a LosesOnImage" in str(caught.value)
    assert "the loss became nan; looking for the step, from after 0 epochs on" in capsys.readouterr().out


def test_a_loss_that_is_lost_once_and_not_again_is_gone_on_from(tmp_path, images, monkeypatch, capsys):
    """Where the second time over all is finite, a fault of the hardware for one, the run goes on."""
    model = network(LosesAt(call=1))
    forward = LosesAt.forward

    def only_once(self, x):
        self.call = 1 if self.calls == 0 else 10**9
        return forward(self, x)

    monkeypatch.setattr(LosesAt, "forward", only_once)
    monkeypatch.setattr(loop, "_looks_cost_nothing", lambda: False)
    records = fit(model, images, images, SETTINGS, RunFolder(tmp_path), quiet=True)
    assert len(records) == 2 and "looking for the step" in capsys.readouterr().out
    whole = fit(network(LosesAt(10**9)), images, images, SETTINGS, RunFolder(tmp_path / "whole"), quiet=True)
    assert [r["train_loss"] for r in records] == [r["train_loss"] for r in whole]


def test_without_checkpoints_it_says_so(tmp_path, images, monkeypatch):
    monkeypatch.setattr(loop, "_looks_cost_nothing", lambda: False)
    message = diverged(network(LosesAt(call=5)), images, tmp_path, dataclasses.replace(SETTINGS, keep=0))
    assert re.search(r"the loss became nan by step [5-8] of epoch 1 of 2, .*there is no checkpoint", message)


def test_dropout_is_drawn_again_as_it_was(images):
    """The batch is run again with the very masks of the step that lost it."""
    model = network()
    cupynn.manual_seed(3)
    state = device.generator().bit_generator.state
    batch, labels = next(iter(data.batches(images, 10)))
    with no_grad():
        first = model(Tensor(batch)).data.copy()
    device.generator().bit_generator.state = state
    seen = []
    model[5].forward = lambda x: seen.append(x.data) or nn.Linear.forward(model[5], x)
    assert explain_loss(model, batch, labels).startswith(
        "run again, all layers' outputs and the cross-entropy are finite"
    )
    with no_grad():
        np.testing.assert_array_equal(nn.Linear.forward(model[5], Tensor(seen[0])).data, first)
