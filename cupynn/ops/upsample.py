"""Resizing of images: nearest pixel or bilinear interpolation."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from cupynn import recording
from cupynn.autograd import Function
from cupynn.device import wide, xp_of
from cupynn.ops.arguments import need_images, pair


class Resize(Function):
    """y = R x C^T for every plane, with interpolation matrices R (OH, H) and C (OW, W) of a few entries per row.

    A matrix is kept as a table: indices and weights (rows, entries). The gradient uses the transposed tables.
    """

    def forward(self, x):
        y = wide(x)
        for axis, table in zip((2, 3), self.tables, strict=True):
            y = _apply(y, axis, *table)
        return y if y.dtype == x.dtype else y.astype(x.dtype)

    def backward(self, grad):
        grad = wide(grad)
        for axis, table in zip((2, 3), self.tables, strict=True):
            grad = _apply(grad, axis, *_transposed(table, self.input_shapes[0][axis]))
        return grad


def _apply(x, axis, indices, weights):
    """Every row's weighted sum of slices of x along `axis`."""
    xp = xp_of(x)
    per_row = (-1,) + (1,) * (3 - axis)
    y = None
    for entry in range(indices.shape[1]):
        weight = recording.upload(weights[:, entry].astype(x.dtype), x).reshape(per_row)
        term = xp.take(x, recording.upload(indices[:, entry], x), axis=axis) * weight
        y = term if y is None else y + term
    return y


@lru_cache(maxsize=256)
def _nearest(size, new_size, scale):
    """Row i reads floor(i * scale)."""
    indices = np.minimum(np.floor(np.arange(new_size) * scale), size - 1).astype(np.int64)
    return indices[:, None], np.ones((new_size, 1))


@lru_cache(maxsize=256)
def _bilinear(size, new_size, scale, align_corners):
    """Row i reads the two pixels beside its place, weighted by nearness; a place off the border is moved onto it."""
    i = np.arange(new_size)
    if align_corners:
        place = i * ((size - 1) / (new_size - 1) if new_size > 1 else 0)
    else:
        place = np.maximum((i + 0.5) * scale - 0.5, 0)
    low = np.minimum(np.floor(place).astype(np.int64), size - 1)
    nearness = np.minimum(place - low, 1)
    return np.stack([low, np.minimum(low + 1, size - 1)], axis=1), np.stack([1 - nearness, nearness], axis=1)


def _transposed(table, size):
    """The table of the transposed matrix, of `size` rows; a short row repeats index 0 at weight 0."""
    indices, weights = (part.ravel() for part in table)
    rows = np.repeat(np.arange(len(table[0])), table[0].shape[1])
    order = np.argsort(indices, kind="stable")
    counts = np.bincount(indices, minlength=size)
    entry = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    new_indices, new_weights = np.zeros((size, counts.max()), np.int64), np.zeros((size, counts.max()))
    new_indices[indices[order], entry] = rows[order]
    new_weights[indices[order], entry] = weights[order]
    return new_indices, new_weights


def upsample2d(x, size=None, scale_factor=None, mode="nearest", align_corners=False):
    """Resize x (N, C, H, W) to `size` (OH, OW), or by `scale_factor`: OH = floor(H * factor).

    mode "nearest": pixel i of the result is pixel floor(i * H / OH). Mode "bilinear": its centre, (i + 0.5) H / OH -
    0.5, lies between two pixels, which are mixed; with `align_corners` its place is i (H - 1) / (OH - 1). Where a
    scale factor is given, 1/factor takes the place of H / OH, unless H = OH. Raises ValueError unless exactly one of
    size and scale_factor is given, and for a mode that does not exist.
    """
    need_images("upsample2d", x)
    if (size is None) == (scale_factor is None):
        raise ValueError(f"upsample2d: give size or scale_factor; got size={size}, scale_factor={scale_factor}")
    if mode not in ("nearest", "bilinear"):
        raise ValueError(f'upsample2d: mode must be "nearest" or "bilinear"; got {mode!r}')
    if align_corners and mode == "nearest":
        raise ValueError('upsample2d: align_corners is for mode "bilinear"; mode is "nearest"')
    old = x.shape[2:]
    if size is not None:
        size = pair("upsample2d", "size", size, 1)
        scales = (old[0] / size[0], old[1] / size[1])
    else:
        factors = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor, scale_factor)
        size = tuple(math.floor(s * factor) for s, factor in zip(old, factors, strict=True))
        if min(size) < 1:
            raise ValueError(f"upsample2d: scale_factor {scale_factor} leaves no pixel of x of shape {x.shape}")
        scales = tuple(
            1.0 if new == before else 1 / factor for new, before, factor in zip(size, old, factors, strict=True)
        )
    if mode == "nearest":
        tables = [_nearest(*sizes) for sizes in zip(old, size, scales, strict=True)]
    else:
        tables = [_bilinear(*sizes, bool(align_corners)) for sizes in zip(old, size, scales, strict=True)]
    return Resize(tables=tables)(x)
