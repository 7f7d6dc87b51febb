"""200 steps of SGD under schedules against PyTorch 2's figures, in float64.

data/sgd_200_steps.json holds, for a network of two linear layers on 24 points, what torch.optim.SGD did with
torch.optim.lr_scheduler's MultiStepLR, StepLR, CosineAnnealingLR, LinearLR chained or followed by these,
torch.nn.utils.clip_grad_norm_, and cross_entropy with label smoothing: every learning rate, each tenth loss and norm,
and the last weights. The case "groups" has biases with a quarter of the learning rate and a weight decay by epoch.
"""

import json
import pathlib

import numpy as np
import pytest

from cupynn import nn, ops
from cupynn.autograd import Tensor
from cupynn.optim import SGD, Group, clip_grad_norm, plan
from cupynn.optim.schedules import Cosine, MultiStep, Step, WarmUp

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "data" / "sgd_200_steps.json").read_text())
STEPS = 200
# In steps, as the figures were made; 10 steps make an epoch where weight decay follows epochs.
SCHEDULES = {
    "constant": lambda step: 1.0,
    "multistep": MultiStep((80, 150)),
    "step": Step(60, 0.5),
    "cosine": Cosine(200),
    "warm_up_multistep": WarmUp(MultiStep((80, 150)), 40),
    "warm_up_cosine": Cosine(200, warm_up=40),
}


class Network(nn.Module):
    def __init__(self):
        self.hidden, self.out = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x):
        return self.out(ops.relu(self.hidden(x)))


@pytest.mark.parametrize("name", sorted(GOLDEN["cases"]))
def test_200_steps(name):
    case = GOLDEN["cases"][name]
    model = Network().astype("float64")
    for parameter, start in zip(model.parameters(), GOLDEN["start"], strict=True):
        parameter.data[...] = start
    groups = (
        [Group(names=("*.bias",), lr=case["bias_lr"], weight_decay=case["bias_decay"])] if "bias_lr" in case else []
    )
    planned = plan(model, groups, case["weight_decay"])
    optimizer = SGD(
        [{"params": part.parameters} for part in planned],
        lr=case["lr"],
        momentum=case["momentum"],
        nesterov=case["nesterov"],
    )
    x, labels = np.array(GOLDEN["x"]), np.array(GOLDEN["labels"])
    schedule = SCHEDULES[case["schedule"]]
    lrs, losses, norms = [], [], []
    for step in range(STEPS):
        for group, part in zip(optimizer.param_groups, planned, strict=True):
            group["lr"] = case["lr"] * schedule(step) * part.lr
            group["weight_decay"] = part.weight_decay(step // GOLDEN["steps_per_epoch"])
        chosen = np.arange(step * 6, step * 6 + 6) % len(x)
        optimizer.zero_grad()
        loss = ops.cross_entropy(model(Tensor(x[chosen])), labels[chosen], case.get("label_smoothing", 0.0))
        loss.backward()
        if "clip_norm" in case:
            norms.append(float(clip_grad_norm(model.parameters(), case["clip_norm"])))
        lrs.append(optimizer.param_groups[0]["lr"])
        losses.append(float(loss.data))
        optimizer.step()
    np.testing.assert_allclose(lrs, case["lrs"], rtol=1e-12, atol=1e-15)
    # A thousand roundings of 1e-16 in a chain that does not grow: nothing here is near 1e-11.
    np.testing.assert_allclose(losses[::10], case["losses"], rtol=1e-11)
    np.testing.assert_allclose(norms[::10], case["norms"], rtol=1e-10)
    for parameter, end in zip(model.parameters(), case["end"], strict=True):
        np.testing.assert_allclose(parameter.data, end, rtol=0, atol=1e-11)


def test_the_case_with_clipping_clips_some_gradients_and_others_not():
    norms = GOLDEN["cases"]["groups"]["norms"]
    assert 0 < sum(norm > GOLDEN["cases"]["groups"]["clip_norm"] for norm in norms) < len(norms)
