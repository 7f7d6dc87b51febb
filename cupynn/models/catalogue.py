"""The networks of the papers: for each how to make it, and the figures its paper prints.

One function for each family, in the order in which the list shows them. A source "GluonCV" means that the paper names
that library's network; where nothing is printed, there is no figure.
"""

from __future__ import annotations

from collections.abc import Iterator

from cupynn.models.entry import Entry

CIFAR = (32, 32)

# fmt: off


def smallnet() -> Iterator[Entry]:
    """SmallNet, ExpandNets' network for CIFAR."""
    S10, ABLATION = "ExpandNets, Tables 9, S10", "ExpandNets, Table 6"
    printed = {
        "SmallNet-7/cifar10": ("66.19K", "4.49M", S10),
        "SmallNet-7+CL/cifar10": ("0.55M", "57.49M", "ExpandNets, Table S10"),
        "SmallNet-7+CL+FC/cifar10": ("2.11M", "59.04M", "ExpandNets, Table S10"),
        "SmallNet-7+CK/cifar10": ("187.0K", "23.95M", S10),
        "SmallNet-7+CK+FC/cifar10": ("1.75M", "25.50M", "ExpandNets, Table S10"),
        "SmallNet-7/cifar100": ("72.04K", None, "ExpandNets, Table 9"),
        "SmallNet-7+CK/cifar100": ("192.8K", None, "ExpandNets, Table 9"),
    }
    for classes in (10, 100):
        for k, strategies in ((3, ("", "FC", "CL", "CL+FC")), (7, ("", "FC", "CL", "CL+FC", "CK", "CK+FC"))):
            for strategy in strategies:
                id = f"SmallNet-{k}{strategy and '+'}{strategy}/cifar{classes}"
                options = {} if k == 7 else {"kernel_size": k}
                options |= {} if classes == 10 else {"classes": classes}
                options |= {"expand": strategy.lower()} if strategy else {}
                parameters, operations, source = printed.get(id, (None, None, "ExpandNets, Sec. 4.1"))
                yield Entry(id, "smallnet", options, CIFAR, parameters, operations, "thop", source)
    for k in (5, 9):
        yield Entry(f"SmallNet-{k}/cifar10", "smallnet", {"kernel_size": k}, CIFAR, source="ExpandNets, Sec. 4.1",
                    note="Not in the paper: the network of three 7x7 convolutions with another kernel.")
    for rate, small, large in (
        (0.25, "37.91K", "43.76K"),
        (0.5, "42.81K", "48.66K"),
        (0.75, "48.43K", "54.28K"),
        (1, "54.77K", "60.62K"),
        (2, "87.32K", "93.17K"),
    ):
        options = {"expand": "ck", "rate": rate}
        yield Entry(f"SmallNet-7+CK r={rate}/cifar10", "smallnet", options, CIFAR, small, source="ExpandNets, Table 9")
        yield Entry(f"SmallNet-7+CK r={rate}/cifar100", "smallnet", {"classes": 100, **options}, CIFAR, large,
                    source="ExpandNets, Table 9")

    for k in (3, 5, 7, 9):
        options = {"convolutions": 4} if k == 7 else {"convolutions": 4, "kernel_size": k}
        figures = ("150.35K", "6.12M", "thop+relu+pool", ABLATION) if k == 7 else (None, None, "macs",
                    "ExpandNets, A.4")
        yield Entry(f"SmallNet4conv-{k}/cifar10", "smallnet", options, CIFAR, *figures)
    for strategy, rate, parameters, operations in (
        ("FC", 2, "339.40K", "6.30M"),
        ("CL", 2, "562.95K", "25.16M"),
        ("CK", 2, "237.72K", "14.38M"),
        ("FC", 4, "675.91K", "6.64M"),
        ("CL", 4, "2.17M", "98.39M"),
        ("CK", 4, "653.25K", "42.64M"),
        ("FC", 8, "1.74M", "7.70M"),
        ("CL", 8, "8.58M", "389.35M"),
        ("CK", 8, "2.07M", "141.10M"),
    ):
        options = {"convolutions": 4, "expand": strategy.lower()}
        options |= {} if rate == 4 else {"rate": rate}
        yield Entry(f"SmallNet4conv-7+{strategy} r={rate}/cifar10", "smallnet", options, CIFAR, parameters, operations,
                    "thop+relu+pool", ABLATION)


def alexnet() -> Iterator[Entry]:
    """AlexNet with a global average."""
    for last in (128, 256, 512):
        options = {} if last == 256 else {"last_channels": last}
        yield Entry(f"AlexNet-GAP-{last}", "alexnet", options, source="ExpandNets, A.5",
                    note="The paper names the last convolution's channels; the others are torchvision's.")
        yield Entry(f"AlexNet-GAP-{last}+CK r=4", "alexnet", {**options, "expand": "ck"}, source="ExpandNets, A.5",
                    note="By the paper's rule the first convolution's 3x3 run on the whole image: 60G operations.")


def mobilenets() -> Iterator[Entry]:
    """MobileNets and ShuffleNet: ExpandNets', WHE's and DO-Conv's."""
    # Operations are counted with the linear layer's bias.
    LAST = {"expand": "cl", "stride_last": True}
    MIDDLE = "The released code strides in the middle layer; the paper's operations are those of the next entry."

    def s10(key, name, options, parameters, operations, note=""):
        convention, source = "thop+relu+linear bias", "ExpandNets, Table S10"
        return Entry(key, name, options, (224, 224), parameters, operations, convention, source, note)

    yield s10("MobileNetV1", "mobilenet_v1", {}, "4.23M", "0.58G")
    yield s10("MobileNetV1+CL r=4", "mobilenet_v1", {"expand": "cl"}, "4.96M", "1.76G", MIDDLE)
    yield s10("MobileNetV1+CL r=4 (stride on last 1x1)", "mobilenet_v1", LAST, "4.96M", "1.76G")
    yield s10("MobileNetV2", "mobilenet_v2", {}, "3.50M", "0.32G")
    yield s10("MobileNetV2+CL r=4", "mobilenet_v2", {"expand": "cl"}, "3.67M", "1.34G", MIDDLE)
    yield s10("MobileNetV2+CL r=4 (stride on last 1x1)", "mobilenet_v2", LAST, "3.67M", "1.34G",
              "Expands the first convolution and the depthwise ones of stride 2, as the released code does.")
    yield s10("MobileNetV2+CL r=4 (all non-residual depthwise, text reading)", "mobilenet_v2",
              {"expand": "cl", "layers": [f"features.{i}" for i in (0, 1, 2, 4, 7, 11, 14, 17)]}, "3.67M", None,
              "The text's reading, all blocks that are not residual; the code and the figure take those of stride 2.")
    yield s10("ShuffleNetV2-0.5x", "shufflenet_v2", {}, "1.37M", "0.04G")
    yield s10("ShuffleNetV2-0.5x+CL r=4", "shufflenet_v2", {"expand": "cl"}, "1.41M", "0.60G",
              "The released code's; the paper's figures are those of the next entry.")
    yield s10("ShuffleNetV2-0.5x+CL r=4 (k x k groups = r*C, stride last)", "shufflenet_v2",
              {**LAST, "mixing": False}, "1.41M",
              "0.60G", "The copies of a channel do not mix in the depthwise layers, which the released code's do.")

    UNSAID = "The paper says neither where the blocks stand nor g; no choice gives 4.3M parameters and 44M operations."
    yield Entry("MobileNet (WHE baseline)", "mobilenet_v1", {}, (224, 224), "4.2M", "596M", "macs", "WHE, Table 1",
                "596M is probably 569M with two digits exchanged.")
    for place, after, sizes in (("pw", "pointwise", (4, 8, 16)), ("dw", "depthwise", (4, 8))):
        for g in sizes:
            options = {"whe": g} if after == "pointwise" else {"whe": g, "whe_after": after}
            yield Entry(f"MobileNet+WHE g={g} after every {place} conv", "mobilenet_v1", options, (224, 224), "4.3M",
                        "44M", "whe", "WHE, Table 1", UNSAID)

    for id, name, options in (
        ("MobileNet-v1 gluon", "mobilenet_v1", {}),
        ("MobileNet-v2 gluon", "mobilenet_v2", {"classifier": "conv"}),
        ("MobileNet-v3-large gluon", "mobilenet_v3", {}),
    ):
        yield Entry(id, name, options, source="DO-Conv, ImageNet classification; GluonCV")
        yield Entry(f"{id}+DO-Conv (training)", name, {**options, "expand": "do"},
                    source="DO-Conv, ImageNet classification; GluonCV")


def resnet() -> Iterator[Entry]:
    """Residual networks for ImageNet: WHE's, most of them at 144 x 144, and DO-Conv's, which are GluonCV's."""
    AT_144 = "The paper trains on 150 x 150; the operations that it prints are those of 144 x 144."
    NO_LINEAR = "The paper's parameters are those without the linear layer: "

    yield Entry("ResNet-18", "resnet", {}, (224, 224), "11.7M", "1800M", "macs", "WHE, Table 1",
                "The paper prints the network's customary 1.8G.")
    yield Entry("ResNet-18+WHE g=16", "resnet", {"whe": 16}, (224, 224), "11.9M", "72M", "whe", "WHE, Table 1",
                "WHE's operations alone, 1872M - 1800M in the paper: a block behind each 3x3 convolution.")
    yield Entry("ResNet-18 @144", "resnet", {}, (144, 144), "11.7M", "790M", "macs", "WHE, Table 2", AT_144)
    yield Entry("ResNet-34 @144", "resnet", {"depth": 34}, (144, 144), "21.8M", "1577M", "macs", "WHE, Table 2", AT_144)
    yield Entry("ResNet-18+WHE g=16 @144", "resnet", {"whe": 16}, (144, 144), "11.9M", "820M", "macs",
                "WHE, Tables 2, 7", AT_144)
    yield Entry("ResNet-34+WHE g=16 @144", "resnet", {"depth": 34, "whe": 16}, (144, 144), "22.3M", "1632M", "macs",
                "WHE, Table 2", AT_144)
    for depth in (18, 34):
        for name, options in (("", {}), ("+WHE g=16", {"whe": 16})):
            options = options if depth == 18 else {"depth": depth, **options}
            yield Entry(f"ResNet-{depth}{name} @150", "resnet", options, (150, 150), source="WHE, Table 2",
                        note="The size that the paper names; its operations are those of 144 x 144.")
    yield Entry("ResNet-18+WHE g=4 @144", "resnet", {"whe": 4}, (144, 144), "11.7M", source="WHE, Table 7",
                note="The paper cuts 11.76M off behind the first decimal.")
    yield Entry("ResNet-18+WHE g=8 @144", "resnet", {"whe": 8}, (144, 144), "11.8M", source="WHE, Table 7")
    yield Entry("ResNet-18+DepthWise @144", "resnet", {"depthwise": True}, (144, 144), "11.8M", "796M", "macs",
                "WHE, Table 3",
                "Nine weights a channel and a batch norm for each WHE block: the operations fit, the paper has 0.07M "
                "parameters more.")
    yield Entry("WideResNet-18_1.25 @144", "wide_resnet", {"wide": 1.25}, (144, 144), "17.4M", "1200M", "macs",
                "WHE, Table 2", NO_LINEAR + "17.45M. Operations are rounded to 10M.")
    yield Entry("WideResNet-18_1.5 @144", "wide_resnet", {"wide": 1.5}, (144, 144), "25.1M", "1690M", "macs",
                "WHE, Table 2", NO_LINEAR + "25.11M. Operations are rounded to 10M.")
    yield Entry("WideResNet-18_1.25+WHE g=16 @144", "wide_resnet", {"wide": 1.25, "whe": 16}, (144, 144), "17.7M",
                "1238M", "macs", "WHE, Table 2", NO_LINEAR + "17.77M. Operations are the printed 1200M and WHE's 38M.")
    yield Entry("SENet-18", "senet", {}, (224, 224), "11.7M", source="WHE, Table 1",
                note="The paper cuts 11.78M off behind the first decimal; reduction 16, no biases.")
    yield Entry("SENet-18+WHE g=16", "senet", {"whe": 16}, (224, 224), "11.9M", source="WHE, Table 1",
                note="The paper repeats the figure of ResNet-18+WHE.")

    gluon = [
        (f"ResNet-{version}-{depth} gluon", "resnet", {"depth": depth, "version": version})
        for depth in (18, 34, 50, 101, 152)
        for version in ("v1", "v1b", "v2")
    ]
    gluon += [("Plain-18 gluon", "plain", {}), ("ResNeXt-50_32x4d", "resnext", {})]
    for id, name, options in gluon:
        options = {key: value for key, value in options.items() if value not in (18, "v1b")}  # the defaults
        for suffix, do in (("", {}), ("+DO-Conv (training)", {"expand": "do"})):
            yield Entry(id + suffix, name, {**options, **do}, source="DO-Conv, ImageNet classification; GluonCV")


def cifar_resnet() -> Iterator[Entry]:
    """Residual networks for CIFAR and Tiny ImageNet: WHE's, and DO-Conv's, which are GluonCV's."""
    TEN_CLASSES = "The paper trains for 100 classes and prints the ResNet paper's figure for 10."
    WHE_NOTE = "The printed column (.28 .47 .68 .88 1.76) fits no single rule; dropout 0.1 is our choice."
    TINY = "Tiny ImageNet's classes, for which nothing is printed; dropout 0.1 is our choice."
    for depth, plain, whe in (
        (20, "0.27M", "0.28M"),
        (32, "0.46M", "0.47M"),
        (44, "0.66M", "0.68M"),
        (56, "0.85M", "0.88M"),
        (110, "1.7M", "1.76M"),
    ):
        for classes in (10, 100, 200):
            options = {} if depth == 20 else {"depth": depth}
            options |= {} if classes == 10 else {"classes": classes}
            if classes != 200:
                yield Entry(f"CIFAR ResNet-{depth} (option A)/{classes}", "cifar_resnet", options, CIFAR, plain,
                            source="WHE, Table 5", note=TEN_CLASSES if classes == 100 else "")
            options = {**options, "whe": 4, "dropout": 0.1}
            printed, note = (None, TINY) if classes == 200 else (whe, WHE_NOTE)
            yield Entry(f"CIFAR ResNet-{depth}+WHE g=4 both convs/{classes}", "cifar_resnet", options, CIFAR, printed,
                        source="WHE, Table 5", note=note)
            yield Entry(f"CIFAR ResNet-{depth}+WHE g=4 one per block/{classes}", "cifar_resnet",
                        {**options, "whe_per_block": 1}, CIFAR, printed, source="WHE, Table 5", note=note)

    DEEP = "GluonCV builds basic blocks for 164 layers; the paper's accuracies are those of bottlenecks."
    for classes in (10, 100):
        own = {} if classes == 10 else {"classes": classes}
        networks = [(f"CIFAR Plain-20/{classes}", {"version": "plain", **own}, "")]
        for version, form in (("v1", {"shortcut": "conv", "stem_relu": False}), ("v2", {"version": "v2"})):
            for depth in (20, 32, 44, 56, 110):
                options = {**form, **own} if depth == 20 else {"depth": depth, **form, **own}
                networks.append((f"CIFAR ResNet-{version}-{depth} gluon/{classes}", options, ""))
            options = {"depth": 164, **form, **own}
            networks.append((f"CIFAR ResNet-{version}-164 gluon bottleneck/{classes}", options, DEEP))
            options = {**options, "block": "basic"}
            networks.append((f"CIFAR ResNet-{version}-164 gluon basic blocks/{classes}", options, DEEP))
        for id, options, note in networks:
            for suffix, expansion in (("", {}), ("+DO-Conv (training)", {"expand": "do"})):
                yield Entry(f"{id}{suffix}", "cifar_resnet", {**options, **expansion}, CIFAR,
                            source="DO-Conv, Sec. 4.1; GluonCV", note=note)


def delugenet() -> Iterator[Entry]:
    """DelugeNets and the two baselines of their paper."""
    deluge = {
        # depth, wide: parameters printed, and for how many classes they are; the baselines' with 3x3 and 1x1 shortcuts
        "DelugeNet-146": ({}, "6.69M", 10, {"3x3": "6.50M", "1x1": "6.15M"}),
        "DelugeNet-218": ({"depth": 218}, "10.00M", 100, {"3x3": "9.55M", "1x1": "9.26M"}),
        "Wide-DelugeNet-146": ({"wide": True}, "20.19M", 100, {"3x3": "19.82M", "1x1": "18.76M"}),
    }
    for id, (options, printed, classes, baselines) in deluge.items():
        for count in (10, 100):
            yield Entry(f"{id}/cifar{count}", "cifar_delugenet",
                        options if count == 10 else {**options, "classes": count},
                        CIFAR, printed, source="DelugeNets, Tables 1, 2",
                        note="" if count == classes else f"The printed figure is the one for {classes} classes.")
        for shortcut, printed in baselines.items():
            choice = {"classes": 100} if shortcut == "3x3" else {"shortcut": shortcut, "classes": 100}
            note = "No variant has 9.26M, and the two other networks fit: probably a misprint."
            yield Entry(f"{id} baseline {shortcut} shortcut/cifar100", "cifar_delugenet_baseline",
                        {**options, **choice}, CIFAR, printed, source="DelugeNets, Table 2",
                        note=note if printed == "9.26M" else "")
    for depth, printed in ((143, "43.6M"), (152, "51.7M")):
        yield Entry(f"DelugeNet-{depth}", "delugenet", {"depth": depth}, (224, 224), printed,
                    source="DelugeNets, Table 3",
                    note="A stem of 64 channels as in the authors' repository; the paper does not say.")
    for depth, printed, operations in ((92, "43.4M", "11.8G"), (104, "51.4M", "13.2G"), (122, "63.6M", "15.2G")):
        yield Entry(f"DelugeNet-{depth}", "delugenet", {} if depth == 92 else {"depth": depth}, (224, 224), printed,
                    operations, "2macs+4cross", "DelugeNets, authors' repository")


def seqresnet() -> Iterator[Entry]:
    """SeqResNet and SeqResNeXt."""
    ALTERNATIVE = "k is not printed: k=8 gives the same rounded figure."
    BY_COUNT = "k is not printed; this is what the authors' code and the count give."
    seqresnet = (
        # name, options, parameters printed, source, note
        ("SeqResNet r=4 k=8", {}, "1.2M", "SeqConv, Tables 3, 5", ""),
        ("SeqResNet r=10 k=8", {"widening": 10}, "7.6M", "SeqConv, Table 3",
         "k is not printed: k=16 gives the same rounded figure."),
        ("SeqResNet r=10 k=16", {"widening": 10, "k": 16}, "7.6M", "SeqConv, Table 3", ALTERNATIVE),
        ("SeqResNet-B r=7 k=16", {"widening": 7, "k": 16, "bottleneck": True}, "0.8M", "SeqConv, Table 3", BY_COUNT),
        ("SeqResNet-B r=20 k=32", {"widening": 20, "k": 32, "bottleneck": True}, "6.0M", "SeqConv, Table 3", BY_COUNT),
        ("SeqResNet r=4 k=16", {"k": 16}, "1.3M", "SeqConv, Table 5", ""),
    )
    for id, options, printed, source, note in seqresnet:
        yield Entry(f"{id}/cifar10", "cifar_seqresnet", options, CIFAR, printed, source=source, note=note)
        yield Entry(f"{id}/cifar100", "cifar_seqresnet", {**options, "classes": 100}, CIFAR, source=source)
    yield Entry("SeqResNet r=3 k=8 n={1,2,1} dense/cifar10", "cifar_seqresnet",
                {"widening": 3, "blocks": [1, 2, 1], "windowed": False}, CIFAR, "1.2M", source="SeqConv, Table 5",
                note="Dense in the layers of the down-sampling too.")
    yield Entry("SeqResNet r=3 k=16 n={1,2,2}/cifar10", "cifar_seqresnet",
                {"widening": 3, "k": 16, "blocks": [1, 2, 2]}, CIFAR, "1.3M", source="SeqConv, Table 5")

    OPERATIONS = "The paper prints 5 to 6 % fewer than multiply-accumulates, and does not say what it counts."
    yield Entry("SeqResNet-B22", "seqresnet", {}, (224, 224), "11.8M", "2.73G", "macs", "SeqConv, Tables 2, 4",
                "The paper cuts 11.86M off behind the first decimal. " + OPERATIONS)
    yield Entry("SeqResNet-B42", "seqresnet", {"depth": 42}, (224, 224), "25.6M", "5.33G", "macs",
                "SeqConv, Tables 2, 4", OPERATIONS)
    yield Entry("SeqResNeXt-24", "seqresnext", {}, (224, 224), "26.2M", "4.32G", "macs", "SeqConv, Tables 2, 4",
                OPERATIONS)


# fmt: on
FAMILIES = (smallnet, alexnet, mobilenets, resnet, cifar_resnet, delugenet, seqresnet)
ENTRIES = {entry.id: entry for family in FAMILIES for entry in family()}
