"""What drawings are made of, in the colours of a `cupynn.pictures.Theme`."""

from __future__ import annotations

from typing import Any

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from cupynn.pictures import Theme


class Drawing:
    """Axes without ticks, `width` by `height` units, and shapes on them; colours are numbers of the theme's lines."""

    def __init__(self, place: Any, theme: Theme, width: float, height: float):
        self.axes, self.theme = place, theme
        place.set_aspect("equal")
        place.axis("off")
        place.set_xlim(0, width)
        place.set_ylim(0, height)

    def text(self, x: float, y: float, words: str, size: float = 8.5, align: str = "center", **style: Any) -> None:
        """Words, centred on a point."""
        self.axes.text(x, y, words, ha=align, va="center", fontsize=size, color=self.theme.ink, **style)

    def box(self, x: float, y: float, width: float, height: float, words: str, colour: int, size: float = 9) -> None:
        """A round box with words."""
        style = "round,pad=0.02,rounding_size=0.08"
        face, edge = self._colours(colour)
        self.axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=face, edgecolor=edge, lw=1))
        self.text(x + width / 2, y + height / 2, words, size)

    def arrow(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """An arrow between two points."""
        style = {"arrowstyle": "-|>", "mutation_scale": 12, "color": self.theme.ink, "lw": 1.1}
        self.axes.add_patch(FancyArrowPatch(start, end, **style))

    def grid(self, x: float, y: float, columns: int, rows: int, cell: float, fill: dict | None = None) -> None:
        """Cells, row 0 on top; fill: {(row, column): colour}; the others are of the ground's colour."""
        for row in range(rows):
            for column in range(columns):
                colour = (fill or {}).get((row, column))
                face = self.theme.background if colour is None else self._colours(colour)[0]
                at = x + column * cell, y + (rows - 1 - row) * cell
                self.axes.add_patch(Rectangle(at, cell, cell, facecolor=face, edgecolor=self.theme.faint, lw=0.7))

    def frame(self, x: float, y: float, width: float, height: float, colour: int) -> None:
        """A strong line round something."""
        edge = self._colours(colour)[1]
        self.axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=edge, lw=1.8))

    def _colours(self, colour: int) -> tuple[Any, str]:
        """The face and the edge: the theme's line, mixed with the ground and as it is."""
        from matplotlib.colors import to_rgb

        edge = self.theme.lines[colour]
        mixed = (0.3 * a + 0.7 * b for a, b in zip(to_rgb(edge), to_rgb(self.theme.background), strict=True))
        return tuple(mixed), edge
