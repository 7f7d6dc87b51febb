"""Ctrl-C and SIGTERM: finish the batch, then stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal. The message says where the checkpoint is; `signal` is the signal's number."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


class StopRequest:
    """`signal` is the number of the signal that came, or None."""

    signal: int | None = None


@contextlib.contextmanager
def signals_as_request() -> Iterator[StopRequest]:
    """Inside a `with` block the first SIGINT or SIGTERM only sets the request, so that weights are never half a step
    old and half a step new; the second does what it always did. Outside the main thread signals stay as they are.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # A shell ignores SIGINT for what it runs in the background: that stays.
    before = {number: old or signal.SIG_DFL for number, old in handlers.items() if old is not signal.SIG_IGN}

    def ask(number: int, frame: object) -> None:
        request.signal = number
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        restore()
