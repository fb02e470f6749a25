"""What the model sees: tokens, positions, targets, mask."""

import pandas as pd
import streamlit as st
from choice import plain
from view import View

from interp_arith.generation import rows_of_question


def draw(view: View) -> None:
    """The page."""
    asked = view.question()
    if asked is None:
        return
    rows = pd.DataFrame(rows_of_question(view.run.task, [asked.text], view.run.config.model.positions))
    st.markdown(f"**{plain(asked.text)}** right answer {view.run.task.answer([asked.text])[0]}")
    st.dataframe(rows, hide_index=True, key=view.key("rows"), height=38 * (len(rows) + 1))
    st.caption("target: what is to be predicted there; loss: whether training counts it")
    st.download_button(
        "CSV",
        lambda: rows.to_csv(index=False),
        "tokens.csv",
        "text/csv",
        on_click="ignore",
        key=view.key("csv"),
    )
    with st.expander("The task, the model, the recipe"):
        st.json(view.run.config.plain(), expanded=1)
