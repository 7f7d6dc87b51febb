"""Every kernel, and 50 steps of training through all the papers' layers, give the same bits in every run.

Each run is a process of its own, two with one thread and two with two: nothing of a run is left for the next.
"""

import os
import subprocess
import sys

import pytest

from cupynn.kernels import runtime

KERNELS = """
import hashlib
from cupynn.cli.kernel_examples import EXAMPLES, _normal_numbers
for name, example in EXAMPLES.items():
    outputs = example(_normal_numbers())()
    print(name, hashlib.sha256(b"".join(array.tobytes() for array in outputs)).hexdigest())
"""

TRAINING = """
import hashlib
import numpy as np
import cupynn
from cupynn import nn, ops, optim
from cupynn.autograd import Tensor

class Network(nn.Module):
    def __init__(self):
        self.stem = nn.Sequential(nn.ExpandedConv2d("ck", 3, 16, 5, padding=2, rate=2), nn.BatchNorm2d(16), nn.ReLU())
        self.sequence = nn.SeqConv2d(16, 16, 4, dropout=0.1)
        self.whe = nn.WHEBlock(16, 4)
        self.do = nn.DOConv2d(16, 16, 3, padding=1)
        self.cross = nn.CrossLayerDepthwise(16, 3)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        linear = nn.ExpandedLinear(16 * 49, 32, rate=2), nn.Linear(32, 10)
        self.head = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), *linear)

    def forward(self, x):
        first = self.stem(x)
        second = self.whe(self.sequence(first)[1])
        outputs = [ops.LayerOutput(tensor) for tensor in (self.do(second), second, first)]
        return self.head(self.depthwise(self.cross(outputs)))

cupynn.manual_seed(0)
rng = np.random.default_rng(0)
model = Network()
optimiser = optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
for step in range(50):
    images, labels = rng.standard_normal((9, 3, 14, 14), np.float32), rng.integers(0, 10, 9)
    optimiser.zero_grad()
    loss = ops.cross_entropy(model(Tensor(images)), labels)
    loss.backward()
    optimiser.step()
state = model.state_dict()
print("loss", loss.item())
print("weights", hashlib.sha256(b"".join(array.tobytes() for array in state.values())).hexdigest())
"""


@pytest.mark.parametrize("script", [KERNELS, TRAINING], ids=["kernels", "training"])
def test_every_run_gives_the_same_bits_at_one_thread_and_at_two(script):
    if runtime.mode() == "checked":
        pytest.skip("the checker runs one block after the other")
    outputs = []
    for threads in "1122":
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout.splitlines())
    assert len(outputs[0]) > 1 and "nan" not in outputs[0][0]
    assert outputs[0] == outputs[1] and outputs[2] == outputs[3]
    if script is KERNELS and runtime.mode() == "compiled":  # BLAS, in training and the references, may divide otherwise
        assert outputs[0] == outputs[2]
