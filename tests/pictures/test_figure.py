"""Figures on a light and a dark ground."""

import pytest

pytest.importorskip("matplotlib")

from matplotlib.colors import to_rgb

from cupynn.pictures import DARK, LIGHT, draw_figure, picture_bytes, save_picture


def lines(figure, theme):
    axes = figure.subplots()
    for slope in range(2):
        axes.plot([0, 1], [0, slope], label=f"slope {slope}")
    axes.set(xlabel="x (s)", ylabel="y (m)", title="two lines")
    axes.legend()


def luminance(colour):
    """WCAG 2: relative luminance of an sRGB colour."""
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), channels, strict=True))


def contrast(one, other):
    """WCAG 2: from 1 (the same) to 21 (black on white)."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_text_and_lines_stand_out_from_their_ground(theme):
    """The contrast that WCAG 2 wants: 4.5 for text, 3 for graphics."""
    assert contrast(theme.ink, theme.background) >= 4.5 and contrast(theme.ink, theme.panel) >= 4.5
    assert min(contrast(line, theme.background) for line in theme.lines) >= 3


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_all_of_a_figure_has_the_themes_colours(theme):
    figure = draw_figure(lines, (4, 3), theme)
    (axes,) = figure.axes
    texts = [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_legend().get_texts(), *axes.get_xticklabels()]
    assert {text.get_color() for text in texts} == {theme.ink}
    assert [line.get_color() for line in axes.lines] == list(theme.lines[:2])
    assert to_rgb(figure.get_facecolor()) == to_rgb(axes.get_facecolor()) == to_rgb(theme.background)


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_the_same_figure_is_the_same_bytes(kind):
    assert picture_bytes(lines, (4, 3), LIGHT, kind) == picture_bytes(lines, (4, 3), LIGHT, kind)
    assert picture_bytes(lines, (4, 3), DARK, kind) != picture_bytes(lines, (4, 3), LIGHT, kind)


def test_the_suffix_decides_the_kind(tmp_path):
    save_picture(lines, tmp_path / "a.png", (4, 3))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"must end with .png, .svg or .pdf; it ends with '.gif'"):
        save_picture(lines, tmp_path / "a.gif", (4, 3))
    assert not (tmp_path / "a.gif").exists()
