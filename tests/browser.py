"""A page as a browser shows it, where Chromium and its driver are installed."""

import contextlib
import pathlib
import shutil
import tempfile

import pytest


@contextlib.contextmanager
def browser():
    """Chromium without a window; skips the test where it, its driver or selenium is missing."""
    webdriver = pytest.importorskip("selenium.webdriver")
    program, service = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if program is None or service is None:
        pytest.skip("Chromium and its driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory() as folder:
        switches = "headless=new no-sandbox disable-gpu disable-dev-shm-usage no-first-run disable-sync"
        switches += " disable-background-networking window-size=1280,800"
        for switch in [*switches.split(), f"user-data-dir={folder}"]:
            options.add_argument(f"--{switch}")
        driver = webdriver.Chrome(options, webdriver.ChromeService(service))
        try:
            yield driver
        finally:
            driver.quit()


def show(driver, path, width=1280, ground="light"):
    """Open a file in a window of so many pixels; returns the messages on the console."""
    scheme = {"features": [{"name": "prefers-color-scheme", "value": ground}]}
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(pathlib.Path(path).resolve().as_uri())
    return driver.get_log("browser")
