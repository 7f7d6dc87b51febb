"""Every pass that a profile knows a cost of is asked, and answers what its `cost` says of its shapes."""

import numpy as np
import pytest

import cupynn
from cupynn import ops
from cupynn.autograd import Tensor, no_grad
from cupynn.kernels import conv, im2col, pool, runtime
from cupynn.kernels import contract as contract_kernel
from cupynn.ops import contraction, do_composition, folding
from cupynn.profile import profile
from cupynn.profile.costs import faces


def maps(*shape):
    return Tensor(np.random.default_rng(0).standard_normal(shape, np.float32), requires_grad=True)


def costs(step):
    """Costs of the passes of one step, by face."""
    found = {}
    for span in profile(step, steps=1).spans:
        if span.kind == "face":
            found.setdefault(span.name, []).append(span.details["cost"])
    return found


def differentiated(make):
    def step():
        make().sum().backward()

    return step


def everything():
    """One call of every pass. Compiled and checked modes choose the method of a convolution by its shape."""
    one = np.ones(8, np.float32)
    yield lambda: ops.conv2d(maps(2, 4, 9, 9), maps(6, 4, 5, 5), padding=2)
    yield lambda: ops.conv2d(maps(2, 16, 12, 12), maps(16, 16, 3, 3), padding=1)
    yield lambda: ops.conv2d(maps(2, 16, 6, 6), maps(16, 16, 1, 1))
    yield lambda: ops.conv2d(maps(2, 64, 3, 3), maps(64, 64, 5, 5), padding=2)
    yield lambda: ops.depthwise_conv2d(maps(2, 8, 9, 9), maps(8, 1, 3, 3), padding=1)
    yield lambda: ops.batch_norm(maps(4, 8, 5, 5), maps(8), maps(8), training=True)
    yield lambda: ops.batch_norm(maps(4, 8, 5, 5), maps(8), maps(8), one, one)
    yield lambda: ops.max_pool2d(maps(2, 3, 8, 8), 3, 2)
    yield lambda: ops.avg_pool2d(maps(2, 3, 8, 8), (2, 4))
    yield lambda: ops.adaptive_avg_pool2d(maps(2, 3, 9, 9), 1)
    yield lambda: ops.adaptive_max_pool2d(maps(2, 3, 9, 9), 2)
    yield lambda: ops.whe(maps(2, 8, 5, 5), *(maps(2, 4, 4) for _ in range(4)))
    yield lambda: ops.cross_entropy(maps(4, 5), np.array([0, 1, 2, 3]))
    yield lambda: contraction.contract_chain([maps(6, 3, 3, 3), maps(5, 6, 3, 3)], [None, None], 1)[0]
    yield lambda: do_composition.compose_kernel(maps(4, 9, 9), maps(6, 4, 9), (3, 3))
    yield lambda: ops.cross_layer_depthwise([maps(2, 4, 5, 5) for _ in range(3)], maps(3, 4))


