"""Runs whose steps are launched as CUDA graphs, on a GPU, against runs whose steps just run."""

import dataclasses

import numpy as np
import pytest

import cupynn
from cupynn import nn
from cupynn.data import ArrayDataset
from cupynn.device import cuda_available, to_numpy, use_device
from cupynn.train import RunFolder, Settings, fit

SETTINGS = Settings(epochs=2, batch_size=8, lr=0.05, clip_norm=2.0, crop=1, workers=1, keep=0)


def dataset(count, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    return ArrayDataset(pixels, rng.integers(0, 5, count), tuple("abcde"), "noise train", (0.5,) * 3, (0.25,) * 3)


@pytest.mark.gpu
@pytest.mark.skipif(not cuda_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_run_with_graphs_gives_the_same_bits(tmp_path, precision):
    results = []
    for graph in (False, True):
        with use_device("cuda"):
            cupynn.manual_seed(0)
            body = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2)
            model = nn.Sequential(*body, nn.Dropout2d(0.2), nn.Flatten(), nn.Linear(128, 5))
            settings = dataclasses.replace(SETTINGS, precision=precision, cuda_graph=graph)
            fit(model, dataset(44, 1), dataset(10, 2), settings, RunFolder(tmp_path / str(graph)), quiet=True)
            results.append({name: to_numpy(array) for name, array in model.state_dict().items()})
    for name, array in results[0].items():
        np.testing.assert_array_equal(array, results[1][name], err_msg=name)
