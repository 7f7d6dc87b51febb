"""Event files for TensorBoard: the records of metrics.jsonl, and the loss between them, while a run goes on.

tensorboard --logdir runs

An event file is a row of records: length (uint64), its checksum, a protocol buffer `Event`, its checksum. Bytes are
written by tensorboardX, at once and without a thread, so that a full disk is an error here and not a silent stop.
"""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import struct
import time
from collections.abc import Iterator, Mapping
from typing import Any

FOLDER = "events"
FLUSH_EVERY = 10  # seconds: how far behind a person who watches may be
NOT_DRAWN = ("network", "epoch", "step")
LENGTH, CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")


def event_files(run: pathlib.Path, network: str) -> list[pathlib.Path]:
    """The event files of one network of a run, in their order."""
    return sorted((run / FOLDER / network).glob("events.out.tfevents.[0-9]*"))


class Events:
    """The event files of one network of a run, in RUN/events/NETWORK.

    Scalars `epoch/NAME` stand over epochs, counted from 1, and `step/NAME` over steps since the start of the run, one
    every `every` steps. Nothing that the training reads is touched: with and without it a run has the same bits.

    A process that goes on calls `begin` with the place it goes on from: what was written of later steps is cut off, so
    that no step is there twice. `flush` before a checkpoint is written keeps all that belongs before it.

    Raises ModuleNotFoundError, naming the extra, where tensorboardX is missing, and ValueError for every < 1.
    """

    def __init__(self, run: str | os.PathLike, network: str = "model", every: int = 50):
        try:
            from tensorboardX import RecordWriter
            from tensorboardX.proto.event_pb2 import Event
            from tensorboardX.record_writer import masked_crc32c
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "events: needs tensorboardX: pip install 'cupynn[tensorboard]'", name=error.name
            ) from None
        if every < 1:
            raise ValueError(f"Events: every must be at least 1 step; got {every}")
        self.run, self.network, self.every = pathlib.Path(run), network, every
        self.folder = self.run / FOLDER / network
        self._event, self._open, self._checksum = Event, RecordWriter, masked_crc32c
        self._writer: Any = None
        self._flushed = 0.0

    def begin(self, epochs: int = 0, steps: int = 0) -> None:
        """Go on after so many epochs and so many steps in all; (0, 0) begins anew. Raises OSError."""
        self.close()
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in self._files():
            self._cut(file, epochs, steps)
        files = self._files()
        number = int(files[-1].suffix[1:]) + 1 if files else 0
        # readers take files in the order of their names; a number, unlike the time, never goes back
        self._writer = self._open(str(self.folder / f"events.out.tfevents.{number:06d}"))
        self._write(self._event(wall_time=time.time(), file_version="brain.Event:2"))
        self.flush()

    def due(self, steps: int) -> bool:
        """Whether `add_step` belongs after so many steps in all: the loss need be read then only."""
        return steps % self.every == 0

    def add_step(self, steps: int, record: Mapping[str, Any]) -> None:
        """Write the numbers of a record after so many steps in all. Raises OSError."""
        self._add("step", steps, record)
        if time.monotonic() - self._flushed > FLUSH_EVERY:
            self.flush()

    def add_epoch(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of a record of metrics.jsonl, at its "epoch". Raises OSError."""
        self._add("epoch", record["epoch"], record)
        self.flush()

    def flush(self) -> None:
        """Have on the disk what was added. Raises OSError."""
        if self._writer is not None:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Flush, and write no more; `begin` opens a new file."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def __enter__(self) -> Events:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        # the error that is on its way says more than that of a disk that is still full
        with contextlib.suppress(*[OSError] if kind else []):
            self.close()

    def _add(self, kind: str, step: int, record: Mapping[str, Any]) -> None:
        event = self._event(wall_time=time.time(), step=step)
        for name, value in record.items():
            if name not in NOT_DRAWN:
                event.summary.value.add(tag=f"{kind}/{name}", simple_value=math.nan if value is None else float(value))
        self._write(event)

    def _write(self, event: Any) -> None:
        if self._writer is None:
            raise RuntimeError("Events: begin() comes before anything is added")
        self._writer.write(event.SerializeToString())

    def _files(self) -> list[pathlib.Path]:
        return event_files(self.run, self.network)

    def _cut(self, file: pathlib.Path, epochs: int, steps: int) -> None:
        """Cut off what comes after the place, and the half record of a process that was killed while it wrote."""
        reached = {"epoch": epochs, "step": steps}
        end, scalars = 0, False
        for payload, behind in self._records(file.read_bytes()):
            event = self._event.FromString(payload)
            if any(event.step > reached[value.tag.partition("/")[0]] for value in event.summary.value):
                break
            scalars |= bool(event.summary.value)
            end = behind
        if not scalars:
            file.unlink()
        elif end < file.stat().st_size:
            os.truncate(file, end)

    def _records(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """The records of an event file up to the first that is not whole: an event's bytes, and where it ends."""
        start = 0
        while (first := start + LENGTH.size + CHECKSUM.size) <= len(data):
            (length,) = LENGTH.unpack_from(data, start)
            last = first + length
            if last + CHECKSUM.size > len(data):
                return
            for part, checksum in (
                (data[start : start + LENGTH.size], first - CHECKSUM.size),
                (data[first:last], last),
            ):
                if CHECKSUM.unpack_from(data, checksum)[0] != self._checksum(part):
                    return
            start = last + CHECKSUM.size
            yield data[first:last], start
