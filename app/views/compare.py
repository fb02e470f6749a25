"""Two runs, or two checkpoints of one, side by side."""

from dataclasses import replace

import streamlit as st
from choice import pick_step, plain, run_paths, show
from view import View, opened

from views import attention, carries, data, fourier, intervene, logits, training

PAGES = {
    "Logits": logits.draw,
    "Training": training.draw,
    "Attention": attention.draw,
    "Fourier": fourier.draw,
    "Carries": carries.draw,
    "Intervene": intervene.draw,
    "Data": data.draw,
}


def draw(view: View) -> None:
    """The page."""
    paths = run_paths()
    first, second = st.columns(2)
    name = first.selectbox(
        "Other run", list(paths), index=list(paths).index(view.run.name), key="other_run", bind="query-params"
    )
    with second:
        chosen = pick_step(name, paths[name], "other ")
        other = None if chosen is None else opened(chosen)
    if other is None:
        return
    both = [title for title in PAGES if title not in view.left_out | other.left_out]
    what = st.segmented_control("What", both, default=both[0], key="page_of", bind="query-params") or both[0]
    if what in ("Logits", "Attention", "Intervene", "Data"):
        view.question()
    left, right = st.columns(2)
    for where, each, side in ((left, view, "left "), (right, other, "right ")):
        with where:
            st.markdown(f"##### {plain(each.run.name)}, step {each.step:,}")
            show(PAGES[what], replace(each, side=side))
