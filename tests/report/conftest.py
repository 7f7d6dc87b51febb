"""One run of an expanded network, and its page, which takes seconds to make."""

import pytest

import cupynn
from cupynn import cli
from cupynn.report import report


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    pytest.importorskip("sklearn", reason="the 8x8 digits lie inside scikit-learn")
    folder = tmp_path_factory.mktemp("runs") / "first"
    network = "smallnet --data digits8x8 --option kernel_size=5 --expand ck --rate 2"
    with cupynn.device.use_device("cpu"):
        assert not cli.main(f"train {network} --epochs 2 --device cpu --run {folder}".split())
    return folder


@pytest.fixture(scope="session")
def markup(run):
    pytest.importorskip("matplotlib")
    with cupynn.device.use_device("cpu"):
        return report(run).markup()
