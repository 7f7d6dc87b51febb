"""Tiny runs, trained once."""

import pytest

import cupynn
from cupynn import cli

pytest.importorskip("sklearn", reason="the 8x8 digits lie inside scikit-learn")

DATA = "--data digits8x8 --batch-size 128 --lr 0.02 --device cpu --seed 3"
NETWORKS = {
    "plain": "smallnet --epochs 2 --keep 9",
    "ck": "smallnet --expand ck --rate 2 --epochs 1",
    "whe": "cifar_resnet --option depth=8 --option whe=4 --epochs 1",
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Folders of runs by name."""
    folder, before = tmp_path_factory.mktemp("runs"), cupynn.default_device()
    try:
        for name, network in NETWORKS.items():
            assert cli.main([*f"train {network} {DATA} --run".split(), str(folder / name)]) in (0, None)
    finally:
        cupynn.set_default_device(before)
    return {name: folder / name for name in NETWORKS}


@pytest.fixture
def run(command):
    """Run `cupynn analyse` in this process: status, stdout, stderr."""
    return lambda *arguments: command("analyse", *arguments, "--device", "cpu")
