"""SGD against its formula, its groups, its state."""

import numpy as np
import pytest

from cupynn.autograd import Tensor
from cupynn.optim import SGD

# A few roundings of each number in each of 6 steps.
TOLERANCE = {np.float64: 1e-13, np.float32: 2e-5}


def parameters(seed, *shapes, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [Tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True) for shape in shapes]


def step_by_formula(w, grad, v, lr, momentum, nesterov, weight_decay):
    g = grad + weight_decay * w
    v = momentum * v + g
    return w - lr * (g + momentum * v if nesterov else v), v


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1},
        {"momentum": 0.9},
        {"momentum": 0.9, "weight_decay": 0.1},
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.05},
    ],
)
def test_steps_follow_the_formula(options, dtype):
    full = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, **options}
    weights = parameters(0, (5,), (3, 1, 2), (), (1, 17), dtype=dtype)
    expected = [w.data.astype(np.float64) for w in weights]
    velocities = [np.zeros(w.shape) for w in weights]
    optimizer = SGD(weights, lr=0.1, **options)
    arrays = [w.data for w in weights]
    rng = np.random.default_rng(1)
    for number in range(6):
        optimizer.param_groups[0]["lr"] = lr = 0.1 / (number + 1)
        for i, w in enumerate(weights):
            w.grad = rng.standard_normal(w.shape).astype(dtype)
            if w.grad.shape == ():
                w.grad = np.asarray(w.grad)
            expected[i], velocities[i] = step_by_formula(
                expected[i], w.grad.astype(np.float64), velocities[i], lr, **full
            )
        optimizer.step()
    for w, array, want in zip(weights, arrays, expected, strict=True):
        assert w.data is array, "changed in place"
        np.testing.assert_allclose(w.data, want, rtol=0, atol=TOLERANCE[dtype])


def test_groups_have_their_own_options():
    a, b = parameters(2, (4,), (4,))
    optimizer = SGD(
        [{"params": [a], "weight_decay": 0.5}, {"params": [b], "lr": 0.01}], lr=0.1, momentum=0.9, weight_decay=0.0
    )
    start_a, start_b = a.data.copy(), b.data.copy()
    a.grad, b.grad = np.ones(4), np.ones(4)
    optimizer.step()
    np.testing.assert_allclose(a.data, start_a - 0.1 * (1 + 0.5 * start_a), rtol=1e-14)
    np.testing.assert_allclose(b.data, start_b - 0.01, rtol=1e-14)
    optimizer.param_groups[0]["weight_decay"] = 0.0
    now = a.data.copy()
    optimizer.step()
    np.testing.assert_allclose(a.data, now - 0.1 * (0.9 * (1 + 0.5 * start_a) + 1), rtol=1e-14)


def test_parameters_without_gradient_stay():
    a, b = parameters(3, (4,), (2,))
    optimizer = SGD([a, b], lr=0.1, momentum=0.9, weight_decay=0.1)
    a.grad = np.ones(4)
    before = b.data.copy()
    optimizer.step()
    np.testing.assert_array_equal(b.data, before)
    optimizer.zero_grad()
    assert a.grad is None
    before = a.data.copy()
    optimizer.step()
    np.testing.assert_array_equal(a.data, before)


def test_minimises_a_quadratic():
    (x,) = parameters(4, (6,))
    optimizer = SGD([x], lr=0.1, momentum=0.5, nesterov=True)
    for _ in range(100):
        optimizer.zero_grad()
        ((x - np.arange(6.0)) * (x - np.arange(6.0))).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(x.data, np.arange(6.0), atol=1e-8)


def test_state_continues_a_run_exactly():
    def run(optimizer, weights, steps):
        for step in steps:
            for i, w in enumerate(weights):
                w.grad = np.cos(np.arange(w.size).reshape(w.shape) + step + i)
            optimizer.step()

    def groups(weights):
        return [{"params": weights[:1], "weight_decay": 0.1}, {"params": weights[1:]}]

    weights = parameters(5, (3, 2), (4,))
    whole = SGD(groups(weights), lr=0.1, momentum=0.9)
    run(whole, weights, range(3))
    whole.param_groups[1]["lr"] = 0.02
    copies = [Tensor(w.data.copy(), requires_grad=True) for w in weights]
    resumed = SGD(groups(copies), lr=1.0, momentum=0.9)
    resumed.load_state_dict(whole.state_dict())
    run(whole, weights, range(3, 6))
    run(resumed, copies, range(3, 6))
    for a, b in zip(weights, copies, strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    assert [group["lr"] for group in resumed.param_groups] == [0.1, 0.02]


def test_state_before_any_step_has_no_velocity():
    weights = parameters(6, (3,), (2,))
    state = SGD(weights, lr=0.1, momentum=0.9).state_dict()
    assert state["velocities"] == [None, None]
    SGD(weights, lr=0.2, momentum=0.9).load_state_dict(state)


def test_state_that_does_not_fit_changes_nothing():
    weights = parameters(7, (3,), (2,))
    optimizer = SGD(weights, lr=0.1, momentum=0.9)
    state = SGD(weights, lr=0.5, momentum=0.9).state_dict()
    with pytest.raises(ValueError, match="1 groups and 2 parameters; the state has 1 and 1"):
        optimizer.load_state_dict({**state, "velocities": [None]})
    with pytest.raises(ValueError, match=r"parameter 1 has shape \(2,\); its velocity in the state has \(3,\)"):
        optimizer.load_state_dict({**state, "velocities": [np.zeros(3), np.zeros(3)]})
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.state_dict()["velocities"] == [None, None]


def test_repr_names_groups():
    (a,) = parameters(8, (3,))
    assert repr(SGD([a], lr=0.1)) == "SGD(\n  1 parameters, lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0\n)"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda a: SGD([a], lr=-1), ValueError, "lr of group 0 must be >= 0; got -1"),
        (lambda a: SGD([a], lr=float("nan")), ValueError, "lr of group 0 must be >= 0; got nan"),
        (lambda a: SGD([a], lr=1, momentum=-0.1), ValueError, "momentum of group 0 must be >= 0"),
        (lambda a: SGD([a], lr=1, nesterov=True), ValueError, "nesterov in group 0 needs momentum > 0"),
        (lambda a: SGD([], lr=1), ValueError, "there are no parameters"),
        (lambda a: SGD([a, a], lr=1), ValueError, r"shape \(3,\) is given twice"),
        (lambda a: SGD([{"params": [a]}, {"params": [a]}], lr=1), ValueError, "again in group 1"),
        (lambda a: SGD([a.data], lr=1), TypeError, "group 0 holds a ndarray; parameters are tensors"),
        (lambda a: SGD([{"params": [a], "decay": 1}], lr=1), ValueError, "unknown options decay; known: lr, momentum"),
    ],
)
def test_errors(make, error, message):
    (a,) = parameters(9, (3,))
    with pytest.raises(error, match=message):
        make(a)


def test_a_step_that_cannot_be_made_moves_nothing():
    a, b, c = parameters(10, (3,), (2,), (4,))
    optimizer = SGD([{"params": [a]}, {"params": [b, c]}], lr=0.1, momentum=0.9)
    before = [w.data.copy() for w in (a, b, c)]

    def refuses(error, message):
        with pytest.raises(error, match=message):
            optimizer.step()
        for w, array in zip((a, b, c), before, strict=True):
            np.testing.assert_array_equal(w.data, array)

    a.grad, c.grad = np.ones(3), np.ones(3)
    refuses(ValueError, r"SGD.step: in group 1: gradient 1 must have its parameter's shape \(4,\); it has shape \(3,\)")
    c.grad = np.ones(4, np.float32)
    refuses(TypeError, "SGD.step: in group 1: gradient 1 must be float64 as its parameter is; it is float32")
    c.grad = np.ones(4)
    optimizer.param_groups[1]["lr"] = float("nan")
    refuses(ValueError, "lr of group 1 must be >= 0; got nan")
    optimizer.param_groups[1].update(lr=0.1, momentum=0, nesterov=True)
    refuses(ValueError, "nesterov in group 1 needs momentum > 0")
    del optimizer.param_groups[1]["nesterov"]
    refuses(ValueError, "SGD: group 1 lacks nesterov")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"groups": [{"lr": 1.0}]}, ValueError, "group 0 lacks momentum, nesterov, weight_decay"),
        ({"velocities": [[0.0, 0.0, 0.0]]}, TypeError, "velocity of parameter 0 must be an array of floats; got list"),
        ({"velocities": [np.array(["a"] * 3)]}, TypeError, "velocity of parameter 0 must be an array .*; got <U1"),
    ],
)
def test_states_with_faults_change_nothing(change, error, message):
    (a,) = parameters(11, (3,))
    optimizer = SGD([a], lr=0.1, momentum=0.9)
    state = SGD([a], lr=0.5, momentum=0.9).state_dict()
    with pytest.raises(error, match=message):
        optimizer.load_state_dict({**state, **change})
    with pytest.raises(ValueError, match="the state has no groups and no velocities"):
        optimizer.load_state_dict({})
    assert optimizer.param_groups[0]["lr"] == 0.1
