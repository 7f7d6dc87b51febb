"""Every network of the papers: its counts are the expected ones, it trains, contracts, and is the same after a file."""

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import cupynn
from cupynn import models, ops
from cupynn.autograd import Tensor, no_grad
from cupynn.models.catalogue import ENTRIES
from cupynn.models.entry import difference, rounds_to
from cupynn.optim import SGD
from cupynn.reparam import contract
from cupynn.reparam.expansion import expanded_layers

# Parameters and operations, counted with the authors' own code or an independent transcription of it.
EXPECTED = json.loads((Path(__file__).parents[1] / "data" / "expected_counts.json").read_text())


def one_of_each_kind():
    """The first network of each family and expansion: enough where kernels are slow."""
    kinds = {(entry.name, entry.options.get("expand"), "whe" in entry.options): key for key, entry in ENTRIES.items()}
    return sorted(kinds.values())


TRAINED = sorted(ENTRIES) if os.environ.get("CUPYNN_KERNELS", "compiled") == "compiled" else one_of_each_kind()
CIFAR = [key for key in TRAINED if ENTRIES[key].input == (32, 32)]


def test_every_network_is_there():
    assert sorted(ENTRIES) == sorted(EXPECTED)


@pytest.mark.parametrize("key", EXPECTED)
def test_counts_are_the_expected_ones(key):
    entry, expected = ENTRIES[key], EXPECTED[key]
    counted = entry.count()
    assert counted.parameters == expected["params"]
    assert list(entry.input) == expected["input"]
    assert counted.macs == expected["macs"]
    assert (entry.paper_params, entry.paper_operations) == (expected.get("paper_params"), expected.get("paper_ops"))
    if "ops_compared" in expected:
        assert entry.operations(counted) == expected["ops_compared"]
    if "folded_params" in expected:
        plain = {option: value for option, value in entry.options.items() if option != "expand"}
        with cupynn.nn.init.shapes_only():
            folded = models.count(models.create(entry.name, **plain), entry.input_shape)
        assert folded.parameters == expected["folded_params"]


@pytest.mark.parametrize("key", EXPECTED)
def test_a_note_says_why_the_paper_prints_another_figure(key):
    entry = ENTRIES[key]
    counted = entry.count()
    pairs = ((counted.parameters, entry.paper_params), (entry.operations(counted), entry.paper_operations))
    differs = [printed for value, printed in pairs if printed is not None and difference(value, printed)]
    assert entry.note or not differs, f"{key}: {differs} is printed"


@pytest.mark.parametrize(
    ("value", "printed", "same", "shown"),
    [
        (66_186, "66.19K", True, ""),
        (66_184, "66.19K", False, "-0.0 %"),
        (11_858_656, "11.8M", False, "+0.5 %"),
        (1_814_073_344, "1800M", False, "+0.8 %"),
        (995, "1.00K", False, "-0.5 %"),
    ],
)
def test_printed_figures_are_compared_at_their_own_precision(value, printed, same, shown):
    assert rounds_to(value, printed) is same
    assert difference(value, printed) == shown


def small_batch(entry, count, seed=0):
    """Images of 32 or 64 pixels a side, enough for five halvings, and labels."""
    rng = np.random.default_rng(seed)
    side = min(64, entry.input[0])
    classes = entry.options.get("classes", 10 if side == 32 else 1000)
    return rng.standard_normal((count, 3, side, side)).astype(np.float32), rng.integers(0, classes, count)


def logits(model, images):
    with no_grad():
        return model.eval()(Tensor(images)).numpy()


@pytest.mark.parametrize("key", TRAINED)
def test_trains_contracts_and_is_saved(key, tmp_path):
    """Forward and backward in training mode, contraction, and a file."""
    entry = ENTRIES[key]
    cupynn.manual_seed(3)
    model = entry.create()
    images, labels = small_batch(entry, 2)
    loss = ops.cross_entropy(model(Tensor(images)), labels)
    loss.backward()
    assert np.isfinite(loss.item())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and np.isfinite(parameter.grad).all(), name
        parameter.grad = None  # large networks: a copy of the weights less
    if any(expanded_layers(model)):
        # Sums of at most some thousand products in float32, one after another through all layers: 1e-4 is allowed.
        wanted, compact = logits(model, images), contract(model)
        assert np.abs(logits(compact, images) - wanted).max() <= 1e-4 * np.abs(wanted).max()
        assert not any(expanded_layers(compact))
    cupynn.save(model, tmp_path / "model.safetensors")
    loaded = cupynn.load(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    state = loaded.state_dict()
    assert list(state) == list(model.state_dict())
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)
    assert loaded.creation == model.creation


@pytest.mark.parametrize("key", CIFAR)
def test_training_lowers_the_loss(key):
    """On a batch of 8 within 10 steps of the optimiser."""
    entry = ENTRIES[key]
    cupynn.manual_seed(0)
    model = entry.create()
    optimiser = SGD(model.parameters(), lr=0.002, momentum=0.9)
    images, labels = small_batch(entry, 8)
    first = None
    for _ in range(11):
        loss = ops.cross_entropy(model(Tensor(images)), labels)
        if first is None:
            first = loss.item()
        elif loss.item() < first:
            return
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    pytest.fail(f"{key}: the loss was {first} at first and never lower")


def test_counting_makes_no_weights():
    entry = ENTRIES["ResNet-v1b-152 gluon+DO-Conv (training)"]
    entry.count()
    tracemalloc.start()
    counted = entry.count()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * counted.parameters / 20  # 244 MB of weights; what is left are Python's own objects


def test_layers_add_up_to_the_network():
    for key in one_of_each_kind():
        entry = ENTRIES[key]
        with cupynn.nn.init.shapes_only():
            layers = models.count_layers(entry.create(), entry.input_shape)
        whole = entry.count()
        assert sum(layer.count.parameters for layer in layers) == whole.parameters, key
        assert sum(layer.count.all_operations for layer in layers) == whole.all_operations, key
