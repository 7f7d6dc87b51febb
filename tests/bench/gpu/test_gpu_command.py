"""`python -m bench gpu` from end to end on a stand-in for a GPU, with tiny batches. No time is asserted."""

import json
import os
import select
import sys

import pytest

from bench.gpu import found, parts, sanitize
from bench.gpu.results import KEYS, Results, beside_floor, rates
from cupynn.device import cuda_available
from cupynn.kernels.runtime import nvrtc

ROWS = {  # what a row of each kind has, where nothing failed and there is no PyTorch
    "ceilings": {"name", "unit", "per_second", "seconds"},
    "kernels": {"kernel", "layer", "pass", "dtype", "shape", "bytes", "operations", "seconds", "rounds"}
    | {"floor_seconds", "of_floor", "bound"},
    "networks": {"network", "precision", "batch", "image", "parameters", "seconds", "rounds", "images_per_second"}
    | {"peak_bytes", "pool_bytes", "captured_seconds", "to_captured"},
}
GPU = found.Gpu("A GPU", "9.0", "580.1", "14.2.0", "13.0", 16 << 30, 1 << 20, 10)


def bench(on_stand_in, path, names, *more, **variables):
    options = ["--batch", "1", "--rounds", "3", "--json", path, "--parts", names, *more]
    done = on_stand_in("-m", "bench", "gpu", *options, **variables)
    return done, json.loads(path.read_text())


def test_it_says_what_it_found_and_measures_it(on_stand_in, tmp_path):
    path = tmp_path / "figures.json"
    done, figures = bench(on_stand_in, path, "ceilings,contraction,conv 1x1", "--no-compile")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "Stand-in GPU (compute capability 9.0, 16 GiB)" in done.stdout
    assert figures["bench"] == "gpu" and figures["machine"]["gpu"]["name"] == "Stand-in GPU"
    assert figures["batch"] == 1 and 0 < figures["seconds"] < figures["budget_seconds"] == 540
    for kind in ("ceilings", "kernels"):
        assert figures[kind]
        for row in figures[kind]:
            assert row.keys() - {"peak"} == ROWS[kind], row
            assert all(value > 0 for value in row.values() if isinstance(value, (int, float)))
    assert [row["name"] for row in figures["ceilings"]][:2] == ["copy", "multiply-add"]
    assert len(figures["ceilings"]) == 6
    kernels = {row["kernel"] for row in figures["kernels"]}
    assert {"contraction FC", "DO-Conv composition", "conv 1x1 pointwise", "conv 1x1 im2col"} <= kernels
    assert [each["state"] for each in figures["parts"]] == ["done"] * 3
    for picture in ("figures-roofline.svg", "figures-roofline-dark.svg"):
        pytest.importorskip("matplotlib")
        assert (tmp_path / picture).stat().st_size > 10_000


def test_networks_are_timed_in_every_precision(on_stand_in):
    program = """if True:
        import json
        from bench.gpu import steps
        from bench.networks.cases import GPU_CASES, Case
        from cupynn import device

        GPU_CASES["SmallNet"] = Case("smallnet", {"kernel_size": 3})
        device.set_default_device("cuda")
        print(json.dumps(list(steps.rows("SmallNet", 2, 3, 1.0, None, []))))
    """
    done = on_stand_in("-c", program)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["precision"] for row in rows if row["precision"] != "TF32"] == ["float32", "float16", "bfloat16"]
    for row in rows:
        assert row.keys() == ROWS["networks"], row
        assert row["network"] == "SmallNet" and row["rounds"] == 3 and row["peak_bytes"] == 1024
        assert row["images_per_second"] == 2 / row["seconds"]


def test_a_broken_kernel_stops_nothing_else(on_stand_in, tmp_path):
    """One that breaks while it is timed fails in its rows; one that breaks before that takes its part with it."""
    path = tmp_path / "figures.json"
    done, figures = bench(on_stand_in, path, "WHE,pooling", "--no-compile", STAND_IN_FAILS="whe")
    assert done.returncode == 1
    assert [each["state"] for each in figures["parts"]] == ["done"] * 2
    broken = [row for row in figures["kernels"] if "failed" in row]
    assert len(broken) == 8 and {row["layer"].split()[0] for row in broken} == {"WHE"}
    assert all(row["failed"].startswith("RuntimeError: CUDA_ERROR_ILLEGAL_ADDRESS") for row in broken)
    assert sum("seconds" in row for row in figures["kernels"]) == 6
    assert "FAILED" in done.stdout and "illegal memory access" in done.stdout
    done, figures = bench(on_stand_in, path, "batch norm,pooling", STAND_IN_FAILS="batch_norm")
    assert done.returncode == 1
    assert {each["part"]: each["state"] for each in figures["compiling"]} == {"batch norm": "failed", "pooling": "done"}
    assert [each["state"] for each in figures["parts"]] == ["failed", "done"]
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in figures["parts"][0]["why"]
    assert len(figures["kernels"]) == 6 and not any("of_floor" in row for row in figures["kernels"])


def test_what_the_budget_does_not_reach_is_said(on_stand_in, tmp_path):
    done, figures = bench(on_stand_in, tmp_path / "figures.json", "ceilings,WHE", "--budget", "1")
    assert done.returncode == 0
    assert [each["state"] for each in figures["parts"]] == ["skipped"] * 2
    assert "No time was left for\n  ceilings: skipped, the budget was used up\n  WHE:" in done.stdout
    assert not figures["kernels"] and "no roofline" in done.stdout


def test_a_part_that_takes_too_long_is_ended():
    begun = []
    state = parts.run(parts.parts()[0], 0.01, begun.append, rounds=3, limit=1.0)
    assert state["state"] == "stopped" and state["why"] == "not done in 0 s" and not begun


def test_what_there_is_no_time_to_compile_is_said():
    compiled, states = parts.warm(parts.parts()[:3], 2, 0.01, 1)
    assert not compiled
    assert [(each["part"], each["state"]) for each in states] == [("WHE", "skipped"), ("cross-layer", "skipped")]


def test_rows_are_in_the_file_as_soon_as_they_are_known(tmp_path):
    path = tmp_path / "figures.json"
    results = Results(path, GPU, 4, 60.0)
    results.add(
        {"kernel": "k", "dtype": "float32", "shape": "4", "pass": "forward", "bytes": 10, "operations": 40}
        | {"seconds": 2.0}
    )
    results.add({"name": "copy", "unit": "bytes", "per_second": 10.0, "seconds": 1.0})
    results.add({"name": "multiply-add", "unit": "operations", "per_second": 40.0, "seconds": 1.0})
    (row,) = json.loads(path.read_text())["kernels"]
    assert row["floor_seconds"] == 1.0 and row["of_floor"] == 0.5
    results.add({**row, "compile_seconds": 4.0})  # the same row, again
    assert [each["compile_seconds"] for each in json.loads(path.read_text())["kernels"]] == [4.0]
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_floors():
    ceilings = [{"name": "copy", "per_second": 10.0}, {"name": "multiply-add", "per_second": 100.0}]
    more = [{"name": "float32 product", "per_second": 120.0}, {"name": "TF32 product", "per_second": 1000.0}]
    known = rates([*ceilings, *more, {"name": "float16 product", "failed": "not supported"}])
    assert known["bytes"] == 10.0 and known["operations"] == 120.0 and "float16 product" not in known
    row = {"seconds": 4.0, "bytes": 20, "operations": 100}
    assert beside_floor(row, rates(ceilings)) == {"floor_seconds": 2.0, "of_floor": 0.5, "bound": "bytes"}
    assert beside_floor(row | {"operations": 1000, "bytes": 1}, known)["of_floor"] == 1000 / 120 / 4
    assert beside_floor(row | {"operations": 1000, "bytes": 1, "peak": "TF32 product"}, known)["of_floor"] == 0.25
    assert beside_floor(row | {"peak": "float16 product"}, known) == beside_floor(row, rates(ceilings[:1])) == {}
    assert set(KEYS) == set(ROWS)


@pytest.mark.skipif(cuda_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(capsys):
    from bench.gpu import main

    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("no NVIDIA GPU found")
    assert found.main([]) == 1
    with pytest.raises(SystemExit) as ended:
        main(["--parts", "nonsense"])
    assert ended.value.code == 2


def test_a_file_is_named_after_the_gpu():
    assert found.Gpu("NVIDIA H200", "9.0", "580.1", "14.2.0", "13.0", 1, 1, 1).file_name == "nvidia-h200"
    assert found.Gpu("NVIDIA GeForce RTX 4090 (Laptop)", "8.9", "", "", "", 1, 1, 1).file_name == (
        "nvidia-geforce-rtx-4090-laptop"
    )


def test_every_kernel_under_the_sanitizer(on_stand_in, tmp_path):
    """A stand-in for compute-sanitizer runs the program, and says what the real one would."""
    program = tmp_path / "compute-sanitizer"
    program.write_text(SANITIZER)
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = on_stand_in("-m", "bench.gpu.sanitize", PATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(f"launched {len(nvrtc.kernel_names())} kernel files, ") == 2
    assert "ERROR SUMMARY: 0 errors" in done.stdout and "RACECHECK SUMMARY: 0 hazards" in done.stdout
    done = on_stand_in("-m", "bench.gpu.sanitize", PATH=path, FAULTS="3")
    assert done.returncode == 1 and "memcheck: status 9" in done.stdout and "racecheck: status 9" in done.stdout
    done = on_stand_in("-m", "bench.gpu.sanitize", PATH=os.path.dirname(sys.executable), CUDA_PATH=str(tmp_path / "no"))
    assert done.returncode == 0 and "compute-sanitizer is not installed" in done.stdout


def test_what_the_sanitizer_runs_ends_with_it(tmp_path, monkeypatch, capsys):
    """A pipe tells: it is at its end once nobody has it open any more."""
    program, pipe = tmp_path / "compute-sanitizer", tmp_path / "pipe"
    program.write_text(f"#!/bin/sh\nsleep 60 > '{pipe}' &\nwait\n")
    program.chmod(0o755)
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.setattr(sanitize, "SECONDS", 0.5)
    assert not sanitize.check(str(program), "memcheck")
    assert "not done in 0.5 s" in capsys.readouterr().out
    os.set_blocking(end, True)
    ready, _, _ = select.select([end], [], [], 10)
    assert ready and os.read(end, 1) == b""
    os.close(end)


SANITIZER = """#!/bin/sh
tool=$2
while [ "${1#/}" = "$1" ]; do shift; done
[ -n "$FAULTS" ] || "$@" || exit
case $tool in
  memcheck) echo "========= ERROR SUMMARY: ${FAULTS:-0} errors" ;;
  *) echo "========= RACECHECK SUMMARY: ${FAULTS:-0} hazards displayed" ;;
esac
[ -z "$FAULTS" ] || exit 9
"""
