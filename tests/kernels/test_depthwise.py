"""Depthwise convolution: compiled or checked against the reference, the reference against grouped convolution."""

import hashlib
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupynn.device import asarray, to_numpy
from cupynn.kernels import conv, depthwise, runtime

EXAMPLES = 8 if runtime.mode() == "checked" else 25  # the checker follows every access


@st.composite
def problems(draw):
    """Shapes and options: the tuned square kernels as often as odd ones, strides and padding beyond the kernel."""
    tuned = draw(st.booleans())
    size = draw(st.sampled_from([3, 5, 7]))
    kernel = (size, size) if tuned else (draw(st.integers(1, 11)), draw(st.integers(1, 11)))
    stride = (draw(st.sampled_from([1, 2])),) * 2 if tuned else (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilation = (1, 1) if tuned else (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    padding = draw(st.integers(0, 6)), draw(st.integers(0, 6))
    reach = [d * (k - 1) + 1 - 2 * p for k, d, p in zip(kernel, dilation, padding, strict=True)]
    h, w = (max(1, r, draw(st.integers(1, 20))) for r in reach)
    n, c, multiplier = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    return (n, c, h, w), (c, multiplier, *kernel), options, draw(st.sampled_from(["float32", "float64"]))


def arrays(x_shape, w_shape, options, dtype, seed=0):
    """x, w, bias and grad."""
    rng = np.random.default_rng(seed)
    c, multiplier = w_shape[:2]
    g = conv.geometry(x_shape, (c * multiplier, 1, *w_shape[2:]), **options, groups=c)
    shapes = x_shape, w_shape, (c * multiplier,), g.output_shape
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


def compare(found, wanted, terms):
    """Sums of `terms` products of unit normals in two orders differ by some eps * terms**0.5; 64 covers the tail."""
    assert found.dtype == wanted.dtype
    atol = 64 * np.finfo(wanted.dtype).eps * (terms + 4) ** 0.5
    np.testing.assert_allclose(found, wanted, rtol=0, atol=atol)


def check(x, w, bias, grad, options):
    taps, pixels = w.shape[2] * w.shape[3], grad.size // grad.shape[1]
    compare(depthwise.forward(x, w, bias, **options), depthwise.reference_forward(x, w, bias, **options), taps)
    found = depthwise.backward(grad, x, w, **options)
    wanted = depthwise.reference_backward(grad, x, w, **options)
    for a, b, terms in zip(found, wanted, (taps * w.shape[1], pixels, pixels), strict=True):
        compare(a, b, terms)


@settings(max_examples=EXAMPLES, deadline=None, print_blob=True)
@given(problem=problems())
def test_kernels_equal_the_reference(problem):
    check(*arrays(*problem), problem[2])


@pytest.mark.parametrize(
    "x_shape, w_shape, options",
    [
        ((40, 12, 32, 32), (12, 1, 3, 3), {"padding": 1}),  # whole vectors, several blocks
        ((40, 7, 8, 8), (7, 2, 5, 5), {"padding": 2}),  # rows shorter than a vector
        ((9, 33, 16, 16), (33, 1, 3, 3), {"padding": 1, "stride": 2}),  # several groups of filters
        ((2, 2, 150, 170), (2, 1, 7, 7), {"padding": 3}),  # several bands of rows
        ((2, 2, 150, 170), (2, 2, 5, 5), {"padding": 2, "stride": 2}),
        ((1, 1, 120, 90), (1, 1, 11, 11), {"padding": 30, "dilation": 5}),
        ((4, 2, 3, 3), (2, 2, 1, 1), {"stride": 5}),  # an image smaller than the stride
        ((4, 2, 3, 3), (2, 1, 3, 3), {"padding": 7}),  # outputs that see padding only
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_and_odd_shapes(x_shape, w_shape, options, dtype):
    if runtime.mode() == "checked" and np.prod(x_shape) > 60_000:
        pytest.skip("too large for the checker, which follows every access")
    check(*arrays(x_shape, w_shape, options, dtype), options)


@pytest.mark.parametrize("seed", range(4))
def test_reference_is_a_convolution_with_a_group_per_channel(seed):
    rng = np.random.default_rng(seed)
    options = {"stride": (1 + seed % 2, 2), "padding": (1, seed), "dilation": (1, 1 + seed % 2)}
    x, w, bias, grad = arrays((2, 3, 7, 9), (3, 1 + seed % 3, 3, 2), options, "float64", rng.integers(99))
    grouped, same = w.reshape(-1, 1, 3, 2), {**options, "groups": 3}
    compare(depthwise.reference_forward(x, w, bias, **options), conv.reference_forward(x, grouped, bias, **same), 6)
    wanted = conv.reference_backward(grad, x, grouped, **same)
    for a, b in zip(depthwise.reference_backward(grad, x, w, **options), wanted, strict=True):
        compare(a, b.reshape(a.shape), 200)


SCRIPT = """
import hashlib, sys
import numpy as np
from cupynn.kernels import cross_layer, depthwise
rng = np.random.default_rng(0)
x, grad = rng.standard_normal((2, 40, 24, 15, 15), np.float32)
w, bias = rng.standard_normal((24, 1, 3, 3), np.float32), rng.standard_normal(24, np.float32)
results = depthwise.forward(x, w, bias, padding=1), *depthwise.backward(grad, x, w, padding=1)
layers, outputs = [x, grad, x], [np.empty_like(x) for _ in range(3)]
results += (cross_layer.forward(layers, w[:3, 0, 0] @ np.ones((3, 24), np.float32)), *outputs)
results += cross_layer.backward(grad, layers, np.ones((3, 24), np.float32), None, outputs)
print(hashlib.sha256(b"".join(a.tobytes() for a in results)).hexdigest())
"""


def test_one_and_two_threads_give_the_same_bits():
    if runtime.mode() == "checked":
        pytest.skip("the checker runs one block after the other")
    digests = set()
    for threads in ("1", "2", "2"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1 and len(digests.pop().strip()) == len(hashlib.sha256().hexdigest())


def test_nothing_is_unfolded():
    """Memory beyond the results: in backward the partial sums of dw, a few KB for each chunk of images."""
    if runtime.mode() != "compiled":
        pytest.skip("the reference and the checker copy their inputs")
    options = {"padding": 2}
    x, w, bias, grad = arrays((16, 8, 32, 32), (8, 1, 5, 5), options, "float32")
    peaks = []
    for call in (lambda: depthwise.forward(x, w, bias, **options), lambda: depthwise.backward(grad, x, w, **options)):
        call()
        tracemalloc.start()
        call()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert all(x.nbytes <= peak < x.nbytes + 50_000 for peak in peaks), peaks


def test_needs_leaves_the_others_out():
    x, w, _, grad = arrays((2, 3, 6, 6), (3, 2, 3, 3), {}, "float64")
    everything = depthwise.backward(grad, x, w)
    for k in range(3):
        needs = tuple(k == i for i in range(3))
        parts = depthwise.backward(grad, x, w, needs=needs)
        assert [part is not None for part in parts] == list(needs)
        np.testing.assert_allclose(parts[k], everything[k], rtol=0, atol=1e-12)


def test_arrays_with_strides_are_taken():
    x, w, bias, grad = arrays((2, 3, 6, 6), (3, 2, 3, 3), {}, "float64")
    strided = np.asfortranarray(x), np.ascontiguousarray(w[..., ::-1])[..., ::-1], np.repeat(bias, 2)[::2]
    np.testing.assert_array_equal(depthwise.forward(*strided), depthwise.forward(x, w, bias))
    found = depthwise.backward(np.asfortranarray(grad), *strided[:2])
    for a, b in zip(found, depthwise.backward(grad, x, w), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_an_empty_batch_gives_empty_outputs_and_zero_gradients():
    x, w, bias = np.zeros((0, 3, 5, 5)), np.ones((3, 2, 3, 3)), np.ones(6)
    y = depthwise.forward(x, w, bias)
    dx, dw, dbias = depthwise.backward(y, x, w)
    assert y.shape == (0, 6, 3, 3) and dx.shape == x.shape
    assert not dw.any() and dw.shape == w.shape and not dbias.any()


@pytest.mark.parametrize("stride", [1, 2])
def test_nan_stays_in_its_channel_and_its_window(stride):
    x, w = np.zeros((2, 2, 9, 9), np.float32), np.ones((2, 1, 3, 3), np.float32)
    x[0, 1, 4, 4] = np.nan
    found = np.isnan(depthwise.forward(x, w, stride=stride, padding=1))
    assert found.sum() == (9 if stride == 1 else 1) and found[0, 1].sum() == found.sum()


def test_a_row_too_long_for_a_tile_goes_to_the_reference():
    x, w, bias, grad = arrays((1, 1, 3, 50_000), (1, 1, 3, 3), {"padding": 1}, "float64")
    check(x, w, bias, grad, {"padding": 1})


@pytest.mark.parametrize("options", [{"padding": 1}, {"padding": 1, "stride": 2}, {"padding": 2, "dilation": 2}])
def test_on_each_device(device, options):
    x, w, bias, grad = arrays((3, 5, 17, 40), (5, 2, 3, 3), options, "float32")
    y = depthwise.forward(*map(asarray, (x, w, bias)), **options)
    compare(to_numpy(y), depthwise.reference_forward(x, w, bias, **options), 9)
    found = depthwise.backward(*map(asarray, (grad, x, w)), **options)
    for a, b in zip(found, depthwise.reference_backward(grad, x, w, **options), strict=True):
        compare(to_numpy(a), b, grad.size // 10)


def test_errors_name_the_argument():
    x, w = np.zeros((2, 3, 8, 8)), np.zeros((3, 2, 3, 3))
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 8, 8\), so weight must be \(3, multiplier, KH, KW\)"):
        depthwise.forward(x, np.zeros((4, 1, 3, 3)))
    with pytest.raises(ValueError, match=r"x must be \(N, C, H, W\)"):
        depthwise.forward(x[0], w)
    with pytest.raises(ValueError, match=r"bias must be \(C \* multiplier,\) = \(6,\); it has shape \(3,\)"):
        depthwise.forward(x, w, np.zeros(3))
    with pytest.raises(ValueError, match=r"does not fit into x of shape \(2, 3, 2, 8\)"):
        depthwise.forward(x[:, :, :2], w)
    with pytest.raises(TypeError, match="share one floating-point dtype; got float64, float32"):
        depthwise.forward(x, w.astype(np.float32))
    with pytest.raises(ValueError, match=r"grad must be float64 of shape \(2, 6, 6, 6\)"):
        depthwise.backward(x, x, w)
