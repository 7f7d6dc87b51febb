"""Training with steps that are recorded as graphs, on the fake GPU: the bits of steps that just run."""

import dataclasses

import fake_cupy
import numpy as np
import pytest

import cupynn
from cupynn import device, nn, ops
from cupynn.autograd import Function
from cupynn.data import ArrayDataset
from cupynn.distributed import World
from cupynn.optim import Group, loss_scale
from cupynn.train import Diverged, RunFolder, Settings, fit, loop
from cupynn.train.descent import Descent
from cupynn.transfer import training_mode

SETTINGS = Settings(
    epochs=2, batch_size=4, lr=0.1, schedule="cosine", warm_up=0.5, clip_norm=2.0, seed=4, cuda_graph=True,
    groups=(Group(names=("*.bias",), lr=2.0, weight_decay=((0, 1e-3), (1, 0.0))),),
)  # fmt: skip


class Steeper(Function):
    """y = x, with a gradient of 1e30 times what it should be where `when`, an array of one number, is not 0."""

    def forward(self, x, when):
        self.save(when)
        return x.copy()

    def backward(self, grad):
        (when,) = self.saved
        return grad * (1 + 1e30 * when), None


def network():
    cupynn.manual_seed(0)
    body = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(64, 3))


def run_steps(settings, count):
    """Losses, scales and state of some steps; the images of steps 1 and 4 begin with 100: gradients overflow."""

    def objective(model, images, labels):
        logits = model(images)
        steep = (images.data[0, 0, 0, 0] > 50).astype(np.float32)
        return logits, ops.cross_entropy(Steeper()(logits, steep), labels)

    model = network()
    training_mode(model)
    cupynn.manual_seed(7)
    descent = Descent(model, settings, objective, World())
    numbers = np.random.default_rng(1)
    losses, scales, waits = [], [], []
    for step in range(count):
        images = numbers.standard_normal((4, 1, 4, 4)).astype(np.float32)
        images[0, 0, 0, 0] = 100 if step in (1, 4) else 0
        images, labels = device.asarray(images), device.asarray(numbers.integers(0, 3, 4))
        fake_cupy.log.clear()
        loss, _ = descent.step(images, labels, step / count, watch=False)
        waits += fake_cupy.log.waits
        losses.append(loss.data)
        if descent.loss_scale:
            scales.append((descent.loss_scale.scale, descent.loss_scale.good_steps))
    arrays = {**model.state_dict(), **{str(i): v for i, v in enumerate(descent.optimizer.state_dict()["velocities"])}}
    state = {name: array.get() for name, array in arrays.items()}
    return [float(loss) for loss in losses], scales, state, waits, len(fake_cupy.log.launches)


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32"])
def test_the_bits_of_steps_that_just_run(gpu_log, precision, monkeypatch):
    """In float16 with two steps that overflow, one of them recorded, and a scale that is doubled between."""
    if precision == "bfloat16":
        pytest.importorskip("ml_dtypes")
    monkeypatch.setattr(loss_scale, "STEPS_TO_DOUBLE", 2)
    settings = dataclasses.replace(SETTINGS, precision=precision)
    wanted = run_steps(dataclasses.replace(settings, cuda_graph=False), 6)
    given = run_steps(settings, 6)
    np.testing.assert_array_equal(given[0], wanted[0])
    assert given[1] == wanted[1]
    for name, array in given[2].items():
        np.testing.assert_array_equal(array, wanted[2][name], err_msg=name)
    assert given[3] == wanted[3] == []  # the host waited for nothing
    assert given[4] == 0 < wanted[4]
    if precision == "float16":
        start = loss_scale.START
        assert [scale for scale, _ in given[1]] == [start, start / 2, start / 2, start, start / 2, start / 2]


def dataset(count, seed=5):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)
    return ArrayDataset(pixels, rng.integers(0, 3, count), tuple("abc"), "noise train", (0.5,), (0.25,))


def test_a_run(gpu_log, tmp_path):
    """Of two epochs of six batches, the last of which is smaller and just runs."""
    results = []
    for graph in (False, True):
        model, settings = network(), dataclasses.replace(SETTINGS, cuda_graph=graph, crop=1)
        records = fit(model, dataset(22), dataset(6, 6), settings, RunFolder(tmp_path / str(graph)), quiet=True)
        for record in records:
            del record["seconds"], record["images_per_second"]
        results.append((records, {name: array.get() for name, array in model.state_dict().items()}))
    (wanted, weights), (given, ours) = results
    assert given == wanted
    for name, array in ours.items():
        np.testing.assert_array_equal(array, weights[name], err_msg=name)


def test_more_steps_wait_no_more(gpu_log, tmp_path, monkeypatch):
    """Of a run in float16 only the loader waits, two batches ahead; loss and accuracy are added up on the device."""
    monkeypatch.setattr(loop, "LOOK_EVERY", 1e9)
    found = []
    for images in (16, 32):
        fake_cupy.log.clear()
        settings = dataclasses.replace(SETTINGS, epochs=1, keep=0, precision="float16")
        fit(network(), dataset(images), dataset(4), settings, RunFolder(tmp_path / str(images)), quiet=True)
        found.append(sorted(place for _, place in gpu_log.waits if not place.startswith("to_gpu.")))
    assert found[0] == found[1]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_gradients_that_no_scale_saves_end_the_run(gpu_log, tmp_path, monkeypatch):
    """Weights stay as they are from then on, so that nothing is lost until the host looks."""
    monkeypatch.setattr(loss_scale, "START", 4.0)

    always = device.asarray(np.ones((), np.float32))

    def objective(model, images, labels):
        logits = model(images)
        return logits, ops.cross_entropy(Steeper()(logits, always), labels)

    model = network()
    settings = dataclasses.replace(SETTINGS, precision="float16", epochs=1)
    with pytest.raises(Diverged, match=r"not finite in float16 in step 3 .* no scale of the loss helps, down to 1"):
        fit(model, dataset(40), dataset(4), settings, RunFolder(tmp_path), quiet=True, objective=objective)
