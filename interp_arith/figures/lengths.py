"""How far numbers may grow beyond those of training: exact match over length, of several seeds.

Knows no run directory: tables come in, a figure goes out.
"""

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from interp_arith.figures.curves import OTHER_COLOURS, SET_COLOURS


def length_curves(
    found: Mapping[str, pd.DataFrame], trained: int, title: str, template: str = "plotly_white"
) -> go.Figure:
    """Exact match of the last step over the digits of both numbers: a thin line a seed, a thick one for the median.

    Args:
        found: what is compared -> a table with the columns "seed", "length" and "exact_match".
        trained: digits of the longest numbers of training, where a line is drawn.
        title: what is shown.
        template: a plotly template.
    """
    figure = go.Figure(layout={"title": title, "template": template, "hovermode": "x unified"})
    for (name, table), colour in zip(
        found.items(), (SET_COLOURS["test"], SET_COLOURS["train"], *OTHER_COLOURS), strict=False
    ):
        wide = table.pivot(index="length", columns="seed", values="exact_match")
        for seed in wide:
            figure.add_scatter(
                x=wide.index,
                y=wide[seed],
                line={"color": colour, "width": 1},
                opacity=0.5,
                showlegend=False,
                legendgroup=name,
                hoverinfo="skip",
            )
        figure.add_scatter(
            x=wide.index,
            y=wide.median(axis=1),
            line={"color": colour, "width": 3},
            name=f"{name}, median of {wide.shape[1]} seeds",
            legendgroup=name,
            hovertemplate="%{y:.4f}",
        )
    figure.add_vline(x=trained, line={"dash": "dash", "color": "#9aa0a6"})
    figure.add_annotation(
        x=trained, y=0.03, yref="paper", text="longest of training", showarrow=False, xanchor="left", xshift=4
    )
    figure.update_xaxes(title="digits of both numbers")
    figure.update_yaxes(title="exact match (share)", range=[-0.02, 1.02])
    return figure.update_layout(legend={"yanchor": "bottom", "y": 0.12, "xanchor": "left", "x": 0.02})
