"""What pages that ask a model share: the run, its model and its measures at the checkpoint that was chosen."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import streamlit as st
import torch
import xarray as xr
from choice import Choice, plain

from interp_arith.errors import RequestError, WorkError
from interp_arith.generation import example_question
from interp_arith.interp.measures import MEASURES, measure
from interp_arith.interp.one_question import OneQuestion
from interp_arith.run import Run
from interp_arith.tasks.addition import Addition

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer


@dataclass(frozen=True)
class View(Choice):
    """A choice, and what a page needs to draw it."""

    @cached_property
    def run(self) -> Run:
        """The run that is looked at."""
        return _run(str(self.directory.path), self.directory.config_file.stat().st_mtime_ns)

    @property
    def model(self) -> "ArithmeticTransformer":
        """The model at the checkpoint."""
        return _model(str(self.run.path), self.step, self.run.checkpoint(self.step).sha256)

    @property
    def is_adder(self) -> bool:
        """Whether its questions have columns."""
        return isinstance(self.run.task, Addition)

    @property
    def adder(self) -> Addition:
        """The task of a page that is left out for all others."""
        task = self.run.task
        assert isinstance(task, Addition)
        return task

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

    def offer_to_take(self, names: Iterable[str], label: str) -> None:
        """A button that takes measures at every checkpoint, with a bar; what is taken stays when it is stopped."""
        names = list(names)
        if not st.button(label, key=self.key("take " + names[0])):
            return
        bar = st.progress(0.0, "taking …")
        steps = self.run.steps
        for index, step in enumerate(steps):
            self.run.measure(names, [step])
            said = f"step {step:,}: {index + 1} of {len(steps)} (stop at the top right)"
            bar.progress((index + 1) / len(steps), said)
        st.rerun()


def opened(choice: Choice) -> View | None:
    """What was chosen, with its run; None, and a sentence, where that cannot be read."""
    view = View(choice.directory, choice.step, choice.side)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            view.run  # noqa: B018
    except (RequestError, WorkError, OSError, ValueError) as error:
        st.error(f"{plain(view.name)} cannot be read: {plain(str(error))}")
        return None
    return view


def draws(seed: int) -> torch.Generator:
    """Where temperature draws from."""
    return torch.Generator().manual_seed(seed)


def _stamp(run: Run) -> str:
    """Changes when a checkpoint or a measure is written."""
    folder = run.path / "measures"
    newest = (
        max((file.stat().st_mtime_ns for file in folder.glob("*.nc")), default=0) if folder.is_dir() else 0
    )
    return f"{len(run.steps)} {newest}"


@st.cache_resource(max_entries=100, show_spinner=False)
def _run(path: str, written: int) -> Run:
    return Run(path)


@st.cache_resource(
    max_entries=12, show_spinner=False, scope="session"
)  # hooks of one session are not another's
def _model(path: str, step: int, sha256: str) -> "ArithmeticTransformer":
    return Run(path).model(step)


@st.cache_resource(max_entries=200, show_spinner=False)
def _kept(path: str, names: tuple[str, ...], stamp: str) -> dict[str, xr.DataArray]:
    return {name: found.load() for name, found in Run(path).kept(names).items()}
