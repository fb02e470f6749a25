"""The explorer: one run, one checkpoint, and a page for every way to look at it."""

import importlib
import threading
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st
from choice import Choice, choose, show
from figure import load_ahead
from views import logged

from interp_arith.commands.app import ALL_PAGES, FIRST_PAGE, is_warm, warm

if TYPE_CHECKING:
    from view import View

TITLES = ("Training", "Attention", "Logits", "Fourier", "Carries", "Intervene", "Compare", "Data")
SECONDS_TO_PAINT, LOOK_AGAIN_SECONDS = 2.5, 0.5


def draw(title: str, choice: Choice | None, view: "View | None") -> None:
    """A page; where the libraries are not there yet, as much of it as needs none, and the whole once they are."""
    if title != TITLES[0]:
        with st.spinner("the libraries are loaded …"):
            warm(ALL_PAGES)
        if view is None and choice is not None:
            st.rerun()
    elif not is_warm(FIRST_PAGE):
        show(logged.draw, choice)
        warm_later()
        await_first_page()
        return
    show(importlib.import_module(f"views.{title.lower()}").draw, view)


@st.fragment(run_every=LOOK_AGAIN_SECONDS)
def await_first_page() -> None:
    """Draw the whole page once there are the libraries for it."""
    if is_warm(FIRST_PAGE):
        st.rerun()
    st.caption("the libraries are loaded …")


@st.cache_resource(show_spinner=False)
def warm_later() -> None:
    """Import the rest when the figure has been painted, which needs all cores; once, for all sessions."""

    def in_turn() -> None:
        for names in (FIRST_PAGE, ALL_PAGES):
            warm(names)

    later = threading.Timer(SECONDS_TO_PAINT, in_turn)
    later.daemon = True
    later.start()


def opened(choice: Choice | None) -> "View | None":
    """What was chosen, with its run, once there are the libraries to read it."""
    if choice is None or not is_warm(FIRST_PAGE):
        return None
    return importlib.import_module("view").opened(choice)


st.set_page_config(page_title="interp_arith", page_icon="➕", layout="wide")
load_ahead()
choice = choose()
view = opened(choice)
pages = [
    st.Page(
        partial(draw, title, choice, view), title=title, url_path=title.lower(), default=title == TITLES[0]
    )
    for title in TITLES
    if view is None or title not in view.left_out
]
st.navigation(pages, position="top").run()
