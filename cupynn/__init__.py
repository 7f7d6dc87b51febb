"""cupynn: hand-written CUDA kernels and a small autograd over NumPy and CuPy."""

from cupynn.device import default_device, manual_seed, set_default_device, use_device

__version__ = "0.1.0"

__all__ = ["default_device", "manual_seed", "set_default_device", "use_device"]
