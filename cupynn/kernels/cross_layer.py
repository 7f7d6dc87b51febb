"""Cross-layer depthwise convolution: channel by channel, a weighted sum of the outputs of preceding layers.

    y[n, c] = bias[c] + sum_l weight[l, c] * (h_l[n, c] - mean[l, c])            [DelugeNets, equation 1, with mean 0]

h_l and y (N, C, H, W), weight and mean (L, C), bias (C). The arrays h_l are read where they are: nothing is stacked.
Where h_l are float16 or bfloat16, so are y and gradients to h_l, and all else is float32.
With weight / sqrt(variance + eps) for the weight this is a sum of batch norms, the form of the DelugeNets authors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cupynn import recording
from cupynn.device import Array, compute_dtype, is_floating, wide, xp_of
from cupynn.kernels import batch_norm, runtime

MOST_LAYERS = 64
# Elements that a block of `forward` writes, elements of the gradient that a block of `backward` reads.
CPU = {"elements": 16384, "chunk": 16384}
GPU = {"elements": 2048, "chunk": 8192}
STRIPS = {False: 4, True: 1}  # per thread and layer, by whether on a GPU
NOTHING, WRITE, ADD = range(3)  # of cross_layer.cu


def forward(inputs: Sequence[Array], weight: Array, bias: Array | None = None, mean: Array | None = None) -> Array:
    """y (N, C, H, W); see the top of this file. Raises ValueError or TypeError for arrays that do not fit."""
    check(inputs, weight, bias, mean)
    x = inputs[0]
    if x.size == 0 or not runtime.compiled_for(*inputs, weight, bias, mean, narrow=True):
        return reference_forward([wide(h) for h in inputs], weight, bias, mean).astype(x.dtype, copy=False)
    xp, (n, c), plane = xp_of(x), x.shape[:2], math.prod(x.shape[2:])
    inputs, weight, bias, mean = _contiguous(*inputs), *_contiguous(weight, bias, mean)
    gpu, y = runtime.is_gpu(x), xp.empty(x.shape, x.dtype)
    base, table = _table(inputs, xp, weight)
    grid, block, per_block = _planes(x)
    kernel = f"forward<{runtime.ctype(x)}, {_lanes(x)}, {STRIPS[gpu]}>"
    sizes = (len(inputs), c, plane, np.int64(n * c), per_block)
    runtime.launch("cross_layer", kernel, grid, block, (base, table, weight, mean, bias, y, *sizes), outputs=(y,))
    return y


def backward(
    grad: Array,
    inputs: Sequence[Array],
    weight: Array,
    mean: Array | None = None,
    outputs: Sequence[Array | None] | None = None,
    add: Sequence[bool] | None = None,
) -> tuple[Array, Array]:
    """(dweight (L, C), dbias (C)): sum over n, h, w of grad * (h_l - mean), and of grad.

    `outputs` are the arrays for the gradients of the inputs, weight[l] * grad: written, or with add[l] added to. None
    stands for one that is not needed. It all happens in one pass over grad and the inputs.
    """
    check(inputs, weight, mean=mean)
    x = inputs[0]
    outputs = [None] * len(inputs) if outputs is None else list(outputs)
    add = [False] * len(inputs) if add is None else list(add)
    if not len(inputs) == len(outputs) == len(add):
        raise ValueError(
            f"cross_layer: needs one output and one flag per input; got {len(inputs)} inputs, {len(outputs)} outputs, "
            f"{len(add)} flags"
        )
    for name, array in {"grad": grad, **{f"output {i}": a for i, a in enumerate(outputs) if a is not None}}.items():
        if array.shape != x.shape or array.dtype != x.dtype:
            raise ValueError(
                f"cross_layer: {name} must be {x.dtype} of shape {x.shape}; got {array.dtype} of shape {array.shape}"
            )
    in_place = all(a is None or a.flags.c_contiguous for a in outputs)
    if x.size == 0 or not in_place or not runtime.compiled_for(grad, *inputs, weight, mean, *outputs, narrow=True):
        return reference_backward(wide(grad), [wide(h) for h in inputs], weight, mean, outputs, add)
    xp, (n, c), plane, layers = xp_of(x), x.shape[:2], math.prod(x.shape[2:]), len(inputs)
    gpu, lanes, threads = runtime.is_gpu(x), _lanes(x), runtime.threads(like=x, gpu=64)
    inputs, grad, weight, mean = _contiguous(*inputs), *_contiguous(grad, weight, mean)
    chunk = (GPU if gpu else CPU)["chunk"]
    # As many neighbouring channels of an image as stay in the first cache, and their sums in the second; on a GPU one,
    # or as many as keep within a grid's second axis.
    group = -(-c // 65535) if gpu else max(1, min(c, 4096 // plane, 1024 // (layers + 1)))
    images = min(n, max(1, chunk // (plane * group)))
    grid = (-(-n // images), -(-c // group))
    across = min(threads, 1 << (-(-plane // lanes) - 1).bit_length())
    block = (across, threads // across if group > 1 else 1)
    shared = group * (layers + 1) * across * lanes * weight.dtype.itemsize
    partial, total = xp.empty((grid[0], layers + 1, c), weight.dtype), xp.empty((layers + 1, c), weight.dtype)
    wanted = [NOTHING if a is None else ADD if added else WRITE for a, added in zip(outputs, add, strict=True)]
    base, table = _table(inputs, xp, weight)
    dbase, dtable = _table(outputs, xp, weight)
    args = (grad, base, table, dbase, dtable, recording.upload(np.array(wanted, np.int32), grad), weight, mean, partial)
    args += (layers, n, c, plane, images, group)
    written = (partial,) if dbase is None else (partial, dbase)
    touched = () if dbase is None or ADD not in wanted else (dbase,)
    kernel = f"backward<{runtime.ctype(x)}, {lanes}>"
    runtime.launch("cross_layer", kernel, grid, block, args, shared, outputs=written, touches=touched)
    _spread(dbase, outputs)
    span = 1024
    args, blocks = (partial, total, total.size, grid[0], span), -(-total.size // span)
    runtime.launch("cross_layer", f"combine<{runtime.ctype(total)}>", blocks, threads, args, outputs=(total,))
    return total[:layers], total[layers]


def centre(dh: Array, h: Array, mean: Array, shift: Array, slope: Array) -> None:
    """dh += shift + slope * (h - mean), per channel and in place: batch norm's gradient through its statistics."""
    if dh.size == 0 or not dh.flags.c_contiguous or not runtime.compiled_for(dh, h, mean, shift, slope, narrow=True):
        dh += (_channels(shift) + _channels(slope) * (wide(h) - _channels(mean))).astype(dh.dtype, copy=False)
        return
    h, mean, shift, slope = _contiguous(h, mean, shift, slope)
    grid, block, per_block = _planes(h)
    planes, plane = np.int64(math.prod(h.shape[:2])), math.prod(h.shape[2:])
    args = (dh, h, mean, shift, slope, h.shape[1], plane, planes, per_block)
    runtime.launch("cross_layer", f"centre<{runtime.ctype(h)}>", grid, block, args, touches=(dh,))


def statistics(h: Array) -> tuple[Array, Array]:
    """(mean, biased variance) of every channel of h (N, C, H, W), each (C,). By batch_norm.cu, without normalising."""
    count = h.size // max(h.shape[1], 1)
    if count < 2:
        raise ValueError(
            f"cross_layer: batch statistics need more than one value per channel, N * H * W > 1; h has shape {h.shape}"
        )
    if not runtime.compiled_for(h, narrow=True):
        return batch_norm.reference_forward_train(wide(h), None, None, 0.0)[1:3]
    return batch_norm.statistics(h, 0.0)[:2]


def reference_forward(inputs, weight, bias=None, mean=None) -> Array:
    y = xp_of(weight).zeros(inputs[0].shape, weight.dtype)
    for layer, h in enumerate(inputs):
        y += _channels(weight[layer]) * (h if mean is None else h - _channels(mean[layer]))
    return y if bias is None else y + _channels(bias)


def reference_backward(grad, inputs, weight, mean=None, outputs=None, add=None) -> tuple[Array, Array]:
    dweight = xp_of(weight).empty(weight.shape, weight.dtype)
    for layer, h in enumerate(inputs):
        dweight[layer] = (grad * (h if mean is None else h - _channels(mean[layer]))).sum(axis=(0, 2, 3))
        if outputs is not None and outputs[layer] is not None:
            before = outputs[layer] if add[layer] else 0
            outputs[layer][...] = _channels(weight[layer]) * grad + before
    return dweight, grad.sum(axis=(0, 2, 3))


def cost(layers: int, shape: tuple[int, ...], itemsize: int = 4, added: int = 0) -> dict[str, tuple[int, int]]:
    """(bytes, operations) that each pass must cost. `added` of the layers' gradients are added to what is there."""
    elements = math.prod(shape)
    return {
        "forward": ((layers + 1) * elements * itemsize, 2 * layers * elements),
        "backward": ((2 * layers + 1 + added) * elements * itemsize, (4 * layers + 1) * elements),
    }


def instantiations() -> list[str]:
    """Every kernel that may be launched on a GPU."""
    return [
        name
        for t in ("float", "double", "Half", "BFloat16")
        for name in (f"forward<{t}, 1, {STRIPS[True]}>", f"backward<{t}, 1>", f"combine<{t}>", f"centre<{t}>")
        if name not in ("combine<Half>", "combine<BFloat16>")
    ]


def _lanes(x):
    return 1 if runtime.is_gpu(x) else runtime.vector_bytes(x) // compute_dtype(x.dtype).itemsize


def _planes(x):
    """(grid, block, planes per block) of the kernels that walk over planes."""
    plane, planes = math.prod(x.shape[2:]), math.prod(x.shape[:2])
    threads = runtime.threads(like=x)
    across = min(threads, 1 << (plane - 1).bit_length())
    per_block = max(1, (GPU if runtime.is_gpu(x) else CPU)["elements"] // plane)
    return -(-planes // per_block), (across, threads // across), per_block


def _table(arrays, xp, like):
    """(base, table) as cross_layer.cu reads them: None and addresses, or in checked mode one array and offsets."""
    if runtime.mode() == "checked":
        present = {id(a): a for a in arrays if a is not None}
        if not present:
            return None, xp.zeros(len(arrays), np.int64)
        places = {key: place * a.nbytes for place, (key, a) in enumerate(present.items())}
        offsets = [0 if a is None else places[id(a)] for a in arrays]
        return xp.stack(list(present.values())), xp.asarray(np.array(offsets, np.int64))
    interface = "__array_interface__" if xp is np else "__cuda_array_interface__"
    addresses = [0 if a is None else getattr(a, interface)["data"][0] for a in arrays]
    return None, recording.upload(np.array(addresses, np.int64), like)


def _spread(base, arrays):
    """Bring what a kernel wrote to checked mode's one array to where it belongs."""
    if base is not None:
        for array, written in zip({id(a): a for a in arrays if a is not None}.values(), base, strict=True):
            array[...] = written


def _contiguous(*arrays):
    return [None if a is None else xp_of(a).ascontiguousarray(a) for a in arrays]


def _channels(values):
    return values[:, None, None]


def check(inputs, weight, bias=None, mean=None):
    """Raise ValueError or TypeError naming the argument that does not fit the first input."""
    if not 1 <= len(inputs) <= MOST_LAYERS:
        raise ValueError(f"cross_layer_depthwise: needs 1 to {MOST_LAYERS} inputs; got {len(inputs)}")
    x = inputs[0]
    if x.ndim != 4 or not is_floating(x.dtype):
        error = ValueError if x.ndim != 4 else TypeError
        wanted = "inputs must be (N, C, H, W), float16, bfloat16, float32 or float64"
        raise error(f"cross_layer_depthwise: {wanted}; input 0 is {x.dtype} of shape {x.shape}")
    wanted = (len(inputs), x.shape[1])
    each = {f"input {i}": (h, x.shape) for i, h in enumerate(inputs)}
    each |= {"weight": (weight, wanted), "bias": (bias, wanted[1:]), "mean": (mean, wanted)}
    for name, (array, shape) in each.items():
        if array is not None and array.shape != shape:
            raise ValueError(
                f"cross_layer_depthwise: {len(inputs)} inputs, the first of shape {x.shape}, need {name} of shape "
                f"{shape}; it has shape {array.shape}"
            )
        dtype = x.dtype if name.startswith("input") else compute_dtype(x.dtype)
        if array is not None and array.dtype != dtype:
            raise TypeError(
                f"cross_layer_depthwise: {name} must be {dtype} where input 0 is {x.dtype}; it is {array.dtype}"
            )
