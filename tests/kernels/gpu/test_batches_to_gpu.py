"""Batches copied beside the computation, on the fake GPU, which finds a wait that is missing."""

import fake_cupy
import fake_streams
import numpy as np
import pytest

from cupynn import device
from cupynn.data import ArrayDataset, HorizontalFlip, RandomCrop, batches, to_gpu


def dataset(count=23):
    rng = np.random.default_rng(4)
    pixels = rng.integers(0, 256, (count, 3, 6, 6), dtype=np.uint8)
    return ArrayDataset(pixels, np.arange(count) % 5, tuple("abcde"), "noise", (0.4,) * 3, (0.2,) * 3)


def collect(**options):
    """Of every batch the arrays as they are when all have come: later copies must leave them alone."""
    kept = list(batches(dataset(), 4, shuffle=True, transform=[RandomCrop(1), HorizontalFlip()], **options))
    return [device.to_numpy(array) for batch in kept for array in batch]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_batches_of_the_cpu(gpu_log, workers):
    given = collect(workers=workers)
    with device.use_device("cpu"):
        wanted = collect()
    assert len(given) == len(wanted) == 12
    for ours, theirs in zip(given, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_one_batch_ahead_and_not_two(gpu_log):
    """While one is computed with, the next is on its way; the host waits for the copy of the last but one only."""
    read = []

    def host():
        for number in range(5):
            read.append(number)
            yield np.full((2, 3), number, np.float32), np.full(2, number)

    kept = []
    for batch in to_gpu.ahead(host(), lambda images, labels: (images.copy(), labels.copy())):
        assert read[-1] == min(len(kept) + 1, 4)
        assert len(gpu_log.waits) == (1 if 1 <= len(kept) <= 3 else 0)
        del gpu_log.waits[:]
        kept.append(batch)
    assert [(float(images[0, 0]), int(labels[1])) for images, labels in kept] == [(n, n) for n in range(5)]


def test_batches_that_grow(gpu_log):
    sizes = (2, 2, 9, 1, 30, 30, 2)
    host = [(np.arange(size, dtype=np.float32), np.arange(size) + size) for size in sizes]
    given = list(to_gpu.ahead(host, lambda images, labels: (images * 1, labels * 1)))
    for (images, labels), (wanted, wanted_labels) in zip(given, host, strict=True):
        np.testing.assert_array_equal(images.get(), wanted)
        np.testing.assert_array_equal(labels.get(), wanted_labels)
    assert list(to_gpu.ahead([], lambda *arrays: arrays)) == []


def test_an_error_comes_where_its_batch_would_have(gpu_log):
    def host():
        yield np.zeros(2, np.float32), np.zeros(2, np.int64)
        yield np.ones(2, np.float32), np.zeros(2, np.int64)
        raise OSError("a damaged image")

    seen = []
    with pytest.raises(OSError, match="a damaged image"):
        for images, _ in to_gpu.ahead(host(), lambda *arrays: [array.copy() for array in arrays]):
            seen.append(float(images[0]))
    assert seen == [0, 1]


def test_leaving_early_waits_for_the_copy_on_its_way(gpu_log):
    walk = iter(batches(dataset(), 4))
    next(walk)
    del gpu_log.waits[:]
    walk.close()
    assert gpu_log.waits == [("synchronize", "to_gpu.ahead")]
    assert not fake_streams.copies or all(fake_streams.host.get(copy[2], 0) >= copy[3] for copy in fake_streams.copies)


@pytest.mark.parametrize(
    "kind, method, message",
    [
        (fake_streams.Stream, "wait_event", "wait_event is missing"),
        (fake_streams.Event, "synchronize", "the host wrote to memory that a copy may still read"),
    ],
)
def test_the_fake_finds_a_missing_wait(gpu_log, monkeypatch, kind, method, message):
    monkeypatch.setattr(kind, method, lambda *args: None)
    with pytest.raises(AssertionError, match=message):
        collect()


def test_the_fake_finds_a_copy_over_what_is_read(gpu_log, monkeypatch):
    """The copy that does not wait until the batch before it in its place has been taken."""
    wait_event = fake_streams.Stream.wait_event
    monkeypatch.setattr(
        fake_streams.Stream,
        "wait_event",
        lambda self, event: wait_event(self, event) if self is fake_streams.null else None,
    )
    with pytest.raises(AssertionError, match=r"a stream (writes to what another still reads|uses what another)"):
        collect()


def test_the_fake_runs_nothing_while_a_stream_captures(gpu_log):
    cupy = fake_cupy.module
    x = device.asarray(np.arange(4, dtype=np.float32))
    factor = 2.0
    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
    with stream, cupy.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        x += 1
        y = x * factor
        graph = stream.end_capture()
    assert np.isnan(y.get()).all() and x.get().tolist() == [0, 1, 2, 3]
    factor = 5.0  # what was recorded stays
    for added in (1, 2):
        graph.launch()
        assert x.get().tolist() == [added + i for i in range(4)] and (y.get() == x.get() * 2).all()


def test_the_fake_refuses_memory_of_the_default_pool(gpu_log):
    cupy = fake_cupy.module
    x, stream = device.asarray(np.ones(4, np.float32)), cupy.cuda.Stream(non_blocking=True)
    with pytest.raises(AssertionError, match="from the default pool"), stream:
        stream.begin_capture()
        x * 2
    with pytest.raises(RuntimeError, match="is capturing, so D2H transfers are disallowed"), stream:  # CuPy's own
        stream.begin_capture()
        float(x[0])
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorStreamCaptureUnsupported"), stream:
        stream.synchronize()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorStreamCaptureInvalidated"):
        stream.end_capture()
