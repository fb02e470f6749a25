"""What was logged while a run was trained; it needs no model, and neither torch nor pandas."""

import streamlit as st
from charts import chart
from choice import Choice

from interp_arith.figures.curves import training_curves, with_cursor


def draw(choice: Choice) -> bool:
    """Losses and accuracies, with a line at the slider; whether anything was logged."""
    metrics = choice.directory.read_metrics()
    if not metrics:
        st.info("Nothing has been logged yet.")
        return False
    figure = with_cursor(training_curves(metrics, choice.name), choice.step)
    chart(figure, f"{choice.name}-training", metrics, choice.key("curves"))
    return True
