"""A step as a file for chrome://tracing and ui.perfetto.dev: the Trace Event Format's complete events ("ph": "X").

The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

from typing import Any

from cupynn.profile.measure import Profile
from cupynn.profile.recorder import Span


def trace(profile: Profile, title: str = "cupynn") -> dict[str, Any]:
    """The trace events of a step, for `json.dump`: layers, operations, passes and kernels one inside the other, times
    in microseconds from the step's begin. In backward, operations of one layer in a row lie in an event of its name.

    Times are those of one watched step, the watching included; those in `args["seconds"]` are medians without it.
    """
    spans = profile.spans
    start = spans[0].begin
    events = [*_backward_layers(spans, start), *(_event(span, start) for span in spans)]
    events.sort(key=lambda event: (event["ts"], -event["dur"]))
    names = [{"ph": "M", "pid": 1, "tid": 1, "name": "process_name", "args": {"name": title}}]
    return {"traceEvents": names + events, "displayTimeUnit": "ms"}


def _event(span: Span, start: float) -> dict[str, Any]:
    args: dict[str, Any] = {key: value for key, value in span.details.items() if value not in (None, "")}
    if cost := args.pop("cost", None):
        args["must move, bytes"], args["must compute, operations"] = cost
    args["seconds"] = span.seconds
    name = span.name
    if span.kind == "operation":
        name = f"{span.name} {span.details['pass']}"
    elif span.kind == "kernel":
        name = f"{span.name} {args['kernel']}"
    return _complete(name, span.kind, span.begin - start, span.end - start, args)


def _backward_layers(spans: list[Span], start: float) -> list[dict[str, Any]]:
    """An event round each row of backward operations that belong to one layer."""
    runs: list[list[Span]] = []
    before = None
    for span in spans:
        if span.kind != "operation" or span.details["pass"] != "backward" or spans[span.parent].kind == "operation":
            continue
        if before is not None and span.details["layer"] == before.details["layer"] and span.parent == before.parent:
            runs[-1].append(span)
        else:
            runs.append([span])
        before = span
    return [
        _complete(run[0].details["layer"], "layer", run[0].begin - start, run[-1].end - start, {"pass": "backward"})
        for run in runs
        if run[0].details["layer"]
    ]


def _complete(name: str, category: str, begin: float, end: float, args: dict[str, Any]) -> dict[str, Any]:
    first, last = round(1e9 * begin), round(1e9 * end)  # whole nanoseconds: what lies inside stays inside
    times = {"ts": first / 1000, "dur": (last - first) / 1000}
    return {"name": name, "cat": category, "ph": "X", "pid": 1, "tid": 1, **times, "args": args}
