"""The parts of the measurements, each in a process of its own, within a budget of time.

A CUDA error makes a process useless, so a part that fails takes no other with it; a part that takes too long is ended,
and keeps the rows that it has given.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from bench.gpu.timed import FAMILIES
from bench.networks.cases import GPU_CASES

LEAST = 8.0  # seconds in which a process gets as far as its first row
PAUSE = 0.1
WARM_SHARE = 0.35  # of the budget, for compiling, several parts at a time


@dataclass(frozen=True)
class Part:
    """name; what the child is asked for; weight: its share of the time."""

    name: str
    kind: str
    weight: float
    arguments: dict[str, Any] = field(default_factory=dict)


def parts() -> list[Part]:
    """All of them, in their order: ceilings, kernels, networks."""
    heavy = {"conv 3x3": 3.0, "conv 1x1": 2.0, "WHE": 2.0, "cross-layer": 2.0, "batch norm": 2.0}
    found = [Part("ceilings", "ceilings", 2.0)]
    found += [Part(name, "kernels", heavy.get(name, 1.0), {"name": name}) for name in FAMILIES]
    return found + [Part(name, "network", 3.0, {"name": name}) for name in GPU_CASES]


class Budget:
    """Seconds that are left of a number of them."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._begin = seconds, time.monotonic()

    @property
    def used(self) -> float:
        return time.monotonic() - self._begin

    @property
    def left(self) -> float:
        return self.seconds - self.used


class Child:
    """A process at work on a part; its rows are given to `give` as they come."""

    def __init__(
        self, part: Part, seconds: float, give: Callable[[dict], None], variables: dict[str, str], **arguments: Any
    ) -> None:
        self.part, self.seconds, self._give, self._begin = part, seconds, give, time.monotonic()
        self._folder = tempfile.TemporaryDirectory()
        self._output, self._errors = (pathlib.Path(self._folder.name, name) for name in ("output", "errors"))
        self._read, self._ended = 0, None
        command = [sys.executable, "-m", "bench.gpu.child", json.dumps({**part.arguments, **arguments})]
        with self._output.open("w") as output, self._errors.open("w") as errors:
            # a group of its own: what the child has started, as compilers, ends with it
            environment = os.environ | variables
            self._process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=errors, start_new_session=True
            )

    def state(self) -> dict | None:
        """None while it runs; then the part's name, "done", "failed" or "stopped", its seconds, and why."""
        if self._ended is not None:
            return self._ended
        over = time.monotonic() - self._begin > self.seconds
        if self._process.poll() is None and not over:
            self._take()
            return None
        stopped = self._process.poll() is None
        self.kill()
        self._take()
        self._ended = {"part": self.part.name, "state": "done", "seconds": round(time.monotonic() - self._begin, 2)}
        if stopped:
            self._ended |= {"state": "stopped", "why": f"not done in {self.seconds:.0f} s"}
        elif self._process.returncode:
            lines = self._errors.read_text(errors="replace").strip().splitlines()
            why = lines[-1][:300] if lines else f"ended with status {self._process.returncode}"
            self._ended |= {"state": "failed", "why": why}
        self._folder.cleanup()
        return self._ended

    def kill(self) -> None:
        """End it and what it has started, if that has not been done."""
        if self._ended is not None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()

    def _take(self) -> None:
        """Read the whole lines that have come."""
        with self._output.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole + newline)
        for line in whole.decode(errors="replace").splitlines():
            if line.startswith('{"row": '):  # libraries may print, too
                self._give(json.loads(line)["row"])


def run(part: Part, seconds: float, give: Callable[[dict], None], **arguments: Any) -> dict:
    """Measure a part, for so many seconds at most."""
    child = Child(part, seconds, give, {}, task=part.kind, **arguments)
    try:
        while (state := child.state()) is None:
            time.sleep(PAUSE)
    finally:
        child.kill()
    return state


def warm(todo: Iterable[Part], at_once: int, seconds: float, batch: int) -> tuple[list[str], list[dict]]:
    """Fill the compilers' caches, CuPy's and PyTorch's, with `at_once` parts at a time, networks first, since they take
    longest: what PyTorch has compiled, by key, and how the parts ended. Nothing is timed here."""
    compiled: list[str] = []
    waiting = sorted((part for part in todo if part.kind != "ceilings"), key=lambda part: -part.weight)
    running, states, budget = [], [], Budget(seconds)
    threads = {"TORCHINDUCTOR_COMPILE_THREADS": str(max(1, (os.cpu_count() or 1) // at_once))}
    try:
        while running or (waiting and budget.left > LEAST):
            while waiting and len(running) < at_once and budget.left > LEAST:
                part = waiting.pop(0)
                give = lambda row: compiled.append(row["compiled"])  # noqa: E731
                running.append(Child(part, budget.left, give, threads, task=f"warm {part.kind}", batch=batch))
            now = [(child, child.state()) for child in running]
            states += [state for _, state in now if state is not None]
            running = [child for child, state in now if state is None]
            time.sleep(PAUSE)
    finally:
        for child in running:
            child.kill()
    why = {"state": "skipped", "seconds": 0.0, "why": "no time was left to compile it"}
    return compiled, states + [{"part": part.name, **why} for part in waiting]
