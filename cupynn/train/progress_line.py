"""The line on a terminal that says where a run is, how it does, how long it still takes and what memory it has."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import sys
import time

from cupynn.device import default_device
from cupynn.train.evaluation import Score
from cupynn.train.progress import Progress


def say(text: str, end: str = "\n") -> None:
    """Print at once. Where nobody reads any more, behind a closed pipe or a terminal that is gone, a run goes on, and
    stdout is silent from here on."""
    try:
        print(text, end=end, flush=True)
    except OSError:
        with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


class ProgressLine:
    """Shown inside `with` blocks, gone behind them; nothing at all where stdout is no terminal, or when `quiet`.

    epoch 3/10  step 12/63  loss 0.1234  accuracy 96.2%  12,345 images/s  0:42 left  312 MB

    Time left is that of the whole run, by the images since the line was first shown, so with the evaluations in
    between. Memory is what the process has resident, on a GPU what CuPy's pool holds there.
    """

    def __init__(self, epochs: int, images: int, quiet: bool = False):
        """`images` is how many an epoch has."""
        self.epochs, self.images = epochs, images
        self.on = not quiet and sys.stdout.isatty()
        self._began: tuple[float, int] | None = None  # the time and the images that were done
        self._drawn = 0  # how many columns

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *error: object) -> None:
        if self._drawn:
            self._draw("")

    def show(self, progress: Progress, steps: int, images: int, score: Score) -> None:
        """`steps` is how many the epoch has; `images` are done in it, with `score` so far."""
        if not self.on:
            return
        speed = images / progress.seconds if progress.seconds else 0.0
        parts = [
            f"epoch {progress.epoch + 1}/{self.epochs}",
            f"step {progress.step}/{steps}",
            f"loss {score.loss:.4f}",
            f"accuracy {score.accuracy:.1%}",
            f"{speed:,.0f} images/s",
            self._left(progress.epoch * self.images + images, speed),
            memory(),
        ]
        width = shutil.get_terminal_size().columns - 1
        parts = [part for part in parts if part]
        text = "  ".join(parts)
        self._draw((text if len(text) <= width else " ".join(parts))[:width])

    def _draw(self, text: str) -> None:
        """Put `text` in the place of what is there, and the cursor behind it."""
        blank = " " * (self._drawn - len(text))
        say(f"\r{text}{blank}\r{text}", end="")
        self._drawn = len(text)

    def _left(self, done: int, speed: float) -> str:
        now = time.monotonic()
        if self._began is None or done < self._began[1]:  # it went back to a checkpoint
            self._began = now, done
        seconds, images = now - self._began[0], done - self._began[1]
        if images and seconds:
            speed = images / seconds
        return f"{duration((self.epochs * self.images - done) / speed)} left" if speed else ""


def duration(seconds: float) -> str:
    """Seconds as m:ss, h:mm:ss, or days and h:mm."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour}:{minute:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def memory() -> str:
    """The process's resident memory, on a GPU what CuPy's pool holds; empty where the system does not tell."""
    if default_device() != "cpu":
        import cupy

        return f"{_size(cupy.get_default_memory_pool().total_bytes())} GPU"
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # no Linux
        return ""
    return _size(pages * os.sysconf("SC_PAGE_SIZE"))


def _size(bytes_: int) -> str:
    return f"{bytes_ / 1e9:.1f} GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:.0f} MB"
