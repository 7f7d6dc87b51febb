"""Contractions in PyTorch, as the papers' authors write them: a transposed convolution, and for DO-Conv einsum."""

from __future__ import annotations

import torch


def contracted(first, second, groups: int = 1):
    """The kernel (g O, I, A+B-1, A+B-1) of first (g P, I, A, A) and then second (g O, P, B, B)."""
    p, b = second.shape[1], second.shape[2:]
    o, i = second.shape[0] // groups, first.shape[1]
    images = second.view(groups, o, p, *b).transpose(0, 1).reshape(o, groups * p, *b)
    kernel = torch.nn.functional.conv_transpose2d(images, first, groups=groups)
    return kernel.view(o, groups, i, *kernel.shape[2:]).transpose(0, 1).reshape(groups * o, i, *kernel.shape[2:])


def composed(d, w):
    """DO-Conv's kernel (O, I, taps) of D (I, taps, D_mul) and W (O, I, D_mul)."""
    return torch.einsum("ims,ois->oim", d, w)
