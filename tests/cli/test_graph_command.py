"""cupynn graph: what it writes and prints, and what it refuses. Run in this process."""

import pytest

import cupynn
from cupynn import cli

TINY = "--option kernel_size=5 --option in_channels=1 --image 16 --batch 2 --device cpu".split()


@pytest.fixture
def called(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def called(*words):
        before = cupynn.default_device()
        try:
            status = cli.main(["graph", *words]) or 0
        except SystemExit as stop:  # argparse's way out
            status = stop.code
        finally:
            cupynn.set_default_device(before)
        return status, *capsys.readouterr()

    return called


def test_an_expanded_network_is_drawn_beside_the_contracted_one(called, tmp_path):
    status, printed, _ = called("smallnet", *TINY, "--expand", "ck", "--rate", "2", "--out", "net.svg")
    assert status == 0
    first, second, last = printed.splitlines()
    assert first.startswith("smallnet, expanded: 16 records keep ")
    assert second.startswith("smallnet, contracted: 13 records keep ")
    assert last == "drawn in net.svg"
    text = (tmp_path / "net.svg").read_text()
    assert ">smallnet, expanded<" in text and ">smallnet, contracted<" in text and ">images 2x1x16x16<" in text


def test_a_plain_network_is_drawn_alone(called, tmp_path):
    status, printed, _ = called("smallnet", *TINY, "--depth", "1", "--out", "net.dot")
    assert status == 0 and printed.startswith("smallnet: 13 records keep ")
    assert (tmp_path / "net.dot").read_text().count("subgraph") == 1


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("smallnet", 2, "the following arguments are required: --out"),
        ("bignet --out a.svg", 2, "there is no network 'bignet'"),
        ("smallnet --batch 1 --device cpu --out a.png", 2, "must end with .svg, .html or .dot; it ends with '.png'"),
        ("smallnet --out nowhere/a.svg", 1, "--out nowhere/a.svg: there is no folder nowhere"),
        ("smallnet --depth 0 --out a.svg", 2, "--depth must be at least 1; got 0"),
        ("smallnet --batch 0 --out a.svg", 2, "--batch must be at least 1; got 0"),
    ],
)
def test_errors_are_one_line(called, tmp_path, words, status, message):
    found, _, error = called(*words.split())
    assert found == status and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
