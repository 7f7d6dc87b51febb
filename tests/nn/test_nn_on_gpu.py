"""A network on the GPU against the same network on the CPU."""

import numpy as np
import pytest

import cupynn
from cupynn import nn, ops, optim
from cupynn.autograd import tensor
from cupynn.device import cuda_available, to_numpy, use_device


@pytest.mark.gpu
@pytest.mark.skipif(not cuda_available(), reason="no GPU here")
def test_training_on_the_gpu_follows_the_cpu():
    """Three steps in float64 from one seed; the sums run in another order, which is rounding and no more."""
    states = []
    for device in ("cpu", "cuda"):
        with use_device(device):
            cupynn.manual_seed(0)
            net = nn.Sequential(
                nn.Conv2d(3, 8, 5, padding=2),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Dropout2d(0.3),
                nn.Conv2d(8, 4, 3, stride=2, groups=2),
                nn.Hardswish(),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Linear(16, 5),
            ).astype(np.float64)
            optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
            rng = np.random.default_rng(1)
            for _ in range(3):
                x, targets = tensor(rng.standard_normal((6, 3, 16, 16))), rng.integers(5, size=6)
                optimizer.zero_grad()
                ops.cross_entropy(net(x), targets).backward()
                optimizer.step()
            states.append({name: to_numpy(array) for name, array in net.state_dict().items()})
            moved = net.to_device("cpu").state_dict()
            assert all(isinstance(array, np.ndarray) for array in moved.values())
    for name, array in states[0].items():
        np.testing.assert_allclose(states[1][name], array, rtol=1e-10, atol=1e-12, err_msg=name)
