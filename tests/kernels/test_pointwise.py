"""1x1 convolution: against the reference in every mode, in place, and where it is chosen."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupynn import ops
from cupynn.autograd import Tensor, gradcheck
from cupynn.kernels import conv, pointwise, runtime

pytestmark = pytest.mark.skipif(not runtime.compiled_for(np.zeros(1)), reason="no compiled kernels in this mode")

SMALL = runtime.mode() == "checked"  # the checker follows every access


@st.composite
def problems(draw):
    """Odd sizes, one pixel, one channel, groups, strides larger than 1 and than the image."""
    groups, stride = draw(st.integers(1, 3)), (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    h, w = draw(st.integers(1, 8 if SMALL else 19)), draw(st.integers(1, 8 if SMALL else 19))
    most = 12 if SMALL else 70
    n, c, o = draw(st.integers(1, 4 if SMALL else 19)), draw(st.integers(1, most)), draw(st.integers(1, most))
    options = {"stride": stride, "groups": groups}
    return (n, groups * c, h, w), (groups * o, c, 1, 1), options, draw(st.sampled_from(["float32", "float64"]))


def arrays(x_shape, w_shape, options, dtype, seed=0):
    rng = np.random.default_rng(seed)
    g = conv.geometry(x_shape, w_shape, **options)
    x, w, bias, grad = (rng.standard_normal(s).astype(dtype) for s in (x_shape, w_shape, w_shape[:1], g.output_shape))
    return g, x, w, bias, grad


def passes(g, x, w, bias, grad):
    gradients = pointwise.input_gradient(grad, w, g), *pointwise.weight_gradient(grad, x, w, g)
    return pointwise.forward(x, w, bias, g), *gradients


def references(g, x, w, bias, grad):
    y = conv.reference_forward(x, w, bias, g.stride, groups=g.groups)
    return y, *conv.reference_backward(grad, x, w, g.stride, groups=g.groups)


def assert_close(found, wanted, g, dtype, first=0):
    """Sums of `terms` products of unit normals in two orders differ by about 4 eps terms**0.5; 16 covers the tail."""
    pixels = g.n * g.oh * g.ow
    counts = (g.c_group, g.o_group, pixels, pixels)[first:]
    for a, b, terms in zip(found, wanted, counts, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=64 * np.finfo(dtype).eps * (terms + 4) ** 0.5)


@settings(max_examples=8 if SMALL else 50, deadline=None, print_blob=True)
@given(problem=problems())
def test_every_pass_equals_the_reference(problem):
    g, *operands = arrays(*problem)
    assert_close(passes(g, *operands), references(g, *operands), g, problem[3])


@pytest.mark.parametrize(
    "x_shape, w_shape, options",
    [
        ((128, 24, 8, 8), (37, 24, 1, 1), {}),  # several blocks, whole strips
        ((70, 65, 4, 4), (9, 65, 1, 1), {}),  # one strip per image
        ((33, 40, 7, 7), (64, 40, 1, 1), {}),  # strips of two images
        ((40, 300, 1, 1), (40, 300, 1, 1), {}),  # strips of as many images as lanes
        ((3, 2100, 5, 5), (70, 2100, 1, 1), {}),  # several chunks of channels that are read
        ((9, 600, 6, 6), (700, 600, 1, 1), {}),  # several chunks in the gradient to the weight
        ((2, 30, 57, 31), (40, 15, 1, 1), {"stride": 2, "groups": 2}),
        ((4, 2, 3, 3), (2, 2, 1, 1), {"stride": 5}),  # an image smaller than the stride
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.skipif(SMALL, reason="too large for the checker")
def test_large_shapes(x_shape, w_shape, options, dtype):
    g, *operands = arrays(x_shape, w_shape, options, dtype)
    assert_close(passes(g, *operands), references(g, *operands), g, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [((2, 5, 9, 7), (6, 5, 1, 1), {}), ((9, 12, 3, 5), (34, 6, 1, 1), {"stride": 2, "groups": 2})],
)
def test_the_launches_of_a_gpu_pass_the_checker_on_the_cpu(x_shape, w_shape, options, dtype, monkeypatch):
    """Blocks of many threads, strips of a few elements, small tiles: the GPU's constants."""
    mode, seen, launch = runtime.mode(), set(), runtime.launch

    def watched(name, kernel, grid, block, args, shared_bytes=0, *rest, **named):
        assert shared_bytes <= 64 * 1024  # what every GPU since 2017 has for a block
        seen.add(kernel)
        launch(name, kernel, grid, block, args, shared_bytes, *rest, **named)

    monkeypatch.setattr(pointwise, "_target", lambda x: pointwise.target(16, x.dtype.itemsize, True, 32))
    g, *operands = arrays(x_shape, w_shape, options, dtype)
    runtime.set_mode("checked")
    try:
        monkeypatch.setattr(runtime, "launch", watched)
        assert_close(passes(g, *operands), references(g, *operands), g, dtype)
    finally:
        runtime.set_mode(mode)
    assert {kernel for kernel in seen if not kernel.startswith("reduce")} <= set(pointwise.instantiations())


@pytest.mark.parametrize("vector_bytes", [16, 32])
@pytest.mark.skipif(SMALL, reason="the checker takes vectors one element at a time")
def test_constants_of_other_processors(vector_bytes, monkeypatch):
    monkeypatch.setattr(pointwise, "_target", lambda x: pointwise.target(vector_bytes, x.dtype.itemsize, False, 1))
    g, *operands = arrays((5, 21, 10, 9), (37, 21, 1, 1), {}, "float32")
    assert_close(passes(g, *operands), references(g, *operands), g, "float32")


@pytest.mark.parametrize("seed", range(2))
def test_images_of_16_bits_are_summed_in_32(seed):
    g, x, w, bias, grad = arrays((5, 18, 6, 7), (20, 18, 1, 1), {"stride": 1 + seed}, "float32", seed)
    x, grad = x.astype(np.float16), grad.astype(np.float16)
    assert "pointwise" in conv.methods(g, x)
    assert "pointwise" not in conv.methods(conv.geometry((1, 5000, 2, 2), (8, 5000, 1, 1)), x)
    found, wanted = passes(g, x, w, bias, grad), references(g, np.float32(x), w, bias, np.float32(grad))
    assert [array.dtype for array in found] == [np.float16, np.float16, np.float32, np.float32]
    for a, b in zip(found[:2], wanted[:2], strict=True):  # one rounding: of at most 32, half of its 1/32
        np.testing.assert_allclose(a, b, rtol=0, atol=0.5 / 32 * 1.01)
        assert np.mean(a == b.astype(np.float16)) > 0.95  # others lay next to the middle of two
    assert_close(found[2:], wanted[2:], g, "float32", 2)


@pytest.mark.parametrize(("side", "stride"), [(4, 1), (5, 1), (6, 2)])
def test_some_channels_of_wider_arrays_are_read_and_written_in_place(side, stride):
    g, x, w, bias, grad = arrays((3, 8, side, side), (10, 8, 1, 1), {"stride": stride}, "float64")
    wide_x, wide_dx = np.full((3, 13, side, side), 7.0), np.full((3, 13, side, side), 7.0)
    wide_y = np.full((3, 14, g.oh, g.ow), 7.0)
    wide_x[:, 5:] = x
    y = pointwise.forward(wide_x[:, 5:], w, bias, g, wide_y[:, 2:12])
    dx = pointwise.input_gradient(grad, w, g, wide_dx[:, 1:9])
    assert np.shares_memory(y, wide_y) and np.shares_memory(dx, wide_dx)
    found = y, dx - 7, *pointwise.weight_gradient(grad, wide_x[:, 5:], w, g)
    for a, b in zip(found, references(g, x, w, bias, grad), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    assert (wide_y[:, :2] == 7).all() and (wide_y[:, 12:] == 7).all()
    assert (wide_dx[:, :1] == 7).all() and (wide_dx[:, 9:] == 7).all()


def test_nan_and_infinity_stay_in_their_pixel():
    x, w = np.ones((1, 3, 5, 7), np.float32), np.ones((4, 3, 1, 1), np.float32)
    x[0, 1, 2, 3], x[0, 0, 4, 4] = np.nan, np.inf
    y = pointwise.forward(x, w, None, conv.geometry(x.shape, w.shape))
    wanted = np.full((5, 7), 3, np.float32)
    wanted[2, 3], wanted[4, 4] = np.nan, np.inf
    np.testing.assert_array_equal(y, np.broadcast_to(wanted, y.shape))


SCRIPT = """
import hashlib
import numpy as np
from cupynn.kernels import conv, pointwise
rng = np.random.default_rng(0)
x, grad = rng.standard_normal((33, 40, 15, 13), np.float32), rng.standard_normal((33, 35, 15, 13), np.float32)
w = rng.standard_normal((35, 40, 1, 1), np.float32)
g = conv.geometry(x.shape, w.shape)
gradients = pointwise.input_gradient(grad, w, g), *pointwise.weight_gradient(grad, x, w, g)
found = pointwise.forward(x, w, None, g), *gradients
print(hashlib.sha256(b"".join(array.tobytes() for array in found)).hexdigest())
"""


@pytest.mark.skipif(SMALL, reason="the checker runs one block after the other")
def test_one_thread_and_two_give_the_same_bits():
    digests = set()
    for threads in "122":
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1 and len(digests.pop().strip()) == len(hashlib.sha256().hexdigest())


@pytest.mark.skipif(SMALL, reason="too large for the checker")
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_a_layer_that_uses_it(stride):
    """By finite differences, through `ops.conv2d`; it is linear in each operand."""
    rng = np.random.default_rng(stride)
    w, bias = (Tensor(rng.standard_normal(shape), requires_grad=True) for shape in ((24, 16, 1, 1), (24,)))
    x = Tensor(rng.standard_normal((7, 16, 10 * stride, 10)), requires_grad=True)
    g = conv.geometry(x.shape, w.shape, (stride, 1))
    assert {conv.method(g, which=which) for which in ("forward", "input gradient", "weight gradient")} == {"pointwise"}
    assert gradcheck(lambda x, w, bias: ops.conv2d(x, w, bias, (stride, 1)), [x, w, bias])


def test_where_it_is_chosen():
    def method(n, c, o, side, which="forward", **options):
        return conv.method(conv.geometry((n, c, side, side), (o, c, 1, 1), **options), which=which)

    assert method(128, 16, 96, 32) == method(128, 960, 160, 4) == method(16, 64, 256, 56, stride=2) == "pointwise"
    assert method(2, 8, 8, 8) == method(2, 8, 8, 8, "input gradient") == "im2col"  # little to multiply
    assert method(2, 16, 8, 8, "weight gradient") == "pointwise"
    assert "pointwise" not in {method(128, 16, 96, 32, padding=1), method(1, 4, 4, 8)}
    assert conv.method(conv.geometry((128, 64, 16, 16), (64, 64, 1, 1)), gpu=True) == "im2col"


@pytest.mark.parametrize(("w_shape", "options"), [((4, 4, 3, 1), {}), ((4, 4, 1, 1), {"padding": 1})])
def test_what_it_does_not_compute(w_shape, options):
    x = np.zeros((2, 4, 8, 8))
    assert "pointwise" not in conv.methods(conv.geometry(x.shape, w_shape, **options), x)
    assert "pointwise" in conv.methods(conv.geometry(x.shape, (4, 4, 1, 1), 3), x)
