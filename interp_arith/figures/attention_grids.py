"""Attention for every question a, b at once: one heat map a head.

Knows no model: a labelled array comes in, a figure goes out.
"""

import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp_arith.figures.frequencies import COLOURS


def attention_grids(grid: xr.DataArray, source: str, title: str, template: str = "plotly_white") -> go.Figure:
    """How much each head attends to one source, over a and b; a row of panels for every block.

    Args:
        grid: over `block`, `head`, `source`, `a` and `b`, as the measure attention_grid gives it.
        source: which source: "a", "b", "=" or "operation".
        title: what is shown.
        template: a plotly template.

    Raises:
        ValueError: the dims are others, or the prompt has no such source.
    """
    wanted = ("block", "head", "source", "a", "b")
    if set(grid.dims) != set(wanted):
        raise ValueError(
            f"attention_grids draws ({', '.join(wanted)}); given {', '.join(map(str, grid.dims))}"
        )
    if source not in grid["source"].to_numpy():
        raise ValueError(f"no source {source!r}; there are: {', '.join(grid['source'].to_numpy())}")
    rows, columns = grid.sizes["block"], grid.sizes["head"]
    heads = [(block, head) for block in range(rows) for head in range(columns)]
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[f"block {block}, head {head}" for block, head in heads],
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=0.35 / rows / 2,
    )
    chosen = grid.sel(source=source).transpose("block", "head", "a", "b").to_numpy()
    for block, head in heads:
        figure.add_heatmap(
            x=grid["b"].to_numpy(),
            y=grid["a"].to_numpy(),
            z=chosen[block, head],
            coloraxis="coloraxis",
            hovertemplate="a = %{y}, b = %{x}: %{z:.3f}<extra></extra>",
            row=block + 1,
            col=head + 1,
        )
    figure.update_yaxes(constrain="domain").update_xaxes(constrain="domain")
    for axis in figure.select_yaxes():
        axis.update(scaleanchor=axis.anchor)
    figure.update_xaxes(title="b", row=rows).update_yaxes(title="a", col=1)
    return figure.update_layout(
        title={"text": title, "x": 0.0, "xref": "paper"},
        template=template,
        height=110 + 270 * rows,
        margin={"l": 70, "r": 40, "t": 90, "b": 60},
        coloraxis={
            "colorscale": COLOURS,
            "cmin": 0,
            "cmax": 1,
            "colorbar": {"title": f"attention to {source} (0 to 1)", "title_side": "right"},
        },
    )
