"""What a notebook shows of tensors and tapes: facts, the edges of the values, all of it escaped."""

import numpy as np
import pytest
from markup import Markup

import cupynn
from cupynn.autograd import Function, Tensor, notebook, tape


def shown(value):
    return Markup(value._repr_html_())


def test_a_small_tensor_is_shown_whole():
    found = shown(cupynn.tensor([[1.5, -2.0], [0.0, 1e-9]], requires_grad=True))
    assert found.rows == [["1.5", "-2"], ["0", "1e-09"]]
    assert found.text.startswith("Tensor shape (2, 2) · float32 · cpu · requires grad")
    assert shown(cupynn.tensor(np.array(7))).rows == [["7"]]
    assert shown(cupynn.tensor(np.array([True, False]))).rows == [["True", "False"]]
    assert "no elements" in shown(cupynn.tensor(np.zeros((0, 3)))).text


def test_of_a_large_one_the_edges():
    values = np.arange(2 * 3 * 20 * 30).reshape(2, 3, 20, 30)
    found = shown(cupynn.tensor(values))
    assert "values at [0, 0, :, :]" in found.text
    assert found.rows[4] == ["⋮"] and len(found.rows) == 8
    assert found.rows[0] == ["0", "1", "2", "3", "⋯", "27", "28", "29"]
    assert found.rows[-1] == [str(570 + int(n)) if n != "⋯" else n for n in found.rows[0]]


@pytest.mark.parametrize(("length", "values"), [(7, "0123456"), (8, "0123⋯567"), (9, "0123⋯678")])
def test_no_value_is_shown_twice(length, values):
    assert shown(cupynn.tensor(np.arange(length))).rows == [list(values)]


def test_only_the_edges_leave_the_device(monkeypatch):
    moved = []
    monkeypatch.setattr(notebook, "to_numpy", lambda array: moved.append(array.size) or np.asarray(array))
    shown(Tensor(np.zeros((4, 1000, 1000))))
    assert moved == [16, 12, 12, 9]


def test_the_operation_that_made_it_is_named_and_escaped():
    x = cupynn.tensor([1.0], requires_grad=True)
    evil = type("<img src=x>", (Function,), {"forward": lambda self, x: x, "backward": lambda self, grad: grad})
    y = evil()(x)
    assert "made by <img src=x>" in shown(y).text and "<img" not in y._repr_html_()
    assert "<img" not in tape(y)._repr_html_()


def test_a_tape_is_its_table():
    x = cupynn.tensor([[1.0, 2.0]], requires_grad=True)
    entries = tape((x * x).sum())
    found = shown(entries)
    assert found.rows[0] == "number,function,inputs,output,saved bytes,forward us,backward us".split(",")
    assert [row[:2] for row in found.rows[1:]] == [["0", "Multiply"], ["1", "Sum"]]
    assert "2 records, 8 bytes saved" in found.text


def test_a_long_tape_is_cut():
    x = cupynn.tensor(1.0, requires_grad=True)
    for _ in range(notebook.MOST + 5):
        x = x + 1.0
    found = shown(tape(x))
    assert len(found.rows) == 1 + notebook.MOST and "and 5 more records" in found.text
