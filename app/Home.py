"""The explorer: one run, one checkpoint, and a page for every way to look at it."""

import importlib
import threading
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from interp_arith.commands.app import FIRST_PAGE, is_warm, warm

if TYPE_CHECKING:
    from state import View

TITLES = ("Training", "Attention", "Logits", "Fourier", "Carries", "Intervene", "Compare", "Data")
SECONDS_TO_PAINT = 2.0
UNSEEN = "<style>.st-key-unseen {position: absolute; visibility: hidden}</style>"


def draw(title: str, view: "View | None") -> None:
    """A page. The first comes before the imports of all others, which follow when it has been painted."""
    from state import show

    if title != TITLES[0]:
        warm()
    show(importlib.import_module(f"views.{title.lower()}").draw, view)
    warm_later()


@st.cache_resource(show_spinner=False)
def warm_later() -> None:
    """Import the rest in the background; once, however many sessions there are."""
    later = threading.Timer(SECONDS_TO_PAINT, warm)
    later.daemon = True
    later.start()


def await_libraries() -> None:
    """Before a page imports a part of them on another thread.

    The browser takes as long to read what draws charts: it does so meanwhile, for a chart that is not seen.
    """
    if is_warm(FIRST_PAGE):
        return
    place = st.empty()
    with place.container():
        st.caption("the libraries are loaded …")
        st.html(UNSEEN)
        with st.container(key="unseen"):
            st.plotly_chart({"data": [{"type": "scatter"}]})
    warm(FIRST_PAGE)
    place.empty()


st.set_page_config(page_title="interp_arith", page_icon="➕", layout="wide")
await_libraries()

from charts import STYLE
from state import choose

st.html(STYLE)
view = choose()
pages = [
    st.Page(partial(draw, title, view), title=title, url_path=title.lower(), default=title == TITLES[0])
    for title in TITLES
    if view is None or title not in view.left_out
]
st.navigation(pages, position="top").run()
