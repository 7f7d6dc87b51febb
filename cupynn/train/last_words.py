"""What is said of a run whose ranks are killed, by a small process beside rank 0 that waits for its end.

When one rank is killed, the launcher kills the others at once, and none of them can say anything. The process beside
rank 0 holds the end of a pipe, in a session of its own, where the launcher does not see it. Where the pipe ends without
a farewell, it says which checkpoint is the last. While the run goes on it sleeps.

This file is also its program. That imports nothing but the standard library: it is small, and speaks at once.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

FAREWELL = b"."


@contextlib.contextmanager
def last_words(what: str, folder: pathlib.Path, pattern: str, go_on: str) -> Iterator[None]:
    """Inside a `with` block, should this process be killed, stderr gets a line: `what` happened, the last checkpoint,
    and, if there is one, `go_on`. Behind the block, also after an exception, nothing is said.

    folder, pattern: where checkpoints are; groups of the regular expression are the numbers that they are ordered by.
    Where no process can be started the block runs without one.
    """
    command = [sys.executable, "-I", "-S", __file__, what, os.fspath(folder), pattern, go_on]
    try:
        beside = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        beside.communicate(FAREWELL)


def _newest(folder: pathlib.Path, pattern: str) -> pathlib.Path | None:
    found = [(match, path) for path in folder.glob("*") if (match := re.fullmatch(pattern, path.name))]
    return max(found, key=lambda each: [int(number) for number in each[0].groups()])[1] if found else None


def main(what: str, folder: str, pattern: str, go_on: str) -> None:
    """Wait for the end of the process that holds stdin's other end, and speak if it came without a farewell."""
    if sys.stdin.buffer.read():
        return
    last = _newest(pathlib.Path(folder), pattern)
    parts = ["there is no checkpoint"] if last is None else [f"the last checkpoint is {last}", go_on]
    text = "; ".join(filter(None, [what, *parts]))
    os.write(sys.stderr.fileno(), f"\ncupynn: {text}\n".encode())  # at once: the launcher and other ranks write too


if __name__ == "__main__":
    main(*sys.argv[1:])
