"""`cupynn kernel`: the list of launches, a trace's text, what it refuses. Every kernel: tests/trace."""

import pytest

from cupynn.cli import main
from cupynn.kernels import runtime
from cupynn.trace import METHOD, lines

pytestmark = pytest.mark.skipif(runtime.find_compiler() is None, reason="no C++ compiler here")


def test_the_list(capsys):
    assert main(["kernel", "whe"]) == 0
    head, *rows, _ = capsys.readouterr().out.splitlines()
    assert head.split() == "kernel grid block shared bytes arrays".split()
    assert [row.split()[0] for row in rows] == ["0", "1", "2"]
    assert rows[0].split("  ", 1)[1].startswith("whe.cu: forward<float, 8, 4, 2, RELU> ")
    assert rows[0].split()[7:10] == ["1x4", "128", "1024"]  # a GPU's threads


@pytest.mark.skipif(lines.find_tool() is None, reason="no addr2line here")
def test_a_trace(capsys):
    """x is read once for all pixels and once for each pair of outputs; every sector is used."""
    assert main(["kernel", "whe", "--trace", "--steps", "0", "127"]) == 0
    text = capsys.readouterr().out
    printed = text.splitlines()
    assert printed[0] == "whe.cu: forward<float, 8, 4, 2, RELU>, block 0,0,0 of 1x4"
    assert printed[1] == "128 threads, 4 warps; 1024 bytes of dynamic shared memory"
    assert METHOD in printed
    reads = [line.split() for line in printed if line.startswith("  reads x ")]
    assert [read[2:] for read in reads] == [["4", "64", "32", "4", "4", "1"]] * 2
    assert any(line.endswith("xs[j] = strip.load(x + channel);") for line in printed)
    assert "all accesses of global memory: 800 sectors, least 800; of shared memory: " in text
    assert "\nthread 0, step by step\n" in text and "\nthread 127, step by step\n" in text
    steps = text.partition("thread 127, step by step\n")[2].splitlines()
    assert steps[0].split("  ")[-1] == "barrier"  # 64 units are staged by 64 threads
    assert steps[1].split("  ")[-1].startswith("reads x[1, 0, 7, 7] = ")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nonsense"], "there is no example of a kernel 'nonsense'; there are activations, "),
        (["sgd", "--trace", "--launch", "9"], "--launch 9: the example has launches 0 to 0"),
        (["sgd", "--trace", "--launch", "-1"], "--launch -1: the example has launches 0 to 0"),
        (["sgd", "--trace", "--block", "5"], "trace: block (5, 0, 0) was asked for"),
        (["sgd", "--trace", "--steps", "256"], "--steps 256: a block has threads 0 to 255"),
    ],
)
def test_bad_use(capsys, arguments, message):
    assert main(["kernel", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"cupynn: error: {message}")


def test_a_block_that_is_no_block(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["kernel", "sgd", "--trace", "--block", "0,x"])
    assert stopped.value.code == 2 and "expected X, X,Y or X,Y,Z, whole numbers from 0" in capsys.readouterr().err
