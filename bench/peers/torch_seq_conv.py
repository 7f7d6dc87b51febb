"""A SeqConv layer in PyTorch, as its authors write it: every group concatenates what it sees."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Unit(nn.Module):
    """Convolution without bias, and batch norm; `pre`, if any, is a 1x1 unit before it."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, pre: Unit | None = None):
        super().__init__()
        self.pre = pre
        self.conv = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x, shortcut=None):
        """(raw, act): before batch norm, the shortcut added, and after its ReLU."""
        raw = self.conv(x if self.pre is None else self.pre(x)[1])
        if shortcut is not None:
            raw = raw + shortcut
        return raw, torch.relu_(self.bn(raw))


class SeqConv(nn.Module):
    """outputs/k groups of k channels; with a bottleneck, a 1x1 convolution before each 3x3."""

    def __init__(
        self, inputs: int, outputs: int, k: int, windowed: bool = True, bottleneck: bool = False, dropout: float = 0.0
    ):
        super().__init__()
        self.k, self.windowed, self.dropout = k, windowed, dropout
        self.f = nn.ModuleList()
        for j in range(outputs // k):
            view = inputs if windowed else inputs + j * k
            self.f.append(Unit(k, k, 3, Unit(view, k, 1)) if bottleneck else Unit(view, k, 3))

    def forward(self, x, shortcuts=None):
        """Lists of the groups' raw and act; shortcuts are as many."""
        view, raws, acts = x, [], []
        for j, unit in enumerate(self.f):
            seen = functional.dropout2d(view, self.dropout, self.training) if self.dropout else view
            raw, act = unit(seen, None if shortcuts is None else shortcuts[j])
            raws.append(raw)
            acts.append(act)
            if j + 1 < len(self.f):
                view = torch.cat((view[:, self.k :] if self.windowed else view, act), 1)
        return raws, acts


def passes(x, grad, k: int, bottleneck: bool) -> dict:
    """{"forward", "forward + backward"} of a windowed layer, in training, on arrays."""
    layer, upstream = SeqConv(x.shape[1], x.shape[1], k, bottleneck=bottleneck), torch.from_numpy(grad)
    images = torch.from_numpy(x).requires_grad_()

    def forward():
        with torch.no_grad():
            return torch.cat(layer(images)[1], 1)

    def train():
        images.grad = None
        layer.zero_grad()
        torch.cat(layer(images)[1], 1).backward(upstream)

    return {"forward": forward, "forward + backward": train}
