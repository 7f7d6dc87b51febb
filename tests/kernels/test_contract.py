"""Contractions: compiled or checked against the reference, the reference against the definition, index by index."""

import hashlib
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupynn.device import asarray, to_numpy
from cupynn.kernels import contract, contract_fold, contract_plan, runtime

EXAMPLES = 8 if runtime.mode() == "checked" else 30  # the checker follows every access
DTYPES = ["float32", "float64"]
SIZES = st.tuples(st.integers(1, 4), st.integers(1, 4))


@st.composite
def chains(draw):
    """Shapes of first and second, and groups: one tap in either as often as several."""
    one = (1, 1)
    a, b = (draw(st.one_of(st.just(one), SIZES)) for _ in range(2))
    groups, i, p, o = draw(st.integers(1, 3)), *(draw(st.integers(1, 20)) for _ in range(3))
    return (groups * p, i, *a), (groups * o, p, *b), groups


@st.composite
def compositions(draw):
    """Shapes of d and w, groups and layout."""
    groups, inputs, outputs = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 20))
    taps, s = draw(st.integers(1, 25)), draw(st.integers(1, 25))
    layout = draw(st.sampled_from(contract.LAYOUTS))
    return (groups * inputs, taps, s), (groups * outputs, inputs, s), groups, layout


def normal(*shapes, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def compare(found, wanted, terms):
    """Added one after the other, `terms` products of unit normals pass through sums of terms**0.5, which round by
    0.2 eps * terms in all, root mean square; 8 covers the largest sums of many, 20 the few roundings of a short one."""
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    atol = 8 * np.finfo(wanted.dtype).eps * (terms + 20)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=atol)


def check_chain(first_shape, second_shape, groups, dtype):
    first, second = normal(first_shape, second_shape, dtype=dtype)
    wanted = contract.reference_forward(first, second, groups)
    taps = [int(np.prod(shape[2:])) for shape in (first_shape, second_shape)]
    compare(contract.forward(first, second, groups), wanted, second_shape[1] * min(taps))
    (grad,) = normal(wanted.shape, dtype=dtype, seed=1)
    found = contract.backward(grad, first, second, groups)
    terms = second_shape[0] // groups * taps[1], first_shape[1] * taps[0]
    for a, b, count in zip(found, contract.reference_backward(grad, first, second, groups), terms, strict=True):
        compare(a, b, count)


@pytest.fixture(autouse=True, scope="module")
def kernels_whatever_the_size():
    """Where BLAS would be faster, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "FEW", 0)
        patch.setattr(contract, "_blas_is_faster", lambda second: False)
        yield


def check_composition(d_shape, w_shape, groups, layout, dtype):
    d, w = normal(d_shape, w_shape, dtype=dtype)
    wanted = contract.reference_compose(d, w, groups, layout)
    compare(contract.compose(d, w, groups, layout), wanted, d_shape[2])
    (grad,) = normal(wanted.shape, dtype=dtype, seed=1)
    found = contract.compose_backward(grad, d, w, groups, layout)
    terms = w_shape[0] // groups, d_shape[1]
    wanted = contract.reference_compose_backward(grad, d, w, groups, layout)
    for a, b, count in zip(found, wanted, terms, strict=True):
        compare(a, b, count)


@settings(max_examples=EXAMPLES, deadline=None, print_blob=True)
@given(chain=chains(), dtype=st.sampled_from(DTYPES))
def test_chains_equal_the_reference(chain, dtype):
    check_chain(*chain, dtype)


@settings(max_examples=EXAMPLES, deadline=None, print_blob=True)
@given(composition=compositions(), dtype=st.sampled_from(DTYPES))
def test_compositions_equal_the_reference(composition, dtype):
    check_composition(*composition, dtype)


@settings(max_examples=EXAMPLES, deadline=None, print_blob=True)
@given(
    shape=st.tuples(*(st.integers(1, 20) for _ in range(4))),
    present=st.tuples(*(st.booleans() for _ in range(3))),
    dtype=st.sampled_from(DTYPES),
)
def test_folded_batch_norms_equal_the_reference(shape, present, dtype):
    check_fold(shape, present, dtype)


def check_fold(shape, present, dtype):
    """Roundings of a handful of factors of size 1, and for dgamma of a sum."""
    weight, grad = normal(shape, shape, dtype=dtype)
    bias, gamma, beta, mean, grad_bias = normal(*[shape[:1]] * 5, dtype=dtype, seed=1)
    variance = (mean * mean + 0.5).astype(dtype)
    bias, gamma, beta = (vector if there else None for vector, there in zip((bias, gamma, beta), present, strict=True))
    arguments = weight, bias, gamma, mean, variance, 1e-3
    wanted = contract_fold.reference_fold(*arguments[:3], beta, *arguments[3:])
    for a, b in zip(contract_fold.fold(*arguments[:3], beta, *arguments[3:]), wanted, strict=True):
        compare(a, b, 1)
    found = contract_fold.fold_backward(grad, grad_bias, *arguments)
    wanted = contract_fold.reference_fold_backward(grad, grad_bias, *arguments)
    for a, b, terms in zip(found, wanted, (1, 1, weight[0].size, 1), strict=True):
        compare(a, b, terms)


CHAINS = [
    ((64, 16, 3, 3), (128, 64, 3, 3), 1),  # ExpandNets' CK: several columns of blocks, all taps staged at once
    ((128, 16, 5, 5), (32, 128, 3, 3), 1),
    ((64, 16, 1, 1), (128, 64, 7, 7), 1),  # CL: no taps shared
    ((128, 16, 7, 7), (32, 128, 1, 1), 1),
    ((1500, 130, 1, 1), (70, 1500, 1, 1), 1),  # FC: some of the depth at a time, in float64
    ((128, 1, 1, 1), (128, 4, 3, 3), 32),  # depthwise
    ((128, 1, 3, 3), (32, 4, 1, 1), 32),
    ((7, 1, 1, 9), (1, 7, 9, 1), 1),
    ((300, 3, 4, 4), (40, 300, 4, 4), 1),  # in float64 too large to stage all taps
]
SMALL = [
    ((2, 300, 1, 1), (3, 2, 1, 1), 1),  # long in one direction each
    ((2, 3, 2, 2), (300, 2, 2, 1), 1),
    ((300, 3, 2, 1), (2, 300, 1, 2), 1),
]
COMPOSITIONS = [
    ((16, 9, 9), (40, 16, 9), 1, "paper"),
    ((64, 9, 9), (300, 64, 9), 1, "paper"),  # several blocks of rows
    ((32, 9, 20), (64, 4, 20), 8, "authors"),
    ((32, 49, 49), (32, 1, 49), 32, "paper"),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chain", CHAINS + SMALL, ids=str)
def test_chains_of_networks(chain, dtype):
    if runtime.mode() == "checked" and chain not in SMALL:
        pytest.skip("too large for the checker, which follows every access")
    check_chain(*chain, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("composition", COMPOSITIONS, ids=str)
def test_compositions_of_networks(composition, dtype):
    if runtime.mode() == "checked" and composition[1][0] > 100:
        pytest.skip("too large for the checker, which follows every access")
    check_composition(*composition, dtype)


@pytest.mark.parametrize("threads", [32, 256])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gpus_launch_on_fibers(dtype, threads, monkeypatch):
    """Blocks of many threads, which stage both factors some of the depth at a time, on the CPU."""
    if runtime.mode() != "compiled":
        pytest.skip("the checker always takes blocks of 32 threads")
    monkeypatch.setattr(runtime, "threads", lambda like, gpu=256: threads)
    for chain in [((130, 5, 3, 3), (40, 130, 3, 3), 1), ((34, 3, 1, 1), (18, 17, 3, 3), 2), *SMALL]:
        check_chain(*chain, dtype)
    for composition in COMPOSITIONS:
        check_composition(*composition, dtype)
    check_fold((5, 70, 3, 3), (True, True, True), dtype)


@pytest.mark.parametrize("groups", [1, 2])
def test_reference_is_the_definition(groups):
    first, second = normal((groups * 3, 2, 2, 3), (groups * 2, 3, 3, 2))
    w = contract.reference_forward(first, second, groups)
    (grad,) = normal(w.shape, seed=1)
    wanted = [np.zeros_like(a) for a in (w, first, second)]
    for g, o, p, i in itertools.product(range(groups), range(2), range(3), range(2)):
        for (ay, ax), (vy, vx) in itertools.product(np.ndindex(2, 3), np.ndindex(3, 2)):
            out, mid = g * 2 + o, g * 3 + p
            at, left, right = (out, i, ay + vy, ax + vx), (mid, i, ay, ax), (out, p, vy, vx)
            wanted[0][at] += second[right] * first[left]
            wanted[1][left] += second[right] * grad[at]
            wanted[2][right] += first[left] * grad[at]
    found = w, *contract.reference_backward(grad, first, second, groups)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("layout", contract.LAYOUTS)
def test_reference_composition_is_the_definition(layout):
    groups, inputs, outputs = 2, 3, 4
    d, w = normal((groups * inputs, 6, 5), (groups * outputs, inputs, 5))
    kernel = contract.reference_compose(d, w, groups, layout)
    (grad,) = normal(kernel.shape, seed=1)
    wanted = [np.zeros_like(a) for a in (kernel, d, w)]
    for o, i in np.ndindex(groups * outputs, inputs):
        c = (o // outputs if layout == "paper" else o % groups) * inputs + i
        wanted[0][o, i] = d[c] @ w[o, i]
        wanted[1][c] += np.outer(grad[o, i], w[o, i])
        wanted[2][o, i] = d[c].T @ grad[o, i]
    found = kernel, *contract.reference_compose_backward(grad, d, w, groups, layout)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)


SCRIPT = """
import hashlib
import numpy as np
from cupynn.kernels import contract, contract_fold
rng = np.random.default_rng(0)
results = []
for a, b in [((64, 16, 3, 3), (96, 64, 3, 3)), ((64, 16, 1, 1), (96, 64, 5, 5)), ((64, 16, 5, 5), (96, 64, 1, 1))]:
    first, second = rng.standard_normal(a, np.float32), rng.standard_normal(b, np.float32)
    w = contract.forward(first, second)
    results += [w, *contract.backward(rng.standard_normal(w.shape, np.float32), first, second)]
d, w = rng.standard_normal((64, 9, 9), np.float32), rng.standard_normal((96, 64, 9), np.float32)
results += [contract.compose(d, w), *contract.compose_backward(w, d, w)]
weight, vector = w[..., None], d[:, 0, 0].repeat(2)[:96] ** 2
results += contract_fold.fold(weight, vector, vector, vector, vector, vector)
results += contract_fold.fold_backward(weight, vector, weight, vector, vector, vector, vector)
print(hashlib.sha256(b"".join(a.tobytes() for a in results)).hexdigest())
"""


def test_one_and_two_threads_give_the_same_bits():
    if runtime.mode() != "compiled":
        pytest.skip("the checker runs one block after the other, and the reference is NumPy's BLAS")
    digests = set()
    for threads in ("1", "2", "1", "2"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1 and len(digests.pop().strip()) == len(hashlib.sha256().hexdigest())


@pytest.mark.parametrize("sizes", [(3, 3), (1, 5), (5, 1)])
@pytest.mark.parametrize("result", ["whole", "second"])
def test_two_threads_have_blocks_to_share(sizes, result):
    """The products above are more than one block each, so that equal bits at two threads say something."""
    where = contract_plan.Where(4, 64, 1, None)
    first, second = (64, 16, sizes[0], sizes[0]), (96, 64, sizes[1], sizes[1])
    assert np.prod(contract_plan.convolution(result, first, second, 1, where).grid) > 1


@pytest.mark.parametrize("size", [8, 64])
def test_small_compositions_go_to_blas(size, monkeypatch):
    """Either way is the composition; which one it is may depend on nothing but shapes and the processor."""
    launched = []
    launch = runtime.launch
    monkeypatch.setattr(contract, "FEW", 100_000)
    monkeypatch.setattr(runtime, "launch", lambda *given, **options: (launched.append(1), launch(*given, **options)))
    check_composition((size, 9, 9), (size, size, 9), 1, "paper", "float32")
    assert len(launched) == {"compiled": 3 * (size == 64), "reference": 0, "checked": 3}[runtime.mode()]


def test_needs_leaves_the_others_out():
    first, second, grad = normal((4, 3, 2, 2), (5, 4, 3, 3), (5, 3, 4, 4))
    d, w, kernel_grad = normal((3, 4, 5), (6, 3, 5), (6, 3, 4))
    for call in (
        lambda needs: contract.backward(grad, first, second, needs=needs),
        lambda needs: contract.compose_backward(kernel_grad, d, w, needs=needs),
    ):
        everything = call((True, True))
        for k in range(2):
            parts = call((k == 0, k == 1))
            assert [part is not None for part in parts] == [k == 0, k == 1]
            np.testing.assert_array_equal(parts[k], everything[k])


@pytest.mark.parametrize("size", [1, 3])
def test_arrays_with_strides_are_taken(size):
    first, second, grad = normal((4, 3, 3, 3), (5, 4, size, size), (5, 3, size + 2, size + 2))
    strided = np.asfortranarray(first), np.ascontiguousarray(second[::-1])[::-1]
    np.testing.assert_array_equal(contract.forward(*strided), contract.forward(first, second))
    found = contract.backward(np.asfortranarray(grad), *strided)
    for a, b in zip(found, contract.backward(grad, first, second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_to_sum_gives_zeros():
    for first, second in [((0, 3, 2, 2), (5, 0, 3, 3)), ((0, 3, 1, 1), (5, 0, 1, 1))]:
        w = contract.forward(np.ones(first), np.ones(second))
        assert w.shape[:2] == (5, 3) and not w.any()
        gradients = contract.backward(np.ones(w.shape), np.ones(first), np.ones(second))
        assert [a.shape for a in gradients] == [first, second]
    kernel = contract.compose(np.ones((3, 4, 0)), np.ones((6, 3, 0)))
    assert kernel.shape == (6, 3, 4) and not kernel.any()


def test_nan_and_neighbours_stay_where_they_are():
    """Strips read what lies beside a matrix; nothing of it may reach a result."""
    first, second = np.ones((6, 3, 1, 1), np.float32), np.ones((10, 3, 3, 3), np.float32)
    second[7] = np.nan
    assert np.isnan(contract.forward(first, second, 2)).any(axis=(1, 2, 3)).tolist() == [o == 7 for o in range(10)]
    d, w = np.ones((5, 9, 9), np.float32), np.ones((4, 5, 9), np.float32)
    d[2] = np.nan
    assert np.isnan(contract.compose(d, w)).any(axis=(0, 2)).tolist() == [c == 2 for c in range(5)]


def test_on_each_device(device):
    arrays = normal((32, 8, 3, 3), (20, 32, 3, 3), (20, 8, 5, 5), dtype="float32")
    first, second, grad = map(asarray, arrays)
    compare(to_numpy(contract.forward(first, second)), contract.reference_forward(*arrays[:2]), 32 * 9)
    found = contract.backward(grad, first, second)
    wanted = contract.reference_backward(arrays[2], *arrays[:2])
    for a, b, terms in zip(found, wanted, (180, 72), strict=True):
        compare(to_numpy(a), b, terms)


def test_a_folded_batch_norm_needs_vectors():
    weight, vector = np.zeros((4, 3, 1, 1)), np.zeros(4)
    with pytest.raises(ValueError, match=r"fold: weight has shape \(4, 3, 1, 1\), so gamma must be \(4,\); it has .*3"):
        contract_fold.fold(weight, None, np.zeros(3), None, vector, vector)
    with pytest.raises(ValueError, match=r"fold_backward: grad must have the weight's shape \(4, 3, 1, 1\)"):
        contract_fold.fold_backward(vector, vector, weight, None, None, vector, vector)


def test_statistics_of_another_dtype_go_to_the_reference():
    weight, vector = np.ones((4, 3, 1, 1), np.float32), np.ones(4)
    folded, folded_bias = contract_fold.fold(weight, None, None, None, vector, vector, 0.0)
    assert (folded == 1).all() and (folded_bias == -1).all()


def test_errors_name_the_argument():
    first, second, d, w = np.zeros((4, 3, 1, 1)), np.zeros((6, 4, 3, 3)), np.zeros((4, 9, 9)), np.zeros((6, 4, 9))
    with pytest.raises(ValueError, match=r"second \(groups \* O, P, BH, BW\); got groups=1 and .*\(6, 5, 3, 3\)"):
        contract.forward(first, np.zeros((6, 5, 3, 3)))
    with pytest.raises(ValueError, match=r"got groups=4 and shapes"):
        contract.forward(first, np.zeros((6, 1, 3, 3)), 4)
    with pytest.raises(TypeError, match="share one floating-point dtype; got float64, float32"):
        contract.forward(first, second.astype("float32"))
    with pytest.raises(
        ValueError, match=r"grad must be float64 of shape \(6, 3, 3, 3\); got float64 of shape \(6, 3\)"
    ):
        contract.backward(np.zeros((6, 3)), first, second)
    with pytest.raises(ValueError, match=r"w \(O, C/groups, S\), and groups divide O; got groups=2"):
        contract.compose(d, w, 2)
    with pytest.raises(ValueError, match="layout must be one of paper, authors; got 'torch'"):
        contract.compose(d, w, 1, "torch")
    with pytest.raises(TypeError, match="d and w must share one floating-point dtype; got float64, float32"):
        contract.compose(d, w.astype("float32"))
    with pytest.raises(ValueError, match=r"compose_backward: grad must be float64 of shape \(6, 4, 9\)"):
        contract.compose_backward(np.zeros((6, 4)), d, w)
