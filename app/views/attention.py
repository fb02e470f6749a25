"""Where every head looks at a question; beside it another checkpoint, and the roles of heads over all questions."""

from dataclasses import replace

import streamlit as st
from charts import chart
from view import View
from widget import attention_widget

from interp_arith.figures.adders import place_maps
from interp_arith.interp.one_question import attention_to_tokens


def draw(view: View) -> None:
    """The page."""
    asked = view.question()
    if asked is None:
        return
    found = attention_to_tokens(view.model, asked)
    if not view.side:
        kind = st.segmented_control(
            "Widget",
            ["patterns", "heads", "none"],
            default="patterns",
            help="of CircuitsVis",
            **view.keyed("widget"),
        )
        if kind in ("patterns", "heads"):
            attention_widget(kind, found, asked.symbols, view.key("widget of heads"))
    maps = {"x": "key", "y": "query", "panels": "head", "x_names": asked.symbols, "x_title": "looked at"}
    chart(
        place_maps(found, title=f"{asked.text} at step {view.step:,}", **maps),
        f"{view.run.name}-attention",
        found,
        view.key("heads"),
    )
    _against(view, asked, found, maps)
    if view.is_adder:
        _roles(view)


def _against(view: View, asked, found, maps) -> None:
    """Another checkpoint, and the difference."""
    steps = view.run.steps
    if len(steps) < 2 or view.side:
        return
    st.subheader("Against another checkpoint")
    other = st.select_slider("The other step", steps, value=steps[0], **view.keyed("against"))
    before = attention_to_tokens(replace(view, step=other).model, asked)
    left, right = st.columns(2)
    with left:
        chart(
            place_maps(before, title=f"at step {other:,}", **maps), "attention-other", before, "against heads"
        )
    with right:
        change = (found - before).rename("change")
        title = f"step {view.step:,} less step {other:,}"
        chart(place_maps(change, title=title, span=(-1, 1), **maps), "attention-change", change, "change")


def _roles(view: View) -> None:
    """What heads look at over 1,000 questions, by what it is to the digit that is written."""
    st.subheader("Roles, over 1,000 questions")
    roles = view.at_step("attention_roles").get("attention_roles")
    if roles is None:
        return
    flat = roles.stack(place=("block", "head"))
    labels = [f"{block}.{head}" for block, head in flat["place"].to_numpy().tolist()]
    flat = flat.drop_vars(("place", "block", "head")).assign_coords(head=("place", labels))
    flat = flat.swap_dims(place="head").drop_vars("step", errors="ignore").rename("attention")
    names = view.adder.answer_names if view.adder.padded else None
    figure = place_maps(flat, "answer", "role", "attention by role", "head", names, "token that is written")
    chart(figure, f"{view.run.name}-roles", flat, view.key("roles"))
