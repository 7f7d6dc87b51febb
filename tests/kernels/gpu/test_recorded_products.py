"""Matrix products of a recorded step, which cuBLAS is asked for without CuPy: what is said to it of the operands."""

import numpy as np
import pytest

import cupynn
from cupynn import device, step_graph
from cupynn.autograd import Tensor
from cupynn.kernels.runtime import cublas

LAYOUTS = {
    "rows": lambda x: x,
    "columns": lambda x: x.swapaxes(-1, -2),
    "every other": lambda x: x[..., ::2, 1::2],
    "a part": lambda x: x[..., 1:4, 2:5],
}


def check(a, b, inner):
    """Up to the order of the sums of `inner` products of numbers below 4."""
    given, wanted = cublas.matmul(a, b).get(), a.get() @ b.get()
    assert given.shape == wanted.shape and given.dtype == wanted.dtype
    np.testing.assert_allclose(given, wanted, rtol=0, atol=16 * inner**2 * np.finfo(given.dtype).eps)


@pytest.mark.parametrize("second", LAYOUTS)
@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("stacks", [((), ()), ((2, 3), (2, 3)), ((3,), (2, 1)), ((1, 3), ())], ids=str)
def test_layouts_and_stacks(gpu_log, first, second, stacks):
    numbers = np.random.default_rng(3)
    a, b = (device.asarray(numbers.uniform(-4, 4, (*stack, 12, 10)).astype(np.float32)) for stack in stacks)
    a, b = LAYOUTS[first](a), LAYOUTS[second](b)
    inner = min(a.shape[-1], b.shape[-2])
    check(a[..., :inner], b[..., :inner, :], inner)


@pytest.mark.parametrize(
    "a, b", [((4,), (4, 3)), ((3, 4), (4,)), ((4,), (4,)), ((2, 3, 4), (4,)), ((3, 0), (0, 2)), ((0, 3), (3, 2)),
             ((1, 1), (1, 1)), ((5, 1), (1, 4)), ((1, 5), (5, 1))], ids=str,
)  # fmt: skip
def test_vectors_and_thin_matrices(gpu_log, a, b):
    numbers = np.random.default_rng(4)
    check(device.asarray(numbers.uniform(-4, 4, a)), device.asarray(numbers.uniform(-4, 4, b)), a[-1])


def test_what_cupy_does_with_cublas_is_refused_by_name(gpu_log):
    step = cupynn.captured(lambda x: cupynn.autograd.einsum("ij,kj->ik", Tensor(x), Tensor(x)))
    x = device.asarray(np.ones((2, 3), np.float32))
    with pytest.raises(RuntimeError, match="calls a library that CuPy does not record in Einsum"):
        for _ in range(step_graph.WARM_UP + 1):
            step(x)
