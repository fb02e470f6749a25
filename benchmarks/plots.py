"""Step times as plotly pages, and as pictures where a Chromium is installed; measures nothing."""

import subprocess
import tempfile
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from chromium import program
from tables import NAMES

from interp_arith.figures.curves import write_html

WIDTH, HEIGHT = 800, 500
_TICKS = [digit * 10**power for power in range(-1, 6) for digit in (1, 2, 5)]
_NO_BUTTONS = "<style>.modebar { display: none; }</style>"


def draw(frame: pd.DataFrame, axis: str, title: str, page: Path) -> None:
    """A line for each competitor on logarithmic axes; PAGE.html, and PAGE.png beside it."""
    figure = go.Figure(layout={"title": title, "width": WIDTH, "height": HEIGHT, "template": "plotly_white"})
    for name, rows in frame.groupby("competitor", sort=False):
        figure.add_scatter(x=rows[axis], y=rows["step_ms"], name=NAMES[str(name)], mode="lines+markers")
    figure.update_xaxes(type="log", title=axis, tickvals=sorted(set(frame[axis])))
    figure.update_yaxes(type="log", title="one step, ms", tickvals=_TICKS, tickformat=",")
    write_html(figure, page)
    photograph(page, page.with_suffix(".png"), WIDTH + 20, HEIGHT + 20)


def photograph(page: Path, picture: Path, width: int, height: int) -> None:
    """A picture of a page without its buttons, where a browser is installed; says so where none is."""
    browser = program()
    if browser is None:
        print(f"{picture} is not made: no Chromium is installed")
        return
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / page.name
        bare.write_text(page.read_text(encoding="utf-8") + _NO_BUTTONS, encoding="utf-8")
        command = [browser, "--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=5000"]
        command += [f"--window-size={width},{height}", f"--screenshot={picture}", bare.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
