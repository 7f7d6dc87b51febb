"""Winograd's method: against the reference in every mode, its accuracy, and where it is chosen."""

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
from cupynn.kernels import conv, runtime, winograd

pytestmark = pytest.mark.skipif(not runtime.compiled_for(np.zeros(1)), reason="no compiled kernels in this mode")

SMALL = runtime.mode() == "checked"  # the checker follows every access


@st.composite
def problems(draw):
    """Odd sizes, one pixel, one channel, channels that do not fill a vector, padding 0 to 2."""
    padding = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    h, w = (draw(st.integers(max(1, 3 - 2 * p), 11 if SMALL else 23)) for p in padding)
    most = 20 if SMALL else 70
    n, c, o = draw(st.integers(1, 2 if SMALL else 19)), draw(st.integers(1, most)), draw(st.integers(1, most))
    return (n, c, h, w), (o, c, 3, 3), padding, draw(st.sampled_from(["float32", "float64"]))


def arrays(x_shape, w_shape, padding, dtype, seed=0):
    rng = np.random.default_rng(seed)
    g = conv.geometry(x_shape, w_shape, 1, padding)
    x, w, bias, grad = (rng.standard_normal(s).astype(dtype) for s in (x_shape, w_shape, w_shape[:1], g.output_shape))
    return g, x, w, bias, grad


def passes(g, x, w, bias, grad):
    return winograd.forward(x, w, bias, g), winograd.input_gradient(grad, w, g), winograd.weight_gradient(grad, x, w, g)


def references(g, x, w, bias, grad):
    y = conv.reference_forward(x, w, bias, 1, g.padding)
    return y, *conv.reference_backward(grad, x, w, 1, g.padding)[:2]


def assert_close(found, wanted, g, dtype):
    """A chain of `count` sums of products of unit normals rounds by eps count / 2.8; the transforms multiply that by up
    to 2.5 (measured against float64), and 6 deviations cover the tail: 5.3 eps count, and 300 eps for short chains."""
    counts = 9 * g.c, 9 * g.o, g.n * g.oh * g.ow
    for a, b, count in zip(found, wanted, counts, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=np.finfo(dtype).eps * (5.3 * count + 300))


@settings(max_examples=6 if SMALL else 40, deadline=None, print_blob=True)
@given(problem=problems())
def test_every_pass_equals_the_reference(problem):
    g, *operands = arrays(*problem)
    assert_close(passes(g, *operands), references(g, *operands), g, problem[3])


def scaled_passes(g, x, w, bias, grad, scale):
    """The same with scales; y and dx are added to arrays that are there."""
    y, dx = np.ones(g.output_shape, x.dtype), np.ones_like(x)
    winograd.forward(x, w, bias, g, y, True, scale)
    return (
        y - 1,
        winograd.input_gradient(grad, w, g, dx, True, scale) - 1,
        winograd.weight_gradient(grad, x, w, g, scale),
    )


def scaled_references(g, x, w, bias, grad, scale):
    """One image after the other, with its own weight."""
    factors = np.repeat(scale, g.o // scale.shape[1], axis=1)[..., None, None]
    one = g._replace(n=1)
    images = [references(one, x[n : n + 1], w * factors[n], bias, grad[n : n + 1]) for n in range(g.n)]
    y, dx, dw = zip(*images, strict=True)
    return np.concatenate(y), np.concatenate(dx), sum(a * b for a, b in zip(dw, factors, strict=True))


def scales(g, run, dtype, seed=1):
    """Zero for some channels, up to 2 for the others."""
    rng = np.random.default_rng(seed)
    return (rng.uniform(0.5, 2, (g.n, g.o // run, g.c)) * (rng.random((g.n, g.o // run, g.c)) > 0.2)).astype(dtype)


@settings(max_examples=4 if SMALL else 25, deadline=None, print_blob=True)
@given(problem=problems(), data=st.data())
def test_scales_of_every_image(problem, data):
    """Of single output channels, of runs of them that cross strips, of all."""
    x_shape, w_shape, padding, dtype = problem
    run = data.draw(st.sampled_from([d for d in range(1, w_shape[0] + 1) if w_shape[0] % d == 0]))
    g, *operands = arrays(x_shape, w_shape, padding, dtype)
    scale = scales(g, run, dtype)
    wanted = scaled_references(g, *operands, scale)
    for a, b, count in zip(scaled_passes(g, *operands, scale), wanted, (g.c, g.o, g.n * g.oh * g.ow), strict=True):
        # up to 4 times the rounding without scales: factors are up to 2, and dw has one of its own
        np.testing.assert_allclose(a, b, rtol=0, atol=4 * np.finfo(dtype).eps * (48 * count + 300))


@pytest.mark.parametrize(
    "x_shape, outputs, padding",
    [
        ((33, 40, 28, 28), 24, 1),  # several bands of rows, an odd last one
        ((21, 70, 7, 7), 33, 1),  # several images in a block, a last block that is not full
        ((2, 300, 14, 14), 170, 1),  # several chunks of channels, and of packed weights in float64
        ((2, 600, 5, 6), 300, (0, 2)),
        ((1, 17, 9, 1001), 16, (1, 2)),  # rows of several blocks
    ],
)
@pytest.mark.skipif(SMALL, reason="too large for the checker")
def test_shapes_of_several_blocks_and_chunks(x_shape, outputs, padding):
    for dtype in ("float32", "float64"):
        g, *operands = arrays(x_shape, (outputs, x_shape[1], 3, 3), padding, dtype)
        assert_close(passes(g, *operands), references(g, *operands), g, dtype)
        scale = np.full((g.n, 1, g.c), 0.5, dtype)  # exact: what every chunk must have
        halved = winograd.forward(*operands[:2], None, g, scale=scale), *scaled_passes(g, *operands, scale)[1:]
        assert_close((2 * a for a in halved), passes(g, *operands[:2], None, operands[3]), g, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_packed_weights_in_several_portions(dtype, monkeypatch):
    monkeypatch.setattr(winograd, "PACKED_BYTES", 1)
    winograd._make_plan.cache_clear()
    g, *operands = arrays((2, 3, 6, 5), (70, 3, 3, 3), 1, dtype)
    assert winograd._plan_of(g, operands[0], "forward").share < 70
    assert_close(passes(g, *operands), references(g, *operands), g, dtype)
    winograd._make_plan.cache_clear()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("x_shape", "outputs"), [((2, 5, 9, 7), 6), ((3, 12, 4, 4), 17), ((1, 9, 5, 60), 4), ((9, 4, 4, 3), 3)]
)
def test_the_launches_of_a_gpu_pass_the_checker_on_the_cpu(x_shape, outputs, dtype, monkeypatch):
    """Blocks of many threads, strips of one element, small tiles: the GPU's constants."""
    mode, seen, launch = runtime.mode(), set(), runtime.launch

    def watched(name, kernel, grid, block, args, shared_bytes=0, *rest, **named):
        assert shared_bytes <= 64 * 1024  # what every GPU since 2017 has for a block
        seen.add(kernel)
        launch(name, kernel, grid, block, args, shared_bytes, *rest, **named)

    monkeypatch.setattr(winograd, "_target", lambda x: winograd.target(16, x.dtype.itemsize, True, 32))
    g, *operands = arrays(x_shape, (outputs, x_shape[1], 3, 3), 1, dtype)
    runtime.set_mode("checked")
    try:
        monkeypatch.setattr(runtime, "launch", watched)
        assert_close(passes(g, *operands), references(g, *operands), g, dtype)
        scale = scales(g, 1, dtype)
        for a, b in zip(scaled_passes(g, *operands, scale), scaled_references(g, *operands, scale), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=np.finfo(dtype).eps * 1e4)  # sums of up to 300 products
    finally:
        runtime.set_mode(mode)
    assert {kernel for kernel in seen if not kernel.startswith("reduce")} <= set(winograd.instantiations())


@pytest.mark.parametrize("vector_bytes", [16, 32, 64])
@pytest.mark.skipif(SMALL, reason="the checker takes vectors one element at a time")
def test_constants_of_other_processors(vector_bytes, monkeypatch):
    monkeypatch.setattr(winograd, "_target", lambda x: winograd.target(vector_bytes, x.dtype.itemsize, False, 1))
    g, *operands = arrays((5, 21, 10, 9), (37, 21, 3, 3), 1, "float32")
    assert_close(passes(g, *operands), references(g, *operands), g, "float32")


def test_some_channels_of_wider_arrays_are_read_and_written_in_place():
    g, x, w, bias, grad = arrays((3, 18, 9, 10), (20, 18, 3, 3), 1, "float64")
    wide_x, wide_y, wide_dx = (np.full((3, count, 9, 10), 7.0) for count in (30, 40, 30))
    wide_x[:, 5:23] = x
    y = winograd.forward(wide_x[:, 5:23], w, bias, g, wide_y[:, 10:30])
    dx = winograd.input_gradient(grad, w, g, wide_dx[:, 1:19])
    wanted = references(g, x, w, bias, grad)
    np.testing.assert_allclose(y, wanted[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(dx - 7, wanted[1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(winograd.weight_gradient(grad, wide_x[:, 5:23], w, g), wanted[2], rtol=0, atol=1e-12)
    assert (wide_y[:, :10] == 7).all() and (wide_y[:, 30:] == 7).all() and (wide_dx[:, 19:] == 7).all()
    assert (wide_dx[:, 0] == 7).all()


@pytest.mark.skipif(SMALL, reason="too large for the checker")
@pytest.mark.parametrize("seed", range(3))
def test_float32_is_nearly_as_accurate_as_the_direct_method(seed):
    """Root mean square errors against float64. Measured: 1.7 to 2.5 times the direct method's forward, 3.6 to 6 times
    to the weight, whose sums the direct method adds in 16 strands. The points 0, +-1, +-2 would give 4 and 12."""
    g, x, w, bias, grad = arrays((8, 64, 16, 16), (64, 64, 3, 3), 1, "float32", seed)
    truth = references(g, *(array.astype(np.float64) for array in (x, w, bias, grad)))
    direct = conv.METHODS["direct"]
    others = direct.forward(x, w, bias, g), direct.input_gradient(grad, w, g), direct.weight_gradient(grad, x, w, g)[0]
    errors = [
        [np.std(a - b) for a, b in zip(found, truth, strict=True)] for found in (passes(g, x, w, bias, grad), others)
    ]
    ratios = [a / b for a, b in zip(*errors, strict=True)]
    assert ratios[0] < 3 and ratios[1] < 3 and ratios[2] < 8, (seed, ratios)


SCRIPT = """
import hashlib
import numpy as np
from cupynn.kernels import conv, winograd
rng = np.random.default_rng(0)
x, grad = rng.standard_normal((33, 40, 15, 13), np.float32), rng.standard_normal((33, 35, 15, 13), np.float32)
w = rng.standard_normal((35, 40, 3, 3), np.float32)
g = conv.geometry(x.shape, w.shape, 1, 1)
results = winograd.forward(x, w, None, g), winograd.input_gradient(grad, w, g), winograd.weight_gradient(grad, x, w, g)
print(hashlib.sha256(b"".join(a.tobytes() for a in results)).hexdigest())
"""


@pytest.mark.skipif(SMALL, reason="the checker runs one block after the other")
def test_one_and_two_threads_give_the_same_bits():
    digests = set()
    for threads in ("1", "2", "2"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1 and len(digests.pop().strip()) == len(hashlib.sha256().hexdigest())


@pytest.mark.skipif(SMALL, reason="too large for the checker")
def test_gradients_of_a_layer_that_uses_it():
    """By finite differences, through `ops.conv2d`; it is linear in each operand."""
    rng = np.random.default_rng(0)
    w, bias = (Tensor(rng.standard_normal(shape), requires_grad=True) for shape in ((16, 16, 3, 3), (16,)))
    x = Tensor(rng.standard_normal((3, 16, 12, 8)), requires_grad=True)
    g = conv.geometry(x.shape, w.shape, 1, 1)
    assert {conv.method(g, which=which) for which in ("input gradient", "weight gradient")} == {"winograd"}
    assert gradcheck(lambda x, w, bias: ops.conv2d(x, w, bias, 1, 1), [x, w, bias])


def test_where_it_is_chosen():
    def method(n, c, o, side, which="forward", **options):
        return conv.method(conv.geometry((n, c, side, side), (o, c, 3, 3), padding=1, **options), which=which)

    assert method(32, 128, 128, 28) == method(128, 16, 16, 32) == method(32, 512, 512, 7) == "winograd"
    assert method(32, 8, 16, 32) == method(128, 3, 64, 32) == "direct"  # too few channels
    assert method(4, 64, 64, 8) == "direct"  # too few pixels for what packing the weights takes
    assert method(4, 64, 64, 8, "weight gradient") == "winograd"
    assert method(32, 64, 64, 28, stride=2) == method(32, 64, 64, 28, dilation=2) == "direct"
    g = conv.geometry((32, 128, 28, 28), (128, 128, 3, 3), 1, 1)
    assert conv.method(g, gpu=True) == "im2col"


@pytest.mark.parametrize(
    "w_shape, options",
    [
        ((4, 4, 3, 2), {}),
        ((4, 4, 3, 3), {"stride": 2}),
        ((4, 4, 3, 3), {"dilation": 2}),
        ((4, 4, 3, 3), {"padding": 3}),
    ],
)
def test_what_it_does_not_compute(w_shape, options):
    x = np.zeros((2, 4, 8, 8))
    assert "winograd" not in conv.methods(conv.geometry(x.shape, w_shape, **options), x)
    assert "winograd" in conv.methods(conv.geometry(x.shape, (4, 4, 3, 3), padding=2), x)
