"""One network trained by several processes, each with its share of every batch.

`mpiexec -n 4 python -m mpi4py -m cupynn train ...` starts them; in a program of one's own, on every rank:

    world = distributed.join()
    world.broadcast(model.state_dict().values())
    distributed.synchronise_batch_norm(model, world)  # if batch norm is to see the whole batch
    gradients = distributed.GradientSum(model.parameters(), world)
    for images, labels in distributed.shard(data.batches(train_set, 128, shuffle=True, seed=0, epoch=0), world):
        optimizer.zero_grad()
        gradients.backward(ops.cross_entropy(model(Tensor(images)), labels), len(labels))
        optimizer.step()

A rank that raises ends all of them, which is what `-m mpi4py` is for; where one is killed, mpiexec ends the others,
and `cupynn train` says which checkpoint is the last.
Without a launcher the world is this process alone, and the same lines do what they do without a world.
"""

from cupynn.distributed.batch_norm import synchronise_batch_norm
from cupynn.distributed.gradients import GradientSum
from cupynn.distributed.launch import WorldError, join, launched_ranks
from cupynn.distributed.shares import deal, shard
from cupynn.distributed.world import World

__all__ = [
    "GradientSum",
    "World",
    "WorldError",
    "deal",
    "join",
    "launched_ranks",
    "shard",
    "synchronise_batch_norm",
]
