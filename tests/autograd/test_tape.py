import numpy as np
import pytest

from cupynn.autograd import Function, Tensor, exp, tape


@pytest.fixture
def loss():
    x = Tensor(np.ones((2, 3)), requires_grad=True)
    w = Tensor(np.ones((3, 4)), requires_grad=True)
    h = exp(x @ w)
    return (h * h).sum()


def test_records_stand_in_the_order_of_their_calls(loss):
    entries = tape(loss)
    assert [entry.record.name for entry in entries] == ["MatMul", "Exp", "Multiply", "Sum"]
    assert [entry.inputs for entry in entries[1:]] == [(0,), (1, 1), (2,)]
    assert [leaf.shape for leaf in entries[0].inputs] == [(2, 3), (3, 4)]


def test_weight(loss):
    entries = tape(loss)
    matrix, hidden = 8 * (6 + 12), 8 * 8  # float64: x and w; the result of exp
    assert [entry.saved_bytes for entry in entries] == [matrix, hidden, hidden, 0]
    assert entries.saved_bytes == matrix + hidden  # exp and the product keep the same array


def test_a_view_weighs_what_it_keeps_alive():
    x = Tensor(np.ones((10, 10)), requires_grad=True)
    assert tape(x[0] * x[1]).saved_bytes == 800


def test_times_appear_with_backward(loss):
    entries = tape(loss)
    assert all(entry.record.forward_seconds > 0 and entry.record.backward_seconds is None for entry in entries)
    loss.backward()
    assert all(entry.record.backward_seconds > 0 for entry in entries)
    assert [entry.saved_bytes > 0 for entry in entries] == [True, True, True, False]


def test_table(loss):
    lines = str(tape(loss)).splitlines()
    assert lines[0].split() == "number function inputs output saved bytes forward us backward us".split()
    assert lines[1].split()[:6] == ["0", "MatMul", "leaf(2,", "3),", "leaf(3,", "4)"]
    assert lines[3].split()[:4] == ["2", "Multiply", "1,", "1"]
    assert lines[-1] == "4 records, 208 bytes saved"
    assert len({len(line) for line in lines[:-1]}) == 1


def test_dot(loss):
    text = tape(loss).dot()
    assert text.startswith("digraph tape {") and text.endswith("}")
    for line in (
        'call1 [label="Exp\\n(2, 4)"];',
        "call0 -> call1;",
        'leaf0 [shape=ellipse, label="(2, 3) float64"];',
        "leaf1 -> call0;",
    ):
        assert f"  {line}\n" in text
    assert text.count("call1 -> call2;") == 2


def test_several_outputs_are_listed():
    class Halves(Function):
        def forward(self, x):
            return x[:1], x[1:]

    first, _ = Halves()(Tensor(np.ones(3), requires_grad=True))
    assert "(1,), (2,)" in str(tape(first))


def test_a_leaf_has_an_empty_tape():
    assert tape(Tensor(np.ones(3), requires_grad=True)) == []


def test_a_freed_graph_is_refused(loss):
    loss.backward()
    with pytest.raises(RuntimeError, match="tape: this graph was freed by backward"):
        tape(loss)
