"""ACNet's block: its three branches, folding, the crop, gradients."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import cupynn
from cupynn import nn, ops
from cupynn.autograd import Tensor, gradcheck


def randomised(block, seed):
    """The block in float64 with every parameter and running statistic away from its start."""
    rng = np.random.default_rng(seed)
    block.astype(np.float64)
    for name, array in block.state_dict().items():
        if array.dtype.kind == "f":
            array[...] = rng.uniform(0.5, 2, array.shape) if "var" in name else rng.standard_normal(array.shape)
    return block


def by_definition(block, x, training):
    """Each branch with a full k x k kernel, zero off its row or column, and batch norm written out."""
    kh, kw = block.kernel_size
    square = block.square_conv
    y = 0
    for branch in ("square", "ver", "hor"):
        weight = getattr(block, f"{branch}_conv").weight.data
        norm = getattr(block, f"{branch}_bn")
        full = np.zeros((*weight.shape[:2], kh, kw))
        rows = slice(kh // 2, kh // 2 + 1) if branch == "hor" else slice(None)
        columns = slice(kw // 2, kw // 2 + 1) if branch == "ver" else slice(None)
        full[:, :, rows, columns] = weight
        h = ops.conv2d(x, full, None, square.stride, square.padding, square.dilation, square.groups).data
        mean, var = (h.mean((0, 2, 3)), h.var((0, 2, 3))) if training else (norm.running_mean, norm.running_var)
        scale = norm.weight.data / np.sqrt(var + norm.eps)
        y = y + (h - mean[:, None, None]) * scale[:, None, None] + norm.bias.data[:, None, None]
    return y


@settings(max_examples=25, deadline=None, print_blob=True)
@given(
    seed=st.integers(0, 2**16),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.sampled_from([1, 1, 2]),
    kernel_size=st.tuples(st.sampled_from([3, 5]), st.sampled_from([3, 5, 7])),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    extra=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_block_is_its_definition_and_folds(seed, channels, groups, kernel_size, stride, padding, dilation, extra):
    """float64 rounding of sums of some hundred products, scaled by batch norm: 1e-10 of the largest."""
    i, o = (groups * channel for channel in channels)
    block = randomised(nn.ACBlock(i, o, kernel_size, stride, padding, dilation, groups), seed)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel_size, dilation, strict=True)]
    size = [max(1, reach[axis] - 2 * padding[axis]) + extra[axis] for axis in range(2)]
    x = np.random.default_rng(seed).standard_normal((4, i, *size))
    before = {name: array.copy() for name, array in block.state_dict().items()}
    for training in (True, False):
        wanted = by_definition(block, x, training)
        for composition in ("feature", "kernel"):
            block.train(training).composition = composition
            # While a batch's variance is small, rounding in it is magnified: 1e-10 leaves four digits for that.
            got = block(Tensor(x)).data
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-10 * max(1, np.abs(wanted).max()))
    plain = block.contract()
    assert type(plain) is nn.Conv2d and plain.bias is not None and plain.kernel_size == kernel_size
    np.testing.assert_allclose(plain(Tensor(x)).data, wanted, rtol=0, atol=1e-10 * max(1, np.abs(wanted).max()))
    assert block.square_bn.num_batches_tracked == before["square_bn.num_batches_tracked"] + 2


@pytest.mark.parametrize("composition", ["kernel", "feature"])
@pytest.mark.parametrize("training", [True, False])
def test_gradients(training, composition):
    block = randomised(nn.ACBlock(2, 3, 3, 2, (1, 0), composition=composition), 0).train(training)
    for norm in (block.square_bn, block.ver_bn, block.hor_bn):
        norm.momentum = 0.0  # gradcheck calls the block many times: its running statistics must stay
    x = Tensor(np.random.default_rng(1).standard_normal((3, 2, 5, 5)), requires_grad=True)
    assert gradcheck(lambda x, *_: (block(x) ** 2).sum(), [x, *block.parameters()])


def test_evaluation_runs_one_convolution():
    block = nn.ACBlock(2, 3, 3)
    x = Tensor(np.ones((2, 2, 5, 5), np.float32))
    kinds = [entry.record.name for entry in cupynn.autograd.tape(block.eval()(x).sum())]
    assert kinds.count("Conv2d") == 1
    kinds = [entry.record.name for entry in cupynn.autograd.tape(block.train()(x).sum())]
    assert kinds.count("Conv2d") == kinds.count("BatchNormTraining") == 3


def test_state_has_the_authors_names():
    names = list(nn.ACBlock(2, 3, (5, 3)).state_dict())
    parts = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert names == [
        name
        for branch in ("square", "ver", "hor")
        for name in (f"{branch}_conv.weight", *(f"{branch}_bn.{part}" for part in parts))
    ]
    block = nn.ACBlock(2, 3, (5, 3))
    assert [conv.weight.shape[2:] for conv in (block.square_conv, block.ver_conv, block.hor_conv)] == [
        (5, 3),
        (5, 1),
        (1, 3),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, r"ACBlock: kernel_size must be odd and > 1 on both sides; got \(4, 4\)"),
        ({"kernel_size": (1, 3)}, r"ACBlock: kernel_size must be odd and > 1 on both sides; got \(1, 3\)"),
        ({"composition": ""}, r"ACBlock: composition must be one of \('kernel', 'feature'\); got ''"),
        ({"groups": 2}, "groups must divide in_channels and out_channels; got groups=2"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        nn.ACBlock(**{"in_channels": 3, "out_channels": 4, "kernel_size": 3, **options})
