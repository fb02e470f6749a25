"""One question, and every question: the tokens that a model weighs, and a unit over a × b.

Knows no model: tables and labelled arrays come in, a figure goes out.
"""

import html
from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from interp_arith.figures.curves import OTHER_COLOURS, SET_COLOURS, with_cursor
from interp_arith.figures.frequencies import COLOURS


def weighed_tokens(
    found: pd.DataFrame, title: str, shown: int = 5, template: str = "plotly_white"
) -> go.Figure:
    """The likeliest tokens at every step of an answer: a column a step, the likeliest on top, darker where likelier.

    ✓ stands at the right token, ▸ at the one that was written; they are always among those shown.

    Args:
        found: as one_question.next_tokens gives it.
        title: what is shown.
        shown: rows; of the likeliest tokens.
        template: a plotly template.
    """
    steps = sorted(found["step"].unique())
    columns = [_weighed(pd.DataFrame(found[found["step"] == step]), shown) for step in steps]
    height = max(map(len, columns))
    chances = np.full((height, len(steps)), np.nan)
    words, logits = (np.full((height, len(steps)), "", dtype=object) for _ in range(2))
    for at, rows in enumerate(columns):
        chances[: len(rows), at] = rows["probability"]
        logits[: len(rows), at] = [f"{logit:.3f}" for logit in rows["logit"]]
        words[: len(rows), at] = [
            f"{'▸' if chosen else ''}{token}{' ✓' if right else ''}"
            for token, chosen, right in zip(rows["token"], rows["chosen"], rows["right"], strict=True)
        ]
    figure = go.Figure(layout={"template": template})
    figure.add_heatmap(
        x=[str(step) for step in steps],
        y=list(range(1, height + 1)),
        z=chances,
        text=words,
        customdata=logits,
        texttemplate="%{text}",
        xgap=3,
        ygap=3,
        colorscale="Blues",
        zmin=0,
        zmax=1,
        colorbar={"title": "probability", "title_side": "right", "thickness": 14},
        hovertemplate="token %{x}: %{text}<br>probability %{z:.4f}, logit %{customdata}<extra></extra>",
        hoverongaps=False,
    )
    figure.update_xaxes(title="token of the answer, as it is written", type="category", showgrid=False)
    figure.update_yaxes(title="rank", autorange="reversed", tickvals=[*range(1, height + 1)], showgrid=False)
    return figure.update_layout(
        title={"text": title, "x": 0.0, "xref": "paper"},
        height=150 + 36 * height,
        margin={"l": 50, "r": 20, "t": 60, "b": 50},
    )


def _weighed(rows: pd.DataFrame, shown: int) -> pd.DataFrame:
    """The candidates of one step that are shown, the likeliest first."""
    told = rows["right"] | rows["chosen"] | (np.arange(len(rows)) < shown)
    return pd.DataFrame(rows.loc[told]).sort_values(by="probability", ascending=False)


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
            name=html.escape(name, quote=False),
            line_color=colours[index % len(colours)],
            hovertemplate="step %{x:,}: %{y:.4g}",
        )
    is_loss = metric.endswith("loss")
    words = metric.replace("_", " ") + (" (nats)" if is_loss else " (share)")
    figure.update_yaxes(title=words, type="log" if is_loss else "linear", exponentformat="power")
    figure.update_xaxes(title="step (updates)")
    figure.update_layout(title={"text": title, "x": 0.0, "xref": "paper"}, height=420, showlegend=True)
    return figure if cursor is None else with_cursor(figure, cursor)
