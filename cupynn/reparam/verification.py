"""The proof that a contracted model computes what the expanded one does."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np

from cupynn.autograd import Tensor, no_grad
from cupynn.device import to_numpy, xp_of
from cupynn.nn import Module
from cupynn.nn.evaluation import evaluation_mode
from cupynn.reparam.expansion import contract, layer_by_layer

BOUNDS = {"float32": 1e-4, "float64": 1e-10}
IMAGES = 8


@dataclass(frozen=True)
class Verification:
    """What `verify_contraction` measured: the largest difference in logits, absolute, and relative to the largest
    logit; and the bound that the absolute one is under."""

    absolute: float
    relative: float
    bound: float
    dtype: str


def verify_contraction(expanded: Module, compact: Module, input_shape: tuple[int, ...]) -> Verification:
    """Compare the two models' logits on random inputs (seed 0, standard normal), both in evaluation mode.

    The expanded model runs layer after layer, whatever its composition: nothing of the contraction is used in it.
    input_shape: (C, H, W) of one image (8 are drawn), or (N, C, H, W).

    Raises ValueError where the largest difference is above 1e-4 in float32 or 1e-10 in float64, or is no number, and
    TypeError where the models differ in dtype. Both models are left in the mode they were in.
    """
    weight, other = next(expanded.parameters()).data, next(compact.parameters()).data
    if weight.dtype != other.dtype or weight.dtype.name not in BOUNDS:
        raise TypeError(
            f"verify_contraction: the models must both be float32 or float64; they are {weight.dtype} and {other.dtype}"
        )
    bound = BOUNDS[weight.dtype.name]
    shape = tuple(input_shape) if len(input_shape) % 2 == 0 else (IMAGES, *input_shape)
    images = xp_of(weight).asarray(np.random.default_rng(0).standard_normal(shape).astype(weight.dtype))
    with layer_by_layer(expanded):
        wanted = _logits(expanded, images)
    difference = np.abs(wanted - _logits(compact, images))
    absolute, scale = float(difference.max()), float(np.abs(wanted).max())
    result = Verification(absolute, absolute / scale if scale else absolute, bound, weight.dtype.name)
    if not absolute < bound:  # so that NaN is refused too
        raise ValueError(
            f"verify_contraction: the logits differ by {absolute:.3g}, {result.relative:.3g} of the largest; "
            f"the bound in {result.dtype} is {bound:g}"
        )
    return result


def contract_and_verify(expanded: Module, input_shape: tuple[int, ...]) -> tuple[Module, list[Verification]]:
    """The contracted network, and the proofs in float32 and in float64, for which both are cast before contraction.

    Raises ValueError where a difference is above its bound.
    """
    compact = contract(expanded)
    in_double = copy.deepcopy(expanded).astype("float64")
    pairs = ((expanded, compact), (in_double, contract(in_double)))
    return compact, [verify_contraction(*pair, input_shape) for pair in pairs]


def _logits(model: Module, images) -> np.ndarray:
    with no_grad(), evaluation_mode(model):
        return to_numpy(model(Tensor(images)).data)
