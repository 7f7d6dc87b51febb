"""The SeqConv layers against the authors' arrays, alone and in a residual block."""

import pathlib

import numpy as np
import pytest

import cupynn
from cupynn import nn, ops, optim
from cupynn.autograd import tensor
from cupynn.device import asarray, to_numpy

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "golden"
LAYERS = sorted(path for path in GOLDEN.glob("seq*.npz") if "block" not in path.stem)
BLOCKS = sorted(GOLDEN.glob("seq*_residual_block.npz"))


class ResidualBlock(nn.Module):
    """Two layers of one width; the block's raw input is added in the second."""

    def __init__(self, width, k, **options):
        self.A = nn.SeqConv2d(width, width, k, **options)
        self.B = nn.SeqConv2d(width, width, k, **options, zero_init=True)

    def forward(self, act, raw):
        return self.B(self.A(act)[1], raw)


def close(found, wanted, name=""):
    """Sums of at most some 100 products, through four batch norms: rounding is a thousandth of what is allowed."""
    scale = max(np.abs(wanted).max(), 1e-3)
    np.testing.assert_allclose(to_numpy(found), wanted, rtol=1e-9, atol=1e-9 * scale, err_msg=name)


def load(module, case):
    """Parameters and running statistics from before the authors' training pass; batches are counted here alone."""
    state = {name: array for name, array in module.astype(np.float64).state_dict().items() if "num_batches" in name}
    state |= {name.removeprefix("p."): array for name, array in case.items() if name.startswith("p.")}
    state |= {name.removeprefix("buf_before."): array for name, array in case.items() if name.startswith("buf_before.")}
    module.load_state_dict(state)


def meets(module, case, inputs, input_gradients):
    """One training pass of the authors', its gradients and statistics, and an evaluation where they have one."""
    load(module, case)
    inputs = [tensor(asarray(case[name]), requires_grad=True) for name in inputs]
    raw, act = module.train()(*inputs)
    close(raw.data, case["raw"], "raw")
    close(act.data, case["act"], "act")
    (raw * asarray(case["g_raw"]) + act * asarray(case["g_act"])).sum().backward()
    for leaf, name in zip(inputs, input_gradients, strict=True):
        close(leaf.grad, case[name], name)
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert gradients.keys() == {name.removeprefix("grad.") for name in case if name.startswith("grad.")}
    for name, grad in gradients.items():
        close(grad, case[f"grad.{name}"], name)
    state = module.state_dict()
    for name in (name for name in case if name.startswith("buf_after.")):
        close(state[name.removeprefix("buf_after.")], case[name], name)
    if "raw_eval" in case:
        raw, act = module.eval()(*inputs)
        close(raw.data, case["raw_eval"], "raw_eval")
        close(act.data, case["act_eval"], "act_eval")


def test_the_golden_arrays_are_there():
    assert len(LAYERS) >= 5 and len(BLOCKS) >= 2


@pytest.mark.parametrize("path", LAYERS, ids=lambda path: path.stem)
def test_the_authors_layers(device, path):
    with np.load(path) as file:
        case = dict(file)
    channels, width = case["x"].shape[1], case["raw"].shape[1]
    bottleneck = path.stem.startswith("seqB")
    layer = nn.SeqConv2d(channels, width, int(case["k"]), windowed=bool(case["windowed"]), bottleneck=bottleneck)
    both = "shortcut" in case
    meets(layer, case, ["x", "shortcut"] if both else ["x"], ["gx", "gshortcut"] if both else ["gx"])


@pytest.mark.parametrize("path", BLOCKS, ids=lambda path: path.stem)
def test_the_authors_residual_blocks(device, path):
    with np.load(path) as file:
        case = dict(file)
    block = ResidualBlock(4, 2, bottleneck=path.stem.startswith("seqB"))
    meets(block, case, ["in0", "in1"], ["gin0", "gin1"])


def test_state_has_the_authors_names():
    plain, reduced = nn.SeqConv2d(6, 4, 2), nn.SeqConv2d(6, 4, 2, bottleneck=True)
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    unit = ["conv.weight", *(f"bn.{name}" for name in norm)]
    assert list(plain.state_dict()) == [f"f.{j}.{name}" for j in (0, 1) for name in unit]
    names = [f"f.{j}.{part}{name}" for j in (0, 1) for part in ("pre.", "") for name in unit]
    assert list(reduced.state_dict()) == names


@pytest.mark.parametrize(
    "windowed, bottleneck, subgroups, weights",
    [
        (True, False, 1, 3 * 8 * 16 * 9),
        (False, False, 1, 8 * (16 + 24 + 32) * 9),
        (True, True, 1, 3 * (8 * 16 + 8 * 8 * 9)),
        (False, True, 4, 8 * (16 + 24 + 32) + 3 * 8 * 2 * 9),
    ],
)
def test_parameters_and_their_start(windowed, bottleneck, subgroups, weights):
    cupynn.manual_seed(0)
    layer = nn.SeqConv2d(16, 24, 8, windowed, bottleneck, subgroups)
    norms = 2 * 24 * (2 if bottleneck else 1)
    assert sum(p.size for p in layer.parameters()) == weights + norms
    for name, parameter in layer.named_parameters():
        if name.endswith("conv.weight"):
            taps = 1 if ".pre." in name else 9
            bound = (6 / (8 * taps)) ** 0.5  # sqrt(6 / fan-out), groups not counted
            assert 0.9 * bound < np.abs(parameter.numpy()).max() <= np.float32(bound)


@pytest.mark.parametrize("bottleneck", [True, False])
def test_a_block_starts_as_the_identity_and_learns_in_its_second_layer_first(bottleneck):
    rng = np.random.default_rng(1)
    block = ResidualBlock(6, 2, bottleneck=bottleneck)
    act, raw = (rng.standard_normal((3, 6, 5, 4)).astype(np.float32) for _ in range(2))
    new_raw, new_act = block(tensor(act, requires_grad=True), raw)
    assert np.array_equal(new_raw.numpy(), raw)
    (new_act * rng.standard_normal(act.shape).astype(np.float32)).sum().backward()
    grads = {name: parameter.grad for name, parameter in block.named_parameters()}
    assert all(grads[f"B.f.{j}.conv.weight"].any() for j in range(3))
    assert not any(grad.any() for name, grad in grads.items() if name.startswith("A.") or ".pre." in name)
    assert all(unit.pre.conv.weight.numpy().any() for unit in block.B.f if bottleneck)


def test_running_statistics_are_those_of_batch_norm_and_move_in_training_only():
    layer, rng = nn.SeqConv2d(4, 4, 2, bottleneck=True, dropout=0.2), np.random.default_rng(2)
    x = rng.standard_normal((3, 4, 5, 5)).astype(np.float32)
    for expected in (1, 2):
        raw, _ = layer(x)
        counts = [array for name, array in layer.state_dict().items() if "num_batches" in name]
        assert len(counts) == 4 and all(count == expected for count in counts)
    before = {name: array.copy() for name, array in layer.state_dict().items()}
    first, second = layer.eval()(x), layer(x)
    assert all(np.array_equal(before[name], array) for name, array in layer.state_dict().items())
    assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[0].numpy(), raw.numpy())


@pytest.mark.parametrize("bottleneck, subgroups", [(False, 1), (True, 2)])
def test_training_twice_gives_the_same_bits(bottleneck, subgroups):
    def train():
        cupynn.manual_seed(3)
        head = nn.SeqConv2d(3, 8, 4, windowed=False)
        block = ResidualBlock(8, 4, bottleneck=bottleneck, subgroups=subgroups, dropout=0.1)
        model, rng = nn.ModuleList([head, block]), np.random.default_rng(4)
        optimiser = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        losses = []
        for _ in range(50):
            x = rng.standard_normal((4, 3, 6, 6)).astype(np.float32)
            optimiser.zero_grad()
            raw, act = head(x)
            loss = ((block(act, raw)[1] - np.abs(x[:, :1])) ** 2).mean()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        return losses, b"".join(array.tobytes() for array in model.state_dict().values())

    losses, first = train()
    assert first == train()[1]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_an_expanded_model_trains_through_its_kernels():
    """`expand` replaces the layer's convolutions; DO-Conv keeps what they computed."""
    cupynn.manual_seed(5)
    layer = nn.SeqConv2d(4, 4, 2)
    expanded = cupynn.expand(layer, "do")
    x = np.random.default_rng(5).standard_normal((2, 4, 5, 5)).astype(np.float32)
    for plain, wide in zip(layer.eval()(x), expanded.eval()(x), strict=True):
        np.testing.assert_allclose(plain.numpy(), wide.numpy(), rtol=0, atol=1e-5)
    expanded.train()(x)[1].sum().backward()
    assert all(unit.conv.D.grad is not None for unit in expanded.f)
    compact = cupynn.contract(expanded)
    assert list(compact.state_dict()) == list(layer.state_dict())


def test_it_takes_what_another_operation_returns():
    layer, rng = nn.SeqConv2d(4, 4, 2), np.random.default_rng(6)
    x = tensor(rng.standard_normal((2, 4, 5, 5)).astype(np.float32), requires_grad=True)
    raw, act = layer(ops.relu(x))
    layer(act, raw)[1].sum().backward()
    assert x.grad.shape == x.shape and np.isfinite(x.grad).all()


def test_errors_and_repr():
    for arguments, message in (
        ((4, 5, 2), "out_channels must be a multiple of k=2; got 5"),
        ((4, 4, 0), "k must be an integer >= 1; got 0"),
        ((4, 4, 4, True, True, 3), "subgroups must divide k=4, and be 1 without a bottleneck; got subgroups=3"),
        ((4, 4, 4, True, False, 2), "subgroups must divide k=4, and be 1 without a bottleneck; got subgroups=2"),
        ((2, 8, 4), "in_channels must be at least k=4 with windowed=True; got 2"),
        ((4, 4, 4, True, False, 1, 2.0), "dropout must be a probability from 0 to 1; got 2.0"),
    ):
        with pytest.raises(ValueError, match=f"SeqConv2d: {message}"):
            nn.SeqConv2d(*arguments)
    layer = nn.SeqConv2d(4, 8, 2, bottleneck=True, subgroups=2, dropout=0.1)
    with pytest.raises(ValueError, match=r"SeqConv2d: x must be \(N, 4, H, W\); it has shape \(1, 3, 2, 2\)"):
        layer(np.zeros((1, 3, 2, 2), np.float32))
    with pytest.raises(ValueError, match=r"seq_conv: .*shortcut must be \(1, 8, 3, 3\); it has shape \(1, 4, 3, 3\)"):
        layer(np.zeros((1, 4, 3, 3), np.float32), np.zeros((1, 4, 3, 3), np.float32))
    assert "4, 8, k=2, windowed=True, bottleneck=True, subgroups=2, dropout=0.1" in repr(layer)
