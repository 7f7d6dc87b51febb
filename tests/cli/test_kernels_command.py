"""cupynn kernels."""

import json
import subprocess
import sys

import pytest

from cupynn.cli import kernels, main


def test_the_list(capsys):
    assert main(["kernels", "--filter", "sgd.step<", "--filter", "float"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "sgd.step<float, false, false>" and lines[-1].startswith("3 instantiations;")


def test_the_report(capsys, tmp_path):
    pytest.importorskip("cupy", reason="CuPy is not installed")
    file = tmp_path / "report.json"
    chosen = ["--filter", "cross_entropy", "--filter", "float"]
    assert main(["kernels", "--compile", "--arch", "80", "90", *chosen, "--json", str(file)]) == 0
    head, *lines, last = capsys.readouterr().out.splitlines()
    assert head.split() == "kernel arch registers shared spilled stack threads occupancy".split()
    assert last.startswith("3 instantiations for 2 architectures: 0 spill registers, 0 have arrays in local memory; ")
    rows = json.loads(file.read_text())
    assert len(rows) == len(lines) == 6 and {row["architecture"] for row in rows} == {80, 90}
    for row, line in zip(rows, lines, strict=True):
        assert line.startswith(f"{row['kernel']}.{row['instantiation']}  ")
        shared = f"{row['static_shared']}+{row['dynamic_shared']}"
        spilled = f"{row['spill_stores']}/{row['spill_loads']}"
        numbers = row["architecture"], row["registers"], shared, spilled, row["stack"], row["threads"]
        assert line.split()[-7:] == [*map(str, numbers), f"{row['occupancy']:.2f}"]
        assert 0 < row["registers"] <= 255 and 0 < row["occupancy"] <= 1
    assert [*rows[0]] == [*kernels.Row._fields]


def test_a_kernel_is_left_out_of_what_is_too_old_for_it(capsys):
    pytest.importorskip("cupy", reason="CuPy is not installed")
    chosen = ["--filter", "reduce", "--filter", "tc"]
    assert main(["kernels", "--compile", "--arch", "70", "80", *chosen]) == 0
    _, row, left_out, last = capsys.readouterr().out.splitlines()
    assert row.split()[:2] == ["conv_tc.reduce", "80"] and left_out == "conv_tc is not for 70: it needs 80"
    assert last.startswith("1 instantiations for 2 architectures")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--filter", "nonsense"], "no kernel's name holds 'nonsense'"),
        (["--compile", "--arch", "35"], "--arch 35: known are 70, 72, 75, 80,"),
        (["--compile", "--arch", "70", "--filter", "conv_tc"], "conv_tc is not for 70: it needs 80"),
        (["--json", "report.json"], "--json goes with --compile"),
    ],
)
def test_bad_use(capsys, arguments, message):
    assert main(["kernels", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"cupynn: error: {message}")


def test_without_nvrtc_the_remedy_is_named():
    program = "import sys; sys.modules['cupy'] = None; from cupynn.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "kernels", "--compile", "--arch", "80", "--filter", "sgd"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 1 and answer.stderr.count("\n") == 1
    assert "pip install 'cupynn[nvrtc]'" in answer.stderr
