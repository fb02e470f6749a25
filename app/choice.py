"""Which run and which checkpoint is looked at; kept in the address, so that a link opens them again.

Needs no model, so that a page has something to show before torch is there.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st

from interp_arith.commands.app import FOLDER
from interp_arith.errors import RequestError, WorkError
from interp_arith.files import DamagedFileError
from interp_arith.storage import SHIPPED, RunDirectory

IN_ADDRESS = {
    *("run", "step", "q", "with", "metric", "other_run", "other_step", "page_of", "widget", "against"),
    *("temperature", "top_k", "draw_seed", "neuron", "logit", "feature"),
    *("heads_off", "mlps_off", "frequencies_off", "way", "scale", "source"),
}
"""Widgets whose values a link carries."""
FOLLOW_SECONDS, PLAY_SECONDS = 5.0, 1.0


@dataclass(frozen=True)
class Choice:
    """One run at one checkpoint.

    Attributes:
        directory: of the run.
        step: of its trajectory.
        side: "" for the page itself; a prefix of widget keys where two stand beside each other.
    """

    directory: RunDirectory
    step: int
    side: str = ""

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.directory.name

    def key(self, name: str) -> str:
        """The key of a widget, or of a chart."""
        return f"{self.side}{name}"

    def keyed(self, name: str) -> dict[str, Any]:
        """Key and binding of a widget: its value is in the address, but for the sides of a comparison."""
        assert name in IN_ADDRESS
        return {"key": self.key(name), "bind": None if self.side else "query-params"}


Chosen = TypeVar("Chosen", bound=Choice)


def choose() -> Choice | None:
    """The run and the checkpoint, chosen in the sidebar or by the address; None, and a sentence, if there is none."""
    paths = run_paths()
    if not paths:
        st.error("There is no run here. Train one: `interp-arith train mod-add-113`, then reload this page.")
        return None
    if strange := sorted(set(st.query_params) - IN_ADDRESS):
        st.toast(
            f"The address has what this page does not know: {plain(', '.join(strange))}; it is left aside."
        )
    asked = st.session_state.get("run") or st.query_params.get("run")
    if asked not in paths:  # the address names the run from now on, whichever is the first tomorrow
        st.session_state["run"] = asked = next(iter(paths))
    with st.sidebar:
        name = st.selectbox("Run", list(paths), index=None, key="run", bind="query-params") or asked
        return pick_step(name, paths[name], "")


def pick_step(name: str, path: Path, side: str) -> Choice | None:
    """The checkpoint of a run, by the slider; None, and a sentence, where the run cannot be read."""
    directory = RunDirectory(path)
    try:
        steps, status = [checkpoint.step for checkpoint in directory.checkpoints()], directory.status
    except (RequestError, WorkError, OSError, ValueError) as error:
        st.error(f"{plain(name)} cannot be read: {plain(str(error))}")
        return None
    if not steps:
        st.error(f"{plain(name)} has no checkpoint yet (it is {plain(status)}).")
        _follow(status, 0)
        return None
    step = _slider(steps, side)
    if not side:
        st.caption(f"{plain(status)} · {len(steps)} checkpoints")
        _play(steps)
        _follow(status, len(steps))
    return Choice(directory, step, side)


def _slider(steps: list[int], side: str) -> int:
    key = "other_step" if side else "step"
    if "next_step" in st.session_state and not side:
        st.session_state["step"] = st.session_state.pop("next_step")
    if (now := st.session_state.get(key)) is not None and now not in steps:
        st.session_state[key] = min(steps, key=lambda step: abs(step - now))
    if len(steps) == 1:
        st.caption(f"one checkpoint: step {steps[0]:,}")
        return steps[0]
    label = "Checkpoint (step)" if not side else "Other checkpoint (step)"
    return st.select_slider(label, steps, value=steps[-1], key=key, bind="query-params")


def _play(steps: list[int]) -> None:
    """A switch that moves the slider on, checkpoint by checkpoint, to the last; from there, from the first."""
    if len(steps) < 2:
        return
    at_end = st.session_state.get("step", steps[-1]) == steps[-1]

    def begin() -> None:
        if st.session_state["play"] and at_end:
            st.session_state["next_step"] = steps[0]

    label = "moves through the checkpoints, one a second, to the last"
    if st.toggle("Play", key="play", help=label, on_change=begin):
        _moves_on(steps)


@st.fragment(run_every=PLAY_SECONDS)
def _moves_on(steps: list[int]) -> None:
    now = st.session_state.get("step", steps[-1])
    if st.session_state.pop("drawn", None) == now:  # the first call is the one that draws the page
        if now == steps[-1]:
            return
        st.session_state["next_step"] = next(step for step in steps if step > now)
        st.rerun()
    st.session_state["drawn"] = now


def _follow(status: str, seen: int) -> None:
    """Look again after a while at a run that is still training."""
    if status == "running":
        _looks_again(seen)


@st.fragment(run_every=FOLLOW_SECONDS)
def _looks_again(seen: int) -> None:
    path = run_paths().get(st.session_state.get("run", ""))
    if path is not None and RunDirectory(path).exists and len(RunDirectory(path).checkpoints()) != seen:
        st.rerun()


def run_paths() -> dict[str, Path]:
    """Name -> directory: the runs of the folder, then those that come along; nothing from elsewhere."""
    found: dict[str, Path] = {}
    for folder in (Path(os.environ.get(FOLDER, "runs")), SHIPPED):
        if folder.is_dir():
            home = folder.resolve()
            for path in sorted(folder.iterdir()):
                if path.resolve().parent == home and RunDirectory(path).exists:
                    found.setdefault(path.name, path)
    return found


def show(draw: Callable[[Chosen], object], chosen: Chosen | None) -> None:
    """A page; whatever it cannot do is a sentence on it."""
    if chosen is None:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            draw(chosen)
    except (RequestError, WorkError, DamagedFileError) as error:
        st.error(plain(str(error)))
    except FileNotFoundError as error:
        st.error(
            f"{plain(chosen.name)} is gone, or a part of it: {plain(str(error.filename))}. Choose another run."
        )


def plain(text: str) -> str:
    """Text as it stands, where Streamlit would read Markdown."""
    for sign in "\\`*_{}[]()<>#$|~:":
        text = text.replace(sign, "\\" + sign)
    return text
