"""Schedules' values."""

import numpy as np
import pytest

from cupynn.optim.schedules import Cosine, MultiStep, Piecewise, Step, WarmUp


def test_step():
    schedule = Step(every=30, factor=0.1)
    np.testing.assert_allclose([schedule(e) for e in (0, 29, 29.99, 30, 59, 60, 90)], [1, 1, 1, 0.1, 0.1, 0.01, 0.001])


def test_multi_step_for_a_learning_rate_and_for_a_weight_decay():
    rate = MultiStep((50, 100))
    np.testing.assert_allclose([rate(e) for e in (0, 49, 50, 99, 100, 149)], [1, 1, 0.1, 0.1, 0.01, 0.01])
    decay = MultiStep([80, 110], factor=10)
    np.testing.assert_allclose([1e-6 * decay(e) for e in (0, 79, 80, 110)], [1e-6, 1e-6, 1e-5, 1e-4])


def test_cosine():
    schedule = Cosine(epochs=100)
    np.testing.assert_allclose(
        [schedule(e) for e in (0, 25, 50, 75, 100, 101)], [1, 0.5 + 8**-0.5, 0.5, 0.5 - 8**-0.5, 0, 0], atol=1e-15
    )


def test_cosine_with_warm_up():
    schedule = Cosine(epochs=105, warm_up=5, warm_up_from=0.0)
    np.testing.assert_allclose([schedule(e) for e in (0, 1, 2.5, 5, 55, 105)], [0, 0.2, 0.5, 1, 0.5, 0], atol=1e-15)
    assert Cosine(epochs=10, warm_up=4)(0) == 0.1
    assert Cosine(epochs=10, warm_up=4)(2) == pytest.approx(0.55)


def test_warm_up_of_any_schedule():
    schedule = WarmUp(MultiStep((10,)), epochs=4, start=0.2)
    np.testing.assert_allclose([schedule(e) for e in (0, 1, 2, 4, 9, 10)], [0.2, 0.4, 0.6, 1, 1, 0.1])
    assert WarmUp(MultiStep((10,)), epochs=0)(0) == 1


def test_piecewise_gives_the_very_values():
    schedule = Piecewise([[0, 1e-6], [80, 1e-5], [110, 1e-4]])
    assert [schedule(e) for e in (0, 79.9, 80, 109, 110, 500)] == [1e-6, 1e-6, 1e-5, 1e-5, 1e-4, 1e-4]


def test_schedules_compare_and_show_their_settings():
    assert Step(30) == Step(30, 0.1) != Step(31)
    assert repr(MultiStep([50, 100])) == "MultiStep(milestones=(50, 100), factor=0.1)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Step(0), "Step: every must be > 0; got 0"),
        (lambda: MultiStep((100, 50)), r"MultiStep: milestones must ascend; got \(100, 50\)"),
        (lambda: Cosine(10, warm_up=10), "Cosine: warm_up must be >= 0 and less than epochs"),
        (lambda: WarmUp(Step(3), -1), "WarmUp: epochs must be >= 0; got -1"),
        (lambda: Piecewise(()), "Piecewise: the epochs of steps must start at 0"),
        (lambda: Piecewise(((0, 1), (0, 2))), "Piecewise: the epochs of steps must start at 0 and ascend"),
        (lambda: Cosine(0), "Cosine: warm_up must be >= 0 and less than epochs"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
