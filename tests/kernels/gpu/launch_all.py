"""Launch every kernel on the GPU once or more, on small maps: what compute-sanitizer looks at.

Each array is an allocation of its own, as CuPy's pool would give a kernel neighbours to read by mistake unseen.
"""

import collections

import cupy
import numpy as np
import typical_calls

from cupynn import device
from cupynn.kernels import conv
from cupynn.kernels.runtime import gpu


def main():
    cupy.cuda.set_allocator(None)
    device.set_default_device("cuda")
    launched, launch = collections.Counter(), gpu.launch

    def counted(name, *args):
        launched[str(name)] += 1
        launch(name, *args)

    gpu.launch = counted
    if int(cupy.cuda.Device().compute_capability) < 80 and (method := conv.METHODS.get("tensor cores")):
        method.forward = method.input_gradient = method.weight_gradient = lambda *args: None  # it needs 8.0
    for dtype in (np.float32, np.float16):
        typical_calls.call_all(dtype, images=2, side=12)
    cupy.cuda.Device().synchronize()
    print(f"launched {len(launched)} kernel files, {launched.total()} launches")


if __name__ == "__main__":
    main()
