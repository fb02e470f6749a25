"""A plotly figure on a page, which stays in its place while its numbers change.

Streamlit's own chart is made anew for every figure: half of what a move of the slider takes, and it forgets where one
has zoomed.
"""

from collections.abc import Callable
from pathlib import Path

import plotly
import plotly.graph_objects as go
import streamlit as st
from streamlit.components.v1 import declare_component
from streamlit.components.v2 import component

_SCRIPT = Path(__file__).with_name("figure.js")
_STYLE = """
.figure {color: var(--st-text-color); background: var(--st-background-color); transition: color 1ms}
@media (max-width: 640px) {
  .figure:not(.fits) {min-width: 640px}
  [data-testid="stElementContainer"]:has(.figure) {overflow-x: auto}
}"""
"""On a narrow screen a figure that does not fit keeps a width at which it can be read, and is moved sideways. Where
the page takes another theme, its colour changes in a transition, and the figure hears of that."""


def show_figure(figure: go.Figure, title: str, file: str, key: str) -> None:
    """Show a figure, in the colours of the page.

    Args:
        figure: to be shown.
        title: what it shows, in words.
        file: name of its picture; where one has zoomed is kept as long as it is the same.
        key: no other on the page has it.
    """
    mount, library = _component()
    data = {"spec": figure.to_json(validate=False), "title": title, "file": file, "library": library}
    mount(key=f"figure {key}", data=data)


def load_ahead() -> None:
    """Have the browser read what draws figures, which takes it longest, while the first is being made."""
    mount, library = _component()
    mount(key="figures ahead", data={"library": library})


@st.cache_resource(show_spinner=False)
def _component() -> tuple[Callable, str]:
    """The component, and where plotly.js is found: in the package that makes the figures, so they always agree."""
    served = declare_component("plotly", Path(plotly.__file__).parent / "package_data")
    mount = component("figure", js=_SCRIPT.read_text(encoding="utf-8"), css=_STYLE, isolate_styles=False)
    return mount, f"component/{served.name}/plotly.min.js"
