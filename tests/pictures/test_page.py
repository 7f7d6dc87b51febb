"""One HTML file that holds all it shows."""

import re

import pytest
from markup import Markup

from cupynn.pictures import DARK, LIGHT, Page


def test_text_is_escaped_and_tags_are_closed():
    page = Page("a < b")
    page.heading("Loss & accuracy")
    page.paragraph("<script>alert(1)</script>")
    page.code("x <y>")
    page.table([{"name": "<b>", "share": 0.5}, {"name": "c", "share": 1}])
    text = page.markup()
    parsed = Markup(text)
    assert "<script>" not in text and "<script>alert(1)</script>" in parsed.texts
    assert 'id="loss-accuracy"' in text and text.count("<tr>") == 3 and '<td class="number">0.5</td>' in text


def test_it_has_both_grounds_and_needs_no_other_file():
    pytest.importorskip("matplotlib")
    page = Page("curves", css="b { color: var(--line-2) }", script="let a = 1;")
    page.picture(lambda figure, theme: figure.subplots().plot([1, 2]), (3, 2), 'a line from "1" to 2')
    text = page.markup()
    assert f"--ink:{LIGHT.ink}" in text and f"--ink:{DARK.ink}" in text
    assert text.count("data:image/svg+xml;base64,") == 2 and "a line from &quot;1&quot; to 2" in text
    assert not re.search(r'(?:src|href|srcset)="(?!data:|#)', text) and "@import" not in text and "url(" not in text
    assert text.index("let a = 1;") > text.index("<picture>")


def test_a_table_needs_rows():
    with pytest.raises(ValueError, match="page: a table needs at least one row"):
        Page("empty").table([])
