"""What the explorer costs, driven in Chromium: to the first page, a move of the slider, many sessions at once.

    python benchmarks/explorer.py --readme README.md
    python benchmarks/explorer.py --pictures docs    # those of README, and nothing is timed

Runs that come along are copied to a temporary folder, so nothing is kept. A busy machine is slower. A move ends
when the page's script has ended, a figure shows something else, and it has been painted.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chromium import Browser, Tab, chromium
from readme import replace_block

ROOT = Path(__file__).parent.parent
RUNS = {
    "mod-113-canonical-s0": ("", "attention", "logits", "fourier", "intervene"),
    "add-5d-msb-s1": ("", "attention", "logits", "carries", "intervene"),
}
"""Runs and pages; the first page, Training, has no name in the address."""
PICTURES = {
    "explorer-logits": ("logits?run=add-5d-msb-s1&q=45678%2B54322%3D", 1330),
    "explorer-carries": ("carries?run=add-5d-msb-s1", 1900),
    "explorer-fourier": ("fourier?run=mod-113-canonical-s0", 1350),
}
"""File -> page, and how many pixels of it."""
FIGURE = (
    "[...document.querySelectorAll('.js-plotly-plot .main-svg')].some("
    "svg => svg.checkVisibility({visibilityProperty: true}) && svg.getBoundingClientRect().width)"
)
SLIDER = (
    "document.querySelector("
    "'[data-testid=stSidebar] [role=slider], [data-testid=stSidebar] input[type=range]')"
)
DONE = "document.querySelector('[data-testid=stApp][data-test-script-state=notRunning]')"
EXCEPTIONS = "document.querySelectorAll('[data-testid=stException]').length"
WHOLE = "!document.body.innerText.includes('the libraries are loaded')"
SHOWN = "[...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => [plot.data, plot.layout])"
"""What figures are of: another object where the page was given another figure."""
MOVES, HEIGHT, SECONDS_TO_LOOK = 12, 900, 0.5


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """An explorer of the folder: its address and its process."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    program = "from interp_arith.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, "app", str(folder), "--port", str(port), "--no-browser"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)
    try:
        await_answer(f"http://localhost:{port}/_stcore/health", server)
        yield f"http://localhost:{port}", server
    finally:
        server.terminate()
        server.wait(timeout=20)


def first_page(browser: Browser, folder: Path) -> float:
    """Seconds from the command to a first figure and a slider, in a browser that has nothing of it in its cache."""
    begun = time.perf_counter()
    with served(folder) as (address, _):
        tab = browser.open(address)
        tab.until(f"{FIGURE} && {SLIDER}")
        taken = time.perf_counter() - begun
        tab.close()
    return taken


def await_answer(url: str, server: subprocess.Popen) -> None:
    """Come when the server answers, as the browser that it opens does."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:  # nothing listens yet
            time.sleep(0.05)
    raise SystemExit(f"the server of {url} has ended")


def opened(browser: Browser, address: str, height: int = HEIGHT) -> Tab:
    """A page as a whole, its slider ready for keys."""
    tab = browser.open(address, height)
    tab.until(f"{DONE} && {FIGURE} && {SLIDER} && {WHOLE}")
    tab.evaluate(f"void {SLIDER}.focus()")
    return tab


def move(tab: Tab, to: str) -> float:
    """Seconds until the figures show another checkpoint."""
    tab.evaluate(f"void (window.before = {SHOWN})")
    begun = time.perf_counter()
    tab.press(to)
    tab.until(f"{SHOWN}.some((x, i) => x !== window.before[i]) && {DONE}")
    tab.painted()
    return time.perf_counter() - begun


def moves(browser: Browser, address: str) -> list[float]:
    """Seconds of each move, back through the trajectory and forth again."""
    tab = opened(browser, address)
    taken = []
    for index in range(MOVES):
        taken.append(move(tab, "ArrowLeft" if index < MOVES // 2 else "ArrowRight"))
        time.sleep(SECONDS_TO_LOOK)
    tab.close()
    return taken


def sessions(
    browser: Browser, address: str, server: subprocess.Popen, n: int, seconds: float
) -> dict[str, float]:
    """Many sessions that move the slider in turn; memory of the server before and at its most."""
    tabs = []
    for index in range(n):
        run, pages = list(RUNS.items())[index % len(RUNS)]
        tabs.append(browser.open(f"{address}/{pages[index // len(RUNS) % len(pages)]}?run={run}"))
    for tab in tabs:
        tab.until(f"{DONE} && {FIGURE} && {SLIDER}")
        tab.evaluate(f"void {SLIDER}.focus()")
    before = most = megabytes(server.pid)
    begun, moved = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        for tab in tabs:
            tab.press("ArrowLeft" if (moved // len(tabs)) % 16 < 8 else "ArrowRight")
            moved += 1
            most = max(most, megabytes(server.pid))
    for tab in tabs:
        tab.until(DONE)
    failed = sum(tab.evaluate(EXCEPTIONS) for tab in tabs)
    most = max(most, megabytes(server.pid))
    return {
        "sessions": n,
        "moves": moved,
        "failed": failed,
        "megabytes before": before,
        "megabytes at most": most,
    }


def take_pictures(browser: Browser, address: str, folder: Path) -> None:
    """Pages as they are, 1280 pixels wide."""
    for name, (page, height) in PICTURES.items():
        tab = opened(browser, f"{address}/{page}", height)
        time.sleep(3)  # what was drawn moves into its place
        tab.picture(folder / f"{name}.png")
        tab.close()


def megabytes(process: int) -> float:
    """Memory that a process holds."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def measured(browser: Browser, folder: Path, n: int, seconds: float) -> dict[str, Any]:
    """All of it, by name."""
    found: dict[str, Any] = {"first page": [round(first_page(browser, folder), 2) for _ in range(3)]}
    with served(folder) as (address, server):
        opened(browser, f"{address}/logits").close()  # all libraries are there
        found["moves"] = {
            run: {
                page or "training": [round(s, 2) for s in moves(browser, f"{address}/{page}?run={run}")]
                for page in pages
            }
            for run, pages in RUNS.items()
        }
        found["sessions"] = sessions(browser, address, server, n, seconds)
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """Of README: a table of moves by page and run, and what else was seen."""
    pages = list(dict.fromkeys(page for taken in found["moves"].values() for page in taken))
    table = [f"| a move of the slider | {' | '.join(f'`{run}`' for run in RUNS)} |", "| --- | ---: | ---: |"]
    for page in pages:
        cells = [_seconds(found["moves"][run].get(page)) for run in RUNS]
        table.append(f"| {page.capitalize()} | {' | '.join(cells)} |")
    many = found["sessions"]
    more = many["megabytes at most"] - many["megabytes before"]
    said = (
        f"The first figure is there {_seconds(found['first page'])} after the command. {many['sessions']} sessions "
        f"made {many['moves']} moves, {many['failed']} failed, and the server grew by {more:.0f} MB. "
        f"Medians (longest), {os.cpu_count()} processors."
    )
    return [*textwrap.wrap(said, 118), "", *table]


def _seconds(taken: list[float] | None) -> str:
    return "–" if taken is None else f"{statistics.median(taken):.2f} s ({max(taken):.2f})"


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sessions", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--readme", type=Path, metavar="FILE", help="put the table between its marks")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="take those of README instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, chromium() as browser:
        folder = Path(temporary)
        for name in RUNS:
            shutil.copytree(ROOT / "checkpoints" / name, folder / name)
        if arguments.pictures:
            with served(folder) as (address, _):
                take_pictures(browser, address, arguments.pictures)
            return
        found = measured(browser, folder, arguments.sessions, arguments.seconds)
    print(json.dumps(found))
    print(*lines(found), sep="\n")
    if arguments.readme:
        replace_block(arguments.readme, "explorer", lines(found))


if __name__ == "__main__":
    main()
