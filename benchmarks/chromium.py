"""A Chromium that is left alone while it works: asked now and then, over its own protocol, what a page shows.

Playwright, which the tests use, is told of all that happens in a page. V8 then works out where in a script each error
was made, also those that are caught: a second of the first page that nobody waits for who opens it.
"""

import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTH, HEIGHT = 1280, 900
KEYS = {"ArrowLeft": 37, "ArrowRight": 39}
SECONDS, PAUSE = 90.0, 0.02


class Browser:
    """A browser and the line to it."""

    def __init__(self, line: ClientConnection) -> None:
        self._line = line
        self._sent = 0

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """A command of the Chrome DevTools Protocol, and its result.

        Raises:
            RuntimeError: the browser refuses it.
        """
        self._sent += 1
        command = {"id": self._sent, "method": method, "params": parameters}
        self._line.send(json.dumps(command | ({"sessionId": session} if session else {})))
        while True:
            answer = json.loads(self._line.recv(timeout=SECONDS))
            if answer.get("id") == self._sent:
                break
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def open(self, address: str, height: int = HEIGHT) -> "Tab":
        """A page in a profile of its own, with nothing in its cache."""
        profile = self.call("Target.createBrowserContext")["browserContextId"]
        return Tab(self, profile, address, height)


class Tab:
    """A page."""

    def __init__(self, browser: Browser, profile: str, address: str, height: int) -> None:
        self._browser, self._profile = browser, profile
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=profile)
        found = browser.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = found["sessionId"]
        size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=address)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command for the page."""
        return self._browser.call(method, self._session, **parameters)

    def evaluate(self, script: str) -> Any:
        """What a script comes to in the page, once a promise is kept.

        Raises:
            RuntimeError: the script fails.
        """
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails']['exception']['description']}")
        return found["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until a script comes to something true.

        Raises:
            TimeoutError: it does not.
        """
        end = time.perf_counter() + SECONDS
        while not self.evaluate(f"Boolean({script})"):
            if time.perf_counter() > end:
                raise TimeoutError(f"not after {SECONDS:g} s: {script}")
            time.sleep(PAUSE)

    def painted(self) -> None:
        """Wait until what is waiting to be drawn has been drawn."""
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")

    def press(self, key: str) -> None:
        """A key, by whatever has the focus."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def picture(self, file: Path) -> None:
        """What is seen, as PNG."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """Close it, and forget its profile."""
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._profile)


def program() -> str | None:
    """Where a Chromium is installed, if one is."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A Chromium without a window.

    Raises:
        FileNotFoundError: there is none.
    """
    if (there := program()) is None:
        raise FileNotFoundError("chromium is not installed; for example: apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # it may still write
        told = Path(folder) / "DevToolsActivePort"
        ports = ("--remote-debugging-port=0", f"--user-data-dir={folder}")
        quiet = subprocess.DEVNULL
        process = subprocess.Popen([there, *OPTIONS, *ports, "about:blank"], stdout=quiet, stderr=quiet)
        try:
            while not (told.exists() and told.read_text().count("\n")):
                if process.poll() is not None:
                    raise RuntimeError(f"chromium ended at once ({process.returncode})")
                time.sleep(PAUSE)
            port, path = told.read_text().split()
            with connect(f"ws://localhost:{port}{path}", max_size=None) as line:
                yield Browser(line)
        finally:
            process.terminate()
            process.wait()
