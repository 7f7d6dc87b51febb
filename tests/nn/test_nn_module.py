"""Modules: what belongs to them, their state, their modes, their text."""

import copy
import pickle

import numpy as np
import pytest

import cupynn
from cupynn import nn
from cupynn.autograd import tensor


class Net(nn.Module):
    def __init__(self):
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4, bias=False)])
        self.slope = nn.PReLU(4)
        self.scale = nn.Parameter(np.ones((1,), np.float32))

    def forward(self, x):
        x = nn.AdaptiveAvgPool2d(1)(self.features(x)).reshape(x.shape[0], 4)
        for block in self.blocks:
            x = self.slope(block(x))
        return x * self.scale


# What PyTorch's state_dict holds for the same net, in its order.
STATE = {
    "scale": (1,),
    "features.0.weight": (4, 3, 3, 3),
    "features.0.bias": (4,),
    "features.1.weight": (4,),
    "features.1.bias": (4,),
    "features.1.running_mean": (4,),
    "features.1.running_var": (4,),
    "features.1.num_batches_tracked": (),
    "blocks.0.weight": (4, 4),
    "blocks.0.bias": (4,),
    "blocks.1.weight": (4, 4),
    "slope.weight": (4,),
}


def test_state_names_order_and_shapes_are_pytorchs():
    net = Net()
    assert [(name, array.shape) for name, array in net.state_dict().items()] == list(STATE.items())
    buffers = {"features.1.running_mean", "features.1.running_var", "features.1.num_batches_tracked"}
    assert [name for name, _ in net.named_parameters()] == [name for name in STATE if name not in buffers]
    assert net.state_dict()["features.1.num_batches_tracked"].dtype == np.int64
    assert all(array.dtype == np.float32 for name, array in net.state_dict().items() if "num_batches" not in name)


def test_state_round_trip():
    cupynn.manual_seed(0)
    one, other = Net(), Net()
    x = tensor(np.random.default_rng(1).standard_normal((5, 3, 6, 6)).astype(np.float32))
    for _ in range(3):
        one(x)
    assert np.abs(one.eval()(x).numpy() - other.eval()(x).numpy()).max() > 1e-4
    weights = dict(other.named_parameters())
    arrays = other.state_dict()
    other.load_state_dict(one.state_dict())
    np.testing.assert_array_equal(one(x).numpy(), other(x).numpy())
    assert other.features[1].num_batches_tracked == 3
    assert all(other.state_dict()[name] is array for name, array in arrays.items()), "the same arrays, filled anew"
    assert dict(other.named_parameters()) == weights
    one.features[0].weight.data[...] = 0
    assert other.features[0].weight.data.any(), "a copy, not the same memory"


def test_loading_keeps_the_modules_dtype():
    net = nn.Linear(2, 3).astype(np.float64)
    net.load_state_dict({"weight": np.ones((3, 2), np.float32), "bias": [1, 2, 3]})
    assert net.weight.dtype == np.float64
    np.testing.assert_array_equal(net.bias.data, [1, 2, 3])


def test_loading_names_every_fault_and_changes_nothing():
    net = Net()
    before = {name: array.copy() for name, array in net.state_dict().items()}
    state = {name: np.full_like(array, 7) for name, array in before.items()}
    del state["slope.weight"]
    state["head.weight"] = np.zeros(3)
    state["blocks.0.weight"] = np.zeros((4, 5))
    with pytest.raises(ValueError) as error:
        net.load_state_dict(state)
    assert str(error.value).split("\n")[1:] == [
        "  missing: slope.weight (4,)",
        "  unexpected: head.weight",
        "  shape of blocks.0.weight: the module has (4, 4), the state has (4, 5)",
    ]
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_shared_parameters_and_modules_count_once():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    assert set(net.state_dict()) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    twice = nn.Sequential(net[0], net[0])
    assert len(list(twice.parameters())) == 2
    assert [name for name, _ in twice.named_modules()] == ["", "0"]


def test_attributes_can_be_replaced():
    net = Net()
    net.features[0] = nn.Conv2d(3, 4, 5, padding=2)
    net.slope = nn.ReLU()
    net.scale = None
    assert net.state_dict()["features.0.weight"].shape == (4, 3, 5, 5)
    assert not {"slope.weight", "scale"} & set(net.state_dict())
    del net.blocks
    assert not any(name.startswith("blocks") for name in net.state_dict())


def test_train_and_eval_reach_every_module():
    net = Net()
    assert all(module.training for module in net.modules())
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    net.train()
    assert all(module.training for module in net.modules())


def test_zero_grad_and_astype():
    net = Net()
    x = np.random.default_rng(2).standard_normal((2, 3, 4, 4))
    net(tensor(x.astype(np.float32))).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    net.zero_grad()
    assert all(parameter.grad is None for parameter in net.parameters())
    parameters = list(net.parameters())
    assert net.astype(np.float64) is net
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert {array.dtype for array in net.state_dict().values()} == {np.dtype(np.float64), np.dtype(np.int64)}
    assert net(tensor(x)).dtype == np.float64


def test_to_device_keeps_values():
    net = Net()
    before = {name: array.copy() for name, array in net.state_dict().items()}
    assert net.to_device("cpu") is net
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_independent(clone):
    net = Net()
    other = clone(net)
    for name, array in other.state_dict().items():
        np.testing.assert_array_equal(array, net.state_dict()[name])
        assert array is not net.state_dict()[name]
    assert all(parameter.requires_grad for parameter in other.parameters())


def test_repr_is_a_tree():
    assert repr(Net()) == (
        "Net(\n"
        "  (features): Sequential(\n"
        "    (0): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))\n"
        "    (1): BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=True)\n"
        "    (2): ReLU()\n"
        "    (3): MaxPool2d(kernel_size=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1), ceil_mode=False)\n"
        "  )\n"
        "  (blocks): ModuleList(\n"
        "    (0): Linear(in_features=4, out_features=4, bias=True)\n"
        "    (1): Linear(in_features=4, out_features=4, bias=False)\n"
        "  )\n"
        "  (slope): PReLU(num_parameters=4)\n"
        ")"
    )


def test_lists_of_modules():
    modules = nn.ModuleList()
    modules.append(nn.ReLU())
    modules.append(nn.Tanh())
    modules[-1] = nn.Sigmoid()
    assert len(modules) == 2
    assert [type(module) for module in modules] == [nn.ReLU, nn.Sigmoid]
    with pytest.raises(TypeError, match="item 2 must be a Module; got function"):
        modules.append(lambda x: x)
    with pytest.raises(IndexError):
        modules[2] = nn.ReLU()
    with pytest.raises(TypeError, match="ModuleList defines no forward"):
        modules(tensor([1.0]))


def test_slices_of_containers_share_their_modules():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    part = net[np.int64(0) : 2]
    assert type(part) is nn.Sequential and list(part) == [net[0], net[1]] and not part.training
    assert list(net[::-1]) == [net[2], net[1], net[0]]
    assert type(nn.ModuleList(net)[1:]) is nn.ModuleList
    with pytest.raises(TypeError):
        net[0:2] = nn.ReLU()
    assert len(net) == 3


def test_state_that_does_not_convert_is_refused_before_anything_changes():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm2d(3))
    before = {name: array.copy() for name, array in net.state_dict().items()}
    state = {
        **{name: np.full_like(array, 7) for name, array in before.items()},
        "0.weight": np.ones((3, 2), complex),
        "0.bias": np.array(["1", "2", "3"]),
        "1.weight": [[1], [2, 3]],
        "1.num_batches_tracked": np.array(np.nan),
    }
    with pytest.raises(ValueError) as error:
        net.load_state_dict(state)
    faults = str(error.value).split("\n")[1:]
    assert faults[:2] == [
        "  dtype of 0.weight: the module has float32, the state has complex128",
        "  dtype of 0.bias: the module has float32, the state has <U1",
    ]
    assert faults[2].startswith("  1.weight is no array: ")
    assert faults[3] == "  dtype of 1.num_batches_tracked: the module has int64, the state has float64"
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_loading_tensors_and_the_modules_own_arrays():
    net = nn.Linear(2, 2)
    net.load_state_dict(dict(net.named_parameters()))
    two = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)])
    first, second = (array.copy() for array in two.state_dict().values())
    two.load_state_dict({"0.weight": two[1].weight, "1.weight": two[0].weight})
    np.testing.assert_array_equal(two[0].weight.data, second)
    np.testing.assert_array_equal(two[1].weight.data, first)


@pytest.mark.parametrize("value", [tensor([1.0], requires_grad=True), np.ones(1)], ids=["tensor", "array"])
def test_a_parameter_is_not_replaced_by_what_is_none(value):
    net = Net()
    before = net.scale
    with pytest.raises(TypeError, match=r"Net.scale is a Parameter, and a \w+ would take it out of parameters\(\)"):
        net.scale = value
    assert net.scale is before
    net.scale = nn.Parameter(np.zeros(1, np.float32))
    assert "scale" in net.state_dict()
