"""The floors of this machine, for the benchmarks: `cupynn.profile.floors`, once the threads' environment is set."""

from bench.timing import THREADS  # noqa: F401
from cupynn.profile.floors import Ceilings, measure

__all__ = ["Ceilings", "measure"]
