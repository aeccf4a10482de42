"""A person at the page: picks a study, changes one number, presses the button, and reads what came of it."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from served_page import OPEN, Page, environment, make_checkout, served, wait_for

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    # The whole form at once: a message at the foot of the window may not cover the button.
    "--window-size=1400,3000",
)
#: Seconds that a machine may take which has much else to do.
PATIENCE = 900


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=Service(driver))
        try:
            yield browser
        finally:
            browser.quit()


def shown(browser: webdriver.Chrome, words: str, seconds: float = 60) -> WebElement:
    """The innermost element of the page that shows these words, once there is one."""

    def look() -> WebElement | None:
        with suppress(WebDriverException):  # the page is being drawn anew
            return visible(browser, words)
        return None

    element: WebElement = wait_for(look, seconds, f"'{words}' on the page")
    return element


def wait_until_gone(browser: webdriver.Chrome, words: str, seconds: float = 60) -> None:
    def gone() -> bool:
        with suppress(WebDriverException):
            return visible(browser, words) is None
        return False

    wait_for(gone, seconds, f"the end of '{words}'")


def visible(browser: webdriver.Chrome, words: str) -> WebElement | None:
    """The innermost element of the page that shows these words now."""
    found = browser.find_elements(By.XPATH, f"//*[text()[contains(., '{words}')]]")
    return next((element for element in reversed(found) if element.is_displayed()), None)


def field(browser: webdriver.Chrome, label: str) -> WebElement:
    """The control of the form below a label."""
    return shown(browser, label).find_element(By.XPATH, "./following::*[self::input or self::select][1]")


def press(browser: webdriver.Chrome, words: str) -> None:
    button = browser.find_element(By.XPATH, f"//button[normalize-space()='{words}']")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)  # type: ignore[no-untyped-call]
    button.click()


def submitted(browser: webdriver.Chrome, page: Page, label: str, value: str) -> dict[str, Any]:
    """Fill in a control, submit until the form is taken, and return the run."""
    for _ in range(6):
        with suppress(WebDriverException):  # the form has gone, as it was taken after all
            control = field(browser, label)
            control.send_keys("\b" * 8 + value)
            if control.get_attribute("value") == value:
                press(browser, "Submit")
        with suppress(AssertionError):
            found: dict[str, Any] = wait_for(lambda: runs(page), 15, "the run")[0]
            return found
    raise AssertionError("the form was not taken")


def runs(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.ask("/flow_runs/filter", {})[1]
    return found


def experiments(root: Path) -> str:
    """What ``dvc exp show`` lists."""
    command = [sys.executable, "-m", "dvc", "exp", "show", "--csv"]
    done = subprocess.run(
        command, cwd=root, env=environment(root.parent), capture_output=True, text=True, timeout=300, check=True
    )
    return done.stdout


@pytest.mark.timeout(3 * PATIENCE)
def test_a_study_is_run_from_the_form(browser: webdriver.Chrome, tmp_path: Path) -> None:
    root = make_checkout(tmp_path)
    before = {file: file.read_bytes() for file in root.rglob("*.yaml")}
    with served(root) as page:
        browser.get(f"{page.address}/deployments/deployment/{page.deployment('study/study')['id']}/run")
        Select(field(browser, "Study (Optional)")).select_by_visible_text("small")

        mask_ratio = field(browser, "Mask ratio (Optional)")
        mask_ratio.send_keys("2")
        press(browser, "Submit")
        assert "maximum of 1" in shown(browser, "mask_ratio").text
        assert runs(page) == []

        # What is typed and clicked is lost while the page still deals with the refusal.
        wait_until_gone(browser, "maximum of 1")
        run = submitted(browser, page, "Mask ratio (Optional)", "0.5")
        assert run["parameters"] == {"parameters": {"study": "small", "overrides": {"mask_ratio": 0.5}}}

        browser.get(f"{page.address}/runs/flow-run/{run['id']}")
        ended = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        wait_for(lambda: runs(page)[0]["state_type"] in ended, PATIENCE, "the end of the run")
        assert runs(page)[0]["state_type"] == "COMPLETED", page.logs()
        shown(browser, "Completed")
        tasks = page.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})[1]
        stages = {
            "check",
            "modules",
            "prepare mae-n32-s0",
            "index digits",
            "sample n32 s0",
            "examples all",
            "pretrain mae-nano-n32-brief-s0",
        }
        stages |= {"extract mae-nano-n32-brief-s0 all", "extract-floor nano all", "probe mae-nano-n32-brief-s0 knn"}
        stages |= {"probe-floor nano knn", "collect", "fit", "report"}
        assert {task["name"] for task in tasks} == stages
        assert {task["state_type"] for task in tasks} == {"COMPLETED"}
        shown(browser, "Task Runs").click()
        for stage in stages:
            shown(browser, stage)

        shown(browser, "Artifacts").click()
        shown(browser, "report of the study")
        report = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}, "key": {"any_": ["study-report"]}}}
        artifact = page.ask("/artifacts/filter", report)[1][0]
        browser.get(f"{page.address}/artifacts/artifact/{artifact['id']}")
        shown(browser, "validation loss")
        assert artifact["data"].startswith("# A small study\n")
        assert re.findall(r"!\[(\w+)\]\(data:image/png", artifact["data"])[0] == "scaling"
        [experiment] = re.findall(r"DVC experiment `([a-z0-9-]+)`", artifact["data"])
        assert shown(browser, experiment).is_displayed()
        link = shown(browser, "report.html").get_attribute("href")
        with OPEN(link, timeout=10) as answer:
            assert answer.read().decode().rstrip().endswith("</html>")

    assert re.search(rf"^{experiment},", experiments(root), re.MULTILINE)
    assert {file: file.read_bytes() for file in before} == before
    assert "Traceback" not in page.logs()
