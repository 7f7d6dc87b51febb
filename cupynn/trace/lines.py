"""Source lines of instructions, from a library's debug information by binutils' addr2line."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
from collections.abc import Iterable

import numpy as np

MISSING = "addr2line (package binutils) is not installed, so lines are not known"


def find_tool() -> str | None:
    return shutil.which("addr2line")


def chains(library: pathlib.Path, source: pathlib.Path, calls: np.ndarray, sites: np.ndarray) -> list[tuple[int, ...]]:
    """The lines of the kernel's `source` that lead to each site, the kernel's own first; () where none is known.

    sites: fields "where" and "call" of EVENT; calls: CALL.
    """
    frames = _frames(library, source, {*calls["where"].tolist(), *sites["where"].tolist()})
    found = []
    for where, call in sites[["where", "call"]].tolist():
        lines = [*frames.get(where, ())]
        while call > 0:
            lines += frames.get(calls["where"][call].item(), ())
            call = calls["caller"][call].item()
        lines.reverse()
        found.append(tuple(line for number, line in enumerate(lines) if number == 0 or line != lines[number - 1]))
    return found


def _frames(library: pathlib.Path, source: pathlib.Path, places: Iterable[int]) -> dict[int, list[int]]:
    """place -> lines of `source`, of functions that were inlined there, the innermost first."""
    tool = find_tool()
    places = sorted(place for place in places if place > 0)
    if tool is None or not places:
        return {}
    # A place is a return address, one past the call. A kernel's text comes to the compiler as its standard input.
    addresses = "\n".join(hex(place - 1) for place in places)
    command = [tool, "-a", "-i", "-e", str(library)]
    answer = subprocess.run(command, input=addresses, capture_output=True, text=True, check=False).stdout
    found: dict[int, list[int]] = {}
    end = len(source.read_text().splitlines())  # behind it stands what launches the kernel
    for text in answer.splitlines():
        if text.startswith("0x"):
            lines = found[int(text, 16) + 1] = []
        elif match := re.search(rf"(?:^|/)(?:{re.escape(source.name)}|<stdin>):(\d+)", text):
            lines += [int(match[1])] if int(match[1]) <= end else []
    return found
