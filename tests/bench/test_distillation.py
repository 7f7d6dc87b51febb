"""The study of distillation, with tiny settings: what it writes, and that it repeats itself."""

import json

import numpy as np
import pytest

import cupynn
from bench import distillation
from bench.page import markdown_table, put_section
from cupynn.kernels import runtime


def test_it_writes_figures_and_a_page_and_repeats_itself(tmp_path, capsys):
    if runtime.mode() != "compiled":
        pytest.skip("it trains 21 networks for each seed")
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    page.write_text("# Results\n\nOf something else.\n")
    tiny = ["--each", "3", "--teacher-each", "3", "--epochs", "1", "--teacher-epochs", "1"]
    runs = []
    for number in range(2):
        path = tmp_path / f"{number}.json"
        distillation.main([*tiny, "--seeds", str(1 + number), "--json", str(path), "--page", str(page)])
        runs.append(json.loads(path.read_text()))
    assert runs[0]["results"] == runs[1]["results"][:1] and runs[1]["seeds"] == len(runs[1]["results"]) == 2
    figures = runs[1]
    assert [row["network"] for row in figures["rows"]][:-1] == list(distillation.NETWORKS)
    names = {"teacher", *distillation.NETWORKS, *(f"{name} distilled" for name in distillation.NETWORKS)}
    for result in figures["results"]:
        assert result.keys() == names
        assert all(0 <= accuracy <= 1 for accuracy in result.values())
    text = page.read_text()
    assert text.startswith("# Results\n\nOf something else.\n") and text.count("## Distillation") == 1
    assert "1.json" in text and "0.json" not in text
    for row in figures["rows"]:
        assert row["network"] in text and row["labels"] in text
    assert "ExpandNet-CK+FC" in capsys.readouterr().out


def test_few_digits_are_the_first_of_each_class():
    train_set, _ = cupynn.data.load("digits")
    chosen = distillation.few(train_set, 3)
    assert np.bincount(chosen.labels).tolist() == [3] * 10
    sevens = train_set.images[train_set.labels == 7][:3]
    np.testing.assert_array_equal(chosen.images[chosen.labels == 7], sevens)


def test_mean_and_sample_deviation_in_percent():
    assert distillation.summary([0.9, 0.92, 0.97]) == "93.00 ± 3.61"  # sqrt((9 + 1 + 16) / 2)
    assert distillation.summary([0.5]) == "50.00 ± 0.00"


def test_a_markdown_table():
    rows = [{"network": "a", "labels": "93.00"}, {"network": "a long name", "labels": "5"}]
    assert markdown_table(rows).splitlines() == [
        "| network     | labels |",
        "|-------------|-------:|",
        "| a           |  93.00 |",
        "| a long name |      5 |",
    ]


def test_sections_are_replaced_one_by_one(tmp_path):
    page = tmp_path / "results.md"
    put_section(page, "one", r"first \1")
    put_section(page, "two", "second")
    put_section(page, "one", r"third \g<0>")
    text = page.read_text()
    assert "first" not in text and text.index("third \\g<0>") < text.index("second")
    assert text.count("<!--") == 4
