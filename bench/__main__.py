"""`python -m bench NAME`: run one benchmark or study; without a name, list them."""

from __future__ import annotations

import importlib
import sys

BENCHES = {
    "networks": "whole networks, training and inference, beside PyTorch eager and compiled",
    "growth": "how a training step's time grows with batch, threads, pixels and expansion rate",
    "startup": "from a fresh process to its first training step",
    "smallnet": "training steps of SmallNet-7, plain and expanded, beside PyTorch",
    "conv": "convolutions of SmallNet's and ResNet-20's shapes, beside their floor and PyTorch",
    "whe": "WHE forward and backward, beside its floor, PyTorch and torch.compile",
    "depthwise": "depthwise convolutions of MobileNet's kinds, beside their floor and PyTorch",
    "cross_layer": "cross-layer depthwise convolution of 16 layers, beside its floor, PyTorch and torch.compile",
    "seq_conv": "a SeqConv layer, plain and reduced, forward and backward, beside its floor and PyTorch",
    "batch_norm": "batch norm alone and fused, and activations, beside their floor and PyTorch",
    "kernels": "every other kernel beside its floor",
    "contraction": "contractions of ExpandNets and DO-Conv, beside their floor, a BLAS and PyTorch",
    "do_conv": "DO-Conv by kernel composition, beside the authors' way in PyTorch",
    "precision": "training steps in float16 and bfloat16: time and tape beside float32's",
    "loader": "the data pipeline with 0, 1 and 2 worker threads",
}
ON_A_GPU = {
    "gpu": "every kernel and training steps on an NVIDIA GPU, beside its ceilings, PyTorch and torch.compile",
}
STUDIES = {  # they train networks and time nothing
    "distillation": "SmallNet-7, plain and expanded, on few digits with and without a teacher, over 5 seeds",
}
ALL = BENCHES | ON_A_GPU | STUDIES


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in ALL:
        print("python -m bench NAME [--help]\n")
        for name, what in ALL.items():
            print(f"  {name:12} {what}")
        return 0 if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help") else 2
    importlib.import_module(f"bench.{sys.argv[1]}").main(sys.argv[2:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
