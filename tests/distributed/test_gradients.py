import numpy as np
import pytest
import rank_programs

from cupynn import nn
from cupynn.autograd import Tensor
from cupynn.distributed import GradientSum, World

NO_STATE = ("losses", "counts", "unused", "buckets")


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "batch_norm"])
def alone(request):
    return request.param, rank_programs.train(World(), request.param)


@pytest.mark.parametrize("size", [2, 4])
def test_20_steps_end_where_one_process_ends(ranks, alone, size):
    """Float64; sums are taken in another order, which 20 steps carry on: 1e-10 of weights near 1."""
    batch_norm, expected = alone
    results = ranks(size, "train", batch_norm)
    for result in results:
        assert result["unused"] and result["buckets"] >= 3
        assert result["counts"].tolist() == expected["counts"]  # images of global batches, the uneven last ones too
        np.testing.assert_allclose(result["losses"], expected["losses"], rtol=1e-10)
        for name in set(expected) - set(NO_STATE):
            np.testing.assert_allclose(result[name], expected[name], rtol=0, atol=1e-10, err_msg=name)
            assert np.array_equal(result[name], results[0][name]), name  # every rank has the same bits


def test_two_runs_give_the_same_bits_whatever_the_buckets(ranks):
    """Sums over two ranks do not depend on how elements are packed: a + b = b + a."""
    first, again, one_bucket = (ranks(2, "train", True, size, 6)[0] for size in (512, 512, 1 << 20))
    for name, array in first.items():
        assert np.array_equal(array, again[name]), name
        assert name == "buckets" or np.array_equal(array, one_bucket[name]), name
    assert one_bucket["buckets"] == 1


def test_four_ranks_give_the_same_bits_twice(ranks):
    first, again = (ranks(4, "train", True, 512, 6)[0] for _ in range(2))
    assert all(np.array_equal(array, again[name]) for name, array in first.items())


def test_a_parameter_that_one_rank_uses_gets_its_share(ranks):
    """Rank 0: 2 a. Rank 1: a b, with a = b = 3. Mean: d/da = (2 + 3) / 2, d/db = 3 / 2."""
    for result in ranks(2, "one_sided"):
        assert result["a"].tolist() == [2.5, 2.5] and result["b"].tolist() == [1.5, 1.5] and result["c"]


class Recorded:
    """Two ranks that hold the same gradients; notes when a sum was started."""

    rank, size = 0, 2

    def __init__(self):
        self.events = []

    def total(self, *numbers):
        return tuple(2 * number for number in numbers)

    def sum(self, array):
        array *= 2

    def start_sum(self, array):
        self.events.append(f"sum of {array.size}")
        array *= 2
        return self

    def Test(self):
        return True

    def Wait(self):
        self.events.append("wait")


def test_sums_start_while_backward_still_runs():
    world, events = Recorded(), None
    parameters = [nn.Parameter(np.full(size, 2.0)) for size in (3, 4, 5)]
    gradients = GradientSum(parameters, world, bucket_bytes=8)
    events, arrived = world.events, gradients._arrived
    gradients._arrived = lambda leaf: (events.append(f"ready {leaf.size}"), arrived(leaf))
    a, b, c = parameters
    x = Tensor(np.ones(1))
    gradients.backward(((x * a).sum() * b).sum() * c.sum(), 1)
    assert [event for event in events if event != "wait"] == [
        "ready 5", "sum of 5", "ready 4", "sum of 4", "ready 3", "sum of 3",
    ]  # fmt: skip
    assert events[-3:] == ["wait"] * 3
    assert c.grad.tolist() == [6 * 8] * 5  # the mean over ranks that agree is what each has


def test_sums_start_in_one_order_even_where_gradients_come_in_another():
    world = Recorded()
    first, last = (nn.Parameter(np.ones(size)) for size in (2, 3))
    gradients = GradientSum([first, last], world, bucket_bytes=8)
    gradients.backward((last.sum() * first).sum(), 1)  # first's gradient comes before that of last
    assert world.events == ["sum of 3", "sum of 2", "wait", "wait"]


def test_a_frozen_parameter_holds_nothing_back():
    world = Recorded()
    first, frozen = nn.Parameter(np.ones(2)), nn.Parameter(np.ones(3), requires_grad=False)
    gradients = GradientSum([first, frozen], world, bucket_bytes=8)
    started = []
    backward = gradients._start
    gradients._start = lambda all_of_them=False: (backward(all_of_them), started.append(len(world.events)))
    gradients.backward((first * frozen[:2]).sum(), 1)
    assert started[0] == 2 and frozen.grad is None


def test_gradients_of_the_last_call_must_go_first():
    parameter = nn.Parameter(np.ones(2))
    gradients = GradientSum([parameter], Recorded())
    gradients.backward((parameter * 2).sum(), 1)
    with pytest.raises(RuntimeError, match="call zero_grad"):
        gradients.backward((parameter * 2).sum(), 1)
    parameter.grad = np.ones(2)  # this rank's own, of an earlier backward: added
    gradients.backward((parameter * 2).sum(), 1)
    assert parameter.grad.tolist() == [2 * (1 + 1)] * 2


def test_a_parameter_of_another_dtype_is_refused():
    parameter = nn.Parameter(np.ones(2))
    gradients = GradientSum([parameter], Recorded())
    parameter.data = parameter.data.astype(np.float32)
    with pytest.raises(ValueError, match=r"is float32 \(2,\), but its parameter was float64"):
        gradients.backward((parameter * 2).sum(), 1)
