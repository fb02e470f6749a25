"""One question, and every question: the tokens that a model weighs, and a unit over a × b.

Knows no model: tables and labelled arrays come in, a figure goes out.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp_arith.figures.curves import OTHER_COLOURS, SET_COLOURS
from interp_arith.figures.frequencies import COLOURS

RIGHT, WRONG, OTHER = SET_COLOURS["val"], SET_COLOURS["test"], "#9aa0a6"


def weighed_tokens(
    found: pd.DataFrame, title: str, shown: int = 5, template: str = "plotly_white"
) -> go.Figure:
    """The likeliest tokens at every step of an answer: a panel a step, a bar a token, the right one green.

    A token that was chosen and is wrong is orange; ✓ stands at the right one, ▸ at the chosen one.

    Args:
        found: as one_question.next_tokens gives it.
        title: what is shown.
        shown: bars of each step; the right token and the chosen one are always among them.
        template: a plotly template.
    """
    steps = sorted(found["step"].unique())
    figure = make_subplots(
        1,
        len(steps),
        subplot_titles=[f"token {step}" for step in steps],
        horizontal_spacing=0.38 / len(steps),
    )
    for index, step in enumerate(steps):
        rows = found[found["step"] == step]
        told = rows["right"] | rows["chosen"] | (np.arange(len(rows)) < shown)
        kept = rows.loc[told].sort_values(by="probability", ascending=False)
        rights, chosen = kept["right"].tolist(), kept["chosen"].tolist()
        words = [
            f"{'▸' if is_chosen else ''}{token}{' ✓' if is_right else ''}"
            for token, is_right, is_chosen in zip(kept["token"], rights, chosen, strict=True)
        ]
        figure.add_bar(
            x=kept["probability"],
            y=words,
            customdata=kept["logit"],
            orientation="h",
            showlegend=False,
            marker_color=[_colour(*marks) for marks in zip(rights, chosen, strict=True)],
            hovertemplate="%{y}: probability %{x:.4f}, logit %{customdata:.3f}<extra></extra>",
            row=1,
            col=index + 1,
        )
    figure.update_xaxes(range=[0, 1.02], tickvals=[0, 1], title_standoff=2)
    figure.update_xaxes(title_text="probability", col=(len(steps) + 1) // 2)
    figure.update_yaxes(autorange="reversed", type="category", ticklabelstandoff=2)
    return figure.update_layout(
        title={"text": title, "x": 0.0, "xref": "paper"},
        template=template,
        height=300,
        margin={"l": 40, "r": 20, "t": 80, "b": 50},
        bargap=0.25,
    )


def _colour(right: bool, chosen: bool) -> str:
    return RIGHT if right else WRONG if chosen else OTHER


def pair_grid(values: xr.DataArray, title: str, words: str, template: str = "plotly_white") -> go.Figure:
    """One unit's value for every question a, b as a heat map.

    Args:
        values: over `a` and `b`.
        title: what is shown.
        words: what the colour is, with its unit.
        template: a plotly template.

    Raises:
        ValueError: the dims are others.
    """
    if set(values.dims) != {"a", "b"}:
        raise ValueError(f"pair_grid draws (a, b); given ({', '.join(map(str, values.dims))})")
    figure = go.Figure(layout={"template": template})
    figure.add_heatmap(
        x=values["b"].to_numpy(),
        y=values["a"].to_numpy(),
        z=values.transpose("a", "b").to_numpy(),
        colorscale=COLOURS,
        colorbar={"title": words, "title_side": "right", "thickness": 14},
        hovertemplate="a = %{y}, b = %{x}: %{z:.4g}<extra></extra>",
    )
    figure.update_xaxes(title="b", constrain="domain").update_yaxes(
        title="a", scaleanchor="x", constrain="domain"
    )
    return figure.update_layout(title={"text": title, "x": 0.0, "xref": "paper"}, height=480, margin_t=60)


def run_curves(
    found: Mapping[str, pd.DataFrame],
    metric: str,
    title: str,
    cursor: int | None = None,
    template: str = "plotly_white",
) -> go.Figure:
    """One metric of several runs over their steps, on a log axis where it is a loss.

    Args:
        found: run -> its metrics, with "step" and the metric.
        metric: a column, such as "test_loss".
        title: what is shown.
        cursor: a step to mark.
        template: a plotly template.
    """
    figure = go.Figure(layout={"template": template})
    colours = (*SET_COLOURS.values(), *OTHER_COLOURS)
    for index, (name, metrics) in enumerate(found.items()):
        rows = (
            metrics.dropna(subset=[metric]) if metric in metrics else metrics.iloc[:0].assign(**{metric: []})
        )
        figure.add_scatter(
            x=rows["step"],
            y=rows[metric],
            name=name,
            line_color=colours[index % len(colours)],
            hovertemplate="step %{x:,}: %{y:.4g}",
        )
    is_loss = metric.endswith("loss")
    words = metric.replace("_", " ") + (" (nats)" if is_loss else " (share)")
    figure.update_yaxes(title=words, type="log" if is_loss else "linear", exponentformat="power")
    figure.update_xaxes(title="step (updates)")
    figure.update_layout(title={"text": title, "x": 0.0, "xref": "paper"}, height=420, showlegend=True)
    return figure if cursor is None else with_cursor(figure, cursor)


def with_cursor(figure: go.Figure, step: int) -> go.Figure:
    """A line at a step of a figure over steps; the figure itself."""
    logarithmic = figure.layout.xaxis.type == "log"  # pyright: ignore[reportAttributeAccessIssue]
    line = {"color": "#c74b78", "width": 2}
    figure.add_shape(
        type="line", x0=max(step, 1) if logarithmic else step, x1=max(step, 1) if logarithmic else step,
        y0=0, y1=1, yref="paper", line=line, name="cursor",
    )  # fmt: skip
    return figure
