"""How the faces launch their kernels on a GPU: what `cupynn kernels` reckons occupancy with.

Threads per block and bytes of dynamic shared memory, of the launch with most of it among calls on maps of shape
(16, 64, 32, 32): 3x3 kernels, a WHE group of 32 channels where its size is no constant, ten layers of a cross-layer
convolution, 1000 classes (`tests/kernels/gpu/typical_calls.py`). A test there holds the table against the launches.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Launch(NamedTuple):
    threads: int
    shared: int = 0  # dynamic


def typical(name: str, expression: str) -> Launch:
    """The launch of an instantiation of `NAME.cu`: that of the longest key of LAUNCHES that it begins with."""
    kernel = f"{name}.{as_float(expression)}"
    keys = [key for key in LAUNCHES if kernel.startswith(key)]
    return LAUNCHES[max(keys, key=len)] if keys else Launch(256)


def as_float(expression: str) -> str:
    """The instantiation for float that one for 16 bits computes, and is launched, as."""
    return re.sub(r"\b(Half|BFloat16)\b", "float", expression)


LAUNCHES: dict[str, Launch] = {
    "contract.fold<": Launch(128, 0),
    "contract.fold_backward<": Launch(128, 0),
    "contract.multiply<double, 1, 4, 1, ": Launch(256, 40320),
    "contract.multiply<double, 1, 4, 4, ": Launch(256, 40128),
    "contract.multiply<float, 1, 4, 1, ": Launch(256, 21504),
    "contract.multiply<float, 1, 4, 4, ": Launch(256, 33792),
    "conv.convolve<": Launch(128, 40800),
    "conv.pack<": Launch(128, 0),
    "conv.reduce<": Launch(128, 0),
    "conv.weight_gradient<double, ": Launch(128, 40416),
    "conv.weight_gradient<float, ": Launch(128, 40848),
    "conv_scaled.multiply<": Launch(128, 32768),
    "conv_scaled.weight_gradient<double, ": Launch(128, 33536),
    "conv_scaled.weight_gradient<float, ": Launch(128, 33280),
    "conv_tc.convolve<float, 2, ": Launch(128, 40960),
    "conv_tc.convolve<float, 4, 2, 2>": Launch(128, 49152),
    "conv_tc.convolve<float, 4, 2, 4>": Launch(256, 65536),
    "conv_tc.weight_gradient<float, 2, 1, ": Launch(128, 40960),
    "conv_tc.weight_gradient<float, 2, 2, ": Launch(128, 32768),
    "conv_tc.weight_gradient<float, 4, ": Launch(256, 65536),
    "cross_layer.backward<double, ": Launch(64, 5632),
    "cross_layer.backward<float, ": Launch(64, 2816),
    "cross_layer.combine<": Launch(64, 0),
    "depthwise.convolve<double, 1, 0, ": Launch(128, 12800),
    "depthwise.convolve<double, 1, 3, 3, 1, ": Launch(128, 9248),
    "depthwise.convolve<double, 1, 3, 3, 2, ": Launch(128, 17952),
    "depthwise.convolve<double, 1, 5, 5, 1, ": Launch(128, 10368),
    "depthwise.convolve<double, 1, 5, 5, 2, ": Launch(128, 20160),
    "depthwise.convolve<double, 1, 7, 7, 1, ": Launch(128, 11552),
    "depthwise.convolve<double, 1, 7, 7, 2, ": Launch(128, 22496),
    "depthwise.convolve<float, 1, 0, ": Launch(128, 6400),
    "depthwise.convolve<float, 1, 3, 3, 1, ": Launch(128, 4624),
    "depthwise.convolve<float, 1, 3, 3, 2, ": Launch(128, 8976),
    "depthwise.convolve<float, 1, 5, 5, 1, ": Launch(128, 5184),
    "depthwise.convolve<float, 1, 5, 5, 2, ": Launch(128, 10080),
    "depthwise.convolve<float, 1, 7, 7, 1, ": Launch(128, 5776),
    "depthwise.convolve<float, 1, 7, 7, 2, ": Launch(128, 11248),
    "depthwise.weight_gradient<double, 1, 0, ": Launch(32, 33792),
    "depthwise.weight_gradient<double, 1, 3, 3, 1, ": Launch(128, 19488),
    "depthwise.weight_gradient<double, 1, 3, 3, 2, ": Launch(128, 28192),
    "depthwise.weight_gradient<double, 1, 5, 5, 1, ": Launch(128, 36992),
    "depthwise.weight_gradient<double, 1, 5, 5, 2, ": Launch(128, 46784),
    "depthwise.weight_gradient<double, 1, 7, 7, 1, ": Launch(64, 37152),
    "depthwise.weight_gradient<double, 1, 7, 7, 2, ": Launch(64, 36848),
    "depthwise.weight_gradient<float, 1, 0, ": Launch(64, 27392),
    "depthwise.weight_gradient<float, 1, 3, 3, 1, ": Launch(128, 9744),
    "depthwise.weight_gradient<float, 1, 3, 3, 2, ": Launch(128, 14096),
    "depthwise.weight_gradient<float, 1, 5, 5, 1, ": Launch(128, 18496),
    "depthwise.weight_gradient<float, 1, 5, 5, 2, ": Launch(128, 23392),
    "depthwise.weight_gradient<float, 1, 7, 7, 1, ": Launch(128, 31376),
    "depthwise.weight_gradient<float, 1, 7, 7, 2, ": Launch(128, 36848),
    "pointwise.convolve<double, ": Launch(128, 42400),
    "pointwise.convolve<float, ": Launch(128, 43840),
    "pointwise.pack<": Launch(128, 0),
    "pointwise.weight_gradient<double, ": Launch(128, 34688),
    "pointwise.weight_gradient<float, ": Launch(128, 34432),
    "whe.backward<double, 0, ": Launch(32, 49664),
    "whe.backward<double, 16, ": Launch(128, 41216),
    "whe.backward<double, 2, ": Launch(128, 32928),
    "whe.backward<double, 4, ": Launch(128, 33344),
    "whe.backward<double, 8, ": Launch(128, 34944),
    "whe.backward<float, 0, ": Launch(64, 33024),
    "whe.backward<float, 16, ": Launch(128, 20608),
    "whe.backward<float, 2, ": Launch(128, 16464),
    "whe.backward<float, 4, ": Launch(128, 16672),
    "whe.backward<float, 8, ": Launch(128, 17472),
    "whe.forward<double, 0, ": Launch(32, 32768),
    "whe.forward<double, 16, ": Launch(128, 8192),
    "whe.forward<double, 2, ": Launch(128, 128),
    "whe.forward<double, 4, ": Launch(128, 512),
    "whe.forward<double, 8, ": Launch(128, 2048),
    "whe.forward<float, 0, ": Launch(64, 16384),
    "whe.forward<float, 16, ": Launch(128, 4096),
    "whe.forward<float, 2, ": Launch(128, 64),
    "whe.forward<float, 4, ": Launch(128, 256),
    "whe.forward<float, 8, ": Launch(128, 1024),
    "whe.reduce<": Launch(128, 0),
    "winograd.convolve<double, 1, 4, 4, false>": Launch(128, 36800),
    "winograd.convolve<double, 1, 4, 4, true>": Launch(128, 37024),
    "winograd.convolve<float, 1, 4, 4, false>": Launch(128, 34816),
    "winograd.convolve<float, 1, 4, 4, true>": Launch(128, 35024),
    "winograd.pack<": Launch(128, 0),
    "winograd.weight_gradient<double, 1, 4, 4, false>": Launch(128, 62688),
    "winograd.weight_gradient<double, 1, 4, 4, true>": Launch(128, 63200),
    "winograd.weight_gradient<float, 1, 4, 4, false>": Launch(128, 31344),
    "winograd.weight_gradient<float, 1, 4, 4, true>": Launch(128, 31600),
}
