"""The circuits of an answer's digits: which nodes each digit needs, a lane for each digit.

Knows no model: labelled arrays come in, a figure goes out.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.colors import sample_colorscale

_LANE = 46  # pixels of one block's row within a lane
_SHADE = "rgba(128,128,128,0.08)"


def circuit_diagram(
    nodes: xr.DataArray,
    loss: xr.DataArray,
    positions: Sequence[str],
    answers: Sequence[str],
    title: str,
    template: str = "plotly_white",
) -> go.Figure:
    """The nodes that each token of the answer needs: tokens read along the bottom, a lane for each token written.

    Within a lane, block 0 lies below block 1. A node is drawn at the token where it puts something out; the darker,
    the more of its worst class is lost without it. Several parts of a block at one token stand side by side. A short
    line marks the position that writes the lane's token.

    Args:
        nodes: over `answer`, `block`, `part` and `pos`, 1 where a node is named, as circuit_nodes gives it.
        loss: likewise, as circuit_node_loss gives it.
        positions: name of each position, such as a task's position_names.
        answers: name of each token of the answer, such as a task's answer_names.
        title: what is shown.
        template: a plotly template.

    Raises:
        ValueError: the dims are others.
    """
    wanted = {"answer", "block", "part", "pos"}
    for values in (nodes, loss):
        if set(values.dims) != wanted:
            raise ValueError(
                f"circuit_diagram draws ({', '.join(sorted(wanted))}); given ({', '.join(map(str, values.dims))})"
            )
    lanes, blocks = nodes["answer"].to_numpy().tolist(), nodes.sizes["block"]
    nodes, loss = (values.transpose("answer", "block", "part", "pos") for values in (nodes, loss))
    figure = go.Figure(layout={"template": template})
    first = nodes.sizes["pos"] - len(lanes)
    lows = [-lane * (blocks + 0.6) for lane in range(len(lanes))]
    for lane, (answer, name, low) in enumerate(zip(lanes, answers, lows, strict=True)):
        _add_lane(figure, low, low + blocks, first + lane, shaded=lane % 2 == 0)
        here, lost = (values.sel(answer=answer) for values in (nodes, loss))
        figure.add_scatter(
            **_markers(here.to_numpy().astype(bool), lost.to_numpy(), here, low, positions, name),
            mode="markers+text",
            textposition="top center",
            textfont_size=9,
            marker_coloraxis="coloraxis",
            showlegend=False,
        )
    ticks = [low + block for low in lows for block in range(blocks)]
    words = [f"{name}, block {block}" if blocks > 1 else name for name in answers for block in range(blocks)]
    figure.update_yaxes(tickvals=ticks, ticktext=words, showgrid=False, zeroline=False, automargin=True)
    figure.update_xaxes(
        tickvals=[*range(len(positions))],
        ticktext=[*positions],
        tickangle=0,
        range=[-0.7, len(positions) - 0.3],
        title="position: the token that is read there",
        zeroline=False,
    )
    return figure.update_layout(
        title={"text": title, "x": 0.0, "xref": "paper"},
        height=170 + int(_LANE * len(lanes) * (blocks + 0.6)),
        margin={"l": 10, "r": 10, "t": 70, "b": 60},
        coloraxis={
            "colorscale": sample_colorscale("Purples", [0.35, 1.0]),
            "cmin": 0,
            "cmax": 1,
            "colorbar": {"title": "lost without it (share)", "title_side": "right", "thickness": 14},
        },
    )


def _add_lane(figure: go.Figure, low: float, high: float, writes: int, shaded: bool) -> None:
    """A lane's ground, and the line at the position that writes its token."""
    if shaded:
        figure.add_hrect(y0=low - 0.8, y1=high - 0.2, fillcolor=_SHADE, line_width=0, layer="below")
    figure.add_shape(
        type="line",
        x0=writes,
        x1=writes,
        y0=low - 0.7,
        y1=high - 0.3,
        line={"color": "#9aa0a6", "dash": "dot", "width": 1},
        layer="below",
    )


def _markers(
    named: np.ndarray, lost: np.ndarray, of: xr.DataArray, low: float, positions: Sequence[str], lane: str
) -> dict:
    """Places, words and colours of one lane's nodes; `named` is over block, part and pos."""
    parts = of["part"].to_numpy().tolist()
    x, y, text, hover, colour = [], [], [], [], []
    for block, part, pos in np.argwhere(named):
        beside = np.flatnonzero(named[block, :, pos]).tolist()
        shift = (beside.index(part) - (len(beside) - 1) / 2) * min(0.26, 0.92 / len(beside))
        x.append(pos + shift)
        y.append(low + block)
        text.append(str(parts[part]).removeprefix("H") if parts[part] != "MLP" else "M")
        hover.append(
            f"{lane}: block {block}, {parts[part]} at {positions[pos]} (position {pos})<br>without it "
            f"{lost[block, part, pos]:.1%} of its worst class is lost"
        )
        colour.append(lost[block, part, pos])
    return {
        "x": x,
        "y": y,
        "text": text,
        "hovertext": hover,
        "hoverinfo": "text",
        "marker": {
            "color": colour,
            "size": 11,
            "symbol": ["square" if word == "M" else "circle" for word in text],
            "line": {"width": 1, "color": "#5b6675"},
        },
    }
