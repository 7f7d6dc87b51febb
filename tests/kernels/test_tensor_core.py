"""tensor_core.cuh on the CPU: products and matrix loads against definitions of the registers, copies that come late."""

import pathlib

import numpy as np
import pytest

from cupynn.device import dtype_named
from cupynn.kernels import conv_tc, runtime

pytestmark = pytest.mark.skipif(not runtime.compiled_for(np.zeros(1)), reason="no compiled kernels in this mode")

SOURCE = pathlib.Path(__file__).parent / "tensor_core.cu"
TYPES = {"float32": "float", "float16": "Half", "bfloat16": "BFloat16"}
LANES = np.arange(32)


@pytest.fixture(params=TYPES)
def dtype(request):
    if request.param == "bfloat16":
        pytest.importorskip("ml_dtypes")
    return dtype_named(request.param)


@pytest.fixture(params=["compiled", "checked"])
def either_mode(request):
    before = runtime.mode()
    runtime.set_mode(request.param)
    yield request.param
    runtime.set_mode(before)


def by_the_manual(numbers):
    """(row, column) of element i of every lane for `a` (16, K), `b` (K, 8) and `c` (16, 8): the PTX ISA's sections
    "Matrix Fragments for mma.m16n8k8" (.tf32) and "... for mma.m16n8k16 with floating point type" (.f16, .bf16)."""
    group, member = LANES[:, None] >> 2, LANES[:, None] % 4
    i = np.arange(4)
    c = group + 8 * (i >= 2), member * 2 + (i & 1)
    if numbers == 1:
        a = group + 8 * ((i == 1) | (i == 3)), member + 4 * (i >= 2)
        b = member + 4 * np.arange(2), group + 0 * np.arange(2)
    else:
        i = np.arange(8)
        a = np.where((i < 2) | ((4 <= i) & (i < 6)), group, group + 8), member * 2 + (i & 1) + 8 * (i >= 4)
        i = np.arange(4)
        b = member * 2 + (i & 1) + 8 * (i >= 2), group + 0 * i
    return a, b, c


def by_strides(numbers):
    """The same as layouts: offsets in column-major matrices, by strides of the lane's two digits and of the element's.

    A product moves the lane's low digit along K (or along c's columns), its high digit along the other side.
    """
    depth = 8 * numbers

    def places(rows, lane, element):
        lanes = LANES % 4 * lane[0] + LANES // 4 * lane[1]
        elements = np.zeros(1, int)
        for stride in element:  # the first stride's digit runs fastest
            elements = (np.array([0, stride])[:, None] + elements).ravel()
        offsets = lanes[:, None] + elements
        return offsets % rows, offsets // rows

    packed = [16] if numbers == 2 else []  # along K within a register
    a = places(16, (16 * numbers, 1), [*packed, 8, 16 * depth // 2])
    k_by_n = places(8, (8 * numbers, 1), [8, 64] if numbers == 2 else [32])  # (n, k)
    return a, (k_by_n[1], k_by_n[0]), places(16, (32, 1), [16, 8])


@pytest.mark.parametrize("numbers", [1, 2])
def test_both_definitions_of_the_registers_agree(numbers):
    for found, wanted, shape in zip(
        by_strides(numbers), by_the_manual(numbers), [(16, 8 * numbers), (8 * numbers, 8), (16, 8)], strict=True
    ):
        for axis in (0, 1):
            np.testing.assert_array_equal(found[axis], np.broadcast_to(wanted[axis], found[axis].shape))
        assert len(set(zip(*(part.ravel() for part in found), strict=True))) == np.prod(shape)  # each element once


def registers(matrix, places, dtype):
    """(32, registers) of 4 bytes."""
    rows, columns = np.broadcast_arrays(*places)
    return np.ascontiguousarray(matrix[rows, columns].astype(dtype)).view(np.uint32).reshape(32, -1)


def test_products(dtype, either_mode):
    """Of whole numbers, whose products and sums are exact: any wrong place shows."""
    numbers = 4 // dtype.itemsize
    rng = np.random.default_rng(3)
    a, b, c = (rng.integers(-9, 10, shape) for shape in ((16, 8 * numbers), (8 * numbers, 8), (16, 8)))
    of_a, of_b, of_c = by_the_manual(numbers)
    d = np.empty((32, 4), np.float32)
    first = np.ascontiguousarray(c[of_c].astype(np.float32))
    args = registers(a, of_a, dtype), registers(b, of_b, dtype), first, d
    runtime.launch(SOURCE, f"multiply<{TYPES[dtype.name]}>", 1, 32, args, outputs=(d,))
    found = np.zeros((16, 8))
    found[of_c] = d
    np.testing.assert_array_equal(found, c + 2 * a @ b)


def test_a_tensor_core_drops_the_digits_that_tf32_has_not():
    """What is not rounded before is cut off, as by the hardware: a forgotten rounding shows."""
    a, b = np.full((32, 4), np.nextafter(np.float32(2), np.float32(0))), np.ones((32, 2), np.float32)
    c, d = np.zeros((32, 4), np.float32), np.empty((32, 4), np.float32)
    runtime.launch(SOURCE, "multiply<float>", 1, 32, (a.view(np.uint32), b.view(np.uint32), c, d), outputs=(d,))
    np.testing.assert_array_equal(d, 2 * 8 * (2 - 2.0**-10))


@pytest.mark.parametrize("transposed", [False, True])
def test_matrices(transposed, either_mode):
    """Rows in any order. Lane l has elements (l / 4, 2 (l % 4) + e) of each matrix, or of its transpose."""
    rng = np.random.default_rng(5)
    x, rows = rng.integers(0, 1 << 16, (32, 8)).astype(np.uint16), rng.permutation(32).astype(np.int32)
    out = np.empty((32, 4), np.uint32)
    kernel = f"matrices<{str(transposed).lower()}>"
    runtime.launch(SOURCE, kernel, 1, 32, (x, rows, out, 0), shared_bytes=512 + 16, outputs=(out,))
    four = x[rows].reshape(4, 8, 8)
    four = four.swapaxes(1, 2) if transposed else four
    pairs = four.reshape(4, 8, 4, 2)[:, LANES // 4, LANES % 4]  # matrix, lane, element
    wanted = pairs[..., 0].astype(np.uint32) | pairs[..., 1].astype(np.uint32) << 16
    np.testing.assert_array_equal(out, wanted.T)


def test_a_row_at_an_odd_address_is_noticed():
    x, rows, out = np.zeros((32, 8), np.uint16), np.arange(32, dtype=np.int32), np.empty((32, 4), np.uint32)
    runtime.launch(SOURCE, "matrices<false>", 1, 32, (x, rows, out, 8), shared_bytes=512 + 16, outputs=(out,))
    assert (out == 0xFFFFFFFF).all()


def nearest_tf32(x):
    """By the definition: 10 digits after the first, to nearest, ties away from zero; subnormal numbers have fewer."""
    x = x.astype(np.float64)
    exponent = np.maximum(np.frexp(x)[1], -125)  # |x| < 2^exponent; the smallest normal float32 is 2^-126
    unit = np.ldexp(1.0, exponent - 11)
    rounded = np.sign(x) * np.floor(np.abs(x) / unit + 0.5) * unit
    return np.where(np.abs(rounded) >= 2.0**128, np.sign(x) * np.inf, rounded)


def test_rounding_to_tf32():
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 1 << 32, 20000, np.uint32)
    ties = (bits & np.uint32(0xFFFFE000)) | np.uint32(0x1000)
    x = np.concatenate([bits, ties, ties - np.uint32(1), np.arange(0, 1 << 16, 7, np.uint32)]).view(np.float32)
    x = np.concatenate([x[np.isfinite(x)], np.array([0, -0.0, np.inf, -np.inf, np.nan, 3.4e38, -3.4e38], np.float32)])
    y = np.empty_like(x)
    runtime.launch(SOURCE, "round_numbers<float>", 1, 32, (x, y, x.size), outputs=(y,))
    with np.errstate(invalid="ignore"):
        wanted = np.where(np.isfinite(x), nearest_tf32(x), x)
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(conv_tc.rounded(x, x.dtype), wanted)
    assert not (y[np.isfinite(y)].view(np.uint32) & 0x1FFF).any()


def test_rounding_to_16_bits(dtype):
    x = np.random.default_rng(8).standard_normal(5000).astype(np.float32)
    y = np.empty_like(x)
    runtime.launch(SOURCE, f"round_numbers<{TYPES[dtype.name]}>", 1, 32, (x, y, x.size), outputs=(y,))
    np.testing.assert_array_equal(y, conv_tc.rounded(x, dtype))


def passed_on(waits=True, meets=True, shift=0, absent=-1, rounds=5, more=4):
    """(what 64 threads have copied, what they should have); `more` elements of x are not copied."""
    x = np.arange(rounds * 64 * 4 + more, dtype=np.float32)
    y = np.empty((rounds, 64, 4), np.float32)
    kernel = f"pass_on<{str(waits).lower()}, {str(meets).lower()}>"
    runtime.launch(SOURCE, kernel, 1, 64, (x, y, rounds, shift, absent), shared_bytes=2 * 64 * 16, outputs=(y,))
    wanted = x[: y.size].reshape(y.shape).copy()
    if absent >= 0:
        wanted[:, absent] = 0
    return y, wanted


@pytest.mark.parametrize("absent", [-1, 9])
def test_copies_arrive(either_mode, absent):
    np.testing.assert_array_equal(*passed_on(absent=absent))


def test_copies_from_an_array_of_more_than_a_megabyte(either_mode):
    """The checker's own copies of arrays of any size are aligned."""
    np.testing.assert_array_equal(*passed_on(more=300_001))


def test_who_does_not_wait_reads_no_numbers(either_mode):
    assert np.isnan(passed_on(waits=False)[0]).all()


def test_who_meets_nobody_races():
    before = runtime.mode()
    runtime.set_mode("checked")
    try:
        with pytest.raises(runtime.KernelCheckError, match=r"races|before anything was written"):
            passed_on(meets=False)
    finally:
        runtime.set_mode(before)


def test_a_copy_from_an_odd_address_never_arrives(either_mode):
    assert np.isnan(passed_on(shift=8)[0]).all()
