import copy

import numpy as np
import pytest

from cupynn.distributed import World


@pytest.mark.parametrize("size", [2, 4])
def test_what_ranks_do_together(ranks, size):
    sum_of_ranks = size * (size - 1) // 2
    all_ranks = ranks(size, "collectives")
    for rank, seen in enumerate(all_ranks):
        assert seen["place"].tolist() == [rank, size, rank]
        assert seen["sum"].tolist() == [size * i + sum_of_ranks for i in range(5)]
        assert seen["started"].tolist() == [sum_of_ranks] * 3
        assert seen["table"].tolist() == [[r, 10 * r] for r in range(size)]
        assert seen["total"].tolist() == [sum_of_ranks, size / 2]
        assert seen["largest"].tolist() == [0, 1, 0]
        assert seen["first"] == "from 1"
        assert seen["copied"].tolist() == [0, 42]
        assert seen["broadcast"].tolist() == [7] * 4 + [3] + [0] * 6
    assert len({tuple(seen["drawn"]) for seen in all_ranks}) == size  # each rank draws numbers of its own


def test_alone_everything_stays_as_it_is():
    world = World()
    array = np.arange(3.0)
    world.sum(array)
    world.broadcast([array])
    assert array.tolist() == [0, 1, 2] and world.total(2, 0.5) == (2, 0.5) and world.largest(1, -2) == (1, -2)
    assert world.table(array).tolist() == [[0, 1, 2]] and world.copied("a") == world.first("a") == "a"
    assert copy.deepcopy(world) is world


def test_each_rank_of_a_computer_has_a_gpu_of_its_own(monkeypatch):
    world = World()
    assert world.device() is None
    world.size, world.local_rank = 4, 3
    monkeypatch.setattr("cupynn.distributed.world.cuda_available", lambda: True)
    assert world.device() == "cuda:3"
    monkeypatch.setattr("cupynn.distributed.world.cuda_available", lambda: False)
    assert world.device() == "cpu"


def test_refuses_what_cannot_be_summed():
    for add in (World().sum, World().start_sum):
        with pytest.raises(TypeError, match="only float32, float64, int64 can be summed over ranks; got float16"):
            add(np.zeros(3, np.float16))
        with pytest.raises(ValueError, match="must be contiguous"):
            add(np.zeros((3, 4))[:, 1:])
