"""Networks as ONNX files, each compared with the network before it gets its name."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import cupynn
from cupynn.autograd import Tensor, no_grad
from cupynn.device import to_numpy, use_device, xp_of
from cupynn.export import elementary, layers, papers
from cupynn.export.graph import Graph, Node, Shape
from cupynn.export.trace import trace
from cupynn.nn import Module
from cupynn.nn.evaluation import evaluation_mode
from cupynn.reparam import contract
from cupynn.serialization import replacing

OPSET, IR_VERSION = 17, 8  # older than what onnx writes by itself, which no released onnxruntime reads
TABLE = {**elementary.TABLE, **layers.TABLE, **papers.TABLE}
TRACED = (1, 2)  # images of the two runs that a graph is made of
COMPARED = (1, 4)  # and of those that it is compared in
BOUND = 1e-5  # of the largest logit: 84 units in the last place of a float32
OWN_ROUNDING = 4  # times the network's own distance from float64, where that is more


@dataclass(frozen=True)
class Export:
    """What `export_onnx` wrote: how many nodes of each operator; and, where onnxruntime is installed, the largest
    difference between its logits and the network's, a part of the largest logit, and the bound that this is under."""

    nodes: Counter[str]
    difference: float | None
    bound: float | None


def export_onnx(
    model: Module,
    path: str | os.PathLike,
    input_shape: tuple[int, int, int],
    fold_batch_norm: bool = True,
    metadata: Mapping[str, object] | None = None,
) -> Export:
    """Write `model` in evaluation mode as ONNX (opset 17, float32), to be run by onnxruntime and others.

    input_shape: (C, H, W) of an image. The file's input "images" is (N, C, H, W) for any N, its output is "logits".
    Expanded layers are contracted first; fold_batch_norm: batch norms behind a convolution become part of it, see
    `cupynn.contract`. Constants have the names that the contracted network's state has. The file's metadata hold the
    options that the network was created with, and `metadata`, as text.

    Before the file gets its name, onnx's checker reads it, and where onnxruntime is installed it and `model` run on 1
    and 4 random images (seed 0, standard normal). Both add up in float32, in orders of their own: their logits may
    differ by 1e-5 of the largest, or by 4 times what the network's own differ from those that it computes in float64.

    Raises ValueError for an operation that has no form in ONNX, naming its layer, and where the logits differ by more;
    ModuleNotFoundError without onnx.
    """
    input_shape = tuple(input_shape)
    if len(input_shape) != 3:
        raise ValueError(f"export_onnx: input_shape must be (C, H, W); got {input_shape}")
    onnx = _onnx()
    with use_device("cpu"):
        compact = contract(model, fold_batch_norm).to_device("cpu").astype(np.float32)
        graph, shape = _graph(compact, input_shape)
    made_by = getattr(model, "creation", None) or {"name": type(model).__name__, "options": {}}
    proto = _proto(onnx, graph, input_shape, shape, made_by["name"])
    texts = {name: str(value) for name, value in {**made_by["options"], **(metadata or {})}.items()}
    onnx.helper.set_model_props(proto, texts)
    with replacing(Path(path)) as beside:
        beside.write_bytes(proto.SerializeToString())
        onnx.checker.check_model(str(beside), full_check=True)
        compared = _compare(model, beside, input_shape)
    return Export(Counter(node.operator for node in graph.nodes), *compared)


def _onnx() -> ModuleType:
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"export_onnx: {error}; pip install 'cupynn[onnx]'") from None
    return onnx


def _graph(model: Module, input_shape: tuple[int, ...]) -> tuple[Graph, Shape]:
    """The graph of `model`, and the shape of its result."""
    runs = []
    for count in TRACED:
        images = _images((count, *input_shape), seed=count)
        runs.append((images, *trace(model, images)))
    (images, calls, result), (_, twins, other) = runs
    if not isinstance(result, Tensor):
        raise ValueError(
            f"export_onnx: {type(model).__name__} must return a tensor; it returns {type(result).__name__}"
        )
    if len(calls) != len(twins):
        raise ValueError(
            f"export_onnx: {type(model).__name__} calls {len(calls)} functions for {TRACED[0]} images and "
            f"{len(twins)} for {TRACED[1]}; a graph has the same for any number"
        )
    graph = Graph(model.state_dict())
    graph.depends(images, "images")
    for call, twin in zip(calls, twins, strict=True):
        graph.translate(call, twin, TABLE)
    output = graph.value(result.data)
    if output in (None, "images"):
        raise ValueError(f"export_onnx: no function of cupynn makes what {type(model).__name__} returns of the images")
    graph.finish(output, "logits")
    lengths = zip(result.shape, other.shape, strict=True)
    return graph, tuple(length if length == twin else None for length, twin in lengths)


def _images(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _proto(onnx: ModuleType, graph: Graph, input_shape: tuple[int, ...], output_shape: Shape, name: str) -> Any:
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    whole = helper.make_graph(
        [_node(helper, node) for node in graph.nodes],
        name,
        [helper.make_tensor_value_info("images", kind, ["N", *input_shape])],
        [helper.make_tensor_value_info("logits", kind, ["N" if length is None else length for length in output_shape])],
        [onnx.numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
    )
    proto = helper.make_model(
        whole,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="cupynn",
        producer_version=cupynn.__version__,
    )
    return onnx.shape_inference.infer_shapes(proto)


def _node(helper: ModuleType, node: Node) -> Any:
    attributes = {
        name: helper.np_dtype_to_tensor_dtype(value) if isinstance(value, np.dtype) else value
        for name, value in node.attributes.items()
    }
    return helper.make_node(node.operator, node.inputs, node.outputs, node.name, **attributes)


def _compare(model: Module, path: Path, input_shape: tuple[int, ...]) -> tuple[float | None, float | None]:
    """The largest difference between onnxruntime's logits and the model's, and its bound, in parts of the largest."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None, None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    batches = [_images((count, *input_shape), seed=0) for count in COMPARED]  # none that the graph is made of
    if any(parameter.dtype != np.float32 for parameter in model.parameters()):
        model = copy.deepcopy(model).astype(np.float32)
    wanted = [_logits(model, images) for images in batches]
    found = [session.run(["logits"], {"images": images})[0] for images in batches]
    difference, bound = _difference(found, wanted), BOUND
    if not difference <= bound:  # so that NaN is refused too
        exact = copy.deepcopy(model).astype(np.float64)
        own = _difference(wanted, [_logits(exact, images) for images in batches])
        bound = max(BOUND, OWN_ROUNDING * own)
    if not difference <= bound:
        raise ValueError(
            f"export_onnx: onnxruntime's logits differ by {difference:.2g} of the largest; the bound is {bound:.2g}"
        )
    return difference, bound


def _logits(model: Module, images: np.ndarray) -> np.ndarray:
    """Computed where the model is, in its dtype."""
    like = next((parameter.data for parameter in model.parameters()), images)
    with no_grad(), evaluation_mode(model):
        return to_numpy(model(Tensor(xp_of(like).asarray(images, dtype=like.dtype))).data)


def _difference(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """The largest one in any batch, a part of that batch's largest logit."""
    pairs = zip(found, wanted, strict=True)
    return float(np.max([np.abs(ours - theirs).max() / (np.abs(theirs).max() or 1) for ours, theirs in pairs]))
