"""A profile of a step: its parts add up, every kernel is there, slow operations come first, nothing stays behind."""

import collections
import time

import numpy as np
import pytest

import cupynn
from cupynn import nn, ops
from cupynn.autograd import Function, Tensor, no_grad
from cupynn.kernels import runtime
from cupynn.kernels.runtime import cpu
from cupynn.profile import chain_overhead, profile
from cupynn.profile.floors import Ceilings
from cupynn.profile.measure import CATEGORIES
from cupynn.profile.watch import ADDITION

CEILINGS = Ceilings(bytes_per_second=1e11, operations_per_second=1e11)


class Slow(Function):
    """y = x, after a sleep."""

    def forward(self, x):
        time.sleep(0.05)
        return x.copy()

    def backward(self, grad):
        return grad


class Net(nn.Module):
    """Convolution, batch norm, a branch that is added, pooling, a fully connected layer."""

    def __init__(self, slow=False):
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 4 * 4, 5)
        self.slow = slow

    def forward(self, x):
        x = self.norm(self.conv(x))
        x = ops.relu(x) + x
        x = ops.max_pool2d(x, 2)
        if self.slow:
            x = Slow()(x)
        return self.head(x.reshape(len(x), -1))


def training(batch=4, slow=False, seed=0):
    rng = np.random.default_rng(seed)
    model = Net(slow)
    optimiser = cupynn.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    images, labels = rng.standard_normal((batch, 3, 8, 8), np.float32), rng.integers(0, 5, batch)

    def step():
        optimiser.zero_grad()
        ops.cross_entropy(model(Tensor(images)), labels).backward()
        optimiser.step()

    return step


@pytest.fixture(scope="module")
def found():
    return profile(training(), training(2), steps=3)


def test_the_parts_are_the_whole(found):
    # Own times are differences of readings of one clock: only rounding keeps their sum from the whole.
    assert sum(span.own for span in found.spans) == pytest.approx(found.seconds, rel=1e-9)
    assert sum(found.categories().values()) == pytest.approx(found.seconds, rel=1e-9)
    assert sum(found.shares().values()) == pytest.approx(1, rel=1e-9)
    assert tuple(found.shares()) == CATEGORIES
    outside = sum(span.own for number, span in enumerate(found.spans) if found.category(number) == "Python")
    assert sum(found.python().values()) == pytest.approx(outside + found.python_in_operations, rel=1e-9)
    operations = sum(row.seconds for row in found.operations())
    assert operations + outside >= found.seconds * (1 - 1e-9)  # packing lies in operations and counts as Python too
    assert operations < found.seconds
    kernels = sum(row.seconds for row in found.kernels())
    by_kind = found.categories()
    assert kernels == pytest.approx(sum(by_kind[name] for name in CATEGORIES[:4]), rel=1e-9, abs=1e-12)
    assert found.plain_seconds > 0 and found.python_per_record > 0


def test_every_launch_appears(found, monkeypatch):
    if runtime.mode() != "compiled":
        pytest.skip("the launches of compiled kernels are counted")
    counted = collections.Counter()
    original = cpu.kernel

    def counting(name, *rest):
        counted[f"{name}.cu"] += 1
        return original(name, *rest)

    step = training()
    step()
    monkeypatch.setattr(cpu, "kernel", counting)
    step()
    rows = {row.name: row.launches for row in found.kernels()}
    assert rows.pop("matrix products") == 3  # the fully connected layer's: forward, and two gradients
    assert rows == counted
    assert {"conv.cu", "batch_norm.cu", "pool.cu", "cross_entropy.cu", "sgd.cu"} <= set(rows)


def test_records_layers_and_memory(found):
    rows = {(row.name, row.which): row for row in found.operations()}
    assert found.records == 8  # Conv2d, BatchNormTraining, ReLU, Add, MaxPool2d, Reshape, Linear, CrossEntropy
    assert rows["Conv2d", "forward"].layers == rows["Conv2d", "backward"].layers == ["conv"]
    assert rows["BatchNormTraining", "backward"].layers == ["norm"]
    assert rows["ReLU", "forward"].layers == ["Net"]  # no module of its own
    assert rows["Conv2d", "forward"].shapes == ((4, 3, 8, 8), (8, 3, 3, 3), (8,))
    assert rows["Conv2d", "forward"].bytes == 4 * (4 * 3 * 64 + 8 * 27 + 8 + 4 * 8 * 64)
    assert rows[ADDITION, "backward"].calls == 1 and rows[ADDITION, "backward"].shapes == ((4, 8, 8, 8),)
    assert rows["Linear", "backward"].calls == 1
    maps = 4 * 8 * 64 * 4  # bytes of a map of 8 channels
    assert 2 * maps < found.saved_bytes < 6 * maps  # batch norm's input, ReLU's input or output, the small rest
    assert found.peak_bytes > found.saved_bytes


def test_costs_become_floors(found):
    if runtime.mode() != "compiled":
        pytest.skip("kernels of the compiled mode")
    kernels = {row.name: row for row in found.kernels(CEILINGS)}
    image, weight, y = 4 * 3 * 64, 8 * 27, 4 * 8 * 64
    # forward, and the gradient to the weight: the images need none
    assert kernels["conv.cu"].bytes == 2 * 4 * (image + weight + y)
    assert kernels["conv.cu"].operations == 2 * 2 * y * 27
    assert kernels["conv.cu"].floor == pytest.approx(2 * max(4 * (image + weight + y) / 1e11, 2 * y * 27 / 1e11))
    assert kernels["conv.cu"].of_floor == pytest.approx(kernels["conv.cu"].floor / kernels["conv.cu"].seconds)
    parameters = 8 * 27 + 8 + 8 + 8 + 5 * 128 + 5
    assert kernels["sgd.cu"].bytes == 5 * 4 * parameters
    assert kernels["matrix products"].operations == 3 * 2 * 4 * 128 * 5
    operations = {(row.name, row.which): row.floor for row in found.operations(CEILINGS)}
    assert operations["Conv2d", "forward"] == pytest.approx(kernels["conv.cu"].floor / 2)
    assert operations["Add", "forward"] is None  # no kernel
    assert all(row.floor is None for row in found.kernels())


def test_a_slow_operation_is_at_the_top():
    found = profile(training(slow=True), steps=1)
    first = found.operations()[0]
    if runtime.mode() == "checked":  # where every kernel takes as long
        first = next(row for row in found.operations() if row.name == "Slow")
    assert (first.name, first.which, first.calls) == ("Slow", "forward", 1)
    assert first.seconds >= 0.05 and first.kernel_seconds == 0
    assert found.categories()["array operations"] >= 0.05
    assert found.python_in_operations is None  # not known without a small step


def test_inference_has_no_tape(found):
    model = Net().eval()
    images = np.zeros((2, 3, 8, 8), np.float32)

    def step():
        with no_grad():
            model(Tensor(images))

    inference = profile(step, steps=1)
    assert inference.saved_bytes is None
    assert inference.records == 7
    assert {row.which for row in inference.operations()} == {"forward"}


def watched_functions():
    return (
        runtime.launch,
        runtime.multiply,
        ops.conv.Conv2d.forward,
        ops.conv.Conv2d.backward,
        nn.Module.__call__,
        Tensor.backward,
        cupynn.optim.SGD.step,
        cupynn.autograd.backward._deliver,
        cupynn.kernels.conv_direct.forward,
        cupynn.kernels.conv_columns.im2col,
        cpu.Kernel.pack,
    )


def test_nothing_stays_behind():
    before = watched_functions()
    inside = []

    def step():
        inside.append(watched_functions())
        if len(inside) > 2:
            raise KeyError("in a watched step")

    with pytest.raises(KeyError):
        profile(step, steps=1)
    assert all(a is not b for a, b in zip(before, inside[-1], strict=True))
    assert all(a is b for a, b in zip(before, watched_functions(), strict=True))
    with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
        profile(step, steps=0)


class Scale(Function):
    def forward(self, x):
        return self.factor * x

    def backward(self, grad):
        return self.factor * grad


class Left(Scale):
    pass


class Right(Scale):
    def forward(self, x):
        return super().forward(x)


class Both(Left, Right):
    """Found twice among the subclasses of Function, with a forward that calls another."""

    def forward(self, x):
        return super().forward(x)


def test_functions_that_inherit_are_counted_once():
    original = vars(Both)["forward"]
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    found = profile(lambda: Both(factor=2.0)(x).backward(np.ones(3, np.float32)), steps=1)
    assert vars(Both)["forward"] is original
    assert {(row.name, row.which): row.calls for row in found.operations() if row.name == "Both"} == {
        ("Both", "forward"): 1,
        ("Both", "backward"): 1,
    }
    assert found.records == 1


def test_a_profile_changes_no_value():
    arrays = []
    for watched in (False, True):
        cupynn.manual_seed(0)
        model = Net()
        model.conv.weight.data[:] = np.linspace(-1, 1, model.conv.weight.size).reshape(model.conv.weight.shape)
        images = np.random.default_rng(1).standard_normal((2, 3, 8, 8), np.float32)

        def step(model=model, images=images):
            model.zero_grad()
            model(Tensor(images)).sum().backward()

        if watched:
            profile(step, steps=1)
        else:
            step()
        arrays.append(model.conv.weight.grad.copy())
    np.testing.assert_array_equal(*arrays)


def test_the_chain_is_measured():
    assert 0 < chain_overhead(length=50, rounds=3) < 1e-2
