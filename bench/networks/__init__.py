"""Whole networks at work: a training step and an inference batch on the CPU, beside PyTorch, eager and compiled.

A training step is zero_grad, forward, cross-entropy, backward and SGD with momentum; inference is the forward pass in
evaluation mode, without gradients. Expanded networks train through the contracted kernel here and layer by layer in
PyTorch, as the papers' authors run them; for inference both are contracted, and "of layers" compares with the network
left as it was trained. Every network runs in a process of its own, in which the contenders take turns.

Memory is the training step's: the highest resident memory of a fresh process over what is resident once library,
network, optimiser and batch are there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys

from bench.networks.cases import CASES
from bench.networks.summary import check_rows, rows_of, summary
from bench.report import counted, table, write
from bench.timing import THREADS

ROUNDS, BATCH, COMPILE_SECONDS = 9, 128, 600


def ask(task: str, threads: str, seconds: float | None = None, **arguments) -> dict | str:
    """The answer of `bench.networks.child`, or what went wrong in a few words."""
    command = [sys.executable, "-m", "bench.networks.child", json.dumps({"task": task, **arguments})]
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    # a group of its own: where time is up, what the child has started ends with it, as a compiler
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"not done in {seconds:g} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode:
        lines = errors.strip().splitlines()
        return lines[-1] if lines else f"ended with status {process.returncode}"
    return json.loads(output.splitlines()[-1])


def measure(name: str, options: argparse.Namespace, libraries: list[str]) -> dict:
    """All figures of one network; what could not be had is a text that says why."""
    common = {"name": name, "batch": options.batch}
    figures, timed = {}, list(libraries)
    if "compile" in libraries:
        done = ask("compile", options.threads, COMPILE_SECONDS, **common)
        if isinstance(done, str):
            figures["compile"] = done
            timed.remove("compile")
    answer = ask("time", options.threads, rounds=options.rounds, libraries=timed, **common)
    if isinstance(answer, str):
        return {"failed": answer}
    figures |= answer
    figures["shares"] = ask("shares", options.threads, **common)
    if options.memory:
        figures["memory"] = {
            library: ask("memory", options.threads, library=library, passes="training", **common)
            for library in libraries
            if library != "compile"
        }
    return figures


def main(arguments: list[str]) -> None:
    options = read_options(arguments)
    libraries = ["cupynn", *peers(options.compile)]
    if options.check:
        print(table(check_rows({name: ask("check", "1", name=name, batch=8) for name in options.networks}), "Peers"))
        return
    figures = {}
    for name in options.networks:
        print(f"{name} ...", file=sys.stderr, flush=True)
        figures[name] = measure(name, options, libraries)
        rows = rows_of(figures, options.batch)
        lines = summary(rows)
        if options.json:  # after each network, since all of them take their time
            kept = {"bench": "networks", "batch": options.batch, "rounds": options.rounds}
            kept |= {"rows": rows["training"], "inference": rows["inference"], "shares": rows["shares"]}
            machine = next((each["machine"] for each in figures.values() if "machine" in each), None)
            write(options.json, {"machine": machine, **kept, "summary": lines})
    how = f"Batch {options.batch}, 32x32 images, float32, {counted(options.threads, 'thread')}"
    how += f", {counted(options.rounds, 'round')}"
    print(table(rows["training"], f"A training step. {how}") + "\n")
    print(table(rows["inference"], f"Inference. {how}") + "\n")
    print(table(rows["shares"], "Where our training step's time goes, in percent (cupynn profile)") + "\n")
    print("\n".join(lines))


def peers(compiled: bool) -> list[str]:
    """PyTorch's ways to run a network, where it is installed."""
    try:
        import torch  # noqa: F401
    except ImportError:
        print("PyTorch is not installed: no peer is timed (pip install torch)")
        return []
    return ["eager", "compile"] if compiled else ["eager"]


def read_options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench networks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default=",".join(CASES), help=f"of {', '.join(CASES)}, joined by commas")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"images per batch (default {BATCH})")
    parser.add_argument("--threads", default=THREADS, help=f"threads of every library (default {THREADS})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"turns of each contender (default {ROUNDS})")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave out torch.compile")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave out the memory")
    parser.add_argument("--check", action="store_true", help="compare outputs and gradients with the peers', not times")
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args(arguments)
    options.networks = options.networks.split(",")
    if unknown := [name for name in options.networks if name not in CASES]:
        parser.error(f"there is no network {unknown[0]!r}; there are {', '.join(CASES)}")
    return options
