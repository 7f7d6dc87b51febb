"""Convolutions with scales of every image: all kernel sizes and dtypes, in every mode, on channels of wider arrays."""

import numpy as np
import pytest

from cupynn.kernels import conv, conv_scaled, runtime


def problem(seed, images, channels, outputs, run, kernel_size, size, dtype):
    rng = np.random.default_rng(seed)
    wide = rng.standard_normal((images, channels + 3, *size)).astype(dtype)
    w = rng.standard_normal((outputs, channels, kernel_size, kernel_size)).astype(dtype)
    y = rng.standard_normal((images, outputs + 2, *size)).astype(dtype)
    scale = None if run is None else rng.uniform(-1, 2, (images, outputs // run, channels)).astype(dtype)
    return wide, w, y, scale


def by_image(x, w, grad, scale):
    """(y, dx, dw), one image after the other with its own weight."""
    y, dx, dw, padding = [], [], np.zeros_like(w), w.shape[2] // 2
    for n in range(len(x)):
        factor = np.ones(w.shape[:2]) if scale is None else np.repeat(scale[n], len(w) // scale.shape[1], axis=0)
        weight, image = w * factor[:, :, None, None].astype(w.dtype), x[n : n + 1]
        y.append(conv.reference_forward(image, weight, padding=padding))
        one, dweight, _ = conv.reference_backward(grad[n : n + 1], image, weight, padding=padding)
        dx.append(one)
        dw += dweight * factor[:, :, None, None]
    return np.concatenate(y), np.concatenate(dx), dw


SHAPES = {  # images, channels, outputs, run, kernel size, height and width
    "3x3, runs of 8": (3, 24, 16, 8, 3, (9, 8)),
    "3x3, runs of 3": (5, 5, 6, 3, 3, (4, 5)),
    "3x3, no scales, by Winograd": (2, 20, 16, None, 3, (9, 8)),
    "3x3, no scales, direct": (2, 4, 4, None, 3, (6, 5)),
    "1x1, runs of 4": (9, 12, 8, 4, 1, (5, 6)),
    "1x1, runs of 1": (2, 21, 19, 1, 1, (3, 3)),
    "1x1, runs of 16, more channels than a strip": (3, 40, 48, 16, 1, (7, 9)),
    "1x1, no scales": (9, 12, 8, None, 1, (5, 6)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_image_has_its_own_weight(shape, dtype):
    wide, w, y, scale = problem(3, *shape, dtype)
    x, target = wide[:, 1:-2], y[:, 1:-1]
    grad, start, dx = np.ascontiguousarray(target[::-1]), y.copy(), wide.copy()
    wanted = by_image(x, w, grad, scale)
    close = {"rtol": 0, "atol": 3e4 * np.finfo(dtype).eps}  # sums of up to 400 products of numbers of up to some 5
    conv_scaled.forward(x, w, target, scale)
    np.testing.assert_allclose(target, wanted[0], **close)
    conv_scaled.forward(x, w, target, scale, add=True)
    np.testing.assert_allclose(target, 2 * wanted[0], **close)
    conv_scaled.input_gradient(grad, w, dx[:, 1:-2], scale, add=True)
    np.testing.assert_allclose(dx[:, 1:-2] - x, wanted[1], **close)
    conv_scaled.input_gradient(grad, w, dx[:, 1:-2], scale)
    np.testing.assert_allclose(dx[:, 1:-2], wanted[1], **close)
    np.testing.assert_allclose(conv_scaled.weight_gradient(grad, x, w, scale), wanted[2], **close)
    for found, before in ((y, start), (dx, wide)):  # the other channels are as they were
        np.testing.assert_array_equal(found[:, [0, -1]], before[:, [0, -1]])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_reference(shape):
    wide, w, y, scale = problem(4, *shape, "float64")
    x, grad = wide[:, 1:-2], y[:, 1:-1]
    wanted = by_image(x, w, grad, scale)
    found = conv_scaled.reference_forward(x, w, scale), *conv_scaled.reference_backward(grad, x, w, scale)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)


@pytest.mark.skipif(runtime.mode() != "compiled", reason="too large for the checker")
@pytest.mark.parametrize("run", [None, 15, 300])
def test_several_chunks_of_channels_and_parts_of_an_image(run):
    wide, w, y, scale = problem(6, 2, 900, 600, run, 1, (20, 19), "float64")
    x, target = wide[:, 1:-2], y[:, 1:-1]
    grad, dx = np.ascontiguousarray(target[::-1]), np.zeros_like(x)
    for which in ("forward", "weight gradient"):
        _, plan = conv_scaled._plan_of(x, w, scale, which)
        assert plan.chunks > 1 and (plan.parts > 1 or which != "forward")
    wanted = by_image(x, w, grad, scale)
    conv_scaled.forward(x, w, target, scale)
    conv_scaled.input_gradient(grad, w, dx, scale)
    found = target, dx, conv_scaled.weight_gradient(grad, x, w, scale)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)  # sums of up to 900 products of numbers of up to some 10


@pytest.mark.skipif(not runtime.compiled_for(np.zeros(1)), reason="no compiled kernels in this mode")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 70, 50, 10, 1, (9, 8)), (3, 9, 12, 4, 1, (3, 3)), (2, 5, 3, None, 1, (9, 9))])
def test_the_launches_of_a_gpu_pass_the_checker_on_the_cpu(shape, dtype, monkeypatch):
    """Blocks of many threads, short strips, small tiles: the GPU's constants."""
    mode, seen, launch = runtime.mode(), set(), runtime.launch

    def watched(name, kernel, grid, block, args, shared_bytes=0, *rest, **named):
        assert shared_bytes <= 64 * 1024  # what every GPU since 2017 has for a block
        seen.add(kernel)
        launch(name, kernel, grid, block, args, shared_bytes, *rest, **named)

    monkeypatch.setattr(conv_scaled, "_target", lambda x: conv_scaled.target(16, x.dtype.itemsize, True, 32))
    wide, w, y, scale = problem(7, *shape, dtype)
    x, grad, dx = wide[:, 1:-2], y[:, 1:-1], np.zeros_like(wide[:, 3:])
    wanted = by_image(x, w, grad, scale)
    found = np.empty_like(grad)
    runtime.set_mode("checked")
    try:
        monkeypatch.setattr(runtime, "launch", watched)
        conv_scaled.forward(x, w, found, scale)
        conv_scaled.input_gradient(grad, w, dx, scale)
        dw = conv_scaled.weight_gradient(grad, x, w, scale)
    finally:
        runtime.set_mode(mode)
    for a, b in zip((found, dx, dw), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e4 * np.finfo(dtype).eps)  # sums of up to 150 products
    assert {kernel for kernel in seen if not kernel.startswith("reduce")} == {
        kernel for kernel in conv_scaled.instantiations() if runtime.ctype(np.dtype(dtype)) in kernel
    }


@pytest.mark.parametrize("vector_bytes", [16, 32, 64])
@pytest.mark.skipif(runtime.mode() != "compiled", reason="the checker takes vectors one element at a time")
def test_constants_of_other_processors(vector_bytes, monkeypatch):
    monkeypatch.setattr(conv_scaled, "_target", lambda x: conv_scaled.target(vector_bytes, x.dtype.itemsize, False, 1))
    test_every_image_has_its_own_weight(SHAPES["1x1, runs of 16, more channels than a strip"], "float32")


@pytest.mark.parametrize("shape", [SHAPES["3x3, runs of 3"], SHAPES["1x1, runs of 4"], (20, 5, 6, None, 3, (4, 5))])
def test_float16_images(shape):
    """float32 results of the rounded images, rounded once."""
    wide, w, y, scale = problem(8, *shape, "float32")
    x, grad = wide[:, 1:-2].astype("float16"), y[:, 1:-1].astype("float16")
    wanted = by_image(x.astype("float32"), w, grad.astype("float32"), scale)
    found, dx = grad.copy(), x.copy()
    conv_scaled.forward(x, w, found, scale, add=True)
    conv_scaled.input_gradient(grad, w, dx, scale)
    dw = conv_scaled.weight_gradient(grad, x, w, scale)
    assert found.dtype == dx.dtype == np.float16 and dw.dtype == np.float32
    np.testing.assert_allclose(found, wanted[0] + grad, rtol=2**-10, atol=1e-3)
    np.testing.assert_allclose(dx, wanted[1], rtol=2**-10, atol=1e-3)
    np.testing.assert_allclose(dw, wanted[2], rtol=0, atol=2e-3)


def test_no_images():
    x, w, scale = np.zeros((0, 5, 4, 5)), np.ones((6, 5, 3, 3)), np.zeros((0, 2, 5))
    y, dx = np.zeros((0, 6, 4, 5)), x.copy()
    conv_scaled.forward(x, w, y, scale)
    conv_scaled.input_gradient(y, w, dx, scale)
    assert not conv_scaled.weight_gradient(y, x, w, scale).any()
