"""Spans of time: what is in a step adds up to it, and the watching is taken off."""

import time

import pytest

from cupynn.profile.recorder import Recorder, Span, around, median_step


def nested(recorder, depth, rest=0.0):
    """`depth` spans, one inside the other, each with some work of its own before and after."""

    def work():
        sum(range(200))
        if depth > 1:
            nested(recorder, depth - 1)
        time.sleep(rest)

    recorder.call(work, (), {}, recorder.span("layer", f"depth {depth}", time.perf_counter()))


def test_own_times_add_up_to_the_whole():
    recorder = Recorder()

    def step():
        for _ in range(3):
            nested(recorder, 4)

    recorder.call(step, (), {}, recorder.span("step", "step", time.perf_counter()))
    spans = recorder.finish()
    assert [span.parent for span in spans] == [-1, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11]
    assert sum(span.own for span in spans) == pytest.approx(spans[0].seconds, rel=1e-9)
    assert all(span.seconds > 0 for span in spans)
    assert [outer.name for outer in around(spans, spans[4])] == ["depth 2", "depth 3", "depth 4", "step"]


def test_the_watching_is_nobodys_time():
    recorder = Recorder()

    def slow_to_describe(result):
        time.sleep(0.02)
        return {"bytes": result}

    def step():
        recorder.call(lambda: 7, (), {}, recorder.span("layer", "a", time.perf_counter()), slow_to_describe)

    recorder.call(step, (), {}, recorder.span("step", "step", time.perf_counter()))
    whole, layer = recorder.finish()
    assert layer.details["bytes"] == 7
    assert whole.end - whole.begin > 0.02 > whole.seconds  # 20 ms of watching are in the one and not in the other


def test_a_failing_call_closes_its_span():
    recorder = Recorder()

    def step():
        with pytest.raises(ZeroDivisionError):
            recorder.call(lambda: 1 / 0, (), {}, recorder.span("layer", "a", time.perf_counter()))
        nested(recorder, 1)

    recorder.call(step, (), {}, recorder.span("step", "step", time.perf_counter()))
    assert [span.parent for span in recorder.finish()] == [-1, 0, 0]


def test_a_gpu_is_waited_for_inside_of_what_it_computes():
    waits = []
    recorder = Recorder(lambda: waits.append(len(recorder.spans)))

    def step():
        for kind in ("layer", "face", "kernel", "product", "operation", "phase", "packing"):
            recorder.call(lambda: None, (), {}, recorder.span(kind, kind, time.perf_counter()))

    recorder.call(step, (), {}, recorder.span("step", "step", time.perf_counter()))
    assert waits == [4, 5, 6, 8]  # after the kernel, the product and the operation, and at the end of the step


def made_up(*own, names=("step", "a", "b")):
    spans = [Span("layer", name, number - 1, 0.0, {}) for number, name in enumerate(names)]
    for span, seconds in zip(spans, own, strict=True):
        span.own = span.seconds = seconds
    spans[0].seconds = sum(own)
    return spans


def test_a_median_step_has_the_median_of_each_span():
    steps = [made_up(1.0, 2.0, 9.0), made_up(1.5, 2.5, 3.0), made_up(4.0, 0.5, 4.0)]
    another_way = [made_up(0.1, 0.1, 0.1, names=("step", "a", "c")), made_up(0.1, 0.1, names=("step", "a"))]
    spans = median_step(another_way + steps)
    assert [(span.name, span.own, span.seconds) for span in spans] == [("step", 1.5, 7.5), ("a", 2.0, 6.0), ("b", 4, 4)]
