"""What a network takes over from others: a teacher's knowledge, a counterpart's weights, frozen parts."""

from cupynn.transfer.features import Outputs, recorded_outputs
from cupynn.transfer.freezing import freeze, training_mode, unfreeze
from cupynn.transfer.losses import hint_loss, similarity_loss, soft_target_loss
from cupynn.transfer.nonlinear import NonlinearChain, initialise_from, nonlinear
from cupynn.transfer.objectives import CrossEntropy, Distillation, HintedStudent, Hints, ProbabilisticTransfer
from cupynn.transfer.product_norm import product_norm
from cupynn.transfer.teacher import Teacher

__all__ = [
    "CrossEntropy",
    "Distillation",
    "HintedStudent",
    "Hints",
    "NonlinearChain",
    "Outputs",
    "ProbabilisticTransfer",
    "Teacher",
    "freeze",
    "hint_loss",
    "initialise_from",
    "nonlinear",
    "product_norm",
    "recorded_outputs",
    "similarity_loss",
    "soft_target_loss",
    "training_mode",
    "unfreeze",
]
