"""Rows of figures of kernels: ours and PyTorch's way take turns on the GPU."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import ModuleType

from bench.gpu import convolutions, layers
from bench.gpu.clock import Clock
from bench.gpu.layer import Layer, Pass, Run, Torch

FAMILIES = layers.FAMILIES | convolutions.FAMILIES
TENSOR_CORES = convolutions.TENSOR_CORES


def warm(family: str, batch: int, torch: ModuleType | None) -> Iterator[dict]:
    """Run everything once, so that compilers leave what they made in their caches: no times."""
    for layer in FAMILIES[family](batch):
        for each in layer.passes:
            for run in each.runs.values():
                tried(run)
        if torch is not None and layer.fused:
            for run in _compiled(torch, layer).values():
                run()
            yield {"compiled": key(layer)}
        del layer
        release(torch)


def rows(
    family: str, batch: int, rounds: int, seconds: float, torch: ModuleType | None, compiled: list[str]
) -> Iterator[dict]:
    """A row for each layer, pass and method. `compiled`: keys of layers whose compiling by PyTorch will not take long;
    they are timed again beside it, and the row is given once more."""
    clock = Clock()
    for layer in FAMILIES[family](batch):
        eager, why = {}, None
        if torch is not None:
            eager, why = tried(lambda layer=layer: Torch(torch, "cuda").runs(layer))
        given: dict[tuple[str, str], dict] = {}
        for each in layer.passes:
            for name, row in _beside(clock, layer, each, {"eager": eager.get(each.name)}, rounds, seconds).items():
                given[each.name, name] = row if why is None else row | {"eager": why}
                yield given[each.name, name]
        if key(layer) in compiled:
            runs, why = tried(lambda layer=layer: _compiled(torch, layer))
            for each in layer.passes:
                for name, row in _beside(clock, layer, each, {"compile": runs.get(each.name)}, rounds, seconds).items():
                    found = {k: v for k, v in row.items() if "compile" in k}
                    yield given[each.name, name] | (found if why is None else {"compile": why})
        del layer, eager
        release(torch)


def release(torch: ModuleType | None) -> None:
    """Give the device the memory back that neither library uses: they have one pool each."""
    import cupy

    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()
    if torch is not None:
        torch.cuda.empty_cache()


def key(layer: Layer) -> str:
    return f"{layer.kernel} {layer.dtype} {'x'.join(map(str, layer.shape))}"


def tried(run: Run) -> tuple:
    """(result, None), or ({}, what went wrong)."""
    try:
        return run(), None
    except Exception as error:  # of any library: it is told, and the rest goes on
        return {}, f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _compiled(torch: ModuleType, layer: Layer) -> dict[str, Run]:
    torch._dynamo.reset()  # it gives up on a function that it has compiled too often
    return Torch(torch, "cuda").runs(layer, compiled=True)


def _beside(
    clock: Clock, layer: Layer, each: Pass, peers: dict[str, Run | None], rounds: int, seconds: float
) -> dict[str, dict]:
    """{method: row} of one pass."""

    def fault_of(run: Run) -> str | None:
        """What goes wrong when it is run; the host waits, for the GPU may only then tell."""
        return tried(lambda: (run(), clock.wait()))[1]

    answer, contenders, faults = {}, {}, {}
    for name, run in each.runs.items():
        if fault := fault_of(run):
            faults[name] = fault
        else:
            contenders[f"cupynn {name}"] = run
    notes = {}
    for name, run in peers.items():
        if run is None:
            continue
        if fault := fault_of(run):
            notes[name] = fault
        else:
            contenders[name] = run
    times, fault = tried(lambda: clock.kernels(contenders, rounds, seconds)) if contenders else ({}, None)
    for name in each.runs:
        row = {"kernel": f"{layer.kernel} {name}".strip(), "pass": each.name, "dtype": layer.dtype}
        row |= {
            "layer": layer.kernel,
            "shape": "x".join(map(str, layer.shape)),
            "bytes": each.cost[0],
            "operations": each.cost[1],
        }
        if name == TENSOR_CORES:
            row["peak"] = f"{layer.dtype} product"
        if faults.get(name) or fault:
            answer[name] = row | {"failed": faults.get(name) or fault}
            continue
        mine = times[f"cupynn {name}"]
        row |= {"seconds": mine.median, "rounds": len(mine.seconds)}
        for peer in peers:
            if peer in times:
                row |= {f"{peer}_seconds": times[peer].median, f"to_{peer}": mine.over(times[peer])}
        answer[name] = row | notes
    return answer
