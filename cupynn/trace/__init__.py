"""A kernel, explained by running it: one block, step by step, as a GPU's warps would go.

    from cupynn.trace import trace

    block = trace(lambda: whe.forward(x, a, b, c, d))
    for row in block.rows:
        print(row)

`cupynn kernel whe --trace` prints it. Nothing here needs a GPU: `launch.py` finds the launch that one would get,
`recording.py` runs a block of it under the checker, which keeps every access (`kernels/runtime/recorder.h`), `warps.py`
puts accesses of threads together to those of warps, `traffic.py` counts sectors and bank conflicts, `arrays.py` and
`lines.py` know what was touched and where in the source, `pages.py` shows it all in a browser.
"""

from cupynn.trace.block import METHOD, Block, Row, trace
from cupynn.trace.launch import Launch, launches, reach
from cupynn.trace.pages import page

__all__ = ["METHOD", "Block", "Launch", "Row", "launches", "page", "reach", "trace"]
