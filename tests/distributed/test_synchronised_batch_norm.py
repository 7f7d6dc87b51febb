import copy

import numpy as np
import pytest
import rank_programs

import cupynn
from cupynn import nn
from cupynn.distributed import World, synchronise_batch_norm
from cupynn.ops.batch_norm import BatchNormTraining
from cupynn.transfer.features import recorded_outputs

# Rounding of values near 100 that are normalised to deviations near 1; gradients are sums of 72 such. What is stored in
# float16 is computed in float32, and its values, up to 8, are rounded to 2^-8 at most.
TOLERANCE = {"float64": 1e-11, "float32": 2e-3, "float16": 2**-8}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("relu", [0, 1])
def test_two_ranks_normalise_as_one_does_the_whole_batch(ranks, relu, dtype):
    """Parts of 4 and 2 images; with one process the layer is the plain `BatchNorm2d`."""
    whole = rank_programs.normalised(World(), relu, dtype)
    parts = ranks(2, "normalised", relu, dtype)
    for name in ("y", "dx", "dresidual", "evaluated"):
        joined = np.concatenate([part[name] for part in parts])
        assert joined.dtype == dtype
        np.testing.assert_allclose(joined, whole[name], rtol=0, atol=TOLERANCE[dtype], err_msg=name)
    for part in parts:
        assert part["counted"] == 1
        np.testing.assert_allclose(part["sums"], whole["sums"], rtol=0, atol=72 * TOLERANCE[dtype])
        np.testing.assert_allclose(part["statistics"], whole["statistics"], rtol=TOLERANCE[dtype])
        assert np.array_equal(part["statistics"], parts[0]["statistics"])


def two():
    world = World()
    world.size = 2
    return world


def test_conversion_keeps_the_modules_and_their_state():
    model = cupynn.models.create("cifar_resnet", depth=8)
    before, norms = model.state_dict(), [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert synchronise_batch_norm(model, two()) is model
    assert norms and all(norm.training_norm.keywords["batch"].world.size == 2 for norm in norms)
    after = model.state_dict()
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)


def test_a_synchronised_network_folds_and_fuses_as_a_plain_one():
    """It did neither while synchronised batch norm was a class of its own."""
    model = synchronise_batch_norm(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU()), two())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in cupynn.contract(model, fold_batch_norm=True).modules())
    with recorded_outputs(model.eval(), ["1", "2"]) as outputs:
        model(np.random.default_rng(0).standard_normal((2, 2, 5, 5)).astype(np.float32))
    assert outputs["1"].data.min() < 0 <= outputs["2"].data.min()


def test_alone_nothing_changes():
    layer = nn.BatchNorm2d(3)
    assert synchronise_batch_norm(layer, World()).training_norm is BatchNormTraining


@pytest.mark.parametrize("layers", ["seq_conv", "cross_layer"])
def test_layers_that_normalise_by_themselves(ranks, layers):
    """In float64, values and gradients near 1: ten times less than the bound is what rounding may do."""
    whole = rank_programs.normalised_within(World(), layers)
    parts = ranks(2, "normalised_within", layers)
    for name in ("y", "dx"):
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_allclose(joined, whole[name], rtol=0, atol=1e-10, err_msg=name)
    gradients = [name for name in whole if name.startswith("gradient")]
    state = [name for name in whole if name.startswith("state")]
    assert len(gradients) > 4 and len(state) > 4
    for name in gradients:
        total = sum(part[name] for part in parts)
        np.testing.assert_allclose(total, whole[name], rtol=0, atol=1e-10, err_msg=name)
    for part in parts:
        for name in state:
            np.testing.assert_allclose(part[name], whole[name], rtol=0, atol=1e-10, err_msg=name)


def test_copies_talk_to_the_same_ranks():
    world = two()
    model = nn.Sequential(nn.BatchNorm2d(4), nn.SeqConv2d(4, 4, 2), nn.CrossLayerDepthwise(4, 2))
    norm, seq_conv, cross_layer = copy.deepcopy(synchronise_batch_norm(model, world))
    batches = norm.training_norm.keywords["batch"], seq_conv.training_norm.keywords["batch"], cross_layer.batch
    assert all(batch.world is world for batch in batches)
