"""Theoretical occupancy: the warps of a kernel that a multiprocessor holds at once, as a share of those it could hold.

A multiprocessor takes whole blocks until its warps, blocks, registers or shared memory run out. The formulas are those
of NVIDIA's CUDA Occupancy Calculator (the spreadsheet, now part of Nsight Compute); the limits are those of the CUDA
C++ Programming Guide 12.9, section 17.2, table "Technical Specifications per Compute Capability"; that the system keeps
1 KB of a block's shared memory from compute capability 8.0 on is in sections 17.6.3 to 17.10.
"""

from __future__ import annotations

from typing import NamedTuple

WARP = 32
REGISTERS = 65536  # of a multiprocessor, since compute capability 5.3
REGISTER_UNIT = 256  # a warp's registers are given out in units of this many
PARTITIONS = 4  # of a multiprocessor: each holds whole warps with their registers


class Multiprocessor(NamedTuple):
    """The limits of one compute capability."""

    warps: int
    blocks: int
    shared: int  # bytes
    shared_of_block: int  # bytes, dynamic and static, of which more than 48 KB must be asked for
    shared_reserved: int  # bytes of every block that the system takes
    shared_unit: int  # bytes


def _since_8_0(warps: int, blocks: int, kilobytes: int) -> Multiprocessor:
    return Multiprocessor(warps, blocks, kilobytes << 10, (kilobytes - 1) << 10, 1 << 10, 128)


# compute capability * 10 -> limits
LIMITS = {
    70: Multiprocessor(64, 32, 96 << 10, 96 << 10, 0, 256),
    72: Multiprocessor(64, 32, 96 << 10, 96 << 10, 0, 256),
    75: Multiprocessor(32, 16, 64 << 10, 64 << 10, 0, 256),
    80: _since_8_0(64, 32, 164),
    86: _since_8_0(48, 16, 100),
    87: _since_8_0(48, 16, 164),
    89: _since_8_0(48, 24, 100),
    90: _since_8_0(64, 32, 228),
    100: _since_8_0(64, 32, 228),
    120: _since_8_0(48, 24, 100),
}


def occupancy(architecture: int, registers: int, shared: int, threads: int) -> float:
    """From 0, where not even one block fits, to 1.

    `registers` per thread, `shared` bytes per block (static and dynamic), `threads` per block; `architecture` is a key
    of LIMITS. Raises ValueError for another one.
    """
    if architecture not in LIMITS:
        raise ValueError(f"occupancy: no limits known of architecture {architecture}, only of {[*LIMITS]}")
    limits = LIMITS[architecture]
    warps = -(-threads // WARP)
    if shared > limits.shared_of_block:
        return 0.0
    of_a_warp = _up(max(registers, 1) * WARP, REGISTER_UNIT)
    by_registers = REGISTERS // PARTITIONS // of_a_warp * PARTITIONS // warps
    of_a_block = _up(shared + limits.shared_reserved, limits.shared_unit)
    by_shared = limits.shared // of_a_block if of_a_block else limits.blocks
    blocks = min(limits.blocks, limits.warps // warps, by_registers, by_shared)
    return blocks * warps / limits.warps


def _up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
