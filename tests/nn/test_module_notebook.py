"""What a notebook shows of a module: its tree, shapes, numbers of parameters."""

import xml.etree.ElementTree as ElementTree

import cupynn
from cupynn import nn


def shown(module):
    """The tree: it happens to be XML, but for one entity and one attribute without value."""
    return ElementTree.fromstring(module._repr_html_().replace("&middot;", "|").replace("<details open", "<details"))


def lines(module):
    root = shown(module)
    return ["".join(e.itertext()) for e in root.iter() if e.tag == "summary" or (e.tag == "div" and len(e) == 1)]


def test_every_module_has_its_line():
    model = cupynn.models.create("smallnet", expand="ck")
    found = lines(model)
    assert len(found) == sum(1 for _ in model.modules())
    assert found[0] == f"SmallNet | {sum(p.size for p in model.parameters()):,} parameters"
    first = model[0].layers[0]
    (line,) = [line for line in found if "3x3x3x3" in line]
    assert (
        line.startswith("(0) Conv2d | ") and f"| weight 3x3x3x3 | bias 3 | {first.weight.size + 3} parameters" in line
    )


def test_only_the_first_level_is_open():
    assert cupynn.models.create("cifar_resnet")._repr_html_().count("<details open") == 1


def test_a_shared_module_counts_once():
    layer = nn.Linear(3, 2)
    assert lines(nn.Sequential(layer, nn.ReLU(), layer))[0] == "Sequential | 8 parameters"


def test_names_and_facts_are_escaped():
    class Odd(nn.Module):
        def extra_repr(self):
            return "<script>alert(1)</script>"

    model = nn.Sequential(Odd())
    setattr(model, "<b>&", nn.ReLU())
    markup = model._repr_html_()
    assert "<script>" not in markup and "(&lt;b&gt;&amp;)" in markup
    assert [element.tag for element in shown(model)] == ["summary", "div", "div"]


def test_a_network_without_memory_can_be_shown():
    with nn.init.shapes_only():
        model = cupynn.models.create("resnet")
    assert lines(model)[0] == "ResNet | 11,689,512 parameters"
