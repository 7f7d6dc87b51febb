import numpy as np
import pytest

from cupynn import data
from cupynn.distributed import World, deal, shard


def world(rank, size):
    world = World()
    world.rank, world.size = rank, size
    return world


def images(count):
    pixels = np.arange(count * 12, dtype=np.uint32).astype(np.uint8).reshape(count, 1, 3, 4)
    labels = np.arange(count)
    return data.ArrayDataset(pixels, labels, tuple(map(str, labels)), "numbered", (0.5,), (0.2,))


def epoch(count, batch_size, **options):
    return data.batches(
        images(count), batch_size, shuffle=True, seed=4, epoch=2, transform=[data.HorizontalFlip()], **options
    )


@pytest.mark.parametrize("count, size", [(24, 2), (24, 4), (21, 4), (23, 2), (3, 2)])
@pytest.mark.parametrize("workers", [0, 2])
def test_parts_side_by_side_are_the_batches_of_one_process(count, size, workers):
    whole = list(epoch(count, 8))
    parts = [list(shard(epoch(count, 8, workers=workers), world(rank, size))) for rank in range(size)]
    assert all(len(part) == len(whole) for part in parts)
    for number, (pixels, labels) in enumerate(whole):
        assert np.array_equal(np.concatenate([part[number][0] for part in parts]), pixels)
        assert np.array_equal(np.concatenate([part[number][1] for part in parts]), labels)
        sizes = [len(part[number][1]) for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_parts_of_the_rest_of_an_epoch():
    """`start` leaves out global batches."""
    rest = [labels.tolist() for _, labels in shard(epoch(21, 8, start=1), world(1, 2))]
    assert rest == [labels.tolist() for _, labels in shard(epoch(21, 8), world(1, 2))][1:]


def test_dealt_batches_are_whole():
    whole = [labels.tolist() for _, labels in epoch(21, 4)]
    for rank in range(4):
        assert [labels.tolist() for _, labels in deal(epoch(21, 4), world(rank, 4))] == whole[rank::4]
    assert len(deal(epoch(3, 4), world(1, 2))) == 0


def test_alone_all_batches_are_ones_own():
    batches = epoch(21, 4)
    assert shard(batches, World()) is batches and deal(batches, World()) is batches


def test_batches_that_cannot_be_shared():
    with pytest.raises(ValueError, match="4 ranks share a batch, so batch_size must be a multiple; got 6"):
        shard(epoch(24, 6), world(0, 4))
    with pytest.raises(ValueError, match="last batch of an epoch has 3 images of 8, and each of 4 ranks needs one"):
        shard(epoch(19, 8), world(0, 4))
