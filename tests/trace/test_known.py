"""Kernels of known.cu, whose accesses, sectors and bank conflicts can be counted by hand."""

import numpy as np
import pytest

from cupynn.kernels import runtime
from cupynn.kernels.runtime import build
from cupynn.trace import Block, Launch, arrays, launches, lines, trace, warps
from cupynn.trace.recording import READ, WARP_FUNCTION, WRITE

needs_lines = pytest.mark.skipif(lines.find_tool() is None, reason="no addr2line here")
needs_wide = pytest.mark.skipif(build.is_clang(), reason="clang++ takes a struct's members one by one")


def run(known, kernel, *args, block=32, shared=0):
    return Block(Launch(known, kernel, (1, 1, 1), (block, 1, 1), args, shared))


def numbers(count, dtype=np.float32):
    return np.arange(count).astype(dtype)


def only(block, kind, array):
    """The one row of this kind for an array."""
    (row,) = [row for row in block.rows if (row.kind, row.array) == (kind, array)]
    return row


@pytest.mark.parametrize(
    "offset, stride, sectors, least, cache_lines",
    [
        (0, 1, 4, 4, 1),  # 128 bytes
        (1, 1, 5, 4, 2),  # the same, not at a sector's begin
        (8, 1, 4, 4, 2),  # a line's end and the next one's begin
        (0, 2, 8, 4, 2),
        (0, 8, 32, 4, 8),  # each thread a sector
        (0, 32, 32, 4, 32),  # a column of a matrix
        (3, 0, 1, 1, 1),  # one element for all
    ],
)
def test_sectors(known, offset, stride, sectors, least, cache_lines):
    block = run(known, "copy", numbers(1024), np.zeros(32, np.float32), offset, stride)
    read, written = only(block, READ, "x"), only(block, WRITE, "y")
    assert (read.sectors, read.least, read.cache_lines) == (sectors, least, cache_lines)
    assert (written.sectors, written.least, written.cache_lines) == (4, 4, 1)
    assert (read.count, read.lanes, read.size, read.degree) == (1, 32, 4, None)


def test_a_call(known):
    """What a call would launch on a GPU, found and run here; its arrays get what the block writes."""
    x, y = numbers(64), np.zeros(64, np.float32)

    def call():
        runtime.launch(known, "copy", 1, runtime.threads(x, gpu=64), (y, x, 0, 0))  # y[0], so that x is 0
        runtime.launch(known, "copy", 1, runtime.threads(x, gpu=64), (x, y, 0, 1))

    first, second = launches(call)
    assert first.kernel == second.kernel == "copy" and first.block == second.block == (64, 1, 1)
    assert runtime.threads(x, gpu=64) < 64 and x[5] == 5
    y[0] = 7
    block = trace(call, 1)
    assert (x == 7).all() and (y == 7).all() and block.launch.threads == 64
    with pytest.raises(ValueError, match="launch 2 was asked for; there are 2"):
        trace(call, 2)


def test_an_arrays_place_in_its_allocation(known):
    """A view that begins four bytes into its memory does so on a GPU."""
    block = run(known, "copy", numbers(64)[1:], np.zeros(32, np.float32), 0, 1)
    assert only(block, READ, "x").sectors == 5


@needs_wide
@pytest.mark.parametrize("vector, width", [("float", 1), ("float2", 2), ("float4", 4)])
def test_wide_loads(known, vector, width):
    x, y = numbers(32 * width), np.zeros(32 * width, np.float32)
    block = run(known, f"copy_wide<{vector}>", x, y)
    np.testing.assert_array_equal(y, x)
    for row in (only(block, READ, "x"), only(block, WRITE, "y")):
        assert (row.count, row.size, row.sectors, row.least) == (1, 4 * width, 4 * width, 4 * width)


@pytest.mark.parametrize("pitch, degree", [(32, 32), (33, 1), (34, 2), (36, 4), (48, 16)])
def test_a_column_of_shared_memory(known, pitch, degree):
    y = np.zeros(32, np.float32)
    block = run(known, "columns", numbers(1024), y, pitch, shared=32 * pitch * 4)
    np.testing.assert_array_equal(y, 32 * np.arange(32) + 5)
    written, read = only(block, WRITE, "shared_memory"), only(block, READ, "shared_memory")
    assert (written.degree, written.count) == (1, 32) and (read.degree, read.count) == (degree, 1)
    assert read.sectors is None and block.passes.max() == degree
    events = block.steps.members[block.steps.begin[-2] : block.steps.end[-2]]  # the column is read, then y is written
    assert block.element(events[3]) == f"shared_memory[{3 * pitch + 5}]" and block.value(events[3]) == "101"


def test_one_word_for_many(known):
    """Threads that read one word, or parts of one word, do not wait for each other."""
    y = np.zeros(32, np.float32)
    block = run(known, "one_word", y)
    np.testing.assert_array_equal(y, np.full(32, 10))
    assert only(block, READ, "values").degree == 1 and only(block, READ, "halves").degree == 1
    assert only(block, READ, "values").lanes == 32


# 8 bytes: half a warp at a time, 16 bytes: a quarter. Neighbours never conflict then.
@needs_wide
@pytest.mark.parametrize(
    "vector, stride, degree, passes",
    [
        ("float2", 1, 1, 2),
        ("float2", 2, 2, 4),  # 16 lanes over 64 words
        ("float2", 16, 16, 32),
        ("float4", 1, 1, 4),
        ("float4", 2, 2, 8),  # 8 lanes over 64 words
        ("float4", 8, 8, 32),
    ],
)
def test_wide_shared_accesses(known, vector, stride, degree, passes):
    width = int(vector[-1])
    block = run(known, f"shared_wide<{vector}>", np.zeros(32, np.float32), stride, shared=32 * stride * 4 * width)
    row = only(block, WRITE, "shared_memory")
    assert (row.size, row.degree) == (4 * width, degree)
    assert (block.passes[0], block.least_passes[0]) == (passes, width)


@needs_lines
def test_lanes_that_part(known):
    """Lanes take different ways and meet again; a function that is called has the caller's line before its own."""
    x, y = numbers(68), np.zeros(64, np.float32)
    block = run(known, "ways", x, y, block=64)
    text = known.read_text().splitlines()

    def line(part):
        (found,) = [number for number, one in enumerate(text, 1) if part in one]
        return found

    parted = line("y[threadIdx.x] = x[threadIdx.x];  //")
    rows = {(row.lines, row.kind, row.array): row for row in block.rows}
    called = rows[(line("sum = halved("), line("return x[k] / 2")), READ, "x"]
    assert (called.count, called.lanes, called.sectors) == (2, 16, 4)
    assert rows[(parted,), READ, "x"].lanes == rows[(parted,), WRITE, "y"].lanes == 16
    loop = rows[(line("for (int k = 0; k < threadIdx.x % 4"),), READ, "x"]
    assert (loop.count, loop.lanes, loop.sectors) == (6, 16, 1)  # 24, 16 and 8 lanes of two warps
    shuffle = rows[(line("__shfl_xor_sync"),), WARP_FUNCTION, ""]
    assert (shuffle.count, shuffle.lanes) == (2, 32)
    odd = np.arange(64) % 2 == 1
    np.testing.assert_array_equal(y, np.where(odd, [x[64 : 64 + k % 4].sum() for k in np.arange(64) ^ 1], x[:64]))


def test_each_lanes_order_is_kept(known):
    block = run(known, "ways", numbers(68), np.zeros(64, np.float32), block=64)
    steps = block.steps
    place = np.empty(len(block.events), int)
    place[steps.members] = np.repeat(np.arange(len(steps)), steps.end - steps.begin)
    for thread in range(64):
        assert (np.diff(place[block.events["thread"] == thread]) > 0).all()
    assert np.array_equal(np.sort(steps.members), np.arange(len(block.events)))


def test_lanes_that_contradict_each_other():
    """No order is both lanes'; all steps are there, and what both agree on."""
    order = warps._merged([np.array([0, 1, 2, 3]), np.array([0, 2, 1, 3])])
    assert sorted(order) == [0, 1, 2, 3] and order[0] == 0 and order[-1] == 3


def test_without_binutils(known, monkeypatch):
    monkeypatch.setattr(lines, "find_tool", lambda: None)
    monkeypatch.setattr(arrays, "find_tool", lambda: None)
    block = run(known, "copy", numbers(32), np.zeros(32, np.float32), 0, 1)
    assert [row.lines for row in block.rows] == [(), ()] and block.rows[0].sectors == 4
    block = run(known, "one_word", np.zeros(32, np.float32))
    assert {row.array for row in block.rows} == {"static", "y", ""}


def test_what_the_checker_finds_is_raised(known):
    y = np.zeros(32, np.float32)
    with pytest.raises(runtime.KernelCheckError, match="outside argument 0"):
        run(known, "past_the_end", y, 1)
    with pytest.raises(ValueError, match=r"block \(1, 0, 0\) was asked for; the grid .* \(1, 1, 1\)"):
        Block(Launch(known, "past_the_end", (1, 1, 1), (32, 1, 1), (y, 0), 0), (1, 0, 0))


def test_only_so_much_is_kept(known, monkeypatch):
    monkeypatch.setattr("cupynn.trace.recording.MOST_EVENTS", 32 * 10)
    block = run(known, "columns", numbers(1024), np.zeros(32, np.float32), 33, shared=33 * 128)
    assert block.left_out == 32 and (np.bincount(block.events["thread"]) == 10).all()
