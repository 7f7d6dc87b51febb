"""float16 and bfloat16: conversions, and every kernel on arrays of 16 bits against its reference in float64.

Inputs are rounded to 16 bits first, so what remains is one rounding of each result, u |want|, the sums in float32,
2^-24 of the largest term each, and what lies below the smallest float16.
"""

import pathlib

import numpy as np
import pytest

from cupynn.device import compute_dtype, dtype_named, is_floating, wide
from cupynn.kernels import batch_norm, conv, conv_direct, cross_layer, depthwise, pool, runtime, whe
from cupynn.kernels.im2col import col2im, im2col, reference_im2col

SOURCE = pathlib.Path(__file__).parent / "storage_types.cu"
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
C_NAMES = {"float16": "Half", "bfloat16": "BFloat16"}


@pytest.fixture(params=["float16", "bfloat16"])
def dtype(request):
    if request.param == "bfloat16":
        pytest.importorskip("ml_dtypes")
    return dtype_named(request.param)


def every(names, cases, few):
    """float16 for all cases; bfloat16, whose kernels are the same templates and take time to compile, for a few."""
    pairs = [("float16", case) for case in cases] + [("bfloat16", case) for case in few]
    return pytest.mark.parametrize(("dtype", names), pairs, indirect=["dtype"])


def drawn(rng, dtype, *shape):
    return rng.standard_normal(shape).astype(dtype)


def exact(array):
    return None if array is None else wide(array).astype(np.float64)


def assert_rounded(got, want, dtype, terms):
    """`got` is `want`, computed in float32 with sums of `terms` terms, and rounded to its type."""
    assert got.dtype in (dtype, np.float32)
    rounding = ROUNDING[dtype.name] if got.dtype == dtype else 0
    sums = 2 * terms * 2.0**-24 * np.abs(want).max(initial=1)
    allowed = rounding * np.abs(want) + sums + 2.0**-25
    excess = np.abs(exact(got) - want) - allowed
    assert excess.max(initial=0) <= 0, f"{excess.max()} above what rounding explains"


def same_numbers(got, want):
    """Equal bits, but for NaNs, which must be NaNs."""
    bits = np.uint32 if want.dtype.itemsize == 4 else np.uint16
    with np.errstate(invalid="ignore"):  # ml_dtypes: signalling NaNs
        nan = np.isnan(want)
        np.testing.assert_array_equal(np.isnan(got), nan)
    np.testing.assert_array_equal(got.view(bits)[~nan], want.view(bits)[~nan])


needs_compiler = pytest.mark.skipif(runtime.mode() == "reference", reason="runs a kernel of its own")


@needs_compiler
def test_every_pattern_of_16_bits_becomes_its_float32(dtype):
    x = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    y = np.empty(x.size, np.float32)
    runtime.launch(SOURCE, f"widen<{C_NAMES[dtype.name]}>", 1, 1, (x, y, x.size), outputs=(y,))
    same_numbers(y, x.astype(np.float32))
    back = np.empty_like(x)
    runtime.launch(SOURCE, f"copy_strips<{C_NAMES[dtype.name]}>", 1, 1, (x, back, x.size), outputs=(back,))
    same_numbers(back, x)


@needs_compiler
def test_float32_is_rounded_to_nearest_even(dtype):
    """Every 16-bit number, what lies halfway to the next, and their float32 neighbours; then any bits."""
    digits = {"float16": 13, "bfloat16": 16}[dtype.name]
    bits = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(np.float32).view(np.uint32)
    half = 1 << (digits - 1)
    x = np.concatenate([bits + np.uint32(d) for d in (0, 1, half - 1, half, half + 1, 2 * half - 1)])
    tiny = np.arange(1 << 12, dtype=np.float32) * np.float32(2.0**-27)  # among them all ties of subnormal float16
    anything = np.random.default_rng(0).integers(0, 1 << 32, 1 << 18, dtype=np.uint32)
    x = np.concatenate([x, tiny.view(np.uint32), (-tiny).view(np.uint32), anything]).view(np.float32)
    y = np.empty(x.size, dtype)
    runtime.launch(SOURCE, f"narrow<{C_NAMES[dtype.name]}>", 1, 1, (x, y, x.size), outputs=(y,))
    with np.errstate(over="ignore", invalid="ignore"):
        same_numbers(y, x.astype(dtype))


def test_what_is_floating_and_computed_in_float32(dtype):
    assert is_floating(dtype) and compute_dtype(dtype) == np.float32
    assert wide(np.ones(2, dtype)).dtype == np.float32
    for other in ("int16", "uint16", "V2", "float32", "float64", "int64", "bool"):
        assert compute_dtype(np.dtype(other)) == other
        assert is_floating(np.dtype(other)) == other.startswith("float")


def test_bfloat16_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"bfloat16: NumPy has no such type.*pip install 'cupynn\[bfloat16\]'"):
        dtype_named("bfloat16")


CONVOLUTIONS = {
    "3x3": ((3, 5, 9, 11), (12, 5, 3, 3), {"padding": 1}),
    "1x1": ((3, 8, 8, 8), (16, 8, 1, 1), {}),
    "1x1 strided": ((2, 8, 9, 8), (9, 8, 1, 1), {"stride": 2}),
    "5x5 grouped": ((2, 4, 9, 9), (6, 2, 5, 5), {"stride": 2, "padding": 2, "groups": 2}),
    "3x3 strided": ((9, 16, 9, 9), (32, 16, 3, 3), {"stride": 2, "padding": 1}),
    "3x3 small images": ((17, 16, 4, 4), (16, 16, 3, 3), {"padding": 1}),
    "dilated": ((2, 3, 12, 10), (8, 3, 3, 2), {"padding": (2, 0), "dilation": 2}),
}


@pytest.mark.parametrize("method", ["direct", "im2col", None])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(dtype, case, method, monkeypatch):
    x_shape, w_shape, options = CONVOLUTIONS[case]
    rng = np.random.default_rng(len(case))
    x, w, bias = drawn(rng, dtype, *x_shape), drawn(rng, np.float32, *w_shape), drawn(rng, np.float32, w_shape[0])
    g = conv.geometry(x_shape, w_shape, **options)
    grad, start = drawn(rng, dtype, *g.output_shape), drawn(rng, dtype, *x_shape)
    if method is not None:
        if method not in conv.methods(g, x):
            pytest.skip("does not take this shape")
        for which in conv_direct.PASSES:
            monkeypatch.setitem(conv.choices, (which, g, conv.dtype_key(x), False), method)
    y = conv.forward(x, w, bias, **options)
    assert y.dtype == dtype
    assert_rounded(y, conv.reference_forward(exact(x), exact(w), exact(bias), **options), dtype, w[0].size)
    dx, dw, dbias = conv.backward(grad, x, w, **options)
    want = conv.reference_backward(exact(grad), exact(x), exact(w), **options)
    assert dx.dtype == dtype and dw.dtype == dbias.dtype == np.float32
    assert_rounded(dx, want[0], dtype, w[:, 0].size)
    assert_rounded(dw, want[1], dtype, grad[:, 0].size)
    assert_rounded(dbias, want[2], dtype, grad[:, 0].size)
    added = start.copy()
    conv.backward(grad, x, w, **options, needs=(True, False, False), add_to=added)
    # what is added is rounded where it passes through memory, and the sum
    rounded_twice = ROUNDING[dtype.name] * np.abs(want[0]).max()
    np.testing.assert_allclose(
        exact(added), exact(start) + want[0], rtol=2 * ROUNDING[dtype.name], atol=rounded_twice + 2.0**-14
    )


def test_winograd_is_not_for_16_bits(dtype):
    g = conv.geometry((64, 64, 32, 32), (64, 64, 3, 3), padding=1)
    assert "winograd" in conv.methods(g, np.empty(1, np.float32))
    assert "winograd" not in conv.methods(g, np.empty(1, dtype))
    assert conv.method(g, itemsize=4) == "winograd" and conv.method(g, itemsize=2) == "direct"


def test_sums_are_not_rounded_between_chunks_of_channels(dtype):
    """Where a tile does not have all channels, the direct method would leave partial sums in 16 bits."""
    g = conv.geometry((1, 4096, 16, 16), (8, 4096, 5, 5), padding=2)
    assert "direct" in conv.methods(g, np.empty(1, np.float32))
    assert "direct" not in conv.methods(g, np.empty(1, dtype))


def test_convolution_wants_float32_weights(dtype):
    x, w = np.ones((1, 1, 3, 3), dtype), np.ones((1, 1, 3, 3), dtype)
    with pytest.raises(
        TypeError, match=f"got {dtype}, {dtype} .where x is float16 or bfloat16, weight and bias are float32"
    ):
        conv.forward(x, w)


def test_columns_are_float32(dtype):
    rng = np.random.default_rng(3)
    x, window = drawn(rng, dtype, 2, 3, 9, 20), ((3, 2), (2, 1), (1, 1), (1, 2))
    columns = im2col(x, *window)
    assert columns.dtype == np.float32
    np.testing.assert_array_equal(columns, reference_im2col(wide(x), *window))
    assert col2im(columns, x.shape, *window).dtype == np.float32


SHAPES = (4, 6, 7, 7), (70, 3), (2, 5, 33, 40)


@every("case", [(shape, relu) for shape in SHAPES for relu in (False, True)], [(SHAPES[2], True)])
def test_batch_norm(dtype, case):
    shape, relu = case
    rng = np.random.default_rng(shape[0])
    x, grad = drawn(rng, dtype, *shape), drawn(rng, dtype, *shape)
    gamma, beta, running_mean, spread = drawn(rng, np.float32, 4, shape[1])
    running_var, count, eps = spread * spread + np.float32(0.5), x.size // shape[1], 1e-5
    y, *statistics = batch_norm.forward_train(x, gamma, beta, eps, relu)
    want = batch_norm.reference_forward_train(exact(x), exact(gamma), exact(beta), eps, relu)
    assert y.dtype == dtype and {a.dtype for a in statistics} == {np.dtype(np.float32)}
    assert_rounded(y, want[0], dtype, 32)
    for got, exactly in zip(statistics, want[1:], strict=True):
        assert_rounded(got, exactly, dtype, 32)
    mean, _, inv_std = statistics
    got = batch_norm.backward_train(grad, x, y, gamma, beta, mean, inv_std, relu)
    want = batch_norm.reference_backward_train(*map(exact, (grad, x, y, gamma, beta, mean, inv_std)), relu)
    assert [a.dtype for a in got] == [dtype, np.float32, np.float32]
    for array, exactly in zip(got, want, strict=True):
        assert_rounded(array, exactly, dtype, 32 + count)
    running = running_mean, running_var
    z = batch_norm.forward_eval(x, gamma, beta, *running, eps, relu)
    assert z.dtype == dtype
    assert_rounded(z, batch_norm.reference_forward_eval(*map(exact, (x, gamma, beta, *running)), eps, relu), dtype, 32)
    got = batch_norm.backward_eval(grad, x, z, gamma, beta, *running, eps, relu)
    want = batch_norm.reference_backward_eval(*map(exact, (grad, x, z, gamma, beta, *running)), eps, relu)
    for array, exactly in zip(got, want, strict=True):
        assert_rounded(array, exactly, dtype, 32 + count)


def test_batch_norm_wants_float32_parameters(dtype):
    x = np.ones((2, 3), dtype)
    with pytest.raises(TypeError, match=f"gamma must be float32 where x is {dtype}; it is {dtype}"):
        batch_norm.forward_train(x, x[0], x[0], 1e-5)


@every("window", [(2,), (3, 2, 1), (3, 1, 0), ((2, 3), (3, 1), 1)], [(3, 2, 1)])
def test_pooling(dtype, window):
    rng = np.random.default_rng(5)
    x = drawn(rng, dtype, 2, 3, 9, 34)
    y, indices = pool.max_forward(x, *window)
    want, where = pool.max_forward(wide(x), *window)
    assert y.dtype == dtype
    np.testing.assert_array_equal(exact(y), want)
    np.testing.assert_array_equal(indices, where)
    grad = drawn(rng, dtype, *y.shape)
    dx = pool.max_backward(grad, indices, x.shape, *window)
    assert_rounded(dx, pool.max_backward(exact(grad), indices, x.shape, *window), dtype, 9)
    assert_rounded(pool.average_forward(x, *window), pool.average_forward(exact(x), *window), dtype, 9)
    dx = pool.average_backward(grad, x.shape, *window)
    assert dx.dtype == dtype
    assert_rounded(dx, pool.average_backward(exact(grad), x.shape, *window), dtype, 9)


def test_adaptive_pooling(dtype):
    rng = np.random.default_rng(6)
    x, grad = drawn(rng, dtype, 2, 3, 7, 9), drawn(rng, dtype, 2, 3, 2, 4)
    y = pool.adaptive_average_forward(x, (2, 4))
    assert_rounded(y, pool.adaptive_average_forward(exact(x), (2, 4)), dtype, 16)
    dx = pool.adaptive_average_backward(grad, x.shape)
    assert_rounded(dx, pool.adaptive_average_backward(exact(grad), x.shape), dtype, 16)
    y, indices = pool.adaptive_max_forward(x, (2, 4))
    np.testing.assert_array_equal(exact(y), pool.adaptive_max_forward(exact(x), (2, 4))[0])
    dx = pool.adaptive_max_backward(grad, indices, x.shape)
    assert_rounded(dx, pool.adaptive_max_backward(exact(grad), indices, x.shape), dtype, 16)


DEPTHWISE = {
    "3x3": ((3, 5, 13, 17), 1, 3, {"padding": 1}),
    "3x3 strided": ((3, 5, 14, 16), 1, 3, {"padding": 1, "stride": 2}),
    "small images": ((9, 4, 4, 4), 1, 3, {"padding": 1}),
    "several filters": ((2, 3, 9, 9), 9, 5, {"padding": 2}),
    "any": ((2, 3, 12, 11), 2, 4, {"padding": 1, "dilation": 2}),
    "strided back": ((5, 3, 8, 8), 1, 5, {"padding": 2, "stride": 2}),
}


@every("case", DEPTHWISE, ["3x3 strided"])
def test_depthwise_convolution(dtype, case):
    x_shape, multiplier, size, options = DEPTHWISE[case]
    rng = np.random.default_rng(len(case))
    channels = x_shape[1]
    x, w = drawn(rng, dtype, *x_shape), drawn(rng, np.float32, channels, multiplier, size, size)
    bias = drawn(rng, np.float32, channels * multiplier)
    y = depthwise.forward(x, w, bias, **options)
    assert y.dtype == dtype
    assert_rounded(y, depthwise.reference_forward(exact(x), exact(w), exact(bias), **options), dtype, size * size)
    grad = drawn(rng, dtype, *y.shape)
    dx, dw, dbias = depthwise.backward(grad, x, w, **options)
    want = depthwise.reference_backward(exact(grad), exact(x), exact(w), **options)
    assert dx.dtype == dtype and dw.dtype == dbias.dtype == np.float32
    assert_rounded(dx, want[0], dtype, size * size * multiplier)
    assert_rounded(dw, want[1], dtype, grad[:, 0].size)
    assert_rounded(dbias, want[2], dtype, grad[:, 0].size)


@every("case", [(3, "relu"), (4, "tanh")], [(4, "relu")])
def test_whe(dtype, case):
    g, activation = case
    rng = np.random.default_rng(g)
    x, grad = drawn(rng, dtype, 3, 4 * g, 9, 7), drawn(rng, dtype, 3, 4 * g, 9, 7)
    weights = drawn(rng, np.float32, 4, 4, g, g)
    y = whe.forward(x, *weights, activation)
    assert y.dtype == dtype
    assert_rounded(y, whe.reference_forward(exact(x), *exact(weights), activation), dtype, 8 * g)
    got = whe.backward(grad, x, *weights, activation)
    want = whe.reference_backward(exact(grad), exact(x), *exact(weights), activation)
    assert [a.dtype for a in got] == [dtype] + 4 * [np.float32]
    for array, exactly, terms in zip(got, want, [16 * g, *4 * [3 * 63]], strict=True):
        assert_rounded(array, exactly, dtype, terms)
    with pytest.raises(TypeError, match=f"a must be float32 where x is {dtype}; it is {dtype}"):
        whe.forward(x, *weights.astype(dtype), activation)


@every("plane", [(5, 7), (8, 16)], [(8, 16)])
def test_cross_layer(dtype, plane):
    rng = np.random.default_rng(plane[0])
    inputs = [drawn(rng, dtype, 3, 4, *plane) for _ in range(3)]
    grad, before = drawn(rng, dtype, *inputs[0].shape), drawn(rng, dtype, *inputs[0].shape)
    (weight, mean), bias = drawn(rng, np.float32, 2, 3, 4), drawn(rng, np.float32, 4)
    wide_inputs = [exact(h) for h in inputs]
    y = cross_layer.forward(inputs, weight, bias, mean)
    want = cross_layer.reference_forward(wide_inputs, *map(exact, (weight, bias, mean)))
    assert y.dtype == dtype
    assert_rounded(y, want, dtype, 8)
    outputs, add = [np.empty_like(grad), None, before.copy()], [False, False, True]
    sums = cross_layer.backward(grad, inputs, weight, mean, outputs, add)
    exactly = [np.empty(grad.shape), None, exact(before)]
    want = cross_layer.reference_backward(exact(grad), wide_inputs, exact(weight), exact(mean), exactly, add)
    for array, right in zip(sums, want, strict=True):
        assert array.dtype == np.float32
        assert_rounded(array, right, dtype, grad[:, 0].size)
    assert_rounded(outputs[0], exactly[0], dtype, 2)
    # the reference of mode "reference" rounds the product and the sum
    np.testing.assert_allclose(
        exact(outputs[2]), exactly[2], rtol=2 * ROUNDING[dtype.name], atol=8 * ROUNDING[dtype.name]
    )
    centred, (shift, slope) = before.copy(), drawn(rng, np.float32, 2, 4)
    cross_layer.centre(centred, inputs[0], mean[0], shift, slope)
    right = exact(before) + (
        exact(shift)[:, None, None] + exact(slope)[:, None, None] * (wide_inputs[0] - exact(mean)[0][:, None, None])
    )
    np.testing.assert_allclose(exact(centred), right, rtol=2 * ROUNDING[dtype.name], atol=16 * ROUNDING[dtype.name])
    for got, exactly in zip(
        cross_layer.statistics(inputs[0]),
        batch_norm.reference_forward_train(wide_inputs[0], None, None, 0.0)[1:3],
        strict=True,
    ):
        assert_rounded(got, exactly, dtype, 32)
