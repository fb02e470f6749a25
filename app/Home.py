"""The explorer: one run, one checkpoint, and a page for every way to look at it."""

import importlib
import threading
from functools import partial

import streamlit as st

from interp_arith.commands.app import FIRST_PAGE, warm

warm(FIRST_PAGE)  # before a page imports a part of it on another thread

from charts import STYLE
from state import View, choose, show

TITLES = ("Training", "Attention", "Logits", "Fourier", "Carries", "Intervene", "Compare", "Data")
SECONDS_TO_PAINT = 2.0


def draw(title: str, view: View | None) -> None:
    """A page. The first comes before the imports of all others, which follow when it has been painted."""
    is_first = title == TITLES[0]
    if not is_first:
        warm()
    show(importlib.import_module(f"views.{title.lower()}").draw, view)
    if is_first:
        later = threading.Timer(SECONDS_TO_PAINT, warm)
        later.daemon = True
        later.start()


st.set_page_config(page_title="interp_arith", page_icon="➕", layout="wide")
st.html(STYLE)
view = choose()
pages = [
    st.Page(partial(draw, title, view), title=title, url_path=title.lower(), default=title == TITLES[0])
    for title in TITLES
    if view is None or title not in view.left_out
]
st.navigation(pages, position="top").run()
