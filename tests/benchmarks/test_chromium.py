"""The browser that the explorer's benchmark drives: what it is told of a page, and what it says where that fails."""

import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import chromium as driver

PAGE = "data:text/html,<input autofocus><script>onkeydown = event => document.title = event.key</script>"
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    with driver.chromium() as browser:
        yield browser


@pytest.fixture
def tab(browser):
    tab = browser.open(PAGE, height=300)
    tab.until("document.querySelector('input')")
    yield tab
    tab.close()


def test_a_script_s_value_and_a_promise_s(tab):
    assert tab.evaluate("[1, 'two']") == [1, "two"]
    assert tab.evaluate("Promise.resolve(3)") == 3


def test_a_key_is_heard(tab):
    tab.evaluate("void document.querySelector('input').focus()")
    tab.press("ArrowLeft")
    tab.until("document.title === 'ArrowLeft'")
    assert tab.evaluate("document.title") == "ArrowLeft"


def test_a_picture_is_as_large_as_was_asked(tab, tmp_path):
    tab.painted()
    tab.picture(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.size == (driver.WIDTH, 300)


def test_a_script_that_fails_and_a_wrong_command_are_said(tab):
    with pytest.raises(RuntimeError, match="nothing is not defined"):
        tab.evaluate("nothing.at.all")
    with pytest.raises(RuntimeError, match=r"No\.such"):
        tab.call("No.such")


def test_what_does_not_come_is_given_up(tab, monkeypatch):
    monkeypatch.setattr(driver, "SECONDS", 0.1)
    with pytest.raises(TimeoutError, match="1 === 2"):
        tab.until("1 === 2")


def test_without_a_browser_it_says_how_to_get_one(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="apt-get install chromium"), driver.chromium():
        pass
