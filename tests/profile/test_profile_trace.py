"""The trace is what the Trace Event Format says, nested and in order, with layers, operations and kernels."""

import itertools
import json

import numpy as np
import pytest

import cupynn
from cupynn import ops
from cupynn.autograd import Tensor
from cupynn.kernels import runtime
from cupynn.profile import profile, trace


@pytest.fixture(scope="module")
def events():
    model = cupynn.models.create("smallnet", kernel_size=5, in_channels=1, image_size=16, expand="ck", rate=2)
    optimiser = cupynn.optim.SGD(model.parameters(), lr=1e-3)
    images = np.random.default_rng(0).standard_normal((2, 1, 16, 16), np.float32)

    def step():
        optimiser.zero_grad()
        ops.cross_entropy(model(Tensor(images)), np.array([0, 1])).backward()
        optimiser.step()

    written = json.loads(json.dumps(trace(profile(step, steps=1), "a step")))
    assert set(written) == {"traceEvents", "displayTimeUnit"} and written["displayTimeUnit"] == "ms"
    name, *found = written["traceEvents"]
    assert name == {"ph": "M", "pid": 1, "tid": 1, "name": "process_name", "args": {"name": "a step"}}
    return found


def nested(events):
    """(event, events round it, the outermost first), by their times alone, in whole nanoseconds."""
    stack = []
    for event in events:
        begin, end = round(1000 * event["ts"]), round(1000 * (event["ts"] + event["dur"]))
        while stack and stack[-1][1] <= begin:
            stack.pop()
        assert not stack or end <= stack[-1][1], (event, stack[-1])
        yield event, [outer for outer, _ in stack]
        stack.append((event, end))


def test_every_event_is_whole(events):
    for event in events:
        assert set(event) == {"name", "cat", "ph", "pid", "tid", "ts", "dur", "args"}
        assert event["ph"] == "X" and (event["pid"], event["tid"]) == (1, 1)
        assert event["dur"] >= 0 and event["name"]
    assert all(a["ts"] <= b["ts"] for a, b in itertools.pairwise(events))
    assert events[0]["name"] == "step" and events[0]["ts"] == 0


def test_events_lie_inside_each_other(events):
    around = [(event, [outer["cat"] for outer in outers]) for event, outers in nested(events)]
    assert all(cats[0] == "step" for _, cats in around[1:])
    kinds = {event["cat"] for event in events}
    assert {"step", "phase", "layer", "operation", "face"} <= kinds
    assert all("operation" not in cats for event, cats in around if event["cat"] in ("layer", "phase"))
    if runtime.mode() == "reference":
        return
    launched = [(event, cats) for event, cats in around if event["cat"] == "kernel"]
    assert launched and all({"operation", "phase"} & set(cats) for _, cats in launched)
    assert all("bytes" in event["args"] and ".cu " in event["name"] for event, _ in launched)


def test_both_directions_have_their_layers_and_shapes(events):
    found = {}
    for event, outers in nested(events):
        if event["cat"] == "operation":
            layers = [outer["name"] for outer in outers if outer["cat"] == "layer"]
            found.setdefault((event["args"]["pass"], event["name"]), []).append(layers[-1:])
    convolutions = [["0"], ["4"], ["8"]]
    assert found["forward", "Conv2d forward"] == convolutions
    assert found["backward", "Conv2d backward"] == convolutions[::-1]
    assert found["backward", "ContractChain backward"] == convolutions[::-1]
    first = next(event["args"] for event in events if event["name"] == "Conv2d forward")
    assert first["shapes"][:2] == [[2, 1, 16, 16], [8, 1, 5, 5]] and first["bytes"] > 4 * 2 * 8 * 16 * 16
    phases = [event["name"] for event in events if event["cat"] == "phase"]
    assert phases == ["backward", "optimiser"]
