"""cupynn: hand-written CUDA kernels and a small autograd, for networks that train wide and ship compact.

    import cupynn
    model = cupynn.models.create("smallnet", kernel_size=7, expand="ck", rate=4)
    ...  # train it: cupynn.train.fit, or a loop of your own
    compact = cupynn.contract(model)
    cupynn.verify_contraction(model, compact, (3, 32, 32))

Arrays are NumPy's, or CuPy's on a GPU.
"""

__version__ = "0.1.0"

from cupynn import autograd, data, models, nn, ops, optim
from cupynn.autograd import Tensor, from_dlpack, no_grad, tensor
from cupynn.device import default_device, manual_seed, set_default_device, use_device
from cupynn.export import export_onnx
from cupynn.reparam import contract, expand, verify_contraction
from cupynn.serialization import load, save
from cupynn.step_graph import captured
from cupynn.weights import load_weights

__all__ = [
    "Tensor",
    "autograd",
    "captured",
    "contract",
    "data",
    "default_device",
    "expand",
    "export_onnx",
    "from_dlpack",
    "load",
    "load_weights",
    "manual_seed",
    "models",
    "nn",
    "no_grad",
    "ops",
    "optim",
    "save",
    "set_default_device",
    "tensor",
    "use_device",
    "verify_contraction",
]
