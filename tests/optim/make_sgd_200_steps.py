"""Writes data/sgd_200_steps.json, the figures of test_against_torch.py. Needs PyTorch:

python tests/optim/make_sgd_200_steps.py
"""

import json
import pathlib

import numpy as np
import torch
from torch.optim import lr_scheduler as schedulers

POINTS, FEATURES, HIDDEN, CLASSES, STEPS, STEPS_PER_EPOCH = 24, 6, 5, 4, 200, 10
SCHEDULES = {
    "constant": lambda o: schedulers.LambdaLR(o, lambda step: 1.0),
    "multistep": lambda o: schedulers.MultiStepLR(o, [80, 150], 0.1),
    "step": lambda o: schedulers.StepLR(o, 60, 0.5),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 200),
    "warm_up_multistep": lambda o: schedulers.ChainedScheduler(
        [schedulers.LinearLR(o, 0.1, 1.0, 40), schedulers.MultiStepLR(o, [80, 150], 0.1)]
    ),
    "warm_up_cosine": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, 1.0, 40), schedulers.CosineAnnealingLR(o, 160)], [40]
    ),
}
SGD = {"lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}
CASES = {
    "plain": {**SGD, "schedule": "constant", "momentum": 0.0},
    "momentum": {**SGD, "schedule": "multistep", "weight_decay": 1e-2},
    "nesterov": {**SGD, "schedule": "cosine", "nesterov": True, "weight_decay": 5e-3},
    "step": {**SGD, "schedule": "step", "lr": 0.2, "momentum": 0.5, "weight_decay": 1e-3},
    "warm_up": {
        **{**SGD, "schedule": "warm_up_multistep", "lr": 0.2, "nesterov": True, "weight_decay": 1e-3},
        "label_smoothing": 0.1,
    },
    "groups": {
        **{**SGD, "schedule": "warm_up_cosine", "lr": 0.3, "weight_decay": 1e-2, "clip_norm": 0.4},
        **{"bias_lr": 0.25, "bias_decay": [[0, 1e-1], [8, 1e-2], [15, 0.2]], "label_smoothing": 0.2},
    },
}


def run(case, x, labels, start):
    """200 steps; the case with what came of it."""
    w1, b1, w2, b2 = parameters = [torch.tensor(array.copy(), requires_grad=True) for array in start]
    groups = [{"params": parameters}]
    if "bias_lr" in case:
        groups = [{"params": [w1, w2]}, {"params": [b1, b2], "lr": case["lr"] * case["bias_lr"]}]
    optimizer = torch.optim.SGD(groups, **{name: case[name] for name in SGD})
    schedule = SCHEDULES[case["schedule"]](optimizer)
    lrs, losses, norms = [], [], []
    for step in range(STEPS):
        for epoch, decay in case.get("bias_decay", []):
            if step // STEPS_PER_EPOCH >= epoch:
                optimizer.param_groups[1]["weight_decay"] = decay
        chosen = np.arange(step * 6, step * 6 + 6) % POINTS
        optimizer.zero_grad()
        logits = torch.relu(torch.tensor(x[chosen]) @ w1.T + b1) @ w2.T + b2
        targets = torch.tensor(labels[chosen])
        loss = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=case.get("label_smoothing", 0.0))
        loss.backward()
        if "clip_norm" in case:
            norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, case["clip_norm"])))
        lrs.append(optimizer.param_groups[0]["lr"])
        losses.append(loss.item())
        optimizer.step()
        schedule.step()
    end = [parameter.detach().tolist() for parameter in parameters]
    return {**case, "lrs": lrs, "losses": losses[::10], "norms": norms[::10], "end": end}


def main():
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    rng = np.random.default_rng(20261121)
    x, labels = rng.standard_normal((POINTS, FEATURES)), rng.integers(0, CLASSES, POINTS)
    shapes = (HIDDEN, FEATURES), (HIDDEN,), (CLASSES, HIDDEN), (CLASSES,)
    start = [rng.standard_normal(shape) * 0.5 for shape in shapes]
    figures = {
        "torch": torch.__version__,
        "x": x.tolist(),
        "labels": labels.tolist(),
        "start": [array.tolist() for array in start],
        "steps_per_epoch": STEPS_PER_EPOCH,
        "cases": {name: run(case, x, labels, start) for name, case in CASES.items()},
    }
    path = pathlib.Path(__file__).parents[1] / "data" / "sgd_200_steps.json"
    path.write_text(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
