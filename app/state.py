"""What every page shares: run, checkpoint, question; kept in the address, so that a link opens them again."""

import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st
import torch
import xarray as xr

from interp_arith.commands.app import FOLDER
from interp_arith.errors import RequestError, WorkError
from interp_arith.files import DamagedFileError
from interp_arith.generation import example_question
from interp_arith.interp.measures import MEASURES, measure
from interp_arith.interp.one_question import OneQuestion
from interp_arith.run import SHIPPED, Run
from interp_arith.storage import RunDirectory
from interp_arith.tasks.addition import Addition

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

IN_ADDRESS = {
    *("run", "step", "q", "with", "metric", "other_run", "other_step", "page_of", "widget", "against"),
    *("temperature", "top_k", "draw_seed", "neuron", "logit", "feature"),
    *("heads_off", "mlps_off", "frequencies_off", "way", "scale", "source"),
}
"""Widgets whose values a link carries."""
FOLLOW_SECONDS, PLAY_SECONDS = 5.0, 1.0
Draw = Callable[["View"], None]


@dataclass(frozen=True)
class View:
    """One run at one checkpoint, and what a page needs to draw it.

    Attributes:
        run: that is looked at.
        step: of its trajectory.
        side: "" for the page itself; a prefix of widget keys where two views stand beside each other.
    """

    run: Run
    step: int
    side: str = ""

    @property
    def model(self) -> "ArithmeticTransformer":
        """The model at the checkpoint."""
        return _model(str(self.run.path), self.step, self.run.checkpoint(self.step).sha256)

    @property
    def is_adder(self) -> bool:
        """Whether its questions have columns."""
        return isinstance(self.run.task, Addition)

    @property
    def left_out(self) -> set[str]:
        """Pages that say nothing of this task."""
        task, config = self.run.task, self.run.config.model
        found = set()
        if MEASURES["key_frequencies"].why_not(task, config) is not None:
            found.add("Fourier")
        if MEASURES["class_exact_match"].why_not(task, config) is not None:
            found.add("Carries")
        return found

    def key(self, name: str) -> str:
        """The key of a widget, or of a chart."""
        return f"{self.side}{name}"

    def keyed(self, name: str) -> dict[str, Any]:
        """Key and binding of a widget: its value is in the address, but for the sides of a comparison."""
        assert name in IN_ADDRESS
        return {"key": self.key(name), "bind": None if self.side else "query-params"}

    def applies(self, *names: str) -> bool:
        """Whether the measures of these names do."""
        return all(MEASURES[name].why_not(self.run.task, self.run.config.model) is None for name in names)

    def kept(self, *names: str) -> dict[str, xr.DataArray]:
        """What the run keeps of those that apply, over the steps that it has."""
        there = tuple(name for name in names if self.applies(name))
        return _kept(str(self.run.path), there, _stamp(self.run))

    def at_step(self, *names: str) -> dict[str, xr.DataArray]:
        """Those measures at the checkpoint; taken where they are not kept, which is told while it lasts."""
        there = tuple(name for name in names if self.applies(name))
        found = {n: x.sel(step=self.step) for n, x in self.kept(*there).items() if self.step in x["step"]}
        missing = [name for name in there if name not in found]
        if missing:
            with st.spinner(f"taking {', '.join(missing).replace('_', ' ')} of step {self.step:,} …"):
                try:
                    taken = self.run.measure(missing, [self.step]).isel(step=0)
                except RequestError as error:
                    st.info(plain(str(error)))
                    return found
            found |= {str(name): taken[name] for name in taken.data_vars}
        return found

    def picture(self, name: str) -> xr.DataArray:
        """A measure that is too large to be kept at every step, and quick to take."""
        return measure(self.model, self.run.task, [name])[name]

    def question(self) -> OneQuestion | None:
        """The question that was typed; None, and a sentence on the page, where it is none of the task's."""
        example = example_question(self.run.task)
        if not self.side:
            st.text_input(
                "Question",
                key="q",
                bind="query-params",
                placeholder=example,
                max_chars=200,
                help=f"for example {example}; empty asks that",
            )
        typed = st.session_state.get("q", "").strip() or example
        if not typed.endswith("=") and "=" not in typed and self.is_adder:
            typed += "="
        try:
            return OneQuestion.of(self.run.task, typed)
        except RequestError as error:
            st.warning(plain(str(error)))
            return None


def choose() -> View | None:
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
        st.session_state["run"] = next(iter(paths))
    with st.sidebar:
        name = st.selectbox("Run", list(paths), index=None, key="run", bind="query-params")
        return pick_step(name, paths[name], "")


def pick_step(name: str, path: Path, side: str) -> View | None:
    """The checkpoint of a run, by the slider; None, and a sentence, where the run cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = Run(path)
            steps = run.steps
        if not steps:
            st.error(f"{plain(name)} has no checkpoint yet (it is {run.status}).")
            _follow(run)
            return None
    except (RequestError, WorkError, OSError, ValueError) as error:
        st.error(f"{plain(name)} cannot be read: {plain(str(error))}")
        return None
    step = _slider(steps, side)
    if not side:
        st.caption(f"{plain(run.status)} · {len(steps)} checkpoints · {plain(run.config.task.kind)}")
        _play(steps)
        _follow(run)
    return View(run, step, side)


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


def _follow(run: Run) -> None:
    """Look again after a while at a run that is still training."""
    if run.status == "running":
        _looks_again(len(run.steps))


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


def show(draw: Draw, view: View | None) -> None:
    """A page; whatever it cannot do is a sentence on it."""
    if view is None:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            draw(view)
    except (RequestError, WorkError, DamagedFileError) as error:
        st.error(plain(str(error)))
    except FileNotFoundError as error:
        st.error(
            f"{plain(view.run.name)} is gone, or a part of it: {plain(str(error.filename))}. Choose another run."
        )


def take_over_steps(view: View, names: Iterable[str], label: str) -> None:
    """A button that takes measures at every checkpoint, with a bar; what is taken is kept, so it can be stopped."""
    names = list(names)
    if not st.button(label, key=view.key("take " + names[0])):
        return
    bar = st.progress(0.0, "taking …")
    steps = view.run.steps
    for index, step in enumerate(steps):
        view.run.measure(names, [step])
        bar.progress(
            (index + 1) / len(steps), f"step {step:,}: {index + 1} of {len(steps)} (stop at the top right)"
        )
    st.rerun()


def draws(seed: int) -> torch.Generator:
    """Where temperature draws from."""
    return torch.Generator().manual_seed(seed)


def plain(text: str) -> str:
    """Text as it stands, where Streamlit would read Markdown."""
    for sign in "\\`*_{}[]()<>#$|~:":
        text = text.replace(sign, "\\" + sign)
    return text


def _stamp(run: Run) -> str:
    """Changes when a checkpoint or a measure is written."""
    folder = run.path / "measures"
    newest = (
        max((file.stat().st_mtime_ns for file in folder.glob("*.nc")), default=0) if folder.is_dir() else 0
    )
    return f"{len(run.steps)} {newest}"


@st.cache_resource(
    max_entries=12, show_spinner=False, scope="session"
)  # hooks of one session are not another's
def _model(path: str, step: int, sha256: str) -> "ArithmeticTransformer":
    return Run(path).model(step)


@st.cache_resource(max_entries=200, show_spinner=False)
def _kept(path: str, names: tuple[str, ...], stamp: str) -> dict[str, xr.DataArray]:
    return {name: found.load() for name, found in Run(path).kept(names).items()}
