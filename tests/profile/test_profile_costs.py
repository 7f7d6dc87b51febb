"""Every pass that a profile knows a cost of is asked, and answers what its face's `cost` says of the shapes."""

import time

import numpy as np
import pytest

from cupynn.kernels import (
    activations,
    batch_norm,
    contract,
    contract_fold,
    conv,
    cross_entropy,
    cross_layer,
    dropout,
    gradients,
    im2col,
    pool,
    runtime,
    sgd,
    whe,
)
from cupynn.profile.costs import faces
from cupynn.profile.recorder import Recorder
from cupynn.profile.watch import Watch


def maps(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def asked(call):
    """{face: cost} of the passes that call() goes through."""
    recorder = Recorder()
    with Watch(recorder).installed():
        recorder.call(call, (), {}, recorder.span("step", "step", time.perf_counter()))
    return {span.name: span.details["cost"] for span in recorder.finish() if span.kind == "face"}


X, GRAD, ONE = maps(4, 8, 6, 6), maps(4, 8, 6, 6), np.ones(8, np.float32)
SIZE = X.size
A, B, C, D = maps(4, 2, 4, 4)
W1, W2, W3 = maps(6, 3, 3, 3), maps(5, 6, 3, 3), maps(5, 3, 5, 5)
PAIRS = W1.size + W2.size + W3.size, 5 * 6 * 3 * 81  # elements, and multiply-adds of every pair of taps
DO, DW = maps(4, 9, 9), maps(6, 4, 9)
COMPOSED = DO.size + DW.size + 6 * 4 * 9, 6 * 4 * 9 * 9
LOGITS, LABELS = maps(4, 5), np.arange(4)
WINDOW = (3, 3), (1, 1), (1, 1), (1, 1)
LAYERS = [maps(4, 8, 6, 6) for _ in range(3)]
_, INDICES = pool.max_forward(X, 2)
_, ADAPTIVE = pool.adaptive_max_forward(X, (2, 2))
POOLED, CORNERS = maps(4, 8, 3, 3), maps(4, 8, 2, 2)

# A call of each pass, and its bytes and operations counted by hand from the docstrings of `cost`.
CALLS = {
    "activations.forward": (lambda: activations.forward("relu", X), (8 * SIZE, SIZE)),
    "activations.backward": (lambda: activations.backward("relu", GRAD, X), (12 * SIZE, SIZE)),
    "dropout.forward": (lambda: dropout.forward(X, 0.5, (1, 2)), (8 * SIZE, 25 * SIZE)),
    "batch_norm.forward_train": (lambda: batch_norm.forward_train(X, ONE, ONE, 1e-5), (12 * SIZE, 7 * SIZE)),
    "batch_norm.forward_eval": (lambda: batch_norm.forward_eval(X, ONE, ONE, ONE, ONE, 1e-5), (8 * SIZE, 3 * SIZE)),
    "batch_norm.backward_train": (
        lambda: batch_norm.backward_train(GRAD, X, X, ONE, ONE, ONE, ONE, relu=True, residual=True),
        (28 * SIZE, 11 * SIZE),
    ),
    "batch_norm.backward_eval": (
        lambda: batch_norm.backward_eval(GRAD, X, None, ONE, ONE, ONE, ONE, 1e-5),
        (16 * SIZE, 5 * SIZE),
    ),
    "pool.max_forward": (lambda: pool.max_forward(X, 2), (4 * SIZE + 2 * SIZE, SIZE)),
    "pool.max_backward": (lambda: pool.max_backward(POOLED, INDICES, X.shape, 2), (4 * SIZE + 2 * SIZE, SIZE)),
    "pool.average_forward": (lambda: pool.average_forward(X, (2, 2)), (5 * SIZE, 5 * SIZE // 4)),
    "pool.average_backward": (lambda: pool.average_backward(POOLED, X.shape, 2), (5 * SIZE, 5 * SIZE // 4)),
    "pool.adaptive_max_forward": (lambda: pool.adaptive_max_forward(X, (2, 2)), (4 * SIZE + 8 * SIZE // 9, SIZE)),
    "pool.adaptive_max_backward": (
        lambda: pool.adaptive_max_backward(CORNERS, ADAPTIVE, X.shape),
        (4 * SIZE + 8 * SIZE // 9, SIZE),
    ),
    "pool.adaptive_average_forward": (
        lambda: pool.adaptive_average_forward(X, (2, 2)),
        (4 * SIZE + 4 * SIZE // 9, 10 * SIZE // 9),
    ),
    "pool.adaptive_average_backward": (
        lambda: pool.adaptive_average_backward(CORNERS, X.shape),
        (4 * SIZE + 4 * SIZE // 9, 10 * SIZE // 9),
    ),
    "whe.forward": (lambda: whe.forward(X, A, B, C, D), (8 * SIZE, 28 * SIZE)),
    "whe.backward": (lambda: whe.backward(GRAD, X, A, B, C, D), (12 * SIZE, 56 * SIZE)),
    "cross_entropy.forward": (lambda: cross_entropy.forward(LOGITS, LABELS), (8 * 20 + 4 * 12, 100)),
    "cross_entropy.backward": (
        lambda: cross_entropy.backward(np.ones((), np.float32), LOGITS, LABELS),
        (8 * 20 + 4 * 8, 40),
    ),
    "contract.forward": (lambda: contract.forward(W1, W2), (4 * PAIRS[0], 2 * PAIRS[1])),
    "contract.backward": (
        lambda: contract.backward(W3, W1, W2),
        (4 * (PAIRS[0] + W1.size + W2.size), 4 * PAIRS[1]),
    ),
    "contract.compose": (lambda: contract.compose(DO, DW), (4 * COMPOSED[0], 2 * COMPOSED[1])),
    "contract.compose_backward": (
        lambda: contract.compose_backward(maps(6, 4, 9), DO, DW),
        (4 * (COMPOSED[0] + DO.size + DW.size), 4 * COMPOSED[1]),
    ),
    "contract_fold.fold": (
        lambda: contract_fold.fold(W1, None, *np.ones((4, 6), np.float32)),
        (8 * W1.size, W1.size),
    ),
    "contract_fold.fold_backward": (
        lambda: contract_fold.fold_backward(W1, *np.ones((1, 6), np.float32), W1, None, *np.ones((3, 6), np.float32)),
        (12 * W1.size, 3 * W1.size),
    ),
    "cross_layer.forward": (lambda: cross_layer.forward(LAYERS, maps(3, 8)), (4 * 4 * SIZE, 6 * SIZE)),
    "cross_layer.backward": (lambda: cross_layer.backward(GRAD, LAYERS, maps(3, 8)), (7 * 4 * SIZE, 13 * SIZE)),
    "im2col.im2col": (lambda: im2col.im2col(X, *WINDOW), (4 * (SIZE + 9 * SIZE), 0)),
    "im2col.col2im": (lambda: im2col.col2im(maps(4, 72, 36), X.shape, *WINDOW), (4 * (SIZE + 9 * SIZE), 9 * SIZE)),
    "sgd.step_groups": (
        lambda: sgd.step_groups([sgd.Group(*[list(maps(2, 50))] * 3, 0.1, 0.9)]),
        (5 * 4 * 100, 800),
    ),
    "gradients.square_sum": (lambda: gradients.square_sum(list(maps(2, 50))), (4 * 100, 2 * 100)),
    "gradients.multiply": (lambda: gradients.multiply(list(maps(2, 50)), np.ones(())), (8 * 100, 100)),
}


@pytest.mark.parametrize("face", CALLS)
def test_a_pass_costs_what_its_face_says(face):
    call, cost = CALLS[face]
    assert asked(call)[face] == cost


def test_every_face_is_tested():
    methods = set(conv.METHODS.values())
    assert {f"{module.__name__.rpartition('.')[2]}.{name}" for module, name, _ in faces() if module not in methods} == (
        set(CALLS)
    )


SHAPES = {  # of images and weights; the first that a method takes
    "3x3": ((2, 16, 12, 12), (16, 16, 3, 3), 1),
    "1x1": ((2, 16, 6, 6), (16, 16, 1, 1), 1),
    "depthwise": ((2, 8, 9, 9), (8, 1, 3, 3), 8),
}


@pytest.mark.parametrize("name", conv.METHODS)
def test_every_method_of_convolution_costs_what_the_convolution_does(name, monkeypatch):
    if runtime.mode() == "reference":
        pytest.skip("methods are compiled kernels'")
    for shape, w_shape, groups in SHAPES.values():
        x, w = maps(*shape), maps(*w_shape)
        g = conv.geometry(shape, w_shape, 1, w_shape[2] // 2, 1, groups)
        if name in conv.methods(g, x) or name == "tensor cores":  # which a CPU emulates, but does not choose
            break
    monkeypatch.setattr(conv, "choices", {(which, g, "f", False): name for which in conv.cost(g)})
    options = (1, w_shape[2] // 2, 1, groups)
    module = conv.METHODS[name].__name__.rpartition(".")[2]

    def passes():
        y = conv.forward(x, w, None, *options)
        conv.backward(y, x, w, *options)

    found = asked(passes)
    y = g.n * g.o * g.oh * g.ow
    expected = 4 * (x.size + w.size + y), 2 * y * w[0].size
    assert {face: cost for face, cost in found.items() if face.startswith(module)} == {
        f"{module}.{which}": expected for which in ("forward", "input_gradient", "weight_gradient")
    }


def test_half_a_gradient_of_a_contraction_is_not_costed():
    assert asked(lambda: contract.backward(W3, W1, W2, needs=(True, False)))["contract.backward"] is None


def test_a_tile_of_columns_reads_a_part_of_the_image():
    cost = asked(lambda: im2col.im2col(maps(1, 2, 32, 32), *WINDOW, row0=4, rows=2))["im2col.im2col"]
    assert cost == (4 * (2 * (2 * 32 + 3 * 32) + 9 * 2 * 64), 0)
