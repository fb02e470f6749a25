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
    is_first = title == TITLES[0]
    if is_first and not is_warm(FIRST_PAGE):
        show(logged.draw, choice)
        await_first_page(warm_later())
        return
    if not is_first and not is_warm(ALL_PAGES):
        with st.spinner("the libraries are loaded …"):
            warm(ALL_PAGES)
        st.rerun()
    show(importlib.import_module(f"views.{title.lower()}").draw, view)


@st.fragment(run_every=LOOK_AGAIN_SECONDS)
def await_first_page(importing: threading.Thread) -> None:
    """Draw the whole page once there are the libraries for it."""
    if not importing.is_alive():
        warm(FIRST_PAGE)  # which says on the page why that failed
    if is_warm(FIRST_PAGE):
        st.rerun()
    st.caption("the libraries are loaded …")


@st.cache_resource(show_spinner=False)
def warm_later() -> threading.Thread:
    """Import the rest when the figure has been painted, which needs all cores; once, for all sessions."""

    def in_turn() -> None:
        for names in (FIRST_PAGE, ALL_PAGES):
            warm(names)

    later = threading.Timer(SECONDS_TO_PAINT, in_turn)
    later.daemon = True
    later.start()
    return later


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
