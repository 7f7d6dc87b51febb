"""Random numbers that belong to a sample: a hash of (seed, epoch, sample, stream), not the next in a sequence.

No generator has a state that others move on, so a sample's numbers depend neither on the batch it falls into nor on
which thread asks first, and the middle of an epoch needs nothing of what came before. The hash is Philox4x32-10
[Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"], computed for a whole batch at once.
"""

from __future__ import annotations

import dataclasses

import numpy as np

LOW_HALF = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """The 128-bit blocks of `counter` as 128 random bits each.

    counter and result: four 32-bit words along the first axis, held in uint64 (4, ...); key: two 32-bit words.
    """
    a, b, c, d = counter
    for number in range(ROUNDS):
        first, second = (
            np.uint64(word + number * step & 0xFFFFFFFF) for word, step in zip(key, KEY_STEPS, strict=True)
        )
        left, right = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (right >> HALF) ^ b ^ first, right & LOW_HALF, (left >> HALF) ^ d ^ second, left & LOW_HALF
    return np.stack([a, b, c, d])


@dataclasses.dataclass(frozen=True, eq=False)
class SampleNumbers:
    """The random numbers of some samples in one epoch. samples: their places in the set, int64 (N,), below 2^64."""

    seed: int
    epoch: int
    samples: np.ndarray

    def uniforms(self, stream: int, count: int) -> np.ndarray:
        """`count` numbers for each sample, float64 (N, count), evenly spread over the open interval 0..1.

        The numbers are odd multiples of 2^-33, so neither 0 nor 1 occurs. Streams are independent of each other;
        asking the same stream for more numbers leaves the first ones as they are.
        """
        blocks = -(-count // 4)
        samples = self.samples.astype(np.uint64)[:, None]
        counter = np.empty((4, len(samples), blocks), dtype=np.uint64)
        counter[0], counter[1] = samples & LOW_HALF, samples >> HALF
        counter[2], counter[3] = np.uint64(stream), np.arange(blocks, dtype=np.uint64)
        # SeedSequence spreads neighbouring seeds and epochs over the whole of the key.
        key = np.random.SeedSequence([self.seed, self.epoch]).generate_state(2, np.uint32).tolist()
        words = philox(counter, key).transpose(1, 2, 0).reshape(len(samples), 4 * blocks)
        return (words[:, :count] + 0.5) * 2.0**-32
