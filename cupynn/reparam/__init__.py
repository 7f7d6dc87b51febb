"""Train wide, ship compact: expand layers and models, contract them again, prove it."""

from cupynn.ops.do_composition import choose_composition
from cupynn.reparam.expansion import contract, expand
from cupynn.reparam.matrix import conv_matrix
from cupynn.reparam.verification import Verification, verify_contraction

__all__ = ["Verification", "choose_composition", "contract", "conv_matrix", "expand", "verify_contraction"]
