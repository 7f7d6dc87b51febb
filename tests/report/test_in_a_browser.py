"""Pages and drawings as Chromium shows them: quiet, light and dark, as wide as the window."""

import pytest
from browser import browser, show

import cupynn
from cupynn.graph import draw
from cupynn.pictures import DARK, LIGHT

WIDER = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
INSIDE = """
return [...document.querySelectorAll('g')].filter(g => g.querySelector(':scope > title')).map(g => {
  const box = g.querySelector('rect').getBBox();
  return [...g.querySelectorAll('text')].map(text => text.getBBox()).every(
    t => t.x > box.x && t.x + t.width < box.x + box.width && t.y > box.y && t.y + t.height < box.y + box.height);
});
"""


@pytest.fixture(scope="module")
def driver():
    with browser() as driver:
        yield driver


@pytest.mark.parametrize("ground", [LIGHT, DARK], ids=lambda theme: theme.name)
@pytest.mark.parametrize("width", [1280, 480])
def test_a_report_fits_its_window(driver, markup, tmp_path, width, ground):
    page = tmp_path / "report.html"
    page.write_text(markup, encoding="utf-8")
    assert show(driver, page, width, ground.name) == []
    assert driver.execute_script(WIDER) <= 0
    red, green, blue = (int(ground.background[i : i + 2], 16) for i in (1, 3, 5))
    colour = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert colour == f"rgb({red}, {green}, {blue})"
    pictures = driver.execute_script("return [...document.images].map(i => [i.complete, i.naturalWidth])")
    assert pictures and all(complete and width > 0 for complete, width in pictures)


def test_texts_fit_their_boxes_in_the_fonts_there_are(driver, tmp_path):
    model = cupynn.models.create("smallnet", kernel_size=7, expand="ck", rate=2)
    drawing = draw(model, cupynn.contract(model), batch=2)
    drawing.save(tmp_path / "net.html")
    assert show(driver, tmp_path / "net.html", 480) == [] and driver.execute_script(WIDER) <= 0
    fits = driver.execute_script(INSIDE)
    assert len(fits) == sum(len(graph.nodes) for graph in drawing.graphs) and all(fits)
