"""Train a network on a data set in memory, evaluate it, time it, draw what happened.

    from cupynn.train import RunFolder, Settings, fit
    train_set, test_set = cupynn.data.load("digits")
    model = cupynn.models.create("smallnet", in_channels=1, image_size=28)
    fit(model, train_set, test_set, Settings(epochs=5), RunFolder("runs/first"))
    # and where that was killed:
    fit(model, train_set, test_set, Settings(epochs=5), RunFolder.reopen("runs/first"), resume=True)

It ends with the same bits as a run that was never killed.
"""

from cupynn.train.confusion import Confusion, draw_confusion
from cupynn.train.curves import draw_curves
from cupynn.train.diagnosis import Diverged
from cupynn.train.environment import environment, versions
from cupynn.train.evaluation import Score, evaluate
from cupynn.train.events import Events
from cupynn.train.interruption import Interrupted
from cupynn.train.loop import fit
from cupynn.train.run_folder import RunFolder, read_config
from cupynn.train.settings import Settings
from cupynn.train.speed import throughput

__all__ = [
    "Confusion",
    "Diverged",
    "Events",
    "Interrupted",
    "RunFolder",
    "Score",
    "Settings",
    "draw_confusion",
    "draw_curves",
    "environment",
    "evaluate",
    "fit",
    "read_config",
    "throughput",
    "versions",
]
