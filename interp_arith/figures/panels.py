"""Panels beside each other, all alike, in one go: plotly's own updates, axis after axis, take far longer."""

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from typing import Any

import plotly.graph_objects as go
from plotly.basedatatypes import BaseTraceType
from plotly.subplots import make_subplots

Part = Mapping[str, Any]


def in_panels(
    traces: Sequence[BaseTraceType],
    columns: int,
    layout: Part,
    *,
    x: Part,
    y: Part,
    lowest: Part | None = None,
    leftmost: Part | None = None,
    square: bool = False,
    **grid: Any,
) -> go.Figure:
    """A figure with a panel for each trace, row by row.

    Args:
        traces: one a panel.
        columns: panels a row.
        layout: of the figure.
        x: what every x axis is given.
        y: what every y axis is given.
        lowest: what the x axes of the last row are given besides.
        leftmost: what the y axes of the first column are given besides.
        square: whether a unit is as long up a panel as along it.
        grid: subplot_titles, spacings and what else make_subplots takes.
    """
    rows = -(-len(traces) // columns)
    whole = deepcopy(
        _empty(rows, columns, **{k: tuple(v) if isinstance(v, list) else v for k, v in grid.items()})
    )
    for index in range(rows * columns):
        name = str(index + 1) if index else ""
        whole[f"xaxis{name}"] |= {**x, **(lowest or {} if index >= (rows - 1) * columns else {})}
        whole[f"yaxis{name}"] |= {**y, **(leftmost or {} if index % columns == 0 else {})}
        if square:
            whole[f"yaxis{name}"]["scaleanchor"] = f"x{name}"
        if index < len(traces):
            traces[index].xaxis, traces[index].yaxis = f"x{name}", f"y{name}"
    return go.Figure(traces, {**whole, **layout})


def room(words: Iterable[str], size: int) -> int:
    """Pixels that the longest of some words takes beside an axis; plotly's automargin measures every one, slowly.

    Args:
        words: labels.
        size: of their font, in pixels; a letter is taken as 0.62 of it wide, which is more than most are.
    """
    return 12 + math.ceil(0.62 * size * max(map(len, words), default=0))


@lru_cache(maxsize=64)
def _empty(rows: int, columns: int, **grid: Any) -> dict[str, Any]:
    """The layout of panels without anything on them; not to be changed."""
    return make_subplots(rows, columns, **grid).layout.to_plotly_json()
