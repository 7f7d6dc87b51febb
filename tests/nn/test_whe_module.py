"""The layers WHE and WHEBlock: what they compute, how they start, their state, their errors."""

import numpy as np
import pytest

import cupynn
from cupynn import nn, ops
from cupynn.autograd import gradcheck, tensor
from cupynn.kernels import whe


def images(seed, *shape, dtype=np.float32):
    return tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype), requires_grad=True)


def test_the_layer_calls_its_operation():
    cupynn.manual_seed(0)
    layer, x = nn.WHE(12, 3, "tanh"), images(0, 2, 12, 4, 5)
    expected = ops.whe(x, layer.a, layer.b, layer.c, layer.d, "tanh")
    np.testing.assert_array_equal(layer(x).numpy(), expected.numpy())
    assert repr(layer) == "WHE(12, group_size=3, activation=tanh)"


def test_it_starts_uniform_within_a_tenth():
    """1024 draws per tensor: the largest misses 0.1 by more than 2 % with probability 0.98**1024, about 1e-9."""
    cupynn.manual_seed(1)
    layer = nn.WHE(64, 16)
    assert list(layer.state_dict()) == ["a", "b", "c", "d"]
    for parameter in layer.parameters():
        assert parameter.shape == (4, 16, 16) and parameter.dtype == np.float32
        assert 0.098 < parameter.numpy().max() <= 0.1 and -0.1 <= parameter.numpy().min() < -0.098
        # a mean of 1024 draws of deviation 0.058: six of its deviations
        assert abs(parameter.numpy().mean()) < 6 * 0.058 / 32
    assert sum(p.size for p in layer.parameters()) == whe.whe_parameters(64, 16) == 4 * 16 * 64


@pytest.mark.parametrize("training", [True, False])
def test_the_block_adds_the_normalised_layer_to_its_input(training):
    cupynn.manual_seed(2)
    block, x = nn.WHEBlock(8, 4).train(training), images(3, 3, 8, 4, 5)
    assert list(block.state_dict()) == [
        *(f"whe.{name}" for name in "abcd"),
        *(f"bn.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    ]
    assert sum(p.size for p in block.parameters()) == 4 * 4 * 8 + 2 * 8
    hidden = whe.reference_forward(x.data, *(p.data for p in block.whe.parameters()))
    mean, variance = hidden.mean((0, 2, 3)), hidden.var((0, 2, 3))
    if not training:
        mean, variance = 0 * mean, 0 * variance + 1  # as the running statistics start
    expected = x.data + (hidden - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None]
    # WHE's output is about 0.01, the batch norm scales its float32 rounding of 1e-9 up by at most 1 / sqrt(1e-5) = 316.
    np.testing.assert_allclose(block(x).numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_the_block(training):
    cupynn.manual_seed(4)
    block = nn.WHEBlock(4, 2).astype(np.float64).train(training)
    for number, parameter in enumerate(block.whe.parameters()):
        parameter.data[...] = np.random.default_rng(number).standard_normal(parameter.shape)
    x = images(5, 3, 4, 2, 3, dtype=np.float64)
    hidden = whe._hidden(x.data, *(p.data for p in list(block.whe.parameters())[:3]), "identity")[0]
    assert np.abs(hidden).min() > 1e-4, "a step of 1e-5 could pass a kink: take another seed"
    gradcheck(lambda x, *_: block(x), (x, *block.parameters()))


def test_training_lowers_the_loss_and_repeats_to_the_bit():
    def train():
        cupynn.manual_seed(6)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.WHEBlock(8, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        head = nn.Linear(8 * 36, 4)
        parameters = [*net.parameters(), *head.parameters()]
        optimiser = cupynn.optim.SGD(parameters, lr=0.05, momentum=0.9)
        x, labels = images(7, 16, 3, 8, 8).detach(), np.random.default_rng(8).integers(0, 4, 16)
        losses = []
        for _ in range(50):
            optimiser.zero_grad()
            loss = ops.cross_entropy(head(net(x)), labels)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        return losses, b"".join(p.numpy().tobytes() for p in parameters)

    losses, weights = train()
    assert losses[-1] < losses[0] / 2
    assert train() == (losses, weights)


def test_errors_name_the_layer():
    with pytest.raises(
        ValueError, match="WHE: channels must be a multiple of group_size; got channels=10, group_size=4"
    ):
        nn.WHE(10, 4)
    with pytest.raises(ValueError, match="WHE: group_size must be at most 32; got 64"):
        nn.WHE(64, 64)
    with pytest.raises(ValueError, match="WHE: group_size must be an integer >= 1; got 0"):
        nn.WHEBlock(8, 0)
    with pytest.raises(ValueError, match="activation must be one of relu, leaky_relu, elu, tanh, identity; got 'gelu'"):
        nn.WHE(8, 4, "gelu")
    with pytest.raises(ValueError, match=r"WHE: x must be \(N, 8, H, W\); it has shape \(2, 6, 3, 3\)"):
        nn.WHE(8, 4)(images(9, 2, 6, 3, 3))
