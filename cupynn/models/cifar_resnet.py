"""Residual networks for CIFAR and Tiny ImageNet: ResNet v1 and v2, Plain, with WHE blocks or not.

Names of layers are those of `resnet`, torchvision's where it has them. Layers start as He et al.'s: convolutions
normal with deviation sqrt(2 / (k * k * outputs)), batch norms as the identity, the linear layer as PyTorch's.
"""

from __future__ import annotations

from functools import partial

from cupynn.models.blocks.cifar import (
    CIFARBasicBlock,
    RawShortcutBasicBlock,
    RawShortcutBottleneck,
    Shortcut,
    convolved,
    padded,
)
from cupynn.models.blocks.residual import Bottleneck, Variant, plain_block, projection
from cupynn.models.initialise import he_fan_out, initialise
from cupynn.models.registry import register
from cupynn.models.resnet import Block, stage
from cupynn.nn import BatchNorm2d, Conv2d, Linear, Module, Sequential

STAGES = ("conv1", "layer1", "layer2", "layer3")


class CIFARResNet(Module):
    """3x3 convolution, BN, ReLU; three stages of `blocks` blocks each; global average; linear layer.

    block makes a block from its input channels, output channels and stride; widths: output channels of the stages.
    The first blocks of the second and third stage halve height and width. stem_relu=False leaves out the first ReLU.
    """

    def __init__(
        self, block: Block, blocks: int, widths: tuple[int, int, int], classes: int, in_channels: int, stem_relu: bool
    ):
        self.conv1 = Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = three_stages(block, blocks, widths)
        self.fc = Linear(widths[2], classes)
        initialise(self, convolution=he_fan_out)
        self.stem_relu = stem_relu
        self.input_shape = (in_channels, 32, 32)
        self.stages = STAGES

    def forward(self, x):
        x = self.bn1(self.conv1(x), relu=self.stem_relu)
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean(axis=(2, 3)))


class CIFARResNetV2(Module):
    """The same of pre-activation blocks: batch norm without weight and bias on the image, no BN and ReLU behind the
    first convolution, but at the end.
    """

    def __init__(self, block: Block, blocks: int, widths: tuple[int, int, int], classes: int, in_channels: int):
        self.bn_input = BatchNorm2d(in_channels, affine=False)
        self.conv1 = Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1, self.layer2, self.layer3 = three_stages(block, blocks, widths)
        self.bn_last = BatchNorm2d(widths[2])
        self.fc = Linear(widths[2], classes)
        initialise(self, convolution=he_fan_out)
        self.input_shape = (in_channels, 32, 32)
        self.stages = STAGES

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.conv1(self.bn_input(x)))))
        return self.fc(self.bn_last(x, relu=True).mean(axis=(2, 3)))


def three_stages(block: Block, blocks: int, widths: tuple[int, int, int]) -> tuple[Sequential, Sequential, Sequential]:
    inputs = (16, *widths)
    return tuple(stage(block, blocks, inputs[i], widths[i], 1 if i == 0 else 2) for i in range(3))


def bottleneck(inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> Bottleneck:
    """A `Bottleneck` with a shortcut of another kind."""
    block = Bottleneck(inputs, outputs, stride, Variant())
    block.downsample = shortcut(inputs, outputs, stride)
    return block


# The first of a version's is its default.
SHORTCUTS = {"v1": {"A": padded, "conv": projection}, "v2": {"conv": convolved, "A": padded}, "plain": {}}
BLOCKS = {
    ("v1", "basic"): CIFARBasicBlock,
    ("v1", "bottleneck"): bottleneck,
    ("v2", "basic"): RawShortcutBasicBlock,
    ("v2", "bottleneck"): RawShortcutBottleneck,
    ("plain", "basic"): plain_block,
}
LAYERS = {"basic": 6, "bottleneck": 9}  # in a block of each stage
WIDTHS = {"basic": (16, 32, 64), "bottleneck": (64, 128, 256)}
WHE_OPTIONS = {"whe": None, "whe_per_block": 2, "whe_position": "post_conv", "dropout": 0.0}  # and their defaults


@register("cifar_resnet")
def cifar_resnet(
    depth: int = 20,
    version: str = "v1",
    shortcut: str | None = None,
    block: str | None = None,
    classes: int = 10,
    in_channels: int = 3,
    stem_relu: bool = True,
    whe: int | None = None,
    whe_per_block: int = 2,
    whe_position: str = "post_conv",
    dropout: float = 0.0,
) -> CIFARResNet | CIFARResNetV2:
    """ResNet of 20, 32, 44, 56, 110 or 164 layers for small images. [He et al. 2015, 2016; DO-Conv; WHE]

    depth: 6 n + 2 with basic blocks, 9 n + 2 with bottlenecks, n the number of blocks in each of three stages. Their
        widths are 16, 32, 64; with bottlenecks 64, 128, 256.
    version: "v1", ReLU after the addition; "v2", pre-activation as GluonCV has it; "plain", v1 without shortcuts.
    shortcut: where the shape changes, "A", every second pixel and channels of zeros, or "conv", a 1x1 convolution, of
        the block's raw input, with batch norm in v1. None: "A" in v1, as He et al. have it, "conv" in v2. GluonCV,
        from which DO-Conv takes its networks, has "conv" in both, and stem_relu=False in v1.
    block: "basic" or "bottleneck". None: "bottleneck" for 164 layers, "basic" for less. GluonCV has basic blocks only,
        of 164 layers too; DO-Conv's accuracies are those of bottlenecks.
    stem_relu: whether a ReLU follows the first batch norm of v1 and plain.

    Of v1 with basic blocks only, as in the WHE paper:
    whe: group size of the WHE blocks; None: no WHE. whe_per_block: 2, one behind each 3x3 convolution of the blocks,
        as the text reads, or 1, behind the first only; the printed counts fit neither at all depths.
    whe_position: as `resnet` has it.
    dropout: probability of dropping an element between a block's convolutions. The paper has dropout there in its WHE
        networks and does not say how much; 0.1 is what the catalogue has.

    Parameters of v1 for 10 classes: 269,722 (20), 464,154 (32), 658,586 (44), 853,018 (56), 1,727,962 (110);
    with whe=4: 281,818, 484,314, 686,810, 889,306, 1,800,538. GluonCV's: 272,474 (20), v2 272,282.

    Raises ValueError for a depth that does not fit the blocks, an unknown version, shortcut, block or position, and
    for an option that the version does not have.
    """
    if version not in SHORTCUTS:
        raise ValueError(f"cifar_resnet: version must be one of {', '.join(SHORTCUTS)}; got {version!r}")
    shortcuts = SHORTCUTS[version]
    if shortcut is not None and shortcut not in shortcuts:
        wanted = " or ".join(map(repr, [*shortcuts, None]))
        raise ValueError(f"cifar_resnet: shortcut must be {wanted} for version {version!r}; got {shortcut!r}")
    if block is None:
        block = "bottleneck" if depth == 164 and version != "plain" else "basic"
    if (version, block) not in BLOCKS:
        wanted = " or ".join(repr(kind) for other, kind in BLOCKS if other == version)
        raise ValueError(f"cifar_resnet: block must be {wanted} for version {version!r}; got {block!r}")
    layers = LAYERS[block]
    if depth < layers + 2 or (depth - 2) % layers:
        raise ValueError(f"cifar_resnet: depth must be {layers} n + 2 for {block} blocks; got {depth}")
    if version == "v2" and not stem_relu:
        raise ValueError("cifar_resnet: stem_relu must be True for version 'v2', which has none there; got False")
    whe_options = {"whe": whe, "whe_per_block": whe_per_block, "whe_position": whe_position, "dropout": dropout}
    if (version, block) != ("v1", "basic"):
        for option, default in WHE_OPTIONS.items():
            if whe_options[option] != default:
                raise ValueError(
                    f"cifar_resnet: {option} is an option of version 'v1' with basic blocks; "
                    f"got {whe_options[option]!r} for version {version!r} with {block} blocks"
                )
    elif whe is None and (whe_per_block, whe_position) != (2, "post_conv"):
        raise ValueError(
            f"cifar_resnet: whe must be a group size for whe_per_block={whe_per_block!r}, "
            f"whe_position={whe_position!r}; got None"
        )
    if whe_per_block not in (1, 2):
        raise ValueError(f"cifar_resnet: whe_per_block must be 1 or 2; got {whe_per_block!r}")

    options = {}
    if shortcuts:
        options["shortcut"] = shortcuts[shortcut or next(iter(shortcuts))]
    if (version, block) == ("v1", "basic"):
        first = Variant(whe, whe_position)
        options |= {"first": first, "second": first if whe_per_block == 2 else Variant(), "dropout": dropout}
    arguments = (partial(BLOCKS[version, block], **options), (depth - 2) // layers, WIDTHS[block], classes, in_channels)
    return CIFARResNetV2(*arguments) if version == "v2" else CIFARResNet(*arguments, stem_relu)
