"""Occupancy, against what NVIDIA's CUDA Occupancy Calculator says, by hand from its rules."""

import pytest

from cupynn.kernels.runtime.occupancy import LIMITS, occupancy


@pytest.mark.parametrize(
    "architecture, registers, shared, threads, expected",
    [
        (80, 32, 0, 256, 1.0),  # 8 blocks of 8 warps
        (
            80,
            33,
            0,
            256,
            0.75,
        ),  # a warp's registers come in units of 256: 1280 of 65536, 51 warps, 48 of them in 4 parts
        (80, 40, 0, 256, 0.75),
        (80, 255, 0, 256, 0.125),  # 8192 for a warp: 8 warps, one block
        (80, 255, 0, 512, 0.0),  # whose second half does not fit
        (80, 16, 0, 32, 0.5),  # 32 blocks are the most
        (86, 16, 0, 32, 16 / 48),
        (75, 32, 0, 1024, 1.0),
        (80, 16, 40 << 10, 128, 0.25),  # 41 KB with the system's: 4 blocks in 164 KB
        (90, 16, 40 << 10, 128, 0.3125),  # 5 in 228 KB
        (70, 16, 40 << 10, 128, 0.125),  # 2 in 96 KB
        (70, 16, 48 << 10, 128, 0.125),
        (80, 16, 163 << 10, 128, 0.0625),  # the largest block
        (80, 16, (163 << 10) + 1, 128, 0.0),
        (70, 16, 1, 64, 1.0),  # 256 bytes a block
        (80, 16, 0, 33, 1.0),  # two warps
        (80, 16, 0, 96, 0.984375),  # 21 blocks of 3 warps
    ],
)
def test_occupancy(architecture, registers, shared, threads, expected):
    assert occupancy(architecture, registers, shared, threads) == pytest.approx(expected)


def test_more_of_anything_never_helps():
    for architecture in LIMITS:
        by_registers = [occupancy(architecture, registers, 0, 128) for registers in range(1, 256)]
        by_shared = [occupancy(architecture, 32, shared, 128) for shared in range(0, 228 << 10, 512)]
        for shares in (by_registers, by_shared):
            assert shares == sorted(shares, reverse=True) and 0 <= shares[-1] <= shares[0] <= 1


def test_an_unknown_architecture():
    with pytest.raises(ValueError, match="no limits known of architecture 35"):
        occupancy(35, 32, 0, 128)
