"""A launch on the fake GPU: what a GPU takes, the kernel's signature, and a run on the CPU with the GPU's blocks."""

import re
from functools import lru_cache
from math import prod

import numpy as np

from cupynn.kernels.runtime import build, checked, cpu, nvrtc, occupancy

MOST_BLOCKS = (2**31 - 1, 65535, 65535)  # CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"
MOST_THREADS = (1024, 1024, 64)
OLDEST = occupancy.LIMITS[70]
WITH_ADDRESSES = ("sgd.step_many", "cross_layer")  # kernels that take addresses in tables, which no checker can follow


def name_of(code):
    """NAME of the `.cu` that `RawModule` was given."""
    return next(name for name in nvrtc.kernel_names() if code.startswith(_source(name)))


@lru_cache
def _source(name):
    return (build.KERNELS / f"{name}.cu").read_text()


@lru_cache
def signature(name, expression):
    """((C++ types of the parameters), threads that __launch_bounds__ allows) of an instantiation."""
    kernel, _, given = expression.partition("<")
    found = re.search(
        rf"(?:template\s*<([^>]*)>\s*)?__global__\s+void\s+(?:__launch_bounds__\((\d+)[^)]*\)\s*)?{kernel}\(([^)]*)\)",
        _source(name),
    )
    assert found, f"{name}.cu has no kernel {kernel}"
    template, bound, parameters = found.groups()
    values = [value.strip() for value in given.rstrip("> ").split(",")] if given else []
    names = [one.split("=")[0].split() for one in (template or "").split(",") if one.strip()]
    types = {one[-1]: value for one, value in zip(names, values, strict=False) if one[0] in ("typename", "class")}
    kinds = []
    for parameter in parameters.split(","):
        text = re.sub(r"__restrict__|\w+\s*$", "", parameter.strip()).replace(" *", "*")
        kinds.append(" ".join(types.get(word, word) for word in re.findall(r"\w+|\*", text)).replace(" *", "*"))
    return tuple(kinds), int(bound or 1024)


class Launch:
    """One launch."""

    def __init__(self, name, expression, grid, block, args, shared):
        self.name, self.expression = name, expression
        self.grid, self.block, self.args, self.shared = grid, block, args, shared

    def __str__(self):
        return f"{self.name}.cu: {self.expression} grid {self.grid} block {self.block} shared {self.shared}"

    def check(self, signature, shared_asked_for):
        """AssertionError for what a GPU of compute capability 7.0 would refuse, or read as garbage."""
        kinds, most_threads = signature
        assert self.expression in nvrtc.instantiations(self.name), f"{self}: not listed in instantiations()"
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
                assert value.dtype == cpu.ELEMENTS[kind.removeprefix("const ").removesuffix("*")], where
                assert value.flags.c_contiguous, where
            else:
                assert type(value) is np.uint64 and value == 0, where

    def run(self):
        """On the CPU under the checker: the same instantiation, grid and threads. Addresses in tables go unchecked."""
        args = [None if type(value) is np.uint64 and kind.endswith("*") else value
                for value, kind in zip(self.args, signature(self.name, self.expression)[0], strict=True)]  # fmt: skip
        if f"{self.name}.{self.expression}".startswith(WITH_ADDRESSES):
            cpu.kernel(self.name, self.expression, False)(self.grid, self.block, args, self.shared)
        else:
            checked.launch(self.name, self.expression, self.grid, self.block, args, self.shared, (), ())
