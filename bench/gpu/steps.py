"""Whole training steps: ours by the library's own training loop, PyTorch's eager and compiled, and their memory.

A step is zero_grad, forward, cross-entropy, backward and SGD with Nesterov momentum and weight decay. With float16 and
bfloat16 ours stores activations so, and PyTorch runs under autocast, with a loss scale for float16; with TF32 both may
round factors of convolutions to it, with float32 neither does. Expanded networks train through the contracted kernel
here and layer by layer in PyTorch, as the papers' authors run them. "captured" is our step as one CUDA graph.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from bench.gpu.clock import Clock
from bench.gpu.convolutions import TENSOR_CORES
from bench.gpu.layer import allow_tf32
from bench.gpu.timed import release, tried
from bench.networks.cases import GPU_CASES, Case, batch_of
from cupynn import device
from cupynn.distributed import World
from cupynn.kernels import conv
from cupynn.step_graph import WARM_UP
from cupynn.train import Settings
from cupynn.train.descent import Descent

PRECISIONS = ("float32", "float16", "TF32", "bfloat16")
LR, MOMENTUM, DECAY = 0.01, 0.9, 5e-4
Step = Callable[[], Any]


def our_step(case: Case, batch: int, precision: str, captured: bool = False) -> tuple[Step, int]:
    """The step, and how many parameters the network has. captured: as one CUDA graph, which has been recorded."""
    os.environ["CUPYNN_TF32"] = str(int(precision == "TF32"))
    conv.choices.clear()  # they were made where that was otherwise
    stored = "float32" if precision == "TF32" else precision
    options = {"lr": LR, "momentum": MOMENTUM, "nesterov": True, "weight_decay": DECAY, "precision": stored}
    settings = Settings(batch_size=batch, cuda_graph=captured, **options)
    descent = Descent(case.ours(classes=case.classes).train(), settings, None, World())
    images, labels = map(device.asarray, batch_of(batch, case.side, case.classes))
    parameters = sum(parameter.size for parameter in descent.model.parameters())

    def step():
        return descent.step(images, labels, 0.0, watch=False)

    for _ in range(WARM_UP + 1 if captured else 0):
        step()
    return step, parameters


def peer_step(
    torch: ModuleType, case: Case, batch: int, precision: str, compiled: bool = False, on: str = "cuda"
) -> Step:
    """PyTorch's step."""
    images, labels = (torch.from_numpy(array).to(on) for array in batch_of(batch, case.side, case.classes))
    model = case.peer(classes=case.classes).to(on).train()
    options = {"lr": LR, "momentum": MOMENTUM, "nesterov": True, "weight_decay": DECAY}
    optimiser = torch.optim.SGD(model.parameters(), **options)
    narrow = precision in ("float16", "bfloat16")
    autocast = {"dtype": getattr(torch, precision) if narrow else None, "enabled": narrow}
    scaler = torch.amp.GradScaler(on, enabled=precision == "float16")
    if compiled:
        torch._dynamo.reset()  # it gives up on a function that it has compiled too often
        model = torch.compile(model, dynamic=False)

    def step():
        allow_tf32(torch, precision == "TF32")
        optimiser.zero_grad()
        with torch.autocast(on, **autocast):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        return loss

    return step


def precisions() -> list[str]:
    """Those of PRECISIONS that this GPU has: TF32 since compute capability 8.0."""
    import cupy

    new = TENSOR_CORES in conv.METHODS and int(cupy.cuda.Device().compute_capability) >= 80
    return [each for each in PRECISIONS if new or each != "TF32"]


def warm(name: str, batch: int, torch: ModuleType | None) -> Iterator[dict]:
    """Compile every kernel and, where PyTorch is there, its networks: no times."""
    case = GPU_CASES[name]
    for precision in precisions():
        tried(lambda precision=precision: our_step(case, batch, precision)[0]())
        release(torch)
    if torch is not None:
        for precision in precisions():
            peer_step(torch, case, batch, precision, compiled=True)()
            yield {"compiled": f"{name} {precision}"}
            release(torch)


def rows(
    name: str, batch: int, rounds: int, seconds: float, torch: ModuleType | None, compiled: list[str]
) -> Iterator[dict]:
    """A row for each precision, given once more when PyTorch's compiled step has been timed beside ours."""
    clock = Clock()
    for precision in precisions():
        yield from _rows(name, precision, batch, rounds, seconds, torch, f"{name} {precision}" in compiled, clock)
        release(torch)  # of this precision nothing stays


def _rows(name, precision, batch, rounds, seconds, torch, compiled, clock) -> Iterator[dict]:
    case = GPU_CASES[name]
    row = {"network": name, "precision": precision, "batch": batch, "image": case.side}
    made, fault = tried(lambda: our_step(case, batch, precision))
    memory, fault = ({}, fault) if fault else tried(lambda: our_memory(made[0]))
    if fault:
        yield row | {"failed": fault}
        return
    contenders = {"cupynn": made[0]}
    row |= {"parameters": made[1], **memory}
    release(torch)
    graph, fault = tried(lambda: our_step(case, batch, precision, captured=True))
    if fault:
        row["captured"] = fault
    else:
        contenders["captured"] = graph[0]
    if torch is not None:
        peer, fault = tried(lambda: peer_step(torch, case, batch, precision))
        memory, fault = ({}, fault) if fault else tried(lambda: peer_memory(torch, peer))
        if fault:
            row["eager"] = fault
        else:
            row |= {f"eager_{part}": value for part, value in memory.items()}
            contenders["eager"] = peer
    times, fault = tried(lambda: _times(clock, contenders, batch, rounds, seconds))
    if fault:  # of the others, perhaps
        row["captured"] = row["eager"] = fault
        times, fault = tried(lambda: _times(clock, {"cupynn": made[0]}, batch, rounds, seconds))
    row |= {"failed": fault} if fault else times
    yield row
    if compiled and not fault:
        contenders.clear()
        peer, fault = tried(lambda: peer_step(torch, case, batch, precision, compiled=True))
        if not fault:
            contenders = {"cupynn": made[0], "compile": peer}
            times, fault = tried(lambda: _times(clock, contenders, batch, rounds, seconds))
        found = {"compile": fault} if fault else {key: value for key, value in times.items() if "compile" in key}
        yield row | found


def _times(clock: Clock, contenders: dict[str, Step], batch: int, rounds: int, seconds: float) -> dict:
    times = clock.steps(contenders, rounds, seconds)
    ours = times.pop("cupynn")
    row = {"seconds": ours.median, "rounds": len(ours.seconds), "images_per_second": batch / ours.median}
    for name, each in times.items():
        row |= {f"{name}_seconds": each.median, f"to_{name}": ours.over(each)}
    return row


def our_memory(step: Step) -> dict:
    """peak_bytes: the most that arrays of CuPy's pool held at once in a step, weights and optimiser included;
    pool_bytes: what the pool holds of the device afterwards. What cuBLAS takes is not among them."""
    import cupy

    pool = cupy.get_default_memory_pool()
    step()  # the optimiser makes its velocities
    pool.free_all_blocks()

    class Peak(cupy.cuda.MemoryHook):
        name = "peak"
        now = most = pool.used_bytes()

        def malloc_postprocess(self, **given):
            self.now += given["mem_size"]
            self.most = max(self.most, self.now)

        def free_postprocess(self, **given):
            self.now -= given["mem_size"]

    with Peak() as hook:
        step()
        step()
    return {"peak_bytes": int(hook.most), "pool_bytes": int(pool.total_bytes())}


def peer_memory(torch: ModuleType, step: Step) -> dict:
    """The same of PyTorch: max_memory_allocated and memory_reserved."""
    step()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step()
    step()
    torch.cuda.synchronize()
    return {"peak_bytes": torch.cuda.max_memory_allocated(), "pool_bytes": torch.cuda.memory_reserved()}
