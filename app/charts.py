"""A chart on a page, with its picture, its page and its data to take away."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import plotly.graph_objects as go
import streamlit as st
from choice import plain
from figure import show_figure

from interp_arith.figures.curves import PAGE_OPTIONS
from interp_arith.lazy import Lazy

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    Data = pd.DataFrame | xr.DataArray | xr.Dataset | Sequence[dict[str, float]]
else:  # half a second, which the first figure can do without
    pd, xr = Lazy("pandas"), Lazy("xarray")


def chart(figure: go.Figure, name: str, data: "Data", key: str) -> None:
    """A figure; below it, behind a word, its page and its data. Its picture is the camera of its toolbar.

    Args:
        figure: to be shown; its title goes to the page, where it wraps, and comes back in what is taken away.
        name: of the files.
        data: that the figure shows.
        key: no other chart on the page has it.
    """
    title, margin = figure.layout.title.text, figure.layout.margin.t or 80
    st.markdown(f"**{plain(title)}**")
    # a copy would take as long as drawing it
    figure.update_layout(title_text=None, margin_t=max(30, margin - 30))
    show_figure(figure, title, name, key)
    with st.popover("Take away", type="tertiary"):
        st.caption("PNG: the camera in the chart's toolbar")
        page = partial(as_page, figure, title, margin)
        st.download_button("HTML", page, f"{name}.html", "text/html", key=f"{key} html", on_click="ignore")
        st.download_button(
            "CSV", lambda: as_csv(data), f"{name}.csv", "text/csv", key=f"{key} csv", on_click="ignore"
        )


def as_page(figure: go.Figure, title: str, margin: float) -> str:
    """The figure as it was before its title went to the Streamlit page, as a page of its own."""
    whole = go.Figure(figure).update_layout(title_text=title, margin_t=margin)
    return whole.to_html(include_plotlyjs=True, config=PAGE_OPTIONS)


def as_csv(data: "Data") -> str:
    """A row a number, its coordinates beside it."""
    if isinstance(data, xr.DataArray):
        data = data.rename(data.name or "value").to_dataset()
    if isinstance(data, xr.Dataset):
        return data.to_dataframe().reset_index().to_csv(index=False)
    return pd.DataFrame(data).to_csv(index=False)
