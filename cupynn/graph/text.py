"""How wide a text is, before anybody draws it."""

from __future__ import annotations

# Widths of Helvetica and of the fonts cut to them, Arial and Liberation Sans, in thousandths of the size.
_WIDTHS = {
    222: "ijl'",
    260: "|",
    278: " !,./:;I[\\]ft·",
    333: "()-`r{}",
    389: "*",
    469: "^",
    500: "Jcksvxyz",
    556: '"#$0123456789?L_abdeghnopqu',
    584: "+<=>~",
    611: "FTZ",
    667: "&ABEKPSVXY",
    722: "CDHNRUw",
    778: "GOQ",
    833: "Mm",
    889: "%",
    944: "W",
}
WIDTHS = {letter: width / 1000 for width, letters in _WIDTHS.items() for letter in letters}
WIDEST = 1.015  # what is not in the table
BOLD = 1.07


def width(text: str, size: float, bold: bool = False) -> float:
    """In the unit of `size`."""
    return size * (BOLD if bold else 1) * sum(WIDTHS.get(letter, WIDEST) for letter in text)


def shortened(text: str, size: float, room: float, bold: bool = False) -> str:
    """The text, or as much of its two ends as is no wider than `room`, with … between."""
    if width(text, size, bold) <= room:
        return text
    for kept in range(len(text) - 1, 0, -1):
        short = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
        if width(short, size, bold) <= room:
            return short
    return "…"
