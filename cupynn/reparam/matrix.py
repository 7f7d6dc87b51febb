"""A convolution as a sparse matrix, to look at and to prove contraction with [ExpandNets, Appendix D]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cupynn.autograd import Tensor
from cupynn.device import Array, to_numpy
from cupynn.kernels import conv

if TYPE_CHECKING:
    import scipy.sparse


def conv_matrix(w: Tensor | Array, input_shape: tuple[int, int, int], stride=1, padding=0) -> scipy.sparse.csr_array:
    """The matrix M with conv2d(x, w, stride, padding).reshape(-1) = M @ x.reshape(-1) for one image x.

    w: (O, I, KH, KW); input_shape: (C, H, W), where C/I is the number of groups. M has O OH OW rows, one per output
    element, and C H W columns, one per input element; taps that fall on the padding have no column. The matrix of
    layers applied one after another is the product of their matrices, the last layer's first.

    Raises ValueError where w does not fit input_shape, ImportError without SciPy.
    """
    import scipy.sparse

    w = to_numpy(w.data if isinstance(w, Tensor) else w)
    channels = input_shape[0]
    groups = channels // w.shape[1] if w.ndim == 4 and w.shape[1] else 1
    g = conv.geometry((1, *input_shape), w.shape, stride, padding, 1, groups)
    # The indices of every product w[o, i, a, b] x[...] that goes into output pixel (p, q), in one open grid.
    o, i, a, b, p, q = np.ogrid[tuple(map(slice, (*w.shape, g.oh, g.ow)))]
    y = p * g.stride[0] + a - g.padding[0]
    x = q * g.stride[1] + b - g.padding[1]
    rows = (o * g.oh + p) * g.ow + q
    columns = ((o // g.o_group * g.c_group + i) * g.h + y) * g.w + x
    inside = (y >= 0) & (y < g.h) & (x >= 0) & (x < g.w)
    rows, columns, values, inside = np.broadcast_arrays(rows, columns, w[..., None, None], inside)
    shape = (g.o * g.oh * g.ow, g.c * g.h * g.w)
    return scipy.sparse.coo_array((values[inside], (rows[inside], columns[inside])), shape=shape).tocsr()
