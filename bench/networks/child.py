"""One measurement of one network, in a process of its own: `python -m bench.networks.child TASK`.

TASK is JSON: the function's name under "task", and its arguments. The last line printed is its answer as JSON.
"""

from __future__ import annotations

from bench.timing import take_turns  # first: it sets the threads' environment

# isort: split

import ctypes
import json
import pathlib
import sys
from collections.abc import Callable

import numpy as np

from bench.command import find_torch
from bench.networks.cases import CASES, Case, batch_of
from bench.report import machine

WARM_UP = 2
LIBRARIES = {"cupynn": "", "eager": "PyTorch", "compile": "torch.compile"}


def contenders(name: str, batch: int, passes: str, libraries: list[str]) -> dict:
    """{library: a function that does what `passes` says}; for inference, expanded networks are contracted ones, and
    "layers" is the peer that runs all layers that were trained."""
    case, (images, labels) = CASES[name], batch_of(batch)
    runs = {}
    if "cupynn" in libraries:
        from bench.networks import steps

        model = case.ours()
        runs["cupynn"] = (
            steps.training_step(model, images, labels) if passes == "training" else steps.inference(model, images)
        )
    for library in libraries:
        if library == "cupynn":
            continue
        import torch

        from bench.peers import torch_steps

        model = case.peer() if passes == "training" or library == "layers" else case.compact().peer()
        if library == "compile":
            model = torch.compile(model, dynamic=False)
        runs[library] = (
            torch_steps.training_step(model, images, labels)
            if passes == "training"
            else torch_steps.inference(model, images)
        )
    return runs


def times_of(name: str, batch: int, rounds: int, libraries: list[str]) -> dict:
    """Median seconds of every library, and the median of ours over theirs in the same round."""
    case, answer = CASES[name], {}
    for passes in ("training", "inference"):
        taking_part = libraries
        if passes == "inference" and case.expanded and "eager" in libraries:
            taking_part = [*libraries, "layers"]
        times = take_turns(contenders(name, batch, passes, taking_part), rounds, WARM_UP)
        answer[passes] = {
            "seconds": {library: each.median for library, each in times.items()},
            "ratios": {library: times["cupynn"].over(each) for library, each in times.items() if library != "cupynn"},
        }
    answer["parameters"] = sum(parameter.size for parameter in case.ours().parameters())
    return {**answer, "machine": machine()}


def fill_cache(name: str, batch: int) -> dict:
    """Compile both passes, which leaves what the compiler wrote in its cache."""
    for passes in ("training", "inference"):
        contenders(name, batch, passes, ["compile"])["compile"]()
    return {}


def memory(name: str, batch: int, library: str, passes: str) -> dict:
    """Bytes by which the resident memory rises, at its highest, over what it is once library, network, optimiser and
    batch are there: activations, gradients, the optimiser's state, scratch space, and code loaded on the way."""
    run = contenders(name, batch, passes, [library])[library]
    return {"bytes": rise(lambda: [run() for _ in range(3)])}


def rise(run: Callable[[], object]) -> int:
    """Bytes by which the resident memory rises, at its highest, while `run()` runs. Linux with glibc."""
    ctypes.CDLL(None).malloc_trim(0)  # what has been freed is not there to be used again
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the mark of the highest begins anew
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))


def shares(name: str, batch: int) -> dict:
    """The parts of our training step's time, in percent: matrix products, convolutions, and so on."""
    from bench.networks.steps import training_step
    from cupynn.profile import profile

    step, small = (training_step(CASES[name].ours(), *batch_of(count)) for count in (batch, 2))
    found = profile(step, small, steps=3).shares()
    return {category: 100 * share for category, share in found.items()}


def check(name: str, batch: int) -> dict:
    """`compare` of a network that is timed."""
    return compare(CASES[name], *batch_of(batch))


def compare(case: Case, images: np.ndarray, labels: np.ndarray) -> dict:
    """How far the peer is from our network once it has our weights: largest differences, relative to the largest logit
    or to the gradient's norm, in float64. The weights are those after three steps: by then no layer's are 0."""
    import cupynn
    from bench.networks import steps
    from bench.peers import torch_steps
    from cupynn import Tensor, ops

    undropped = {"dropout": 0.0} if "dropout" in case.options or case.builder == "cifar_seqresnet" else {}
    ours, peer = case.ours(**undropped), case.peer(**undropped)
    if case.builder == "mobilenet_v2":  # its dropout is no option
        ours.classifier[0].p = peer[-2].p = 0.0
    step = steps.training_step(ours, images, labels)
    for _ in range(3):
        step()
    ours, images, peer = ours.astype(np.float64), images.astype(np.float64), peer.double()
    torch_steps.load(peer, ours.state_dict())
    compact = peer
    if case.expanded:
        compact = case.compact().peer().double()
        torch_steps.load(compact, cupynn.contract(ours).state_dict())
    answer = {"parameters": [sum(p.size for p in ours.parameters()), sum(p.numel() for p in peer.parameters())]}
    logits = steps.inference(ours, images)().numpy()
    for key, model in {"evaluation": peer, "contracted": compact}.items():
        answer[key] = _apart(torch_steps.inference(model, images)().numpy(), logits)

    import torch

    ours.train().zero_grad()
    logits = ours(Tensor(images))
    ops.cross_entropy(logits, labels).backward()
    theirs = peer.train()(torch.from_numpy(images))
    torch.nn.functional.cross_entropy(theirs, torch.from_numpy(labels)).backward()
    answer["training"] = _apart(theirs.detach().numpy(), logits.numpy())
    gradients = [
        (p.grad.ravel(), q.grad.numpy().ravel()) for p, q in zip(ours.parameters(), peer.parameters(), strict=True)
    ]
    whole = np.concatenate([mine for mine, _ in gradients])
    answer["gradient"] = float(np.linalg.norm(whole - np.concatenate([its for _, its in gradients])))
    answer["gradient"] /= float(np.linalg.norm(whole))
    return answer


def _apart(array: np.ndarray, ours: np.ndarray) -> float:
    return float(np.abs(array - ours).max() / np.abs(ours).max())


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    ours_alone = given["task"] == "shares" or given.get("libraries", [given.get("library")]) == ["cupynn"]
    if not ours_alone:  # PyTorch's threads and memory stay out
        find_torch()
    tasks = {"time": times_of, "compile": fill_cache, "memory": memory, "shares": shares, "check": check}
    print(json.dumps(tasks[given.pop("task")](**given)))
