"""The explorer: one run, one checkpoint, and a page for every way to look at it."""

import streamlit as st

from interp_arith.commands.app import warm

warm()  # before any page imports a part of it on another thread

from charts import STYLE
from state import choose, show
from views import attention, carries, compare, data, fourier, intervene, logits, training

PAGES = {
    "Training": training.draw,
    "Attention": attention.draw,
    "Logits": logits.draw,
    "Fourier": fourier.draw,
    "Carries": carries.draw,
    "Intervene": intervene.draw,
    "Compare": compare.draw,
    "Data": data.draw,
}

st.set_page_config(page_title="interp_arith", page_icon="➕", layout="wide")
st.html(STYLE)
view = choose()
pages = [
    st.Page(
        lambda draw=draw: show(draw, view), title=title, url_path=title.lower(), default=title == "Training"
    )
    for title, draw in PAGES.items()
    if view is None or title not in view.left_out
]
st.navigation(pages, position="top").run()
