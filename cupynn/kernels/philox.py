"""Philox4x32-10, random numbers that are a hash of a counter and a key. [Salmon, Moraes, Dror, Shaw 2011]

"Parallel random numbers: as easy as 1, 2, 3". No state moves on from number to number, so any of them can be had alone.
"""

from __future__ import annotations

import numpy as np

from cupynn.device import Array, xp_of

LOW_HALF = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10


def philox(counter: Array, key: tuple[int, int]) -> Array:
    """The 128-bit blocks of `counter` as 128 random bits each.

    counter and result: four 32-bit words along the first axis, held in uint64 (4, ...); key: two 32-bit words, numbers
    or an array of them.
    """
    a, b, c, d = counter
    key = [word.astype(np.uint64) if hasattr(word, "dtype") else np.uint64(word) for word in key]
    for number in range(ROUNDS):
        first, second = (
            (word + np.uint64(number * step)) & LOW_HALF for word, step in zip(key, KEY_STEPS, strict=True)
        )
        left, right = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (right >> HALF) ^ b ^ first, right & LOW_HALF, (left >> HALF) ^ d ^ second, left & LOW_HALF
    return xp_of(a).stack([a, b, c, d])
