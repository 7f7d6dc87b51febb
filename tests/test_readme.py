"""The README's example runs as printed, and its map names what is there."""

import json
import pathlib
import re
import statistics

import cupynn
from cupynn import cli
from cupynn.models.catalogue import ENTRIES
from cupynn.train import recipes

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    monkeypatch.chdir(tmp_path)
    cupynn.manual_seed(0)
    names = {}
    exec(code, names)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    assert "Verification(" in capsys.readouterr().out
    images, labels = names["test"].images, names["test"].labels
    compact = cupynn.load(tmp_path / "compact.safetensors").eval()
    batch = next(iter(cupynn.data.batches(names["test"], 200)))
    accuracy = (compact(cupynn.tensor(batch[0])).data.argmax(1) == batch[1]).mean()
    assert len(images) == len(labels) == 1000
    assert accuracy > 0.5  # one epoch reaches about 0.9; chance is 0.1


def the_map():
    """The folders and files of each line, from the top."""
    rows = re.findall(r"^\| `([^|]*)` \|", README.split("## Where things are")[1].split("## Switches")[0], re.M)
    for row in rows:
        first, *others = [part.strip("` ") for part in row.split(",")]
        yield [first.rstrip("/"), *(f"cupynn/{other.rstrip('/')}" for other in others)]


def test_every_folder_on_the_map_exists_and_the_other_way_round():
    names = [name if (ROOT / name).exists() else name.removeprefix("cupynn/") for row in the_map() for name in row]
    assert [name for name in names if not (ROOT / name).exists()] == []
    folders = {f"cupynn/{path.parent.name}" for path in ROOT.glob("cupynn/*/__init__.py")}
    assert folders - set(names) == set()


def test_imports_point_down_the_map():
    line = {name.removesuffix(".py"): number for number, row in enumerate(the_map()) for name in row}
    upward = []
    for path in sorted({*(ROOT / "cupynn").rglob("*.py")} - {ROOT / "cupynn" / "__init__.py"}):
        parts = path.relative_to(ROOT).with_suffix("").parts
        text = path.read_text()
        together = re.findall(r"^\s*from cupynn import \(?([\w, ]+)", text, re.M)
        names = [f"cupynn.{name}" for names in together for name in names.split(", ")]
        for imported in re.findall(r"^\s*(?:from|import) (cupynn\.[\w.]+)", text, re.M) + names:
            here, there = (place(parts, line), place(imported.split("."), line))
            if here and there and line[there] < line[here]:
                upward.append(f"{path.relative_to(ROOT)} imports {imported}")
    assert upward == []


def place(parts, line):
    """The longest beginning of a path that is on the map."""
    names = ["/".join(parts[:length]) for length in range(len(parts), 1, -1)]
    return next((name for name in names if name in line), None)


def test_the_figures_are_those_that_were_measured():
    measured = json.loads((ROOT / "bench" / "results" / "cpu-networks.json").read_text())
    rows = {row["network"]: row for row in measured["rows"]}
    printed = re.findall(
        r"^\| (\S.*?) \| ([\d.]+) ms \| ([\d.]+) ms \| ([\d.]+) \| ([\d.]+|-) \| ([\d.]+) \|$", README, re.M
    )
    assert len(printed) >= 8
    for name, *figures in printed:
        row = rows[name]
        compiled = "-" if row["of compiled"] == "-" else f"{row['of compiled']:.2f}"
        memory = row["of eager's"]
        times = f"{row['cupynn ms']:.0f}", f"{row['eager ms']:.0f}"
        assert figures == [*times, f"{row['of eager']:.2f}", compiled, f"{memory:.2f}"], name
    means = re.findall(r"geometric mean of all (\d+) is ([\d.]+)", README)
    ratios = [row["of eager"] for row in rows.values()]
    assert means == [(str(len(ratios)), f"{statistics.geometric_mean(ratios):.2f}")]
    assert measured["machine"]["processor"] in README


def test_the_layers_exist():
    for name in re.findall(r"`nn\.(\w+)`", README):
        assert hasattr(cupynn.nn, name), name


def test_the_list_of_networks_is_what_the_command_prints(capsys):
    (words, printed) = re.search(r"```text\n\$ cupynn models --filter '(.*?)'\n(.*?)```", README, re.S).groups()
    assert cli.main(["models", "--filter", words]) == 0
    assert capsys.readouterr().out == printed
    assert f"lists {len(ENTRIES)} of them" in README


def test_the_number_of_recipes_is_theirs():
    assert f"# {len(recipes.names())} recipes of the papers" in README
