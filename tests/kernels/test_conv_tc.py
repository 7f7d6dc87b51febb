"""Convolution on tensor cores, emulated: against the reference in every mode, its rounding, its plan, its PTX."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupynn.device import dtype_named, wide
from cupynn.kernels import conv, conv_tc, runtime
from cupynn.kernels.runtime import build, gpu, nvrtc

compiled = pytest.mark.skipif(not runtime.compiled_for(np.zeros(1)), reason="no compiled kernels in this mode")
SMALL = runtime.mode() == "checked"  # the checker follows every access
TYPES = ["float32", "float16"]
try:
    dtype_named("bfloat16")
    TYPES.append("bfloat16")
except ImportError:
    pass
ROUNDING = {"float32": 0, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # of y and dx, when they are written


@st.composite
def problems(draw):
    """Odd sizes, one pixel, one channel, no image, strides larger than the kernel and than the image, dilation."""
    kernel, stride = (
        (draw(st.integers(1, 4)), draw(st.integers(1, 3))),
        (draw(st.integers(1, 5)), draw(st.integers(1, 3))),
    )
    padding, dilation = (draw(st.integers(0, 3)), draw(st.integers(0, 2))), draw(st.sampled_from([1, 1, 2]))
    h, w = (
        draw(st.integers(max(1, dilation * (k - 1) + 1 - 2 * p), 9 if SMALL else 14))
        for k, p in zip(kernel, padding, strict=True)
    )
    n, c, o = draw(st.integers(0, 3)), draw(st.integers(1, 37)), draw(st.sampled_from([1, 5, 16, 33, 70, 150]))
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    return (n, c, h, w), (o, c, *kernel), options, draw(st.sampled_from(TYPES))


def arrays(x_shape, w_shape, options, dtype, seed=0):
    """The geometry; x, w, bias and grad."""
    rng, dtype = np.random.default_rng(seed), dtype_named(dtype)
    g = conv.geometry(x_shape, w_shape, **options)
    x, grad = (rng.standard_normal(shape).astype(dtype) for shape in (x_shape, g.output_shape))
    w, bias = (rng.standard_normal(shape).astype(np.float32) for shape in (w_shape, w_shape[:1]))
    return g, x, w, bias, grad


def passes(g, x, w, bias, grad):
    gradients = conv_tc.input_gradient(grad, w, g), conv_tc.weight_gradient(grad, x, w, g)
    return conv_tc.forward(x, w, bias, g), *gradients


def references(g, x, w, bias, grad):
    gradients = conv_tc.reference_input_gradient(grad, w, g), conv_tc.reference_weight_gradient(grad, x, w, g)
    return conv_tc.reference_forward(x, w, bias, g), *gradients


def exactly(g, x, w, bias, grad):
    """Of the three passes: (the sums of the rounded factors' products in float64, the sums of their sizes)."""
    options, results = g[6:10], []
    rounded = [conv_tc.rounded(array, x.dtype).astype(np.float64) for array in (x, w, grad)]
    for x, w, grad in (rounded, map(np.abs, rounded)):
        dx, dw, _ = conv.reference_backward(grad, x, w, *options)
        results.append((conv.reference_forward(x, w, None, *options), dx, dw))
    results[0][0][...] += bias[:, None, None]
    results[1][0][...] += np.abs(bias)[:, None, None]
    return zip(*results, strict=True)


def assert_close(found, problem):
    """Products are exact. Adding `terms` of them in any order rounds by at most terms u of the sum of their sizes,
    u = 2^-24: the worst case. y and dx are rounded once more, and may be too small for a normal float16."""
    g, x = problem[:2]
    elements = g.kernel[0] * g.kernel[1]
    terms = g.c * elements + 1, g.o * elements, g.n * g.oh * g.ow
    for a, (wanted, sizes), count, written in zip(found, exactly(*problem), terms, (True, True, False), strict=True):
        assert a.shape == wanted.shape and a.dtype == (x.dtype if written else np.float32)
        allowed = count * 2.0**-24 * sizes
        allowed += written * (ROUNDING[x.dtype.name] * (np.abs(wanted) + allowed) + 2.0**-25)
        assert (np.abs(wide(a) - wanted) <= allowed).all()


@settings(max_examples=10 if SMALL else 40, deadline=None, print_blob=True)
@given(problem=problems())
def test_the_reference_is_the_sum_of_the_rounded_products(problem):
    problem = arrays(*problem)
    assert_close(references(*problem), problem)


@compiled
@settings(max_examples=12 if SMALL else 100, deadline=None, print_blob=True)
@given(problem=problems())
def test_every_pass_equals_the_reference(problem):
    problem = arrays(*problem)
    assert_close(passes(*problem), problem)


LARGE = [
    ((2, 3, 17, 15), (32, 3, 7, 7), {"stride": 2, "padding": 3}),  # several taps in one stage of copies
    ((5, 16, 13, 12), (100, 16, 3, 3), {"padding": 1}),  # several blocks of pixels
    ((1, 150, 6, 5), (140, 150, 1, 1), {}),  # several tiles of channels in every pass
    ((9, 9, 11, 10), (20, 9, 3, 3), {"padding": 1}),  # several parts in the gradient to the weight
    ((3, 40, 2, 70), (64, 40, 2, 2), {"dilation": (1, 3), "stride": (1, 2)}),
]


@compiled
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("x_shape", "w_shape", "options"), LARGE)
def test_several_tiles(x_shape, w_shape, options, dtype):
    problem = arrays(x_shape, w_shape, options, dtype)
    assert_close(passes(*problem), problem)


def test_these_shapes_take_every_tile_and_several_parts():
    plans = {which: [] for which in conv.cost(conv.geometry((1, 1, 1, 1), (1, 1, 1, 1)))}
    for x_shape, w_shape, options in LARGE:
        for which in plans:
            plans[which].append(conv_tc._make_plan(conv.geometry(x_shape, w_shape, **options), 2, which, None))
    assert {plan.tile for plan in plans["forward"] + plans["input gradient"]} == set(conv_tc.PIXEL_TILES)
    assert {plan.tile for plan in plans["weight gradient"]} == set(conv_tc.WEIGHT_TILES)
    assert max(plan.parts for plan in plans["weight gradient"]) > 2


@compiled
@pytest.mark.parametrize("dtype", TYPES)
def test_the_same_bits_every_time_and_in_every_order(dtype):
    """Also under the checker, which runs blocks and threads in random order."""
    problem, before = arrays((3, 9, 11, 10), (20, 9, 3, 3), {"padding": 1, "stride": (1, 2)}, dtype), runtime.mode()
    results = []
    for mode in ("compiled", "checked", "checked"):
        runtime.set_mode(mode)
        try:
            results.append([array.tobytes() for array in passes(*problem)])
        finally:
            runtime.set_mode(before)
    assert results[0] == results[1] == results[2]


@compiled
@pytest.mark.parametrize("dtype", TYPES)
def test_some_channels_of_wider_arrays_are_read_and_written_in_place(dtype):
    g, x, w, bias, grad = arrays((3, 18, 5, 6), (20, 18, 3, 3), {"padding": 1}, dtype)
    wide_x, wide_y, wide_dx = (np.full((3, count, 5, 6), 7, x.dtype) for count in (30, 40, 30))
    wide_x[:, 5:23] = x
    y, dx, dw = passes(g, x, w, bias, grad)
    np.testing.assert_array_equal(conv_tc.forward(wide_x[:, 5:23], w, bias, g, wide_y[:, 10:30]), y)
    np.testing.assert_array_equal(wide_y[:, 10:30], y)
    conv_tc.input_gradient(grad, w, g, wide_dx[:, 1:19])
    sums = wide(dx).astype(np.float64) + 7
    rounding = 2 * ROUNDING[dtype] + 2.0**-22  # of dx alone, and of the sum
    assert (np.abs(wide(wide_dx[:, 1:19]) - sums) <= rounding * (np.abs(sums) + np.abs(wide(dx)))).all()
    np.testing.assert_array_equal(conv_tc.weight_gradient(grad, wide_x[:, 5:23], w, g), dw)
    assert (wide_y[:, :10] == 7).all() and (wide_y[:, 30:] == 7).all() and (wide_dx[:, 19:] == 7).all()
    assert (wide_dx[:, 0] == 7).all()


@compiled
def test_what_is_not_a_number_stays_where_it_is():
    """Zeros that pad channels, pixels and taps are no copies of it."""
    g, x, w, bias, _ = arrays((2, 5, 9, 8), (6, 5, 3, 3), {"padding": 1}, "float32")
    x.view(np.uint32)[1, 2, 4, 4] = 0x7F800001  # a NaN, which its upper 19 bits do not show
    y = conv_tc.forward(x, w, bias, g)
    nan = np.zeros(y.shape, bool)
    nan[1, :, 3:6, 3:6] = True
    np.testing.assert_array_equal(np.isnan(y), nan)


@pytest.mark.parametrize(
    "x, w_shape, groups, message",
    [
        (np.zeros((1, 4, 3, 3), np.float32), (4, 2, 1, 1), 2, r"wants groups=1.*; got groups=2"),
        (np.zeros((1, 4, 3, 3)), (4, 4, 1, 1), 1, r"16 or 32 bits; got .*, 64 bits"),
    ],
)
def test_what_it_refuses(x, w_shape, groups, message):
    g, w = conv.geometry(x.shape, w_shape, groups=groups), np.zeros(w_shape, x.dtype)
    calls = [
        lambda: conv_tc.forward(x, w, None, g),
        lambda: conv_tc.input_gradient(x, w, g),
        lambda: conv_tc.weight_gradient(x, x, w, g),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    "x_shape, w_shape, options",
    [
        ((1, 8, 64, 4096), (8, 8, 1, 1), {"stride": (1 << 20, 1), "padding": (1 << 20, 0)}),  # chunks to a tap: 2^32
        ((1, 8, (1 << 28) + 1, 1), (8, 8, 2, 1), {"dilation": (1 << 28, 1)}),  # elements of an image: 2^31
        ((1, 1, 1, 1 << 29), (1, 1, 1, 1 << 29), {}),  # packed weights, of 8 channels: 2^32
        ((1, 1 << 21, 1, 1), (8, 1 << 21, 1, 1), {}),  # blocks of 32 channels: 65536
    ],
)
def test_what_is_too_large_for_32_bits(x_shape, w_shape, options):
    g = conv.geometry(x_shape, w_shape, **options)
    assert not conv_tc.takes(g)
    with pytest.raises(ValueError, match="fewer than 2"):
        conv_tc._make_plan(g, 2, "forward", None)
    assert conv_tc.takes(conv.geometry((1, 8, 64, 64), (8, 8, 1, 1), (1 << 10, 1), (1 << 10, 0)))


@compiled
@pytest.mark.parametrize("dtype", TYPES)
def test_padding_larger_than_the_image_and_strides_larger_than_the_kernel(dtype):
    problem = arrays((2, 9, 3, 4), (10, 9, 2, 3), {"padding": (7, 11), "stride": (5, 4), "dilation": (3, 2)}, dtype)
    assert_close(passes(*problem), problem)


def test_where_it_is_chosen():
    def method(c, o, groups=1, **options):
        return conv.method(conv.geometry((8, c, 14, 14), (o, c // groups, 3, 3), 1, 1, 1, groups), True, **options)

    assert method(8, 8, tensor_cores=True) == method(64, 256, tensor_cores=True) == "tensor cores"
    assert method(64, 64) == method(7, 64, tensor_cores=True) == "im2col"
    assert method(64, 7, tensor_cores=True) == "direct"
    x = np.zeros((8, 64, 14, 14), np.float16)
    assert "tensor cores" not in conv.methods(conv.geometry(x.shape, (64, 64, 3, 3)), x)  # a CPU only emulates them


def test_costs():
    """Of 3 channels, as 4: (n, h, w) = (2, 5, 6), 8 outputs, a 3x3 kernel."""
    g = conv.geometry((2, 3, 5, 6), (8, 3, 3, 3), padding=1)
    pixels, weights = 2 * 5 * 6, 4 * 8 * 3 * 9
    forward, dx, dw = conv_tc.cost(g, 4).values()
    assert forward == (pixels * 4 * (3 + 2 * 4 + 8) + weights + 2 * 4 * 8 * 9 * 4, 2 * pixels * 9 * 4 * 8)
    assert dx == (pixels * 4 * (8 + 2 * 8 + 3) + weights + 2 * 4 * 3 * 9 * 8, 2 * pixels * 9 * 8 * 3)
    assert dw == (pixels * 4 * (3 + 2 * 4 + 8 + 2 * 8) + weights, forward[1])


@pytest.mark.parametrize(
    ("T", "product"),
    [
        ("float", "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"),
        ("Half", "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"),
        ("BFloat16", "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"),
    ],
)
def test_the_ptx(T, product):
    """For a stage of copies and its two halves: of a warp's tile, as many products as it has fragments."""
    pytest.importorskip("cupy", reason="CuPy is not installed")
    library = nvrtc._library()
    source, kernels = (
        (build.KERNELS / "conv_tc.cu").read_text(),
        [f"convolve<{T}, 4, 2, 4>", f"weight_gradient<{T}, 4, 2, 4>"],
    )
    for kernel in kernels:
        program = library.createProgram(source, "conv_tc.cu", [], [])
        library.addNameExpression(program, kernel)
        library.compileProgram(program, [*gpu.OPTIONS, "-arch=compute_80"])
        ptx = library.getPTX(program).decode()
        library.destroyProgram(program)
        assert ".shared .align 128 .b8 shared_memory[]" in ptx
        assert ptx.count(product) == ptx.count("mma.sync") == 2 * 4 * 4
        loads, transposed = ptx.count("ldmatrix"), ptx.count("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16")
        if kernel.startswith("convolve"):
            assert (loads, transposed) == (2 * 6, 0)
        else:  # no matrix of 4-byte elements can be transposed on its way
            assert loads == transposed == (0 if T == "float" else 2 * 6)
        assert ptx.count("cp.async.cg.shared.global") == 4 * 4  # two per factor and stage: three stages before the loop
        assert ptx.count("cp.async.commit_group") == 4 and "cp.async.wait_group 2;" in ptx
