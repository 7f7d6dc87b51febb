"""Docstrings and kernel headers are plain text; the site shows them as Markdown and as reStructuredText."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "docs"))
from builder import text

PLAIN = """\
A sum over `x` and y_i:

    y[i] = sum_j a[i, j] * x[j]

    i < n

x: the input, whose
    second line is indented. y, z: more.
weight_decay: *no*
emphasis.

Raises ValueError.
"""


def test_blocks():
    assert list(text.blocks(PLAIN)) == [
        ("text", "A sum over `x` and y_i:"),
        ("code", "y[i] = sum_j a[i, j] * x[j]\n\ni < n"),
        ("item", "x: the input, whose second line is indented. y, z: more."),
        ("item", "weight_decay: *no* emphasis."),
        ("text", "Raises ValueError."),
    ]


@pytest.mark.parametrize(
    ("write", "first", "listed"),
    [
        (text.markdown, r"A sum over `x` and y\_i:", r"- `weight_decay`: \*no\* emphasis."),
        (text.restructured, r"A sum over ``x``\  and y\_i:", r"- ``weight_decay``\ : \*no\* emphasis."),
    ],
)
def test_written(write, first, listed):
    lines = write(PLAIN).splitlines()
    assert lines[0] == first
    assert listed in lines


def test_what_begins_like_a_list_is_none():
    assert text.markdown("1. is a number") == "\\1. is a number\n"
    assert text.markdown("- 3 is one, too") == "\\- 3 is one, too\n"
