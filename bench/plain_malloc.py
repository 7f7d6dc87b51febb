"""To be imported before cupynn: glibc's malloc then stays as PyTorch's users have it, for all contenders.

cupynn tells it to keep what is freed, for the whole process. In one process that would speed up a peer whose hidden
arrays are large as well, in a way that no process of its own has. A malloc that is tuned cupynn leaves alone.
"""

import os

os.environ["MALLOC_ARENA_TEST"] = "8"  # glibc's default
