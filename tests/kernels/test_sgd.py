import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupynn.device import asarray, to_numpy
from cupynn.kernels import sgd

quick = settings(max_examples=25, deadline=None, print_blob=True)


@st.composite
def groups(draw):
    """Parameters of a group, small and large (more than one block's piece), with gradients and velocities."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    shapes = draw(st.lists(st.sampled_from([(1,), (7,), (3, 4, 5, 5), (), (0,), (200, 97)]), min_size=1, max_size=5))
    options = draw(
        st.fixed_dictionaries(
            {
                "lr": st.sampled_from([0.1, 1e-3]),
                "momentum": st.sampled_from([0.0, 0.9]),
                "weight_decay": st.sampled_from([0.0, 5e-4]),
                "nesterov": st.booleans(),
            }
        )
    )
    options["nesterov"] = options["nesterov"] and options["momentum"] > 0
    return [[rng.normal(size=shape).astype(dtype) for shape in shapes] for _ in range(3)], options


@given(groups())
@quick
def test_a_group_equals_the_reference_in_float64(group):
    (parameters, grads, velocities), options = group
    exact = [[a.astype(np.float64) for a in arrays] for arrays in (parameters, grads, velocities)]
    untouched = [a.copy() for a in grads]
    if not options["momentum"]:
        velocities = [None] * len(parameters)
    for _ in range(2):
        sgd.step_groups([sgd.Group(parameters, grads, velocities, **options)])
        for one in zip(*exact, strict=True):
            sgd.reference_step(*one, **options)
    # Two steps of at most five operations, each rounded once, on numbers below 8.
    tolerance = 10 * 8 * np.finfo(parameters[0].dtype).eps
    for got, want in zip(parameters, exact[0], strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)
    for got, want in zip(velocities, exact[2], strict=True):
        assert got is None or np.abs(got - want).max(initial=0) <= tolerance
    for got, want in zip(grads, untouched, strict=True):
        np.testing.assert_array_equal(got, want)


def test_three_nesterov_steps_by_hand():
    """g = 1 + 0.5 w; v = 0.5 v + g; w -= 0.1 (g + 0.5 v), from w = 2, v = 0."""
    w, v = np.array([2.0]), np.zeros(1)
    # step 1: g = 2, v = 2, w = 2 - 0.1 * 3 = 1.7;  step 2: g = 1.85, v = 2.85, w = 1.7 - 0.1 * 3.275 = 1.3725
    # step 3: g = 1.68625, v = 3.11125, w = 1.3725 - 0.1 * 3.241875 = 1.0483125
    for want in (1.7, 1.3725, 1.0483125):
        sgd.step(w, np.ones(1), v, lr=0.1, momentum=0.5, weight_decay=0.5, nesterov=True)
        np.testing.assert_allclose(w, [want], rtol=1e-14)


def test_parameters_of_two_dtypes_and_layouts_go_together():
    rng = np.random.default_rng(9)
    base = [rng.normal(size=(6, 5)), rng.normal(size=(6, 5)).astype(np.float32), rng.normal(size=(5, 6)).T]
    want = [a - a.dtype.type(0.5) * a for a in base]
    sgd.step_groups([sgd.Group(base, [a.copy(order="F") for a in base], [None] * 3, lr=0.5)])
    for got, expected in zip(base, want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=2 * np.finfo(got.dtype).eps)


def test_groups_of_several_kinds_go_together():
    """Each by its own options: of three kinds of momentum, and the last two of the same."""
    rng = np.random.default_rng(13)
    options = [(0.1, 0.0, 1e-3, False), (0.2, 0.9, 0.0, False), (0.3, 0.8, 1e-2, True), (0.4, 0.7, 1e-3, True)]
    groups, alone = (
        [sgd.Group(*arrays.copy(), *own) for arrays, own in zip(start, options, strict=True)]
        for start in [rng.normal(size=(4, 3, 2, 20_000)).astype(np.float32)]
        for _ in range(2)
    )
    sgd.step_groups(groups)
    for group in alone:
        for arrays in zip(*group[:3], strict=True):
            sgd.step(*arrays, *group[3:])
    for group, other in zip(groups, alone, strict=True):
        np.testing.assert_array_equal(group.parameters, other.parameters)
        np.testing.assert_array_equal(group.velocities, other.velocities)


@pytest.mark.parametrize("count", [1, 3])
def test_numbers_and_where_that_kernels_read(count):
    """The options of the call give way to `numbers`; where `where` is False nothing moves."""
    rng = np.random.default_rng(12)
    start = rng.normal(size=(3, count, 5000)).astype(np.float32)
    right, moved, left = start.copy(), start.copy(), start.copy()
    sgd.step_groups([sgd.Group(*right, 0.1, 0.9, 1e-3, True)])
    sgd.step_groups([sgd.Group(*moved, 7.0, 0.5, 3.0, True)], np.array(True), np.array([[0.1, 0.9, 1e-3]]))
    sgd.step_groups([sgd.Group(*left, 0.1, 0.9, 1e-3, True)], np.array(False))
    np.testing.assert_array_equal(moved, right)
    np.testing.assert_array_equal(left, start)


def test_a_read_only_parameter_is_refused():
    parameters = [np.ones(3, np.float32), np.broadcast_to(np.float32(1), (3,))]
    with pytest.raises(ValueError, match="read-only"):
        sgd.step_groups([sgd.Group(parameters, [np.ones(3, np.float32)] * 2, [None] * 2, 0.1)])


def test_two_runs_give_the_same_bits():
    rng = np.random.default_rng(10)
    start = rng.normal(size=(3, 50_000)).astype(np.float32)

    def run():
        w, g, v = start.copy()
        sgd.step(w, g, v, 0.1, 0.9, 1e-4, True)
        return w.tobytes() + v.tobytes()

    assert run() == run()


def test_errors_come_before_anything_changes():
    w, other = np.ones(3, np.float32), np.ones(4, np.float32)

    def refused(error, match, grads, velocities, **options):
        with pytest.raises(error, match=match):
            sgd.step_groups([sgd.Group([w, w], grads, velocities, 0.1, **options)])
        np.testing.assert_array_equal(w, np.ones(3))

    refused(
        ValueError, r"gradient 1 must have its parameter's shape \(3,\); it has shape \(4,\)", [w, other], [None] * 2
    )
    refused(TypeError, "gradient 1 must be float32.*float64", [w, w.astype(np.float64)], [None] * 2)
    refused(ValueError, "momentum is 0.9, so parameter 1 needs a velocity", [w, w], [w, None], momentum=0.9)
    refused(ValueError, r"velocity 0 must have its parameter's shape", [w, w], [other, w], momentum=0.9)
    refused(ValueError, "nesterov needs momentum > 0", [w, w], [w, w], nesterov=True)
    refused(ValueError, "2 parameters, 1 gradients, 2 velocities", [w], [w, w])
    with pytest.raises(TypeError, match="parameter 0 must be float32 or float64; it is int64"):
        sgd.step(np.ones(2, np.int64), np.ones(2, np.int64), None, 0.1)


def test_on_each_device(device):
    rng = np.random.default_rng(23)
    exact = [[rng.normal(size=shape) for shape in [(3,), (130, 177), ()]] for _ in range(3)]
    parameters, grads, velocities = ([asarray(a.astype(np.float32)) for a in arrays] for arrays in exact)
    sgd.step_groups([sgd.Group(parameters, grads, velocities, 0.1, 0.9, 1e-3, True)])
    for one in zip(*exact, strict=True):
        sgd.reference_step(*one, 0.1, 0.9, 1e-3, True)
    for got, want in zip(parameters + velocities, exact[0] + exact[2], strict=True):
        np.testing.assert_allclose(to_numpy(got), want, rtol=0, atol=40 * np.finfo(np.float32).eps)
