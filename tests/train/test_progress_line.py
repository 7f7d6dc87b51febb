"""The line of progress: what it says on a terminal, and that nothing else gets it."""

import io
import os
import re
import subprocess
import sys

import pytest

from cupynn.kernels.runtime import mode
from cupynn.train import progress_line
from cupynn.train.evaluation import Score
from cupynn.train.progress import Progress
from cupynn.train.progress_line import ProgressLine, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """time.monotonic as the line reads it, set by hand."""
    now = [1000.0]
    monkeypatch.setattr(progress_line.time, "monotonic", lambda: now[0])
    return now


def shown(terminal):
    """The last text that was drawn."""
    return terminal.getvalue().split("\r")[-1]


def screen(text):
    """What one line of a terminal shows after `text`."""
    cells, place = [], 0
    for letter in text:
        if letter == "\r":
            place = 0
            continue
        cells[place : place + 1] = [letter]
        place += 1
    return "".join(cells).rstrip()


def test_what_a_terminal_gets(monkeypatch, clock):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(progress_line, "memory", lambda: "312 MB")
    monkeypatch.setenv("COLUMNS", "200")
    line = ProgressLine(epochs=10, images=1000)
    progress = Progress(epoch=2, step=5, seconds=0.5)
    with line:
        line.show(progress, 20, 250, Score(0.125, 0.962))
        # 7750 images are left, at the epoch's 500 images/s: 15.5 s
        said = "epoch 3/10  step 5/20  loss 0.1250  accuracy 96.2%  500 images/s  0:16 left  312 MB"
        assert shown(sys.stdout) == said
        monkeypatch.setenv("COLUMNS", "80")
        line.show(progress, 20, 250, Score(0.125, 0.962))
        assert shown(sys.stdout) == said.replace("  ", " ")
        monkeypatch.setenv("COLUMNS", "40")
        line.show(progress, 20, 250, Score(0.125, 0.962))
        assert shown(sys.stdout) == said.replace("  ", " ")[:39]
        assert screen(sys.stdout.getvalue()) == shown(sys.stdout)  # nothing of the longer ones is left
        monkeypatch.setenv("COLUMNS", "200")
        clock[0] += 10
        progress.epoch, progress.step, progress.seconds = 3, 1, 0.1
        line.show(progress, 20, 50, Score(0.1, 0.97))
        # 800 images in 10 s, evaluation and all; 6950 are left: 86.9 s
        assert "epoch 4/10  step 1/20" in shown(sys.stdout) and "1:27 left" in shown(sys.stdout)
        progress.epoch = 1  # it went back to a checkpoint: as at first, with 8950 images left at 500 images/s
        line.show(progress, 20, 50, Score(0.1, 0.97))
        assert "0:18 left" in shown(sys.stdout)
    assert screen(sys.stdout.getvalue()) == ""  # gone behind the block


@pytest.mark.parametrize(("terminal", "quiet"), [(False, False), (True, True)])
def test_nothing_without_a_terminal_and_when_quiet(monkeypatch, terminal, quiet):
    monkeypatch.setattr(sys, "stdout", Terminal() if terminal else io.StringIO())
    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressLine(10, 1000, quiet) as line:
        line.show(Progress(), 20, 250, Score(0.1, 0.9))
    assert sys.stdout.getvalue() == sys.stderr.getvalue() == ""


def test_durations():
    wanted = {0: "0:00", 59.6: "1:00", 3599: "59:59", 3600: "1:00:00", 86_399: "23:59:59", 90_061: "1 d 1:01"}
    assert {seconds: duration(seconds) for seconds in wanted} == wanted


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_memory_is_what_the_process_has_resident():
    """In a process of its own, which keeps no freed memory that the block could go to."""
    script = """
from cupynn.train.progress_line import memory
print(memory()); block = bytearray(b"x" * 50_000_000); print(memory())
"""
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    before, after = (float(line.removesuffix(" MB")) for line in printed.splitlines())
    assert 40 < after - before < 70


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_run_on_a_real_terminal_and_without_one(tmp_path):
    """On 80 columns the line stays one line; without a terminal there are the lines of the epochs only."""
    pytest.importorskip("sklearn", reason="the 8x8 digits lie inside scikit-learn")
    import fcntl
    import pty
    import struct
    import termios

    kernels = "reference" if mode() == "reference" else "compiled"  # under the checker it would take minutes
    script = f"""
import sys
from cupynn import cli
from cupynn.train import loop
loop.LOOK_EVERY = 0
words = "train smallnet --data digits8x8 --option kernel_size=5 --epochs 2 --device cpu --run"
sys.exit(cli.main([*words.split(), {str(tmp_path)!r} + "/" + sys.argv[1]]))
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    options = {"env": {**environment, "CUPYNN_KERNELS": kernels, "TERM": "xterm"}, "stdin": subprocess.DEVNULL}
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", script, "pty"], stdout=theirs, stderr=theirs, **options)
    os.close(theirs)
    text = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        text += part
    os.close(ours)
    assert process.wait() == 0, text.decode()
    drawn = re.split(r"[\r\n]+", text.decode())
    assert any(
        re.search(r"epoch 2/2 +step \d+/23 +loss 0\.\d+ +accuracy \d+\.\d% +[\d,]+ images/s +\d:\d\d left", line)
        for line in drawn
    )
    assert all(len(line) < 80 for line in drawn if "step" in line)
    answer = subprocess.run(
        [sys.executable, "-c", script, "pipe"], capture_output=True, text=True, check=True, **options
    )
    assert "step" not in answer.stdout and answer.stdout.count("\n") == 4 and answer.stderr == ""


@pytest.mark.parametrize("reader", ["gone", "full"])
def test_a_run_goes_on_where_nobody_reads_any_more(tmp_path, reader):
    """The process that reads its output is gone, or the disk that it goes to is full."""
    pytest.importorskip("sklearn", reason="the 8x8 digits lie inside scikit-learn")
    if reader == "full" and not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    command = [sys.executable, "-m", "cupynn", "train", "smallnet", "--data", "digits8x8", "--option", "kernel_size=5"]
    command += ["--epochs", "2", "--batch-size", "300", "--device", "cpu", "--run", str(tmp_path / "run")]
    if reader == "gone":
        end, stdout = os.pipe()
        os.close(end)
    else:
        stdout = os.open("/dev/full", os.O_WRONLY)
    try:
        run = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(stdout)
    assert (run.returncode, run.stderr) == (0, "")
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 2
