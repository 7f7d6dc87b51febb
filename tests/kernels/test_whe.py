"""WHE: golden arrays, the reference on every path, the GPU's launches run on the CPU, bits, memory, errors."""

import os
import pathlib
import subprocess
import sys
import tracemalloc
from unittest import mock

import numpy as np
import pytest
from central_differences import TOLERANCE, central_differences
from hypothesis import example, given
from hypothesis import strategies as st

from cupynn.device import asarray, compute_dtype, dtype_named, to_numpy
from cupynn.kernels import runtime, whe

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "golden"
NAMES = ("dx", "da", "db", "dc", "dd")

# Group size, activation, dtype: every tuned size, the general path, every activation. More would only compile longer.
KERNELS = [
    (1, "identity", np.float64),
    (2, "elu", np.float64),
    (3, "tanh", np.float64),
    (4, "relu", np.float64),
    (5, "leaky_relu", np.float64),
    (8, "leaky_relu", np.float32),
    (16, "relu", np.float32),
    (32, "relu", np.float32),
]
PLANES = [(1, 1), (1, 3), (4, 4), (7, 7), (8, 8), (9, 33), (17, 31)]


def draw_arrays(seed, shape, g, dtype):
    """x, grad, and weights, all multiples of 1/16: h has no rounding error, is often 0, and where it is 0 is known."""
    rng = np.random.default_rng(seed)
    x, grad = rng.integers(-32, 33, (2, *shape)) / 16
    return x.astype(dtype), grad.astype(dtype), (rng.integers(-16, 17, (4, shape[1] // g, g, g)) / 16).astype(dtype)


def run(x, grad, weights, activation):
    return whe.forward(x, *weights, activation), *whe.backward(grad, x, *weights, activation)


def check_against_reference(outputs, x, grad, weights, activation):
    """(y, dx, da, db, dc, dd) against the reference in float64, element by element.

    |f(h)| <= |h| and |f'| <= 1 hold for every activation, so the identity on absolute values bounds the sum of the
    absolute values of all terms. A sum over pixels is taken in strips, tiles and blocks: here below 100 additions
    follow each other, each with an error of eps of the sum so far; 16 more stand for products, f and f'.
    """
    g, eps = weights.shape[2], np.finfo(x.dtype).eps
    x, grad, weights = (array.astype(np.float64) for array in (x, grad, weights))
    want = (
        whe.reference_forward(x, *weights, activation),
        *whe.reference_backward(grad, x, *weights, activation),
    )
    x, grad, weights = np.abs(x), np.abs(grad), np.abs(weights)
    bounds = (
        whe.reference_forward(x, *weights, "identity"),
        *whe.reference_backward(grad, x, *weights, "identity"),
    )
    for name, got, exact, bound in zip(("y", *NAMES), outputs, want, bounds, strict=True):
        additions = g if name == "y" else 2 * g + 100
        assert got.shape == exact.shape and np.finfo(got.dtype).eps == eps, name
        assert (np.abs(got - exact) <= (additions + 16) * eps * bound).all(), name


@pytest.mark.parametrize("name", ["whe_g3_c6", "whe_g4_c8"])
def test_golden_arrays(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        case = dict(file)
    arrays = [case[key] for key in ("x", "A", "B", "C", "D")]
    assert arrays[1].shape[1] == case["g"]
    outputs = whe.forward(*arrays), *whe.backward(case["gy"], *arrays)
    for key, got in zip(("y", "gx", "gA", "gB", "gC", "gD"), outputs, strict=True):
        np.testing.assert_allclose(got, case[key], rtol=1e-9, atol=1e-9 * np.abs(case[key]).max(), err_msg=key)


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3), st.sampled_from(PLANES), st.sampled_from(KERNELS)
)
@example(0, 5, 2, (17, 31), KERNELS[3])
@example(1, 6, 2, (9, 33), KERNELS[6])
def test_equals_the_reference(seed, images, groups, plane, kernel):
    g, activation, dtype = kernel
    case = (*draw_arrays(seed, (images, groups * g, *plane), g, dtype), activation)
    check_against_reference(run(*case), *case)


@pytest.mark.parametrize("kernel", [KERNELS[1], KERNELS[4], KERNELS[6]])
@pytest.mark.parametrize(("images", "plane"), [(7, (7, 7)), (3, (17, 31)), (2, (1, 1))])
def test_the_launches_of_a_gpu_pass_the_checker_on_the_cpu(kernel, images, plane):
    """Blocks of many threads, strips of pixels far apart, slices of a tile: the GPU's template constants and grid."""
    mode = runtime.mode()
    if mode == "reference":
        pytest.skip("nothing is launched")
    g, activation, dtype = kernel
    case = (*draw_arrays(5, (images, 2 * g, *plane), g, dtype), activation)
    runtime.set_mode("checked")
    try:
        with (
            mock.patch.object(runtime, "is_gpu", lambda array: True),
            mock.patch.object(runtime, "threads", lambda like, gpu: gpu),
        ):
            check_against_reference(run(*case), *case)
    finally:
        runtime.set_mode(mode)


def test_every_kernel_that_a_gpu_gets_is_listed():
    seen = set()

    def launch(name, kernel, grid, block, args, shared_bytes=0, outputs=()):
        seen.add(kernel)
        assert shared_bytes <= 64 * 1024, kernel  # what every GPU since 2017 has for a block

    replacements = {"is_gpu": lambda a: True, "threads": lambda like, gpu: gpu, "compiled_for": lambda *a, narrow: True}
    with mock.patch.multiple(runtime, launch=launch, **replacements):
        for g in (1, 2, 3, 4, 8, 16, 32):
            for dtype in ("float16", "bfloat16", "float32", "float64"):
                x = np.ones((2, g, 3, 3), dtype_named(dtype))
                weights = np.ones((4, 1, g, g), compute_dtype(x.dtype))
                for activation in whe.ACTIVATIONS:
                    whe.forward(x, *weights, activation)
                    whe.backward(x, x, *weights, activation)
    assert seen == set(whe.instantiations())


@pytest.mark.parametrize("activation", whe.ACTIVATIONS)
def test_reference_backward_is_the_gradient(activation):
    """Against central differences; no |h| is below 1e-3, so that a step of 1e-6 passes no kink."""
    rng = np.random.default_rng(4)
    x, grad, weights = rng.normal(size=(2, 4, 3, 1)), rng.normal(size=(2, 4, 3, 1)), rng.normal(size=(4, 2, 2, 2))
    assert np.abs(whe._hidden(x, *weights[:3], "identity")[0]).min() > 1e-3
    arrays = [x, *weights]
    got = whe.reference_backward(grad, *arrays, activation)
    for i, name in enumerate(NAMES):
        numeric = central_differences(
            lambda moved, i=i: whe.reference_forward(*arrays[:i], moved, *arrays[i + 1 :], activation), arrays[i], grad
        )
        np.testing.assert_allclose(got[i], numeric, rtol=0, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ["elu", "tanh"])
def test_exponentials_are_good_to_eight_units_in_the_last_place(activation, dtype):
    """With g = 1, a = d = 1, b = c = 0 the layer is the activation. tanh divides two numbers of 3 units' error each."""
    size = np.concatenate([np.linspace(0, 40, 5001), np.logspace(-30, 3, 500), [np.inf]])
    x = np.concatenate([size, -size]).astype(dtype).reshape(1, 1, 2, -1)
    weights = np.array([1, 0, 0, 1], dtype).reshape(4, 1, 1, 1)
    wide = x.astype(np.float64)
    want = np.tanh(wide) if activation == "tanh" else np.where(wide > 0, wide, np.expm1(np.minimum(wide, 0)))
    finite = np.isfinite(x)
    x_finite = np.where(finite, x, 1e30).astype(dtype) * np.where(finite, 1, np.sign(x)).astype(dtype)
    got = whe.forward(x_finite, *weights, activation)
    at_infinity = want[0, 0, :, -1] if activation == "tanh" else [1e30, -1]
    np.testing.assert_allclose(got[..., :-1], want[..., :-1], rtol=8 * np.finfo(dtype).eps)
    np.testing.assert_allclose(got[0, 0, :, -1], at_infinity, rtol=np.finfo(dtype).eps)


@pytest.mark.parametrize("g", [4, 3])
def test_at_a_hidden_unit_of_zero_relus_derivative_is_zero(g):
    x, grad, weights = draw_arrays(6, (2, 2 * g, 3, 5), g, np.float64)
    weights[:3] = 0
    assert not whe.forward(x, *weights).any()
    for name, gradient in zip(NAMES, whe.backward(grad, x, *weights), strict=True):
        assert not gradient.any(), name


@pytest.mark.parametrize("activation", whe.ACTIVATIONS)
def test_nan_stays_in_its_pixel_and_group(activation):
    x, _, weights = draw_arrays(7, (2, 6, 3, 5), 3, np.float64)
    x[1, 4, 1, 2] = np.nan
    where = np.isnan(whe.forward(x, *weights, activation))
    assert where[1, 3:, 1, 2].all() and where.sum() == 3


def test_strided_arrays_are_read_as_they_look():
    x, grad, weights = draw_arrays(8, (3, 6, 5, 4), 3, np.float64)
    strided = [np.ascontiguousarray(a.T).T for a in (grad, x, *weights)]
    assert not strided[0].flags.c_contiguous
    np.testing.assert_array_equal(whe.forward(*strided[1:]), whe.forward(x, *weights))
    for got, want in zip(whe.backward(*strided), whe.backward(grad, x, *weights), strict=True):
        np.testing.assert_array_equal(got, want)


def test_an_empty_batch_has_zero_gradients():
    x, weights = np.empty((0, 6, 3, 3), np.float32), np.ones((4, 2, 3, 3), np.float32)
    assert whe.forward(x, *weights).shape == x.shape
    dx, *gradients = whe.backward(x, x, *weights)
    assert dx.shape == x.shape and not np.any(gradients)


DIGEST = """
import hashlib, numpy as np
from cupynn.kernels import whe
rng = np.random.default_rng(9)
x, grad = rng.normal(size=(2, 9, 32, 17, 31)).astype(np.float32)
weights = rng.normal(size=(4, 2, 16, 16)).astype(np.float32)
for run in range(2):
    outputs = whe.forward(x, *weights), *whe.backward(grad, x, *weights)
    print(hashlib.sha256(b"".join(a.tobytes() for a in outputs)).hexdigest())
"""


def test_every_run_gives_the_same_bits_at_one_thread_and_at_two():
    digests = []
    for threads in "12":
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True
        )
        digests += done.stdout.split()
    assert len(digests) == 4 and len(set(digests)) == 1


def peak_bytes(call):
    """The most that `call` has allocated at a time, and its result: NumPy reports its arrays to tracemalloc."""
    call()  # compiled
    tracemalloc.start()
    try:
        result = call()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("g", [4, 16])
def test_memory_is_that_of_the_outputs_and_the_partial_sums(g):
    x, grad, weights = draw_arrays(10, (16, 32, 32, 32), g, np.float32)
    small = 16 * 1024  # Python's own objects
    forward, y = peak_bytes(lambda: whe.reference_forward(x, *weights))
    assert forward > g * y.nbytes  # the measure sees hidden units where there are some
    if runtime.mode() != "compiled":
        pytest.skip("the reference holds hidden units, and checked mode copies arrays into guard zones")
    forward, y = peak_bytes(lambda: whe.forward(x, *weights))
    assert y.nbytes <= forward <= y.nbytes + small
    backward, (dx, *_) = peak_bytes(lambda: whe.backward(grad, x, *weights))
    launch = whe._launch_of(x, g)
    partial = launch.blocks * launch.slices * 3 * weights[0].nbytes
    assert partial < x.nbytes / 4
    assert dx.nbytes <= backward <= dx.nbytes + partial + weights.nbytes + small


def test_counts_are_the_papers():
    """ResNet-18 with WHE, g = 16, after each 3x3 convolution of its blocks, at 224 x 224: 72 million. [WHE, table 1]"""
    stages = [(64, 56), (128, 28), (256, 14), (512, 7)]
    assert sum(4 * whe.whe_flops(channels, 16, side, side) for channels, side in stages) == 72_253_440
    # 11,942,952 parameters of the network, less ResNet-18's and the two per channel of each block's batch norm
    added = sum(4 * (whe.whe_parameters(channels, 16) + 2 * channels) for channels, _ in stages)
    assert 11_689_512 + added == 11_942_952


def test_errors_name_the_argument():
    x, w = np.ones((2, 6, 3, 3), np.float32), np.ones((2, 3, 3), np.float32)
    with pytest.raises(ValueError, match=r"needs a multiple of g=3 channels; x has shape \(2, 7, 3, 3\)"):
        whe.forward(np.ones((2, 7, 3, 3), np.float32), w, w, w, w)
    with pytest.raises(ValueError, match=r"a must have shape \(C/g, g, g\).*\(6, 3\)"):
        whe.forward(x, w.reshape(6, 3), w, w, w)
    with pytest.raises(ValueError, match=r"g from 1 to 32.*\(1, 33, 33\)"):
        whe.forward(np.ones((1, 33, 2, 2)), *np.ones((4, 1, 33, 33)))
    with pytest.raises(ValueError, match=r"c must have shape \(C/g, g, g\) = \(2, 3, 3\).*\(3, 2, 2\)"):
        whe.forward(x, w, w, np.ones((3, 2, 2), np.float32), w)
    with pytest.raises(ValueError, match=r"x must have shape \(N, C, H, W\); it has shape \(2, 6\)"):
        whe.forward(x[:, :, 0, 0], w, w, w, w)
    with pytest.raises(
        ValueError, match="activation must be one of relu, leaky_relu, elu, tanh, identity; it is 'gelu'"
    ):
        whe.forward(x, w, w, w, w, "gelu")
    with pytest.raises(TypeError, match="x must be float16, bfloat16, float32 or float64; it is int64"):
        whe.forward(x.astype(np.int64), w, w, w, w)
    with pytest.raises(TypeError, match="d must be float32 where x is float32; it is float64"):
        whe.forward(x, w, w, w, w.astype(np.float64))
    with pytest.raises(ValueError, match=r"grad must have x's shape \(2, 6, 3, 3\); it has shape \(1, 6, 3, 3\)"):
        whe.backward(x[:1], x, w, w, w, w)
    with pytest.raises(TypeError, match="grad must be float32 as x is; it is float64"):
        whe.backward(x.astype(np.float64), x, w, w, w, w)


@pytest.mark.parametrize("kernel", KERNELS)
def test_on_each_device(device, kernel):
    g, activation, dtype = kernel
    x, grad, weights = draw_arrays(11, (6, 2 * g, 19, 23), g, dtype)
    outputs = run(asarray(x), asarray(grad), asarray(weights), activation)
    check_against_reference([to_numpy(array) for array in outputs], x, grad, weights, activation)
