"""Checks that the tests of MobileNets and ShuffleNet share."""

import zlib
from pathlib import Path

import numpy as np
import pytest

import cupynn
from cupynn import models, ops
from cupynn.autograd import Tensor, no_grad
from cupynn.kernels.runtime import modes
from cupynn.nn import Conv2d, init
from cupynn.optim import SGD

# Logits (2, 10) in float64, in evaluation mode, made with PyTorch: ExpandNets' modules of v1, v2 and ShuffleNet, and a
# transcription of GluonCV's v3. Weights and images are `drawn_state` and `drawn_images`.
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "mobilenets.npz"


def drawn_state(shapes):
    """{name: array}, drawn in the alphabetical order of the names from one generator of seed 0."""
    rng = np.random.default_rng(0)
    state = {}
    for name in sorted(shapes):
        shape = shapes[name]
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var"):
            state[name] = rng.uniform(0.5, 1.5, shape)
        elif len(shape) == 1:
            state[name] = rng.uniform(-0.5, 0.5, shape) + (1 if name.endswith("weight") else 0)
        else:
            state[name] = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return state


def drawn_images():
    return np.random.default_rng(1).standard_normal((2, 3, 32, 32))


def check_logits(name, key, cifar=False, **options):
    """The network's logits are the golden ones, `key`."""
    model = models.create(name, classes=10, cifar=cifar, **options).astype(np.float64).eval()
    state = model.state_dict()
    model.load_state_dict({**state, **drawn_state({name: array.shape for name, array in state.items()})})
    with no_grad():
        logits = model(Tensor(drawn_images())).numpy()
    wanted = np.load(GOLDEN)[f"{key}_cifar" if cifar else key]
    # Some fifty layers of sums of up to 1280 products in float64: 2e-13 was measured, 1e-11 is allowed.
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-11 * np.abs(wanted).max())


def check_training(name):
    """The CIFAR network lowers the loss on a batch of 8 within 10 steps."""
    if modes.mode() == "checked" and name != "shufflenet_v2":
        pytest.skip("up to a minute where a kernel's threads run one after another; ShuffleNet's runs")
    cupynn.manual_seed(0)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    model = models.create(name, cifar=True, classes=10)
    images, labels = Tensor(rng.standard_normal((8, 3, 32, 32)).astype(np.float32)), rng.integers(0, 10, 8)
    optimiser = SGD(model.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for _ in range(11):
        loss = ops.cross_entropy(model(images), labels)
        losses.append(loss.item())
        if losses[-1] < losses[0]:
            return
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    raise AssertionError(f"{name}: the loss never fell below its first value: {losses}")


def check_stages(name, count, **options):
    """There are `count` stages, and every convolution larger than 1x1 is in one and only one."""
    with init.shapes_only():
        model = models.create(name, **options)
    assert len(model.stages) == count
    stages = [(stage,) if isinstance(stage, str) else stage for stage in model.stages]
    modules = dict(model.named_modules())
    assert all(prefix in modules for stage in stages for prefix in stage)
    for name_of, layer in modules.items():
        if type(layer) is Conv2d and layer.kernel_size != (1, 1):
            assert sum(name_of.startswith(f"{prefix}.") for stage in stages for prefix in stage) == 1, name_of


def layers_of(model, kind):
    """The names of the modules of one type."""
    return [name for name, module in model.named_modules() if type(module) is kind]
