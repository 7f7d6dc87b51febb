"""Convolution: every method and mode against the reference, the reference against SciPy and finite differences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate

from cupynn.kernels import conv, im2col, runtime

PASSES = {"direct": conv.conv_direct, "im2col": conv.conv_columns}


@st.composite
def problems(draw):
    """Shapes and options of one convolution: odd sizes, stride beyond the kernel, one pixel, one channel, groups."""
    groups = draw(st.integers(1, 3))
    kernel, dilation = [(draw(st.integers(1, high)), draw(st.integers(1, high))) for high in (5, 3)]
    stride, padding = ((draw(st.integers(low, high)), draw(st.integers(low, high))) for low, high in ((1, 4), (0, 4)))
    reach = [d * (k - 1) + 1 - 2 * p for k, d, p in zip(kernel, dilation, padding, strict=True)]
    h, w = (max(1, r, draw(st.integers(1, 19))) for r in reach)
    n, c, o = draw(st.integers(1, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 9))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return (n, groups * c, h, w), (groups * o, c, *kernel), options, draw(st.sampled_from(["float32", "float64"]))


def arrays(x_shape, w_shape, options, dtype, seed=0):
    rng = np.random.default_rng(seed)
    g = conv.geometry(x_shape, w_shape, **options)
    x, w, bias, grad = (rng.standard_normal(s).astype(dtype) for s in (x_shape, w_shape, w_shape[:1], g.output_shape))
    return g, x, w, bias, grad


def tolerance(g, dtype, terms):
    """Sums of `terms` products of unit normals in two orders differ by about 4 eps terms**0.5; 16 covers the tail."""
    return 16 * np.finfo(dtype).eps * (terms + 4) ** 0.5 * 4


@pytest.mark.parametrize("name", PASSES)
@settings(max_examples=25, deadline=None, print_blob=True)
@given(problem=problems())
def test_methods_equal_the_reference(name, problem):
    _, w_shape, options, dtype = problem
    g, x, w, bias, grad = arrays(*problem)
    if not runtime.compiled_for(x):
        pytest.skip("no compiled kernels in this mode")
    method, taps = PASSES[name], w_shape[2] * w_shape[3]
    close = lambda a, b, terms: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance(g, dtype, terms))  # noqa: E731
    close(method.forward(x, w, bias, g), conv.reference_forward(x, w, bias, **options), g.c_group * taps)
    dx, dw, dbias = conv.reference_backward(grad, x, w, **options)
    close(method.input_gradient(grad, w, g), dx, g.o_group * taps)
    found = method.weight_gradient(grad, x, w, g)
    pixels = g.n * g.oh * g.ow
    if name == "direct":
        found, found_bias = found
        close(found_bias, dbias, pixels)
    close(found, dw, pixels)


@pytest.mark.parametrize(
    "x_shape, w_shape, options",
    [
        ((40, 3, 32, 32), (8, 3, 7, 7), {"padding": 3}),  # several stacks, whole vectors
        ((130, 16, 8, 8), (9, 16, 3, 3), {"padding": 1}),  # images interleaved, a last group that is not full
        ((3, 40, 70, 70), (5, 40, 3, 3), {"padding": 1}),  # several bands of rows
        ((2, 300, 30, 30), (6, 300, 3, 3), {"padding": 1}),  # several chunks of input channels
        ((17, 8, 16, 16), (8, 1, 3, 3), {"padding": 1, "groups": 8}),  # depthwise
        ((5, 6, 1, 1), (4, 6, 1, 1), {}),  # one pixel
        ((4, 2, 3, 3), (2, 2, 1, 1), {"stride": 5}),  # an image smaller than the stride
    ],
)
def test_large_and_odd_shapes(x_shape, w_shape, options):
    if runtime.mode() == "checked" and np.prod(x_shape) > 200_000:
        pytest.skip("too large for the checker, which follows every access")
    g, x, w, bias, grad = arrays(x_shape, w_shape, options, "float32")
    terms = g.c_group * w_shape[2] * w_shape[3]
    y = conv.forward(x, w, bias, **options)
    np.testing.assert_allclose(
        y, conv.reference_forward(x, w, bias, **options), rtol=0, atol=tolerance(g, "float32", terms)
    )
    for a, b, count in zip(
        conv.backward(grad, x, w, **options),
        conv.reference_backward(grad, x, w, **options),
        (terms * g.o_group, g.n * g.oh * g.ow, g.n * g.oh * g.ow),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance(g, "float32", count))


def test_reference_is_scipys_correlation():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 9, 8)), rng.standard_normal((4, 3, 3, 2))
    expected = [[correlate(image, kernel, mode="valid")[0] for kernel in w] for image in x]
    np.testing.assert_allclose(conv.reference_forward(x, w), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("seed", range(4))
def test_gradients_are_finite_differences(seed):
    rng = np.random.default_rng(seed)
    options = {"stride": (1 + seed % 2, 2), "padding": (1, seed), "dilation": (1, 1 + seed % 2), "groups": 1 + seed % 2}
    _, x, w, bias, grad = arrays((2, 4, 6, 7), (4, 4 // options["groups"], 3, 2), options, "float64", seed)
    gradients = conv.backward(grad, x, w, **options)
    for array, gradient in zip((x, w, bias), gradients, strict=True):
        for _ in range(5):
            where = tuple(rng.integers(0, n) for n in array.shape)
            before, step = array[where], 1e-4
            values = []
            for sign in (1, -1):
                array[where] = before + sign * step
                values.append(np.sum(grad * conv.forward(x, w, bias, **options)))
            array[where] = before
            # linear in each argument: only rounding of a sum of some 500 terms, divided by the step
            np.testing.assert_allclose((values[0] - values[1]) / (2 * step), gradient[where], rtol=0, atol=1e-8)


def test_two_runs_give_the_same_bits():
    _, x, w, _, grad = arrays((33, 5, 13, 11), (7, 5, 3, 3), {"padding": 1}, "float32")
    first, second = (conv.backward(grad, x, w, padding=1) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_empty_batch_gives_empty_outputs_and_zero_gradients():
    x, w, bias = np.zeros((0, 3, 5, 5)), np.ones((2, 3, 3, 3)), np.ones(2)
    y = conv.forward(x, w, bias)
    dx, dw, dbias = conv.backward(y, x, w)
    assert y.shape == (0, 2, 3, 3) and dx.shape == x.shape
    assert not dw.any() and dw.shape == w.shape and not dbias.any()


def test_arrays_with_strides_are_taken():
    _, x, w, bias, _ = arrays((2, 3, 6, 6), (4, 3, 3, 3), {}, "float64")
    turned, flipped = np.asfortranarray(x), np.ascontiguousarray(w[..., ::-1])[..., ::-1]
    every_other = np.repeat(bias, 2)[::2]
    np.testing.assert_allclose(conv.forward(turned, flipped, every_other), conv.forward(x, w, bias), rtol=0, atol=1e-13)


def test_needs_leaves_the_others_out():
    _, x, w, _, grad = arrays((2, 3, 6, 6), (4, 3, 3, 3), {}, "float64")
    everything = conv.backward(grad, x, w)
    for k in range(3):
        needs = tuple(k == i for i in range(3))
        parts = conv.backward(grad, x, w, needs=needs)
        assert [part is not None for part in parts] == list(needs)
        np.testing.assert_allclose(parts[k], everything[k], rtol=0, atol=1e-12)


def test_nan_and_infinity_propagate():
    x, w = np.zeros((1, 1, 5, 5), np.float32), np.ones((1, 1, 3, 3), np.float32)
    x[0, 0, 2, 2], x[0, 0, 0, 0] = np.nan, np.inf
    y = conv.forward(x, w, padding=1)[0, 0]
    assert np.isnan(y[1:4, 1:4]).all() and np.isinf(y[0, :2]).all() and not y[4].any()


@pytest.mark.parametrize(
    "x_shape, w_shape, padding", [((1, 2, 1, 60000), (4, 2, 1, 9), (0, 4)), ((1, 1, 16, 40000), (9, 1, 3, 3), 1)]
)
def test_rows_too_long_for_a_tile(x_shape, w_shape, padding):
    if runtime.mode() == "checked":
        pytest.skip("too large for the checker, which follows every access")
    g, x, w, bias, grad = arrays(x_shape, w_shape, {"padding": padding}, "float32")
    if runtime.compiled_for(x):
        assert "direct" not in conv.methods(g, x)
    given = conv.forward(x, w, bias, padding=padding), *conv.backward(grad, x, w, padding=padding)
    wanted = conv.reference_forward(x, w, bias, padding=padding), *conv.reference_backward(grad, x, w, padding=padding)
    for a, b in zip(given, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance(g, "float32", g.oh * g.ow))


def test_a_convolution_of_single_channels_is_depthwise():
    g = conv.geometry((2, 6, 8, 8), (12, 1, 3, 3), 1, 1, 1, 6)
    assert conv.method(g) == "depthwise"
    assert conv.methods(conv.geometry((2, 6, 8, 8), (6, 2, 3, 3), 1, 1, 1, 3), np.zeros(1)) == ["im2col", "direct"]


def test_tuning_measures_once_and_says_what_it_chose(monkeypatch):
    _, x, w, _, grad = arrays((2, 3, 9, 9), (4, 3, 3, 3), {"padding": 1}, "float32")
    if not runtime.compiled_for(x):
        pytest.skip("no compiled kernels in this mode")
    monkeypatch.setenv("CUPYNN_TUNE", "1")
    monkeypatch.setattr(conv, "choices", {})
    conv.forward(x, w, padding=1)
    conv.backward(grad, x, w, padding=1)
    assert {which for which, *_ in conv.choices} == {"forward", "input gradient", "weight gradient"}
    assert set(conv.choices.values()) <= set(conv.METHODS)
    monkeypatch.setattr(conv, "_seconds", lambda *_: pytest.fail("measured twice"))
    conv.forward(x, w, padding=1)


@pytest.mark.parametrize(
    "x_shape, w_shape, options, message",
    [
        ((4, 3, 32, 32), (16, 8, 3, 3), {}, "x needs 8 channels at groups=1; x has shape (4, 3, 32, 32)"),
        ((4, 4, 8, 8), (6, 1, 3, 3), {"groups": 4}, "6 output channels, which groups=4 does not divide"),
        ((4, 4, 2, 8), (6, 4, 3, 3), {}, "does not fit into x of shape (4, 4, 2, 8)"),
        ((4, 4, 8), (6, 4, 3, 3), {}, "x must be (N, C, H, W)"),
        ((4, 4, 8, 8), (6, 4, 3, 3), {"stride": 0}, "stride must be an integer >= 1"),
        ((4, 4, 8, 8), (6, 4, 3, 3), {"groups": 1.0}, "groups must be a positive integer; got 1.0"),
        ((4, 4, 8, 8), (6, 4, 3, 3), {"padding": (1, -1)}, "padding must be an integer >= 0"),
    ],
)
def test_shapes_that_do_not_fit(x_shape, w_shape, options, message):
    with pytest.raises(ValueError) as error:
        conv.forward(np.zeros(x_shape), np.zeros(w_shape), None, **options)
    assert message in str(error.value)


def test_types_that_do_not_fit():
    x, w = np.zeros((1, 1, 3, 3)), np.zeros((1, 1, 3, 3))
    with pytest.raises(TypeError, match="share one floating-point dtype; got float64, float32"):
        conv.forward(x, w.astype(np.float32))
    with pytest.raises(TypeError, match="share one floating-point dtype"):
        conv.forward(x.astype(int), w.astype(int))
    with pytest.raises(ValueError, match=r"bias must have shape \(1,\)"):
        conv.forward(x, w, np.zeros(2))
    with pytest.raises(ValueError, match="grad must be float64 of shape"):
        conv.backward(np.zeros((1, 1, 2, 2)), x, w)


@settings(max_examples=25, deadline=None, print_blob=True)
@given(problem=problems())
def test_im2col_and_col2im_equal_their_references(problem):
    g, x, *_ = arrays(*problem)
    window = g.kernel, g.stride, g.padding, g.dilation
    columns = im2col.im2col(x, *window)
    np.testing.assert_array_equal(columns, im2col.reference_im2col(x, *window))
    back = im2col.col2im(columns, x.shape, *window)
    # at most KH*KW numbers are added for each pixel, in the same order
    np.testing.assert_allclose(back, im2col.reference_col2im(columns, x.shape, *window), rtol=1e-5)


def test_im2col_of_some_rows_is_a_part_of_the_whole():
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 8))
    window = (3, 2), (2, 1), (1, 1), (1, 2)
    whole = im2col.im2col(x, *window)
    parts = [im2col.im2col(x, *window, row0, 1) for row0 in range(5)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=2), whole)
    if runtime.compiled_for(x):
        image, ow = np.zeros_like(x), whole.shape[2] // 5
        for row0 in range(5):
            columns = np.ascontiguousarray(whole[:, :, row0 * ow : (row0 + 1) * ow])
            im2col.col2im(columns, x.shape, *window, row0, image)
        np.testing.assert_allclose(image, im2col.col2im(whole, x.shape, *window), rtol=0, atol=1e-13)
