"""Worker threads: the same stream, errors in their place, threads that end, bounded memory, a start in the middle."""

import dataclasses
import gc
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from cupynn.data import (
    ArrayDataset,
    ColourJitter,
    Dataset,
    HorizontalFlip,
    Lighting,
    RandomCrop,
    Transform,
    batches,
)

AUGMENT = [RandomCrop(2), HorizontalFlip()]
IN_COLOUR = [*AUGMENT, ColourJitter(), Lighting()]
WORKERS = (0, 1, 4)


def random_set(count=61, side=9):
    generator = np.random.default_rng(12)
    images = generator.integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    labels = generator.integers(0, 5, count)
    return ArrayDataset(images, labels, tuple("abcde"), "random train", (0.4, 0.5, 0.6), (0.2, 0.3, 0.1))


def stream(epoch):
    """The bytes of every batch."""
    return [(images.tobytes(), images.shape, labels.tobytes()) for images, labels in epoch]


@pytest.mark.parametrize("transform", [None, AUGMENT, IN_COLOUR], ids=["plain", "crop and flip", "colour"])
@pytest.mark.parametrize("batch_size", [1, 7, 61])
def test_same_stream_for_any_number_of_workers(batch_size, transform):
    options = {"shuffle": True, "seed": 2, "epoch": 9, "transform": transform}
    expected = stream(batches(random_set(), batch_size, **options))
    for workers in WORKERS[1:]:
        assert stream(batches(random_set(), batch_size, workers=workers, **options)) == expected


@pytest.mark.parametrize("side", [9, 33, 96])  # 96 x 96: more than the 8192 elements that NumPy buffers
@pytest.mark.parametrize("workers", WORKERS)
def test_same_samples_for_any_batch_size(workers, side):
    """Bit for bit, with the transforms that compute in floats and sum over an image."""
    joined = []
    for batch_size in (1, 2, 5, 8, 20, 21):
        epoch = batches(
            random_set(21, side), batch_size, shuffle=True, seed=8, epoch=1, transform=IN_COLOUR, workers=workers
        )
        images, labels = zip(*epoch, strict=True)
        joined.append((np.concatenate(images).tobytes(), np.concatenate(labels).tobytes()))
    assert all(other == joined[0] for other in joined[1:])


def test_every_transform_changes_images():
    """The tests above compare streams in which each transform has done something."""
    plain, *changed = (stream(batches(random_set(), 61, transform=[t] if t else None)) for t in (None, *IN_COLOUR))
    assert all(one != plain for one in changed) and len({one[0][0] for one in changed}) == len(changed)


def test_transforms_draw_independently():
    """Two flips that drew the same number would always undo each other."""
    plain, twice = (next(iter(batches(random_set(), 61, transform=t)))[0] for t in (None, [HorizontalFlip()] * 2))
    changed = (plain != twice).any(axis=(1, 2, 3)).sum()
    assert abs(changed - 61 / 2) < 5 * np.sqrt(61) / 2


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("workers", WORKERS)
def test_start_in_the_middle_equals_the_tail(workers, drop_last):
    options = {"shuffle": True, "seed": 5, "epoch": 3, "transform": IN_COLOUR, "drop_last": drop_last}
    whole = stream(batches(random_set(), 8, **options))
    assert len(whole) == (7 if drop_last else 8)
    for start in range(len(whole) + 1):
        rest = batches(random_set(), 8, workers=workers, start=start, **options)
        assert len(rest) == len(whole) - start
        assert stream(rest) == whole[start:]


class Watched(Dataset):
    """Notes what is read, when, and by which thread; fails or waits at images that a test names."""

    class_names, name, mean, std, uniforms = ("a",), "watched", (0.0,), (1.0,), 0
    image_shape = 1, 2, 2

    def __init__(self, count, fails=(), error=None, wait=0.0):
        self.labels = np.zeros(count, dtype=np.int64)
        self.fails, self.error, self.wait = set(fails), error or OSError("the disk is gone"), wait
        self.reads, self.threads, self.lock = [], set(), threading.Lock()

    def read(self, indices, uniforms):
        with self.lock:
            self.reads.extend(indices.tolist())
            self.threads.add(threading.current_thread())
        time.sleep(self.wait)
        if self.fails & set(indices.tolist()):
            raise self.error
        return np.zeros((len(indices), *self.image_shape), dtype=np.uint8)


def ended(dataset):
    """The threads that read are no longer alive (the test's own one apart)."""
    return not any(thread.is_alive() for thread in dataset.threads - {threading.current_thread()})


def test_start_reads_nothing_before():
    for workers in WORKERS:
        dataset = Watched(20)
        list(batches(dataset, 4, workers=workers, start=3))
        assert sorted(dataset.reads) == list(range(12, 20))


def test_workers_read_and_the_caller_does_not():
    for workers in WORKERS:
        dataset = Watched(100, wait=0.002)
        assert len(list(batches(dataset, 2, workers=workers))) == 50
        assert sorted(dataset.reads) == list(range(100))
        assert (threading.current_thread() in dataset.threads) == (workers == 0)
        assert len(dataset.threads) == max(workers, 1) and ended(dataset)


@pytest.mark.parametrize("workers", WORKERS)
def test_a_workers_error_comes_in_its_batchs_place(workers):
    dataset = Watched(400, fails=[30])
    seen = []
    with pytest.raises(OSError, match="the disk is gone"):
        for _, labels in batches(dataset, 4, workers=workers):
            seen.append(len(labels))
    assert seen == [4] * 7  # image 30 is in the eighth batch
    assert ended(dataset) and len(dataset.reads) <= 4 * (8 + 2 * workers)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), MemoryError(), StopIteration()])
def test_any_error_of_a_worker_arrives(error):
    dataset = Watched(40, fails=[9], error=error)
    # a generator turns StopIteration into RuntimeError, so that it does not pass for the end of the epoch
    with pytest.raises(RuntimeError if isinstance(error, StopIteration) else type(error)):
        list(batches(dataset, 4, workers=2))
    assert ended(dataset)


class Broken(Transform):
    uniforms = 0

    def __call__(self, images, uniforms):
        raise ArithmeticError("no such colour")


def test_a_transforms_error_arrives():
    for workers in WORKERS:
        with pytest.raises(ArithmeticError, match="no such colour"):
            list(batches(random_set(), 4, transform=[Broken()], workers=workers))


def leave_by_break(epoch):
    for _ in epoch:
        break


def leave_by_exception(epoch, error=ValueError):
    try:
        for _ in epoch:
            raise error
    except error:
        pass


def leave_by_interrupt(epoch):
    leave_by_exception(epoch, KeyboardInterrupt)


def leave_by_dropping_the_iterator(epoch):
    iterator = iter(epoch)
    next(iterator)
    del iterator
    gc.collect()


def leave_before_the_first(epoch):
    iterator = iter(epoch)
    del iterator


@pytest.mark.parametrize(
    "leave",
    [
        leave_by_break,
        leave_by_exception,
        leave_by_interrupt,
        leave_by_dropping_the_iterator,
        leave_before_the_first,
    ],
)
@pytest.mark.parametrize("workers", WORKERS[1:])
def test_leaving_early_ends_the_threads(leave, workers):
    before = set(threading.enumerate())
    dataset = Watched(10_000, wait=0.001)
    leave(batches(dataset, 2, workers=workers))
    assert set(threading.enumerate()) <= before and ended(dataset)
    assert len(dataset.reads) <= 2 * (1 + 2 * workers)


class Gated(Watched):
    """Every batch but the first waits for the gate."""

    def read(self, indices, uniforms):
        if indices[0]:
            self.gate.wait()
        return super().read(indices, uniforms)


def test_leaving_early_reads_nothing_more():
    """Two workers stand at the gate with batches 1 and 2 at most when the loop is left; batch 3 is never begun."""
    dataset = Gated(40)
    dataset.gate = threading.Event()
    opener = threading.Timer(0.5, dataset.gate.set)
    opener.start()
    leave_by_break(batches(dataset, 1, workers=2))
    assert set(dataset.reads) <= {0, 1, 2} and ended(dataset)
    opener.join()


@pytest.mark.parametrize("workers", WORKERS)
def test_batches_ahead_are_bounded(workers):
    """However slow the consumer, no more than 2 batches a worker are read beyond what it has."""
    dataset = Watched(400)
    for number, _ in enumerate(batches(dataset, 4, workers=workers), start=1):
        time.sleep(0.002)  # time for the workers to run away
        assert len(dataset.reads) <= 4 * (number + 2 * workers)


def test_two_loops_at_once():
    """Training and evaluation may be interleaved; an epoch can be walked twice at the same time."""
    epoch = batches(random_set(), 4, shuffle=True, transform=AUGMENT, workers=2)
    expected = stream(batches(random_set(), 4, shuffle=True, transform=AUGMENT))
    pairs = list(zip(epoch, epoch, strict=True))
    assert stream(first for first, _ in pairs) == stream(second for _, second in pairs) == expected


def test_more_workers_than_batches_and_an_empty_set():
    dataset = random_set(3)
    assert stream(batches(dataset, 2, workers=8)) == stream(batches(dataset, 2))
    empty = dataclasses.replace(dataset, images=dataset.images[:0], labels=dataset.labels[:0])
    assert stream(batches(empty, 2, workers=2)) == []


SCRIPT = """
import sys, threading, time
import numpy as np
from cupynn.data import ArrayDataset, batches
dataset = ArrayDataset(
    np.zeros((1000, 1, 2, 2), dtype=np.uint8), np.zeros(1000, dtype=np.int64), ("a",), "x", (0.0,), (1.0,)
)
iterator = iter(batches(dataset, 2, workers=3))
next(iterator)
if sys.argv[1] == "interrupt":
    try:
        print("ready", flush=True)
        while True:
            for _ in batches(dataset, 1, workers=3):
                time.sleep(0.001)
    except KeyboardInterrupt:
        iterator.close()
        print("threads", threading.active_count(), flush=True)
"""


def test_a_program_ends_with_a_loop_unfinished():
    """The interpreter does not wait for ever on threads of an iterator that nobody closed."""
    subprocess.run([sys.executable, "-c", SCRIPT, "end"], check=True, timeout=120)


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_ends_the_threads():
    # A parent may have set SIGINT to be ignored, which children inherit; Python then installs no handler.
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + SCRIPT
    process = subprocess.Popen([sys.executable, "-c", script, "interrupt"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert out == "threads 1\n" and process.returncode == 0
