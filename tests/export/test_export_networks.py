"""Every family of the catalogue, in each of its forms, as ONNX."""

import numpy as np
import pytest

import cupynn
from cupynn import models

pytest.importorskip("onnx", reason="cupynn[onnx] is not installed")
pytest.importorskip("onnxruntime", reason="cupynn[onnx] is not installed")

NETWORKS = [
    ("smallnet", {"kernel_size": 3, "expand": "cl+fc"}, 32),
    ("smallnet", {"convolutions": 4, "expand": "ck"}, 32),
    ("smallnet", {"expand": "ac+fc+do"}, 32),
    ("alexnet", {"last_channels": 128, "expand": "ck", "rate": 1}, 63),
    ("mobilenet_v1", {"expand": "cl", "rate": 1}, 32),
    ("mobilenet_v1", {"whe": 4}, 32),
    ("mobilenet_v1", {"whe": 8, "whe_after": "depthwise"}, 32),
    ("mobilenet_v2", {"expand": "cl", "rate": 2, "stride_last": True}, 32),
    ("mobilenet_v2", {"classifier": "conv"}, 32),
    ("mobilenet_v3", {"expand": "do"}, 32),
    ("shufflenet_v2", {"expand": "cl", "rate": 2, "mixing": False}, 32),
    ("resnet", {"whe": 8, "wide": 0.5}, 32),
    ("resnet", {"whe": 4, "whe_position": "post_bn", "activation": "apl", "wide": 0.25}, 32),
    ("resnet", {"depthwise": True, "activation": "elu", "wide": 0.25}, 32),
    ("resnet", {"depth": 50, "version": "v1", "activation": "prelu", "last_gamma": True, "wide": 0.25}, 32),
    ("resnet", {"version": "v2"}, 32),
    ("resnet", {"depth": 50, "version": "v2"}, 32),
    ("plain", {}, 32),
    ("resnext", {}, 32),
    ("wide_resnet", {"wide": 1.125}, 32),
    ("senet", {}, 32),
    ("cifar_resnet", {"whe": 4, "dropout": 0.1}, 32),
    ("cifar_resnet", {"shortcut": "conv", "stem_relu": False, "expand": "do"}, 32),
    ("cifar_resnet", {"depth": 11, "block": "bottleneck"}, 16),
    ("cifar_resnet", {"version": "v2", "expand": "ac"}, 32),
    ("cifar_resnet", {"version": "v2", "depth": 11, "block": "bottleneck", "shortcut": "A"}, 16),
    ("cifar_resnet", {"version": "plain"}, 32),
    ("cifar_delugenet", {}, 8),
    ("cifar_delugenet_baseline", {}, 8),
    ("cifar_delugenet_baseline", {"shortcut": "1x1"}, 8),
    ("delugenet", {}, 32),
    ("cifar_seqresnet", {"widening": 1}, 16),
    ("cifar_seqresnet", {"widening": 2, "bottleneck": True}, 16),
    ("cifar_seqresnet", {"widening": 1, "windowed": False, "blocks": [1, 2, 1]}, 16),
    ("seqresnet", {}, 32),
    ("seqresnext", {}, 32),
]


def moved(model, generator):
    """The network with numbers in its state where new ones have 0 and 1."""
    for name, array in model.state_dict().items():
        if name.endswith("running_var") or (name.endswith("weight") and array.ndim == 1):
            array[...] = generator.uniform(0.5, 1.5, array.shape)
        elif name.endswith(("running_mean", "bias")):
            array[...] = generator.normal(0, 0.1, array.shape)
        elif array.ndim > 1 and not array.any():
            array[...] = generator.normal(0, 0.05, array.shape)
    return model


@pytest.mark.parametrize(("name", "options", "size"), NETWORKS, ids=[f"{name}-{o}" for name, o, _ in NETWORKS])
def test_network(name, options, size, tmp_path):
    """export_onnx compares onnxruntime's logits with those of the network itself, expanded as it is."""
    cupynn.manual_seed(5)
    model = moved(models.create(name, classes=7, **options), np.random.default_rng(6))
    written = cupynn.export_onnx(model, tmp_path / "net.onnx", (3, size, size))
    assert written.difference <= 1e-5


def test_every_family_of_the_catalogue_is_there():
    c = models.catalogue
    families = c.smallnet, c.alexnet, c.mobilenets, c.resnet, c.cifar_resnet, c.delugenet, c.seqresnet
    assert {entry.name for family in families for entry in family()} == {name for name, _, _ in NETWORKS}
