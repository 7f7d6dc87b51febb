"""Every kernel once under compute-sanitizer, on a GPU: memory accesses out of bounds, races in shared memory.

    python -m bench.gpu.sanitize

The launches are those of tests/kernels/gpu/launch_all.py. Ends with status 1 where a tool reports errors or does not
end; 0 where compute-sanitizer is not installed, which is said.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "kernels" / "gpu" / "launch_all.py"
# API errors: libraries ask for things that may not be there, which is no error of a kernel
TOOLS = {"memcheck": ("--report-api-errors", "no"), "racecheck": ("--racecheck-report", "analysis")}
ERRORS, SECONDS, LINES = 9, 600, 40
SUMMARY = re.compile(r"^=+ (?:ERROR SUMMARY|RACECHECK SUMMARY): .*$", re.MULTILINE)


def sanitizer() -> str | None:
    """compute-sanitizer, on the PATH or where CUDA's toolkit puts it."""
    folders = [os.environ.get("PATH", ""), f"{os.environ.get('CUDA_PATH', '/usr/local/cuda')}/bin"]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def check(program: str, tool: str) -> bool:
    """Run all launches under a tool, and say what it found; whether that is nothing."""
    print(f"compute-sanitizer {tool} ...", flush=True)
    command = [program, "--tool", tool, *TOOLS[tool], "--error-exitcode", str(ERRORS), sys.executable, str(PROGRAM)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    # A group of its own: the program that it runs ends with it, and leaves the GPU to what comes next.
    with subprocess.Popen(command, env=environment, start_new_session=True, **streams) as process:
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            print(f"  not done in {SECONDS} s")
            return False
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    launched = re.search(r"^launched .*$", output, re.MULTILINE)
    summary = SUMMARY.findall(output)
    if process.returncode == 0 and launched and summary:
        print(f"  {launched[0]}: {summary[-1].lstrip('= ')}")
        return True
    print("\n".join(f"  {line}" for line in output.strip().splitlines()[-LINES:]))
    print(f"  {tool}: status {process.returncode}")
    return False


def main() -> int:
    program = sanitizer()
    if program is None:
        print("compute-sanitizer is not installed (it comes with CUDA's toolkit): no kernel was checked by it")
        return 0
    right = [check(program, tool) for tool in TOOLS]  # all of them, whatever the first one says
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
