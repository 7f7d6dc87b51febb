"""A launch on the fake GPU: what a GPU takes, the kernel's signature, and a run on the CPU with the GPU's blocks."""

import pathlib
import re
from functools import lru_cache
from math import prod

import numpy as np

from cupynn.kernels import launches
from cupynn.kernels.runtime import build, checked, cpu, nvrtc, occupancy

MOST_BLOCKS = (2**31 - 1, 65535, 65535)  # CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"
MOST_THREADS = (1024, 1024, 64)
OLDEST = occupancy.LIMITS[70]
WITH_ADDRESSES = (
    "sgd.step_many",
    "cross_layer",
    "gradients",
)  # kernels that take addresses in tables, which no checker can follow


def source_of(code, options):
    """The `.cu` that `RawModule` was given the text of; its folder is the last one to look for headers in."""
    folder = pathlib.Path(options[-1].removeprefix("-I"))
    return next(path for path in sorted(folder.glob("*.cu")) if code.startswith(path.read_text()))


@lru_cache
def signature(source, expression):
    """((C++ types of the parameters), threads that __launch_bounds__ allows, if it is a number) of an instantiation."""
    kernel, _, given = expression.partition("<")
    found = re.search(
        rf"(?:^template <(.*)>\s*)?__global__ void (?:__launch_bounds__\((\d*).*?\) )?{kernel}\(([^)]*)\)",
        source.read_text(),
        re.MULTILINE,
    )
    assert found, f"{source} has no kernel {kernel}"
    template, bound, parameters = found.groups()
    values = [value.strip() for value in given.removesuffix(">").split(",")] if given else []
    types = {"unsigned": "unsigned int"}
    for position, one in enumerate(re.sub(r"template <.*?> ", "", template or "").split(",")):
        words = re.match(r"typename (\w+)(?: = Compute<(\w+)>)?", one.strip())
        if words and position < len(values):
            types[words[1]] = values[position]
        elif words:
            types[words[1]] = launches.as_float(types[words[2]])
    kinds = []
    for parameter in parameters.split(","):
        text = re.sub(r"__restrict__|\w+\s*$", "", parameter.strip())
        text = re.sub(r"Compute<(\w+)>", lambda found: launches.as_float(types[found[1]]), text)
        kinds.append(" ".join(types.get(word, word) for word in re.findall(r"\w+|\*", text)).replace(" *", "*"))
    return tuple(kinds), int(bound or 1024)


class Launch:
    """One launch."""

    def __init__(self, source, expression, grid, block, args, shared):
        self.source, self.name, self.expression = source, source.stem, expression
        self.grid, self.block, self.args, self.shared = grid, block, args, shared

    def __str__(self):
        return f"{self.name}.cu: {self.expression} grid {self.grid} block {self.block} shared {self.shared}"

    def check(self, shared_asked_for):
        """AssertionError for what a GPU of compute capability 7.0 would refuse, or read as garbage."""
        kinds, most_threads = signature(self.source, self.expression)
        ours = self.source.parent == build.KERNELS
        assert not ours or self.expression in nvrtc.instantiations(self.name), f"{self}: not in instantiations()"
        assert all(0 < n <= most for n, most in zip(self.grid, MOST_BLOCKS, strict=True)), f"{self}: grid"
        assert all(0 < n <= most for n, most in zip(self.block, MOST_THREADS, strict=True)), f"{self}: block"
        assert prod(self.block) <= most_threads, f"{self}: {prod(self.block)} threads, at most {most_threads}"
        assert self.shared <= OLDEST.shared_of_block, f"{self}: shared memory"
        assert self.shared <= shared_asked_for, f"{self}: more than 48 KB, not asked for"
        assert len(self.args) == len(kinds), f"{self}: {len(self.args)} arguments for {kinds}"
        for position, (value, kind) in enumerate(zip(self.args, kinds, strict=True)):
            where = f"{self}: argument {position}, {type(value).__name__}, for `{kind}`"
            if not kind.endswith("*"):
                assert type(value) is cpu.TYPES[kind][0], where
            elif isinstance(value, np.ndarray):
                assert value.dtype == cpu._element(kind.removeprefix("const ").removesuffix("*")), where
                assert value.flags.c_contiguous, where
            else:
                assert type(value) is np.uint64 and value == 0, where

    def run(self):
        """On the CPU under the checker: the same instantiation, grid and threads. Addresses in tables go unchecked."""
        kinds, _ = signature(self.source, self.expression)
        pairs = zip(self.args, kinds, strict=True)
        args = [value if isinstance(value, np.ndarray) or not kind.endswith("*") else None for value, kind in pairs]
        if f"{self.name}.{self.expression}".startswith(WITH_ADDRESSES):
            cpu.kernel(self.source, self.expression, False)(self.grid, self.block, args, self.shared)
        else:
            checked.launch(self.source, self.expression, self.grid, self.block, args, self.shared, (), ())
