"""What the pages of docs/papers/ leave to the sources: their tables.

A page holds comments, `<!-- catalogue: WHE -->`, in whose place the site has the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from builder import images, measured, text
from cupynn.models.catalogue import ENTRIES
from cupynn.models.entry import Entry, difference
from cupynn.train import recipes

MARK = re.compile(r"^<!-- (\w+): (.*?) -->$", re.M)


def fill(page: str) -> str:
    """The page with its tables."""
    return MARK.sub(lambda found: TABLES[found[1]](found[2]) if found[1] in TABLES else found[0], page)


def catalogue(paper: str) -> str:
    """Every network of a paper: counted here, printed there, and why the two differ."""
    entries = [entry for entry in ENTRIES.values() if entry.source.startswith(paper)]
    notes: dict[str, int] = {}
    rows = [_row(entry, notes) for entry in entries]
    kept = [name for name in rows[0] if any(row[name] for row in rows)]  # a paper may print no operations
    lines = [f"{number}. {text.markdown_line(note)}" for note, number in notes.items()]
    return "\n".join([measured.markdown([{name: row[name] for name in kept} for row in rows]), "", *lines])


def _row(entry: Entry, notes: dict[str, int]) -> dict[str, str]:
    count = entry.count()
    operations = entry.operations(count)
    mark = f" [{notes.setdefault(entry.note, len(notes) + 1)}]" if entry.note else ""
    printed, printed_operations = entry.paper_params or "", entry.paper_operations or ""
    return {
        "network": text.markdown_line(entry.id + mark),
        "image": "x".join(map(str, entry.input)),
        "parameters": f"{count.parameters:,}",
        "paper": printed,
        "differs": difference(count.parameters, printed) if printed else "",
        "MACs": f"{count.macs:,}",
        "paper's operations": printed_operations,
        "counted as": entry.convention if printed_operations else "",
        "differ": difference(operations, printed_operations) if printed_operations else "",
    }


def part(words: str) -> str:
    """Another table of a benchmark: its name, then its part."""
    bench, name = words.split()
    return measured.chosen(bench, part=name)


def picture(words: str) -> str:
    """A drawing for light and for dark: its name, then, in parentheses, what it shows."""
    name, shows = re.fullmatch(r"(\w+) \((.*)\)", words).groups()
    return images.drawn(f"pictures/{name}", shows)


def networks(word: str) -> str:
    """The rows of whole networks whose name holds the word: a training step, then inference."""
    training = measured.chosen("networks", lambda row: word in row["network"])
    inference = [row for row in measured.result("networks")["inference"] if word in row["network"]]
    return f"A training step. {training}\nInference, contracted:\n\n{measured.table(inference)}\n"


def recipe_list(folder: str) -> str:
    """The recipes of a paper."""
    names = [name for name in recipes.names() if name.startswith(f"{folder}/")]
    return ", ".join(f"`{name}`" for name in names) + "."


TABLES: dict[str, Callable[[str], str]] = {
    "catalogue": catalogue,
    "networks": networks,
    "measured": measured.chosen,
    "part": part,
    "picture": picture,
    "recipes": recipe_list,
}
