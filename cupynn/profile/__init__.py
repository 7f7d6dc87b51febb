"""Where the time of a step goes: by operation, by kernel beside its floor, and what is left to Python.

    from cupynn.profile import profile

    found = profile(step)          # step() does one training step, or one inference
    print(found.seconds, found.shares())

`cupynn profile NETWORK` prints it all. `steps.py` makes steps of a network, `recorder.py` keeps spans of time,
`watch.py` puts them round what a step goes through, `costs.py` knows what a kernel must move and compute, `floors.py`
what the machine can do, `trace.py` writes a file for chrome://tracing and ui.perfetto.dev.
"""

from cupynn.profile.measure import Profile, chain_overhead, profile
from cupynn.profile.tables import KernelRow, OperationRow
from cupynn.profile.trace import trace

__all__ = ["KernelRow", "OperationRow", "Profile", "chain_overhead", "profile", "trace"]
