"""A block of every kernel of the library: what its threads wrote is what the launch writes."""

import dataclasses

import numpy as np
import pytest

from cupynn.cli import kernel, kernel_examples, main
from cupynn.kernels.runtime import build
from cupynn.trace import Block, launches, reach
from cupynn.trace.recording import ATOMIC, BARRIER, READ, WRITE

# What the examples' first launches of a kernel cost: sectors of global memory and passes over the banks of shared
# memory, each divided by the least, as g++ 12 compiles them. 1 is no waste, or no such memory.
WASTE = {
    "activations.forward": (1, 1),
    "batch_norm.statistics": (1, 1),
    "contract.multiply": (2.23, 1.08),  # taps are staged one at a time; a sector holds eight
    "conv.convolve": (1, 1.87),  # a warp takes two rows of 16 pixels
    "conv.weight_gradient": (1.31, 1.89),
    "conv_scaled.multiply": (1.04, 1),
    "conv_scaled.weight_gradient": (1.22, 1.01),
    "cross_entropy.forward": (1, 1),
    "cross_layer.backward": (1.01, 2.27),
    "depthwise.convolve": (1, 1.8),
    "depthwise.weight_gradient": (1, 2.96),
    "dropout.dropout": (1, 1),
    "im2col.im2col": (1.37, 1),
    "pointwise.convolve": (2.43, 1.03),  # the weights of three channel tiles for a warp of 14 panels
    "pointwise.weight_gradient": (1.34, 1),
    "pool.max_forward": (2.09, 1),
    "sgd.step": (1, 1),
    "whe.forward": (1, 1),
    "winograd.convolve": (5.14, 2.71),  # which no GPU is given but for scaled 3x3 convolutions
}


def first(name):
    call = kernel.example(name)
    return reach(call, kernel.first(name, launches(call)))


@pytest.mark.parametrize("name", kernel_examples.EXAMPLES)
def test_what_is_written(name):
    launch = first(name)
    copied = dataclasses.replace(launch, args=tuple(a.copy() if isinstance(a, np.ndarray) else a for a in launch.args))
    block = Block(launch)
    copied.run()
    events = block.events
    names = {array.name: number for number, array in enumerate(block.arrays)}
    written = 0
    for array, after in zip(block.arrays, [a for a in copied.args if isinstance(a, np.ndarray)], strict=False):
        mine = (block.array == names[array.name]) & (events["kind"] == WRITE) & (events["size"] == after.itemsize)
        assert not array.shared
        elements = block.offset[mine] // after.itemsize
        values = np.ascontiguousarray(events["value"][mine]).view(np.uint8).reshape(-1, 16)[:, : after.itemsize]
        last = dict(zip(elements.tolist(), np.ascontiguousarray(values).view(after.dtype)[:, 0].tolist(), strict=True))
        if last:  # float32, compiled twice: the compiler may contract or order differently
            wanted = after.ravel()[list(last)]
            np.testing.assert_allclose(list(last.values()), wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
        written += len(last)
    assert written > 0


@pytest.mark.parametrize("name", kernel_examples.EXAMPLES)
def test_steps_hold_together(name):
    """Every event is in one step; a step is of one warp and one instruction; costs keep within their bounds."""
    block = Block(first(name))
    events, steps = block.events, block.steps
    assert not block.left_out and (block.array[events["kind"] <= ATOMIC] >= 0).all()
    assert np.array_equal(np.sort(steps.members), np.arange(len(events)))
    step = np.repeat(np.arange(len(steps)), steps.end - steps.begin)
    members = events[steps.members]
    assert np.array_equal(members["thread"] // 32, steps.warp[step])
    assert np.array_equal(members["where"], steps.sites["where"][steps.site][step])
    assert ((steps.end - steps.begin >= 1) & (steps.end - steps.begin <= 32)).all()
    # A block's warps pass the same barriers.
    warps = -(-block.launch.threads // 32)
    assert (steps.kind == BARRIER).sum() % warps == 0
    assert (block.least <= block.sectors).all() and (block.cache_lines <= block.sectors).all()
    assert (block.sectors <= 4 * block.cache_lines).all() and (block.degree <= 32).all()
    assert ((block.sectors > 0) | (block.degree > 0) | (steps.kind > ATOMIC)).all()
    assert {row.kind for row in block.rows} >= {READ, WRITE}
    assert sum(row.count for row in block.rows) == len(steps)


@pytest.mark.skipif(build.is_clang(), reason="counted as g++ compiles them")
@pytest.mark.parametrize("kernel_name", WASTE)
def test_waste_stays_small(kernel_name):
    """A tenth more than was found is for other versions of g++."""
    name, function = kernel_name.split(".")
    call = kernel.example(name)
    found = [launch.name == name and launch.kernel.startswith(f"{function}<") for launch in launches(call)]
    block = Block(reach(call, found.index(True)))
    sectors, passes = WASTE[kernel_name]
    assert block.sectors.sum() <= 1.1 * sectors * block.least.sum()
    assert block.passes.sum() <= 1.1 * passes * block.least_passes.sum()


def test_the_waste_of_every_kernel_is_known():
    assert {kernel_name.split(".")[0] for kernel_name in WASTE} == set(kernel_examples.EXAMPLES)


@pytest.mark.parametrize("name", kernel_examples.EXAMPLES)
def test_the_command(name, capsys):
    assert main(["kernel", name, "--trace"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{name}.cu: ") and "omputed from addresses, not measured" in out
    assert "writes " in out
