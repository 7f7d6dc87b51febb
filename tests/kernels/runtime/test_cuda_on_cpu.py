"""CUDA's vocabulary on the CPU: each kernel of vocabulary.cu against NumPy, bare and under the checker."""

import numpy as np
import pytest

from cupynn.kernels import runtime

pytestmark = pytest.mark.usefixtures("either_mode")

DTYPES = [np.float32, np.float64]
SEED = 20240607


def random_numbers(shape, dtype):
    return np.random.default_rng(SEED).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("grid, block", [(1, 1), (5, 1), ((2, 3, 4), 1), ((4, 3, 2), (2, 3, 5)), ((1, 2), (3, 1, 2))])
def test_coordinates_of_grids_and_blocks(vocabulary, grid, block):
    size = [(n, 1, 1) if isinstance(n, int) else (*n, 1, 1)[:3] for n in (grid, block)]
    out = np.full((np.prod(size[0]), np.prod(size[1]), 6), -1, np.int32)
    runtime.launch(vocabulary, "coordinates", grid, block, (out,), outputs=(out,))
    for column, (n, part) in enumerate([(n, part) for part in range(2) for n in range(3)]):
        number = np.arange(out.shape[part])  # x runs fastest
        expected = number // int(np.prod(size[part][:n])) % size[part][n]
        expected = expected[:, None] if part == 0 else expected[None, :]
        np.testing.assert_array_equal(out[:, :, column], np.broadcast_to(expected, out.shape[:2]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grid, block", [(1, 1), (3, 1), (3, 32), (200, 7)])
@pytest.mark.parametrize("with_b", [True, False])
def test_every_kind_of_argument(vocabulary, dtype, grid, block, with_b):
    x, b = random_numbers(2000, dtype), random_numbers(1000, dtype)
    y = np.empty(1000, dtype)
    args = (x, b if with_b else None, y, dtype(1.5), 1000, np.int64(2), True, np.uint32(3))
    runtime.launch(vocabulary, f"affine<{runtime.ctype(x)}>", grid, block, args, outputs=(y,))
    expected = 3 - (x[::2] * dtype(1.5) + (b if with_b else 0))
    # A fused product rounds once, NumPy's twice, and 3 - value can cancel: absolute, relative to values below 16.
    np.testing.assert_allclose(y, expected, rtol=0, atol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize("block", [1, 2, 31, 33, 128])
def test_dynamic_shared_memory(vocabulary, block):
    x = random_numbers((7, 100), np.float64)
    y = np.empty_like(x)
    runtime.launch(vocabulary, "reverse_rows<double>", 7, block, (x, y, 100), shared_bytes=800, outputs=(y,))
    np.testing.assert_array_equal(y, x[:, ::-1])


@pytest.mark.parametrize("threads", [1, 2, 31, 32, 33, 256, 1000, 1024])
def test_barriers(vocabulary, threads):
    rounds = 5
    values = np.arange(3 * threads, dtype=np.int32).reshape(3, threads)
    expected = np.roll(values, -rounds, axis=1)
    runtime.launch(vocabulary, "rotate", 3, threads, (values, rounds))
    np.testing.assert_array_equal(values, expected)


def test_single_bytes_of_shared_memory(vocabulary):
    out = np.empty(8, np.int32)
    runtime.launch(vocabulary, "bytes_of_words", 1, 32, (out,), outputs=(out,))
    np.testing.assert_array_equal(out, np.arange(32, dtype=np.uint8).view(np.int32))


@pytest.mark.parametrize("n", [1, 20, 33, 64])
def test_threads_that_have_ended_are_not_waited_for(vocabulary, n, either_mode):
    """A GPU lets the others pass, and so does the bare kernel; the checker calls it what it is, a divergent barrier."""
    out = np.zeros(n, np.int32)
    if either_mode == "checked" and n < 64:
        with pytest.raises(runtime.KernelCheckError, match=f"{64 - n} threads of the block ended without reaching"):
            runtime.launch(vocabulary, "early_exit", 1, 64, (out, n))
        return
    runtime.launch(vocabulary, "early_exit", 1, 64, (out, n))
    np.testing.assert_array_equal(out, np.full(n, n))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [1, 8, 32, 33, 100, (4, 3, 5), 1024])
def test_block_reductions(vocabulary, dtype, block):
    x = random_numbers((3, 500), dtype)
    threads = int(np.prod(block))
    sums, largest = np.empty((2, 3, threads), dtype)
    args = (x, sums, largest, 500)
    runtime.launch(vocabulary, f"block_reductions<{runtime.ctype(x)}>", 3, block, args, outputs=(sums, largest))
    # The sum of n numbers in any order errs by at most n * eps * sum of magnitudes.
    exact, bound = x.sum(1, np.longdouble), 500 * np.finfo(dtype).eps * np.abs(x).sum(1)
    assert (np.abs(sums - exact[:, None]) <= bound[:, None]).all()
    np.testing.assert_array_equal(largest, np.repeat(x.max(1)[:, None], threads, 1))
    np.testing.assert_array_equal(sums, np.repeat(sums[:, :1], threads, 1))
    again = np.empty_like(sums)
    runtime.launch(vocabulary, f"block_reductions<{runtime.ctype(x)}>", 3, block, (x, again, largest, 500))
    np.testing.assert_array_equal(again, sums)  # the same bits in every run


def shuffled(x, amount, width):
    """CUDA's definition, lane by lane, for (shfl, up, down, xor)."""
    out = np.empty((4, x.size), x.dtype)
    for i in range(x.size):
        lane, warp = i % 32, i - i % 32
        first = lane // width * width
        sources = (first + amount % width, lane - amount, lane + amount, lane ^ amount)
        inside = (True, sources[1] >= first, sources[2] < first + width, sources[3] < first + width)
        for row, (source, valid) in enumerate(zip(sources, inside, strict=True)):
            out[row, i] = x[warp + source] if valid else x[i]
    return out


@pytest.mark.parametrize("name, dtype", [("int", np.int32), ("double", np.float64), ("float", np.float32)])
@pytest.mark.parametrize("amount, width", [(1, 32), (5, 32), (3, 8), (16, 32), (9, 8), (1, 2)])
def test_warp_shuffles(vocabulary, name, dtype, amount, width):
    x = np.arange(96).astype(dtype)
    out = np.empty((4, 96), dtype)
    runtime.launch(vocabulary, f"shuffles<{name}>", 1, 96, (x, out, amount, width), outputs=(out,))
    np.testing.assert_array_equal(out, shuffled(x, amount, width))


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_votes(vocabulary, chance):
    x = (np.random.default_rng(SEED).random(64) < chance).astype(np.int32)
    out = np.empty((7, 64), np.uint32)
    runtime.launch(vocabulary, "votes", 1, 64, (x, out), outputs=(out,))
    ballots = [sum(int(bit) << lane for lane, bit in enumerate(x[w : w + 32])) for w in (0, 32)]
    even = [ballot & 0x55555555 for ballot in ballots]
    lanes = np.arange(64)
    np.testing.assert_array_equal(out[0], np.repeat(np.array(ballots, np.uint32), 32))
    np.testing.assert_array_equal(out[1], np.repeat([ballot != 0 for ballot in ballots], 32))
    np.testing.assert_array_equal(out[2], np.repeat([ballot == 2**32 - 1 for ballot in ballots], 32))
    np.testing.assert_array_equal(out[3], np.where(lanes % 2 == 0, np.repeat(np.array(even, np.uint32), 32), 0))
    np.testing.assert_array_equal(out[4], np.full(64, x.sum()))
    np.testing.assert_array_equal(out[5], np.full(64, x.any()))
    np.testing.assert_array_equal(out[6], np.full(64, x.all()))


def test_a_warp_in_step_by_syncwarp_alone(vocabulary):
    x = np.random.default_rng(SEED).integers(-100, 100, (4, 32)).astype(np.int32)
    out = np.empty(4, np.int32)
    runtime.launch(vocabulary, "warp_tree", 4, 32, (x, out), outputs=(out,))
    np.testing.assert_array_equal(out, x.sum(1))


INTEGERS = {"int": np.int32, "unsigned": np.uint32, "unsigned long long": np.uint64}
NAMES = {**INTEGERS, "float": np.float32, "double": np.float64}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grid, block", [(1, 1), (16, 1), (4, 33)])
def test_atomics(vocabulary, name, grid, block):
    x = np.arange(1, 201).astype(NAMES[name])  # sums of small integers are exact in every type
    out = np.zeros(2, NAMES[name])
    runtime.launch(vocabulary, f"atomics<{name}>", grid, block, (x, out, 200), touches=(out,))
    assert out[0] == x.sum() and out[1] in x


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("grid, block", [(1, 1), (16, 1)])
def test_integer_atomics(vocabulary, name, grid, block, either_mode):
    if either_mode == "checked" and grid > 1:
        pytest.skip("the first, plain read of the counter is a race between blocks, on purpose")
    x = np.random.default_rng(SEED).integers(1, 1000, 500).astype(NAMES[name])
    out = np.array([0, 5000, 0, 0, 0], NAMES[name])
    runtime.launch(vocabulary, f"integer_atomics<{name}>", grid, block, (x, out, 500), touches=(out,))
    assert out.tolist() == [x.max(), x.min(), 500, 2**31 - 1, np.bitwise_xor.reduce(x)]


def test_float_functions(vocabulary):
    x = np.abs(random_numbers(100, np.float32)) + np.float32(0.1)
    y = np.empty((5, 100), np.float32)
    runtime.launch(vocabulary, "float_functions", 4, 25, (x, y, 100), outputs=(y,))
    exact = x.astype(np.float64)
    expected = [1 / np.sqrt(exact), np.exp(exact), np.log(exact), exact / 3]
    expected.append(exact * exact + np.maximum(exact, 0.5) + np.minimum(exact, 2))
    # A few roundings each; log near 1 errs absolutely.
    np.testing.assert_allclose(y, np.stack(expected), rtol=4 * np.finfo(np.float32).eps, atol=1e-7)


def test_bit_functions(vocabulary):
    x = np.array([0, 1, 2, 3, 255, 256, 2**30, -1, -(2**31), 12345], np.int32)
    y = np.empty((4, x.size), np.int32)
    runtime.launch(vocabulary, "bit_functions", 1, 16, (x, y, x.size), outputs=(y,))
    bits = [np.binary_repr(int(v), 32) for v in x]
    np.testing.assert_array_equal(y[0], [b.count("1") for b in bits])
    np.testing.assert_array_equal(y[1], [len(b) - len(b.lstrip("0")) for b in bits])
    np.testing.assert_array_equal(y[2], [b[::-1].find("1") + 1 for b in bits])
    np.testing.assert_array_equal(y[3], x)


def test_vector_loads(vocabulary):
    x = random_numbers(40, np.float32)
    y = np.empty_like(x)
    runtime.launch(vocabulary, "vector_loads", 2, 8, (x, y, 10), outputs=(y,))
    np.testing.assert_array_equal(y, 2 * x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 4, 16, 64])
def test_strips(vocabulary, dtype, n):
    x = np.random.default_rng(SEED).integers(-9, 9, n + 2).astype(dtype)  # small integers: every result is exact
    y, out = np.full(n + 2, -1, dtype), np.empty(4, dtype)
    args = (x, dtype(5), y, out)
    runtime.launch(vocabulary, f"strips<{runtime.ctype(x)}, {n}>", 1, 1, args, outputs=(out,), touches=(y,))
    strip = x[1:-1]
    np.testing.assert_array_equal(y, np.concatenate([[-1], 3 * strip + 5, [-1]]))
    np.testing.assert_array_equal(out, [strip.sum(), np.maximum(strip, 0).sum(), 3 * strip.sum(), strip[n // 2]])


def test_constant_memory(vocabulary):
    y = np.empty(8, np.float32)
    runtime.launch(vocabulary, "constants", 1, 8, (y,), outputs=(y,))
    np.testing.assert_array_equal(y, [1, 10, 100, 1000] * 2)
