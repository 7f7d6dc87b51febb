"""Train wide, ship compact: expand layers and models, contract them again, prove it."""

from cupynn.reparam.expansion import contract, expand
from cupynn.reparam.matrix import conv_matrix
from cupynn.reparam.verification import Verification, verify_contraction

__all__ = ["Verification", "contract", "conv_matrix", "expand", "verify_contraction"]
