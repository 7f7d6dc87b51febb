"""`cupynn ARGUMENTS` with one more network, for test_train_on_ranks.py.

train_ranks.py FOLDER ARGUMENTS...: rank R first leaves the number of its process in FOLDER/processR.
"""

import os
import pathlib
import sys

from cupynn import cli, nn
from cupynn.models.registry import register


@register("tiny")
class Tiny(nn.Sequential):
    """A convolution, batch norm, dropout of elements with probability `dropout`, and a linear layer."""

    def __init__(self, classes: int = 10, in_channels: int = 1, dropout: float = 0.0):
        layers = [nn.Conv2d(in_channels, 4, 5, stride=2, padding=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
        super().__init__(*layers, nn.Dropout(dropout), nn.Linear(64, classes))
        self.input_shape = (in_channels, 8, 8)


if __name__ == "__main__":
    folder, *arguments = sys.argv[1:]
    rank = os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", "0"))
    pathlib.Path(folder, f"process{rank}").write_text(f"{os.getpid()}.")
    sys.exit(cli.main(arguments))
