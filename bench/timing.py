"""Trustworthy times: what is compared takes turns in one process (`cupynn.profile.turns`), with threads that sleep."""

from __future__ import annotations

import os

# Idle threads must sleep, or the last contender's threads slow the next one down. To be set before NumPy loads.
THREADS = os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
os.environ.setdefault("OPENBLAS_NUM_THREADS", THREADS)
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# isort: split

from cupynn.profile.turns import Times, take_turns  # noqa: E402

__all__ = ["THREADS", "Times", "take_turns"]
