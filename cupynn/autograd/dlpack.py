"""Arrays of other libraries, shared and not copied, by the DLPack protocol."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupynn.autograd.tensor import Tensor

HOST, GPU = (1, 3), (2, 13)  # DLPack's numbers: memory of the host, also pinned; of CUDA, also managed


def from_dlpack(x: Any) -> Tensor:
    """A leaf that shares the memory of `x`, an array of NumPy, CuPy, PyTorch or any library with `__dlpack__`.

    Who writes to one writes to the other; but NumPy 2.0 makes the tensor's array read-only, and so do later ones where
    the other library knows the protocol's first version only. What lies on a GPU becomes a CuPy array. A library with a
    graph of its own refuses to hand over what requires grad (BufferError): pass x.detach().

    Raises TypeError where x has no `__dlpack__` or a type that NumPy has not (bfloat16 for one), BufferError for memory
    of another kind of device.
    """
    if not hasattr(x, "__dlpack__") or not hasattr(x, "__dlpack_device__"):
        raise TypeError(f"from_dlpack: x must have __dlpack__ and __dlpack_device__; {type(x).__name__} has not")
    kind, _ = x.__dlpack_device__()
    if kind in HOST:
        library = np
    elif kind in GPU:
        import cupy as library
    else:
        raise BufferError(
            f"from_dlpack: x lies on a device of DLPack's kind {int(kind)}; NumPy and CuPy know {HOST + GPU}"
        )
    try:
        array = library.from_dlpack(x)
    except RuntimeError as error:  # what NumPy says of a type it has not
        raise TypeError(f"from_dlpack: {error}") from error
    return Tensor(array)
