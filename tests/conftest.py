"""One thread and no deadlines, so that tests repeat; `tests/` on the path, for `from oracles import …`.

`pytest --external DIR` adds the tests of a published model that may not be carried along, in that folder. Tests in a
real browser run where there is a Chromium, and fail without one where `--browser` asks for them, as CI does. Without
a GPU its kernels are run by Triton's interpreter, which is chosen when Triton is imported.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--browser", action="store_true", help="fail where there is no Chromium for the browser tests"
    )
    parser.addoption("--external", metavar="DIR", type=Path, help="a published model's folder, to be checked")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: opens a page in Chromium")
    config.addinivalue_line("markers", "external: needs the folder that --external names")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = set() if config.getoption("--external") else {"external"}
    if CHROMIUM is None and not config.getoption("--browser"):
        left_out.add("browser")
    gone = [item for item in items if left_out & set(item.keywords)]
    config.hook.pytest_deselected(items=gone)
    items[:] = [item for item in items if not left_out & set(item.keywords)]


def pytest_report_header() -> str:
    return f"browser tests: {CHROMIUM or 'left out, no Chromium is installed'}"


@pytest.fixture(scope="session")
def external(request: pytest.FixtureRequest) -> Path:
    """The folder that --external names."""
    return request.config.getoption("--external")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, without a window."""
    assert CHROMIUM is not None, "no Chromium is installed; apt-get install chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        yield started
        started.close()
