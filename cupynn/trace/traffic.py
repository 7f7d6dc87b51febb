"""What a warp's access costs a GPU's memory, computed from its lanes' addresses."""

from __future__ import annotations

import numpy as np

SECTOR, LINE = 32, 128  # bytes of global memory that move together, and of a cache line
BANKS, WORD = 32, 4  # of shared memory: neighbouring words lie in neighbouring banks


def sectors(
    count: int, request: np.ndarray, address: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sectors, least sectors, lines) of each of `count` requests, of global memory.

    request: the number of the warp's access, from 0, that each thread's access of `size` bytes at `address` is part of.
    A request takes every 32-byte sector that its lanes touch, once, from one or more 128-byte lines. [CUDA C++
    Programming Guide, "Compute Capability 5.x", Global Memory; sectors: Nsight Compute, "Memory Tables"]
    The least: as many sectors as hold the bytes that are asked for; bytes that several lanes ask for count once.
    """
    bytes_asked = np.zeros(count, np.int64)
    first = _first_of_each(request, address, size)
    np.add.at(bytes_asked, request[first], size[first])
    touched = [np.bincount(_pieces(request, address, size, piece)[0], minlength=count) for piece in (SECTOR, LINE)]
    return touched[0], -(-bytes_asked // SECTOR), touched[1]


def bank_conflicts(
    count: int, request: np.ndarray, lane: np.ndarray, address: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(degree, passes, least passes) of each of `count` requests of shared memory.

    Lanes whose words differ and lie in one bank wait for each other; lanes that read one word share it. [CUDA C++
    Programming Guide, "Compute Capability 5.x", Shared Memory] A warp's accesses of up to 4 bytes are one phase; of 8
    bytes two phases, one per half warp, and of 16 bytes four, of eight lanes each; lanes of different phases never
    conflict. [NVIDIA, "Volta: Architecture and Performance Optimization", GTC 2018, session S81006, "Bank conflicts"]
    degree: the most words that one phase wants of one bank, 1 where there is no conflict. passes: of all phases; the
    least is one for each.
    """
    phase = lane * np.clip(size, WORD, 16) // (BANKS * WORD)
    group, word = _pieces(request * 4 + phase, address, size, WORD)
    banks = np.bincount(group * BANKS + word % BANKS, minlength=count * 4 * BANKS)
    worst = banks.reshape(count, 4, BANKS).max(axis=2)
    return worst.max(axis=1), worst.sum(axis=1), (worst > 0).sum(axis=1)


def _pieces(group: np.ndarray, address: np.ndarray, size: np.ndarray, piece: int) -> tuple[np.ndarray, np.ndarray]:
    """(group, piece) of every piece of memory that a group touches, once each."""
    first, last = address // piece, (address + np.maximum(size, 1) - 1) // piece
    counts = last - first + 1
    begin = np.repeat(np.cumsum(counts) - counts, counts)
    pieces = np.repeat(first, counts) + np.arange(len(begin)) - begin
    groups = np.repeat(group, counts)
    once = _first_of_each(groups, pieces)
    return groups[once], pieces[once]


def _first_of_each(*keys: np.ndarray) -> np.ndarray:
    """Positions of one of each combination of keys."""
    order = np.lexsort(keys[::-1])
    changes = np.zeros(len(order), bool)
    changes[:1] = True
    for key in keys:
        changes[1:] |= key[order][1:] != key[order][:-1]
    return order[changes]
