"""Gradients summed over ranks in buckets, while backward still runs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from cupynn.autograd import Tensor
from cupynn.device import Array, xp_of
from cupynn.distributed.world import World

BUCKET_BYTES = 2 << 20  # large enough that a sum's start costs little, small enough that the first begins early


class GradientSum:
    """Gives every rank the gradient of the mean loss over all ranks' images.

    Gradients are copied side by side into buckets, in the reverse order of `parameters`, which is about the order in
    which backward completes them. A bucket's sum over ranks is started when its last gradient is there and the buckets
    before it have been started; backward goes on meanwhile. The order of sums is the same on all ranks, and in all
    runs.

    Parameters that the loss does not depend on count as zero; where no rank has a gradient for one, its grad stays
    None, as with one process. Parameters are those of the same network on all ranks.
    """

    def __init__(self, parameters: Iterable[Tensor], world: World, bucket_bytes: int = BUCKET_BYTES) -> None:
        self.world = world
        self.buckets: list[_Bucket] = []
        if world.size > 1:
            self.buckets = [_Bucket(part) for part in _divided(list(parameters)[::-1], bucket_bytes)]
        self._bucket = {parameter: bucket for bucket in self.buckets for parameter in bucket.parameters}
        self._started: list[Any] = []  # the requests of the first buckets

    def backward(self, loss: Tensor, images: int) -> int:
        """Set every parameter's grad to the gradient of the mean loss over the images of all ranks; returns how many
        these are. `loss` is the mean over this rank's `images` images. The gradients are views of the buckets: the next
        call overwrites them.

        Raises RuntimeError where gradients of the last call are still there: `zero_grad` comes first; ValueError where
        a gradient no longer has the shape and dtype that its parameter had when this object was made.
        """
        if self.world.size == 1:
            loss.backward()
            return images
        self._started = []
        for bucket in self.buckets:
            bucket.begin()
        everybodys = int(self.world.total(images)[0])
        share = xp_of(loss.data).asarray(images / everybodys, loss.dtype)
        loss.backward(share, ready=self._arrived)
        used = np.array([parameter.grad is not None for parameter in self._bucket], np.int64)
        self._start(all_of_them=True)
        self.world.sum(used)
        used_by = dict(zip(self._bucket, used, strict=True))
        for bucket, request in zip(self.buckets, self._started, strict=True):
            request.Wait()
            bucket.give(used_by)
        return everybodys

    def _arrived(self, leaf: Tensor) -> None:
        """A leaf's gradient is complete."""
        bucket = self._bucket.get(leaf)
        if bucket is None:
            return
        bucket.take(leaf)
        self._start()
        if self._started:
            self._started[-1].Test()  # MPI moves all its messages on only while it is called

    def _start(self, all_of_them: bool = False) -> None:
        """Start the sums of buckets that are complete, up to the first that is not."""
        for bucket in self.buckets[len(self._started) :]:
            if bucket.missing and not all_of_them:
                return
            bucket.fill_up()
            self._started.append(self.world.start_sum(bucket.array))


class _Bucket:
    """Parameters of one dtype whose gradients lie side by side in `array`."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parameters = parameters
        ends = np.cumsum([parameter.size for parameter in parameters]).tolist()
        like = parameters[0].data
        self.array = xp_of(like).zeros(ends[-1], like.dtype)
        self.views: dict[Tensor, Array] = {
            parameter: self.array[end - parameter.size : end].reshape(parameter.shape)
            for parameter, end in zip(parameters, ends, strict=True)
        }
        self.missing: set[Tensor] = set()

    def begin(self) -> None:
        """Wait for the gradients of all parameters that are not frozen."""
        for parameter, view in self.views.items():
            if parameter.grad is view:
                raise RuntimeError(
                    f"GradientSum.backward: the parameter of shape {parameter.shape} still has the gradient of the "
                    "last call, which all ranks share; call zero_grad() before"
                )
        self.missing = {parameter for parameter in self.parameters if parameter.requires_grad}

    def take(self, parameter: Tensor) -> None:
        """Copy a gradient that is complete."""
        grad, view = parameter.grad, self.views[parameter]
        if grad is None:
            return
        if grad.shape != view.shape or grad.dtype != view.dtype:
            raise ValueError(
                f"GradientSum.backward: a gradient is {grad.dtype} {grad.shape}, but its parameter was {view.dtype} "
                f"{view.shape} when the GradientSum was made; make a new one"
            )
        view[...] = grad
        self.missing.discard(parameter)

    def fill_up(self) -> None:
        """What this backward did not reach: a gradient from before it, or zeros."""
        for parameter, view in self.views.items():
            if parameter in self.missing or not parameter.requires_grad:
                view[...] = 0 if parameter.grad is None else parameter.grad

    def give(self, used_by: dict[Tensor, int]) -> None:
        """Hand the sums to those parameters that any rank had a gradient for."""
        for parameter, view in self.views.items():
            parameter.grad = view if used_by[parameter] else None


def _divided(parameters: list[Tensor], most_bytes: int) -> list[list[Tensor]]:
    """Neighbours of one dtype, at most so many bytes together, or a larger one by itself."""
    parts: list[list[Tensor]] = []
    room = -math.inf
    for parameter in parameters:
        size = parameter.data.nbytes
        if not parts or parameter.dtype != parts[-1][-1].dtype or size > room:
            parts.append([])
            room = most_bytes
        parts[-1].append(parameter)
        room -= size
    return parts
