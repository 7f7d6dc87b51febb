"""The page of a trace, opened in a browser: stepping, what is marked then, keys, links, no errors."""

import numpy as np
import pytest
from browser import browser

from cupynn.cli import main
from cupynn.trace import Block, Launch, lines, page
from cupynn.trace.recording import ATOMIC

pytestmark = pytest.mark.skipif(lines.find_tool() is None, reason="no addr2line here")


def traced(known, kernel="columns", pitch=32):
    x, y = np.arange(1024, dtype=np.float32), np.zeros(32, np.float32)
    return Block(Launch(known, kernel, (1, 1, 1), (32, 1, 1), (x, y, pitch), 32 * pitch * 4))


@pytest.fixture(scope="module")
def driver():
    with browser() as driver:
        yield driver


class Opened:
    """A page in the browser."""

    def __init__(self, driver, block, path):
        page(block).save(path)
        self.driver, self.block = driver, block
        driver.get(path.as_uri())

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def texts(self, selector):
        return self.each(selector, "innerText")

    def each(self, selector, field):
        """A field or attribute of every element, in one round trip."""
        value = "one[arguments[1]] ?? one.getAttribute(arguments[1])"
        script = f"return [...document.querySelectorAll(arguments[0])].map((one) => {value})"
        return self.driver.execute_script(script, selector, field)

    def click(self, button):
        self.all(f"#{button}")[0].click()

    def press(self, *keys):
        body = self.all("body")[0]
        for key in keys:
            body.send_keys(key)

    def place(self):
        return self.texts("#place")[0]

    def marked(self):
        """Numbers of the source's lines that are marked."""
        return set(map(int, self.each("#source .way, #source .now", "data-line")))

    def check(self, step):
        """What is shown is step `step` of the block."""
        block, steps = self.block, self.block.steps
        assert self.place() == f"step {step + 1} of {len(steps)}"
        assert self.marked() == set(block.chains[steps.site[step]])
        members = steps.members[steps.begin[step] : steps.end[step]]
        lanes = [str(lane) for lane in block.events["thread"][members] % 32]
        assert self.texts("#threads .thread") == lanes
        if steps.kind[step] > ATOMIC:
            assert not self.all("#memory .grid")
            return
        elements = {block.element(event) for event in members}
        titles = self.each("#memory .thread", "title")
        assert {title.partition(" thread ")[0] for title in titles} == elements
        said = self.texts("#said")[0]
        array = block.arrays[block.array[members[0]]]
        assert array.name in said
        if array.shared:
            assert ("No bank conflict" in said) == (block.degree[step] == 1)
        else:
            assert f"{block.sectors[step]} sector" in said and f"least {block.least[step]}," in said


@pytest.fixture
def opened(driver, known, tmp_path):
    yield Opened(driver, traced(known), tmp_path / "page.html")
    severe = [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not severe


def test_stepping(opened):
    """32 rows are read and written, a barrier, a column is read, and written to y."""
    last = len(opened.block.steps) - 1
    assert last == 66
    opened.check(0)
    opened.click("next")
    opened.check(1)
    assert len(opened.all("#memory .written")) == 32
    opened.click("back")
    opened.check(0)
    opened.click("barrier")
    opened.check(65)
    assert (
        opened.texts("#memory .hot") == ["32"]
        and "32-way bank conflict: 32 passes over the banks, least 1." in opened.texts("#said")[0]
    )
    opened.click("back")
    opened.check(64)
    opened.click("last")
    opened.check(last)
    opened.click("next")
    opened.check(last)
    opened.click("first")
    opened.click("line")
    opened.check(64)  # the loop is one line


def test_keys(opened):
    from selenium.webdriver.common.keys import Keys

    opened.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    opened.check(1)
    opened.press(Keys.END)
    opened.check(66)
    opened.press(Keys.HOME, "b")
    opened.check(65)
    opened.press(Keys.HOME, "n")
    opened.check(64)
    slider = opened.all("#slider")[0]
    slider.send_keys(Keys.ARROW_RIGHT)  # the slider's own: one step, not two
    opened.check(65)
    button = opened.all("#back")[0]
    button.send_keys(Keys.ENTER)
    opened.check(64)


def test_values_and_links(opened):
    opened.all("#each summary")[0].click()
    opened.click("barrier")
    assert opened.texts("#each li")[:2] == ["0 shared_memory[5] = 5", "1 shared_memory[37] = 37"]
    row = opened.all("#rows tbody tr")[-1]
    row.find_element("css selector", "button").click()
    assert opened.texts("#each li")[3] == "3 y[3] = 101"  # as it was written
    assert "now" in row.get_attribute("class")
    opened.click("first")
    barrier = opened.block.rows[2].lines[0]
    opened.all(f'#source .busy[data-line="{barrier}"]')[0].click()
    opened.check(64)


def test_warps(driver, known, tmp_path):
    x, y = np.arange(68, dtype=np.float32), np.zeros(64, np.float32)
    block = Block(Launch(known, "ways", (1, 1, 1), (64, 1, 1), (x, y), 0))
    shown = Opened(driver, block, tmp_path / "page.html")
    shown.check(0)
    for option in shown.all("#warp option"):
        if option.text == "1":
            option.click()
    of_one = int((block.steps.warp == 1).sum())
    assert shown.place() == f"step 1 of {of_one}" and "Warp 1, " in shown.texts("#said")[0]
    shown.all("#each summary")[0].click()
    while "warp function" not in shown.texts("#said")[0]:
        shown.click("next")
    assert shown.texts("#each li")[:2] == ["32 with lane 1", "33 with lane 0"]
    assert not driver.get_log("browser")


def test_it_fits_and_stands_alone(opened):
    """Nothing is wider than the window, wide or narrow, light or dark; no other file is named."""
    driver = opened.driver
    text = page(opened.block).markup()
    assert "http" not in text and "src=" not in text and "@import" not in text
    for width in (1280, 380):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    grounds = set()
    for scheme in ("light", "dark"):
        driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        grounds.add(opened.all("body")[0].value_of_css_property("background-color"))
    assert len(grounds) == 2


def test_a_page_has_an_end(known, monkeypatch):
    monkeypatch.setattr("cupynn.trace.pages.MOST_ACCESSES", 100)
    markup = page(traced(known)).markup()
    assert "the first 3 of 67 steps" in markup


def test_the_command_writes_it(tmp_path, capsys):
    file = tmp_path / "sgd.html"
    assert main(["kernel", "sgd", "--html", str(file)]) == 0
    assert "sgd.cu: step&lt;float, true, true&gt;" in file.read_text() and capsys.readouterr().out
    assert main(["kernel", "sgd", "--html", str(tmp_path / "none" / "sgd.html")]) == 1
    assert "there is no folder" in capsys.readouterr().err
