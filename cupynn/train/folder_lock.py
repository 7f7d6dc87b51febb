"""One process at a time writes to a run's folder."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
from collections.abc import Iterator

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Inside a `with` block the folder is this process's. The system gives the lock back when the process ends, however
    that comes, so that a run that was killed can go on at once.

    Where the system or the file system has no locks, or the folder takes no file, the block runs without one.
    Raises BlockingIOError, which names the process, where another block has the folder.
    """
    path = folder / LOCK
    number = _lock(path)
    try:
        yield
    finally:
        if number is not None:
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(number)  # not before: nobody else may have made the file that is removed


def _lock(path: pathlib.Path) -> int | None:
    """The descriptor that holds the lock, or None where there is no such thing."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    while True:
        try:
            number = os.open(path, os.O_RDWR | os.O_CREAT)
        except OSError:
            return None
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(number, 300).decode(errors="replace") or "another process"
            os.close(number)
            raise BlockingIOError(f"{path.parent} is in use by {holder}, which trains there") from None
        except OSError:
            os.close(number)
            return None
        if _is(path, number):
            with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
                os.ftruncate(number, 0)
                os.write(number, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return number
        os.close(number)  # it was removed between the two lines above: whoever held it is done


def _is(path: pathlib.Path, number: int) -> bool:
    """Whether the open file is the one at `path`."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(number))
    except FileNotFoundError:
        return False
