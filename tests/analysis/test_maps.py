"""Maps of weights, from weights that are planted: cross-layer norms, SeqConv's groups, DO-Conv's H."""

import numpy as np
import pytest

from cupynn import models
from cupynn.analysis.cross_layer_norms import cross_layer_norms
from cupynn.analysis.do_conv import do_conv_difference
from cupynn.analysis.group_weights import group_weights
from cupynn.analysis.heat_maps import grid, spread
from cupynn.models.delugenet import CrossLayerBlock
from cupynn.nn import CrossLayerDepthwise, DOConv2d, Module, SeqConv2d, Sequential
from cupynn.pictures import LIGHT
from cupynn.pictures.figure import draw_figure


class Two(Module):
    def __init__(self):
        self.blocks = Sequential(CrossLayerBlock(2, 3), CrossLayerBlock(4, 1))


def test_cross_layer_norms_of_planted_weights():
    """Source s of reader r has weights 10 r + s in half of the channels, 0 in the others: norm (10 r + s) sqrt(C/2)."""
    model = Two()
    for name, layer in model.named_modules():
        if isinstance(layer, CrossLayerDepthwise):
            reader = int(name.rpartition(".")[2])
            layer.weight.data[...] = 0
            for place in range(layer.layers):  # newest first
                layer.weight.data[place, ::2] = -(10 * reader + layer.layers - 1 - place)
    first, second = cross_layer_norms(model).blocks
    assert (first.block, first.channels, first.readers) == ("blocks.0", 4, ["2", "3", "out"])
    nan = np.nan
    expected = np.array([[0, 1, nan, nan], [10, 11, 12, nan], [20, 21, 22, 23]]) * np.sqrt(2)
    np.testing.assert_allclose(first.norms, expected, rtol=1e-12)
    assert (second.block, second.channels, second.readers) == ("blocks.1", 8, ["out"])
    np.testing.assert_allclose(second.norms, [[0, 2]], rtol=1e-12)


def test_at_the_start_all_norms_of_a_row_are_root_c_over_l():
    for block in cross_layer_norms(models.create("cifar_delugenet")).blocks:
        for row, sources in enumerate(block.norms, 2):
            assert np.isfinite(sources).sum() == row
            np.testing.assert_allclose(sources[:row], np.sqrt(block.channels) / row, rtol=1e-6)


def windows(in_channels, k, groups, windowed):
    """The source of every channel that each group sees, by the layer's definition: a view that slides."""
    view = [channel // k for channel in range(in_channels)]
    chunks = view[-1] + 1
    for group in range(groups):
        yield list(view)
        view = (view[k:] if windowed else view) + [chunks + group] * k


def test_at_the_start_the_map_has_no_colours():
    """Norms of a row that differ by roundings only are of one colour."""
    pytest.importorskip("matplotlib")
    found = cross_layer_norms(models.create("cifar_delugenet"))
    ratios = [block.norms / np.nanmean(block.norms, axis=1, keepdims=True) for block in found.blocks]
    assert any((ratio[~np.isnan(ratio)] != 1).any() for ratio in ratios)
    figure = draw_figure(found.draw, found.size, LIGHT)
    images = [image for axes in figure.axes for image in axes.images]
    colours = np.concatenate([image.to_rgba(image.get_array().compressed()) for image in images])
    assert len(images) == 3 and np.ptp(colours, axis=0).max() < 0.03  # neighbours in the table of 256 at most


@pytest.mark.parametrize("windowed", [True, False])
@pytest.mark.parametrize("bottleneck", [True, False])
@pytest.mark.parametrize("in_channels, out_channels, k", [(8, 8, 4), (4, 12, 4), (6, 12, 4), (16, 8, 8)])
def test_group_weights_of_planted_weights(in_channels, out_channels, k, windowed, bottleneck):
    layer = SeqConv2d(in_channels, out_channels, k, windowed, bottleneck)
    groups, rng = out_channels // k, np.random.default_rng(k)
    wanted = np.full((groups, -(-in_channels // k) + groups), np.nan)
    for row, unit, sources in zip(wanted, layer.f, windows(in_channels, k, groups, windowed), strict=True):
        weight = (unit.pre if bottleneck else unit).conv.weight.data
        assert weight.shape[1] == len(sources)
        for source in set(sources):
            row[source] = rng.integers(1, 9) / 8
        signs = rng.choice([-1, 1], weight.shape)
        weight[...] = row[sources][None, :, None, None] * signs
    (found,) = group_weights(Sequential(layer)).layers
    np.testing.assert_array_equal(found.weights, wanted)  # eighths, whose means are exact
    assert (found.layer, found.k, found.inputs) == ("0", k, -(-in_channels // k))


@pytest.mark.parametrize("depth_multiplier, groups", [(None, 1), (12, 1), (18, 2), (None, 4)])
def test_h_is_zero_at_the_identity(depth_multiplier, groups):
    layer = DOConv2d(4, 8, 3, groups=groups, depth_multiplier=depth_multiplier)
    (found,) = do_conv_difference(Sequential(layer)).layers
    assert not found.difference.any() and found.difference.shape == (3, 3)
    assert found.kernels == 8 * 4 // groups and found.change == 0 and not found.shares.any()


@pytest.mark.parametrize("groups", [1, 2])
def test_h_of_a_planted_depthwise_kernel(groups):
    """D' is v at one place (m, s) of one channel c: W'[o, c, m] - W[o, c, m] = v W[o, c, s] for what reads c."""
    layer = DOConv2d(4, 6, (3, 2), groups=groups).astype("float64")
    channel, m, s, v = 3, 4, 1, -0.75
    layer.D.data[channel, m, s] = v
    (found,) = do_conv_difference(Sequential(layer)).layers
    inside = channel % (4 // groups)
    readers = layer.W.data[slice(None) if groups == 1 else slice(3, 6)]
    expected = np.zeros((3, 2))
    expected[m // 2, m % 2] = np.abs(v * readers[:, inside, s]).sum()
    np.testing.assert_allclose(found.difference, expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.weight, np.abs(layer.W.data).sum(axis=(0, 1)).reshape(3, 2), rtol=1e-12)
    assert found.shares.sum() == pytest.approx(1) and found.shares[m // 2, m % 2] == pytest.approx(1)


def test_a_network_without_such_layers_says_what_it_has():
    model = models.create("smallnet")
    for analysis, layer in ((cross_layer_norms, "CrossLayerDepthwise"), (group_weights, "SeqConv2d")):
        with pytest.raises(ValueError, match=rf"looks for layers of type {layer}; smallnet has BatchNorm2d, Conv2d, "):
            analysis(model)
    with pytest.raises(ValueError, match=r"DO-Conv layers are all 1x1"):
        do_conv_difference(Sequential(DOConv2d(4, 4, 1)))


def test_twelve_maps_from_the_first_to_the_last():
    assert spread(list(range(5))) == list(range(5))
    chosen = spread(list(range(40)))
    assert len(set(chosen)) == 12 and chosen[0] == 0 and chosen[-1] == 39 and chosen == sorted(chosen)
    assert [grid(count) for count in (1, 4, 5, 9, 12)] == [(1, 1), (1, 4), (2, 3), (3, 3), (3, 4)]
