"""Random numbers that belong to a sample: a hash of (seed, epoch, sample, stream), not the next in a sequence.

No generator has a state that others move on, so a sample's numbers depend neither on the batch it falls into nor on
which thread asks first, and the middle of an epoch needs nothing of what came before. The hash is Philox4x32-10
[Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"], computed for a whole batch at once.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from cupynn.kernels.philox import philox

LOW_HALF = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


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
