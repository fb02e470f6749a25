"""Open the explorer in a browser: training, attention, logits, frequencies, carries, interventions."""

import gc
import importlib
import os
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from streamlit.web import bootstrap

from interp_arith.commands.parsing import parse
from interp_arith.errors import RequestError

PORT = 8501
FOLDER = "INTERP_ARITH_RUNS"
"""The environment variable that tells the pages which folder of runs is shown beside those that come along."""
_PACKAGE = Path(__file__).parent.parent
HOMES = (_PACKAGE / "app" / "Home.py", _PACKAGE.parent / "app" / "Home.py")
"""Where the explorer lies: in a wheel, and in a clone."""
FIRST_PAGE = ("run", "interp.one_question", "figures.adders", "figures.questions")
"""What the first page needs beyond its first figure; it has no model, so TransformerLens comes later."""
ALL_PAGES = (*FIRST_PAGE, "interp.switches", "generation", "models.transformer")
SWITCH_SECONDS = 0.0005
"""How long a thread may keep the others waiting: pages are served while libraries are imported, or models run."""
_WARMING = threading.Lock()
_WARM: set[str] = set()


def run(arguments: list[str]) -> None:
    """`interp-arith app`."""

    def command(
        folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="[DIR]")] = Path("runs"),
        port: int = PORT,
        address: str = "localhost",
        browser: bool = True,
    ) -> None:
        """Open the explorer.

        Args:
            folder: of runs; those that come along are shown too.
            port: that is listened on.
            address: localhost alone can reach the explorer, unless another is given, such as 0.0.0.0.
            browser: open one.
        """
        if folder.exists() and not folder.is_dir():
            raise RequestError(f"{folder} is a file; give a folder of runs, such as runs")
        if not folder.exists() and folder != Path("runs"):
            raise RequestError(f"{folder} does not exist; give a folder of runs, or leave it out")
        check_port(port, address)
        serve(folder, port, address, browser)

    parse(command, "app", __doc__, arguments)


def check_port(port: int, address: str) -> None:
    """Refuse what cannot be listened on.

    Raises:
        RequestError: the port is out of range or in use, or there is no such address.
    """
    if not 1 <= port <= 65535:
        raise RequestError(f"port {port}; allowed: 1 to 65535")
    try:
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((address, port))
    except (OSError, OverflowError) as error:
        raise RequestError(
            f"port {port} of {address} cannot be listened on ({getattr(error, 'strerror', None) or error}); "
            "give another, such as --port 8502"
        ) from error


def serve(folder: Path, port: int, address: str, browser: bool) -> None:
    """Start the server and stay."""
    home = next((str(file) for file in HOMES if file.exists()), None)
    if home is None:
        raise RequestError("the explorer is not installed; install the wheel, or work in a clone")
    os.environ[FOLDER] = str(folder)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the browser needs cores too, and so do other sessions
    sys.setswitchinterval(SWITCH_SECONDS)
    options = {
        "server.port": port,
        "server.address": address,
        "server.headless": not browser,
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "viewer",
        "client.showErrorDetails": "none",
        "logger.hideWelcomeMessage": True,  # it advertises
    }
    at = f"http://{'localhost' if address == '0.0.0.0' else address}:{port}"
    print(f"{at}: explorer of {folder} and the runs that come along; Ctrl+C ends it", file=sys.stderr)
    bootstrap.load_config_options({name.replace(".", "_"): value for name, value in options.items()})
    bootstrap.run(home, is_hello=False, args=[], flag_options={})


def warm(names: Sequence[str]) -> None:
    """Import what pages need, once, whichever thread comes first: two that import at once would meet halves.

    What was imported is left out of garbage collections from then on. Streamlit collects after every move of a
    slider, and would go through half a million objects of libraries each time, while no other session can go on.
    """
    if is_warm(names):
        return
    with _WARMING:
        if is_warm(names):  # by the thread that came first
            return
        gc.disable()  # imports are a seventh quicker
        try:
            for name in names:
                importlib.import_module(f"interp_arith.{name}")
        finally:
            gc.freeze()
            gc.enable()
        _WARM.update(names)


def is_warm(names: Sequence[str]) -> bool:
    """Whether that has been imported."""
    return _WARM.issuperset(names)
