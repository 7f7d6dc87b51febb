"""Event files: what they hold, as another reader reads them, and what is left of them when a run goes on."""

import builtins
import math
import resource
import struct

import numpy as np
import pytest

pytest.importorskip("tensorboardX")
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from cupynn.train.events import Events

EPOCH = {"network": "model", "epoch": 1, "train_loss": 0.5, "test_accuracy": 0.875, "seconds": 2.0}


def events_of(file):
    """All events of a file, each of whose checksums is right, to its last byte."""
    events = []
    with open(file, "rb") as stream:
        while head := stream.read(8):
            (length,), (head_sum,) = struct.unpack("<Q", head), struct.unpack("<I", stream.read(4))
            body = stream.read(length)
            assert len(body) == length and head_sum == masked_crc32c(head)
            assert struct.unpack("<I", stream.read(4)) == (masked_crc32c(body),)
            events.append(Event.FromString(body))
    return events


def files(folder):
    return sorted((folder / "events" / "model").iterdir())


def scalars(folder):
    """{tag: [(step, value), ...]} over all files, in the order of their names."""
    found = {}
    for file in files(folder):
        first, *events = events_of(file)
        assert first.file_version == "brain.Event:2"
        for event in events:
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def pretend(folder, start, stop, steps_per_epoch=4, every=2, half=0):
    """What a run writes between two steps; `half` bytes of a record more, as when it is killed while it writes."""
    events = Events(folder, every=every)
    events.begin(start // steps_per_epoch, start)
    for step in range(start + 1, stop + 1):
        if events.due(step):
            events.add_step(step, {"loss": 1 / step, "lr": 0.25})
        if step % steps_per_epoch == 0:
            events.add_epoch({**EPOCH, "epoch": step // steps_per_epoch})
    events.close()
    if half:
        with open(files(folder)[-1], "ab") as stream:
            stream.write(events_record({"loss": 7.0}, 10_000)[:half])


def events_record(values, step):
    event = Event(step=step)
    for name, value in values.items():
        event.summary.value.add(tag=f"step/{name}", simple_value=value)
    body = event.SerializeToString()
    head = struct.pack("<Q", len(body))
    return head + struct.pack("<I", masked_crc32c(head)) + body + struct.pack("<I", masked_crc32c(body))


def test_a_file_holds_the_numbers_of_the_records(tmp_path):
    with Events(tmp_path, every=3) as events:
        events.begin()
        events.add_step(3, {"loss": np.float32(0.75), "lr": 0.1, "epoch": 1, "network": "model"})
        events.add_epoch(EPOCH)
        events.add_epoch({**EPOCH, "epoch": 2, "train_loss": None})
    found = scalars(tmp_path)
    assert found.pop("step/loss") == [(3, 0.75)]
    assert found.pop("step/lr") == [(3, struct.unpack("f", struct.pack("f", 0.1))[0])]
    (_, first), (step, second) = found.pop("epoch/train_loss")
    assert (first, step) == (0.5, 2) and math.isnan(second)
    assert found == {"epoch/test_accuracy": [(1, 0.875), (2, 0.875)], "epoch/seconds": [(1, 2.0), (2, 2.0)]}
    assert [step for step in range(10) if events.due(step)] == [0, 3, 6, 9]


@pytest.mark.parametrize("half", [0, 5, 12, 30])
@pytest.mark.parametrize("place", [0, 1, 4, 5, 6, 8, 11])
def test_a_run_that_goes_on_has_every_step_once(tmp_path, place, half):
    """Killed after step 11, perhaps in a write, and gone on from a checkpoint before it; twice."""
    pretend(tmp_path / "whole", 0, 16)
    pretend(tmp_path / "run", 0, 11, half=half)
    pretend(tmp_path / "run", place, 13, half=half)
    pretend(tmp_path / "run", max(place, 6) if place else 0, 16)
    assert scalars(tmp_path / "run") == scalars(tmp_path / "whole")


def test_to_begin_anew_removes_what_was_there_and_nothing_else(tmp_path):
    pretend(tmp_path, 0, 8)
    other = tmp_path / "events" / "model" / "events.out.tfevents.of-another-program"
    other.write_text("mine")
    pretend(tmp_path, 0, 4)
    assert other.read_text() == "mine"
    other.unlink()
    assert [step for step, _ in scalars(tmp_path)["step/loss"]] == [2, 4] and len(files(tmp_path)) == 1


@pytest.mark.parametrize("damage", [0, 40, -3])
def test_a_damaged_file_is_cut_where_it_is_damaged(tmp_path, damage):
    pretend(tmp_path, 0, 8)
    file = files(tmp_path)[0]
    data = bytearray(file.read_bytes())
    data[damage] ^= 1
    file.write_bytes(data)
    pretend(tmp_path, 8, 10)
    steps = [step for step, _ in scalars(tmp_path)["step/loss"]]  # every file is whole again
    assert steps == {0: [10], 40: [10], -3: [2, 4, 6, 8, 10]}[damage]


def test_what_is_flushed_is_on_the_disk(tmp_path):
    events = Events(tmp_path, every=1)
    events.begin()
    events.add_step(1, {"loss": 1.0})
    events.add_step(2, {"loss": 2.0})
    events.flush()
    assert scalars(tmp_path) == {"step/loss": [(1, 1.0), (2, 2.0)]}
    events.close()


def test_a_full_disk_is_an_error_at_once(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    events = Events(tmp_path)
    events.begin()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            events.add_epoch(EPOCH)
        with pytest.raises(KeyError), events:  # closing it does not hide the error that is on its way
            raise KeyError
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_bad_use_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="every must be at least 1 step; got 0"):
        Events(tmp_path, every=0)
    with pytest.raises(RuntimeError, match=r"begin\(\) comes before"):
        Events(tmp_path).add_epoch(EPOCH)
    load = builtins.__import__

    def missing(name, *args):
        if name.startswith("tensorboardX"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return load(name, *args)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ModuleNotFoundError, match=r"needs tensorboardX: pip install 'cupynn\[tensorboard\]'"):
        Events(tmp_path)
    assert not any(tmp_path.iterdir())
