"""Drawings of real networks and of tapes: every record once, texts in their boxes, files that others can read."""

import itertools
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections import Counter

import numpy as np
import pytest

import cupynn
from cupynn import nn
from cupynn.autograd import Tensor, exp, tape
from cupynn.graph import draw
from cupynn.graph.folding import MOST

SVG = "{http://www.w3.org/2000/svg}"


def smallnet(**options):
    return cupynn.models.create("smallnet", kernel_size=7, in_channels=1, image_size=16, **options)


@pytest.fixture(scope="module")
def expanded():
    return smallnet(expand="ck", rate=2)


DRAWN = {  # what to draw, and how
    "expanded and contracted": (lambda: [m := smallnet(expand="ck", rate=2), cupynn.contract(m)], {"batch": 2}),
    "layer by layer": (lambda: [smallnet(expand="ck", rate=2, composition="feature")], {"batch": 2}),
    "residual": (lambda: [cupynn.models.create("cifar_resnet", expand="cl", rate=2)], {"batch": 2, "depth": 9}),
    "deluge": (lambda: [cupynn.models.create("cifar_delugenet")], {"batch": 2, "input_shape": (3, 16, 16), "depth": 4}),
}


@pytest.fixture(scope="module", params=DRAWN)
def drawing(request):
    make, options = DRAWN[request.param]
    return draw(*make(), **options)


def absolute_boxes(svg):
    """(left, top, right, bottom) of each box, and the same of each of its texts."""
    root = ElementTree.fromstring(svg)

    def walk(element, x, y):
        if move := element.get("transform"):
            dx, dy = map(float, re.fullmatch(r"translate\((\S+) (\S+)\)", move).groups())
            x, y = x + dx, y + dy
        if element.find(f"{SVG}title") is not None:
            rect = element.find(f"{SVG}rect")
            box = (x, y, x + float(rect.get("width")), y + float(rect.get("height")))
            texts = []
            for text in element.findall(f"{SVG}text"):
                left, baseline = x + float(text.get("x")), y + float(text.get("y"))
                size = 13 if text.get("class") == "title" else 11.5
                # Of letters 0.75 of the size may stand above the line, 0.25 below.
                width = float(text.get("textLength"))
                texts.append((left, baseline - 0.75 * size, left + width, baseline + 0.25 * size))
            yield box, texts
        for child in element:
            yield from walk(child, x, y)

    return root, list(walk(root, 0.0, 0.0))


def overlap(one, other):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_texts_fit_and_nothing_overlaps(drawing):
    root, boxes = absolute_boxes(drawing.svg())
    assert len(boxes) == sum(len(graph.nodes) for graph in drawing.graphs)
    width, height = float(root.get("width")), float(root.get("height"))
    for box, texts in boxes:
        assert texts and 0 <= box[0] and 0 <= box[1] and box[2] <= width and box[3] <= height
        for text in texts:
            assert box[0] < text[0] and box[1] < text[1] and text[2] < box[2] and text[3] < box[3]
        assert not any(overlap(one, other) for one, other in itertools.combinations(texts, 2))
    assert not any(overlap(one[0], other[0]) for one, other in itertools.combinations(boxes, 2))


def test_every_record_has_one_box_below_its_inputs(drawing):
    for graph in drawing.graphs:
        place = {call.number: number for number, node in enumerate(graph.nodes) for call in node.calls}
        assert sorted(call.number for node in graph.nodes for call in node.calls) == list(range(len(place)))
        for number, node in enumerate(graph.nodes):
            assert all(source < number for source in node.inputs)
            sources = {place[s] for call in node.calls for s in call.sources if isinstance(s, int)} - {number}
            assert sources == {s for s in node.inputs if graph.nodes[s].calls}
        images = [number for number, node in enumerate(graph.nodes) if node.kind == "images"]
        assert len(images) == 1 and sum(images[0] in node.inputs for node in graph.nodes) == 1


def test_dot_is_well_formed(drawing, tmp_path):
    text = drawing.dot()
    named = Counter(re.findall(r"^    (n\d+_\d+) \[", text, re.M))
    assert set(named.values()) == {1} and len(named) == sum(len(graph.nodes) for graph in drawing.graphs)
    edges = re.findall(r"^    (n\d+_\d+) -> (n\d+_\d+);$", text, re.M)
    assert {end for edge in edges for end in edge} <= set(named)
    assert len(edges) == sum(len(node.inputs) for graph in drawing.graphs for node in graph.nodes)
    statement = r'  (?:  )?(?:subgraph \w+ \{|\}|(?:\w+ )?\[(?:\w+=(?:"(?:[^"\\]|\\.)*"|[\w]+)(?:, )?)+\];|\w+ -> \w+;'
    statement += r'|label="(?:[^"\\]|\\.)*";)'
    first, *lines, last = text.splitlines()
    assert first == "digraph tape {" and last == "}"
    assert [line for line in lines if not re.fullmatch(statement, line)] == []
    if shutil.which("dot") is None:
        pytest.skip("Graphviz is not installed")
    # `dot` places too, which takes it half a minute for the largest; `nop` reads as it does, and writes what it read.
    for program in (["nop"], ["dot", "-Tcanon"])[: 1 + (len(edges) < 100)]:
        done = subprocess.run(program, input=text, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr
        assert done.stdout.count("shape=") == len(named) and done.stdout.count(" -> ") == len(edges)


def test_totals_are_those_of_the_tape(expanded):
    """In training mode an expanded network keeps on the tape what it keeps outside of a drawing."""
    images = Tensor(np.random.default_rng(0).standard_normal((2, *expanded.input_shape), np.float32))
    output = expanded.train()(images)
    entries = tape(output)
    (kept,) = {graph.totals[0] for graph in [*draw(expanded, batch=2).graphs, *draw(output).graphs]}
    assert kept == f"{len(entries)} records keep {entries.saved_bytes / 1000:.3g} kB for backward"
    folded = draw(expanded, batch=2, depth=1).graphs[0]
    assert folded.totals[0] == kept and folded.totals[1].endswith(
        f"{sum(p.size for p in expanded.parameters()):,} parameters"
    )


def test_layers_and_parameters_are_named(expanded):
    (graph,) = draw(expanded, batch=2).graphs
    first = next(node for node in graph.nodes if node.title == "ContractChain")
    assert (first.layer, first.module, first.output) == ("0", "ExpandedConv2d", (8, 1, 7, 7))
    (leaves,) = (graph.nodes[source] for source in first.inputs)
    assert {leaf.name: leaf.shape for leaf in leaves.leaves} == {
        name: parameter.shape for name, parameter in expanded.named_parameters() if name.startswith("0.")
    }
    (folded,) = draw(expanded, batch=2, depth=1).graphs
    box = next(node for node in folded.nodes if node.layer == "0")
    assert (box.kind, box.title) == ("module", "ExpandedConv2d")
    assert [call.operation for call in box.calls] == ["ContractChain", "Conv2d"]


def test_drawing_leaves_the_model_as_it_is(expanded):
    before = {name: array.copy() for name, array in expanded.state_dict().items()}
    expanded.eval()
    draw(expanded, batch=2)
    assert not any(module.training for module in expanded.modules())
    assert all(np.array_equal(array, before[name]) for name, array in expanded.state_dict().items())
    assert all(parameter.grad is None for parameter in expanded.parameters())


def test_elementwise_chains_share_a_box_and_shared_results_end_them():
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    h = exp(-x * 2.0)
    loss = ((h + 1.0) * h).sum()
    (graph,) = draw(loss).graphs
    titles = [node.title for node in graph.nodes if node.calls]
    assert titles == ["Negative, Multiply, Exp", "Add", "Multiply", "Sum"]
    entries = tape(loss)  # of which two keep the same array, the exponential's
    assert entries.saved_bytes < sum(entry.saved_bytes for entry in entries)
    assert graph.totals[0] == f"6 records keep {entries.saved_bytes} bytes for backward"


class Border(nn.Module):
    """What is made of the images is not recorded before the first layer."""

    def __init__(self):
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        return self.conv(cupynn.ops.pad2d(x, 1) * 2.0)


def test_images_reach_the_first_layer_through_what_is_not_recorded():
    (graph,) = draw(Border(), input_shape=(1, 8, 8)).graphs
    convolution = next(node for node in graph.nodes if node.title == "Conv2d")
    assert {graph.nodes[source].kind for source in convolution.inputs} == {"images", "leaves"}


def test_a_large_network_is_folded_until_it_can_be_read():
    model = cupynn.models.create("cifar_resnet", depth=56)
    (graph,) = draw(model, batch=1, input_shape=(3, 16, 16)).graphs
    boxes = [node for node in graph.nodes if node.calls]
    assert len(boxes) <= MOST < sum(len(node.calls) for node in boxes)


def test_names_are_escaped_and_shortened(expanded):
    name = 'a "<b>" & \\ \x07' + "long " * 40
    drawing = draw(expanded, batch=1, titles=[name])
    _, boxes = absolute_boxes(drawing.svg())  # raises where it is no XML
    assert "<b>" not in drawing.svg() and '\\"<b>\\" & \\\\' in drawing.dot()
    odd = nn.Sequential()
    setattr(odd, "<odd>" * 30, nn.Linear(4, 2))
    drawing = draw(odd, input_shape=(4,), batch=2)
    _, boxes = absolute_boxes(drawing.svg())
    assert max(box[2] - box[0] for box, _ in boxes) <= 330 and "…" in drawing.svg()


def test_files_are_written_by_their_suffix(expanded, tmp_path):
    drawing = draw(expanded, batch=1)
    for suffix, start in ((".svg", "<svg "), (".dot", "digraph "), (".html", "<!doctype html>")):
        drawing.save(tmp_path / f"net{suffix}")
        assert (tmp_path / f"net{suffix}").read_text().startswith(start)
    assert (tmp_path / "net.html").read_text().count("<tr>") == 1 + sum(len(n.calls) for n in drawing.graphs[0].nodes)
    with pytest.raises(ValueError, match=r"must end with .svg, .html or .dot; it ends with '.png'"):
        drawing.save(tmp_path / "net.png")


def test_what_cannot_be_drawn(expanded):
    with pytest.raises(ValueError, match="one or more subjects and a title for each; got 0"):
        draw()
    with pytest.raises(ValueError, match="depth and batch must be at least 1; got depth=0"):
        draw(expanded, depth=0)
    with pytest.raises(ValueError, match="no recorded call made this tensor"):
        draw(Tensor(np.ones(3), requires_grad=True))
    with pytest.raises(ValueError, match="Linear has no input_shape of its own"):
        draw(nn.Linear(2, 3))
    with pytest.raises(ValueError, match="Flatten records nothing"):
        draw(nn.Flatten(), input_shape=(2, 3))
    with pytest.raises(TypeError, match="a Tensor or a Module; got str"):
        draw("smallnet")
