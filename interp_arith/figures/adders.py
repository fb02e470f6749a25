"""What an adder does, over training and by place: accuracy by class, maps of nodes and positions, use of carries.

Knows no model: labelled arrays come in, a figure goes out.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from interp_arith.figures.curves import OTHER_COLOURS, SET_COLOURS
from interp_arith.figures.frequencies import COLOURS
from interp_arith.figures.panels import in_panels, room
from interp_arith.figures.progress import unit_words

_CASES = {8: "r ≤ 8", 9: "r = 9", 10: "r ≥ 10"}
_CASE_COLOURS = {8: SET_COLOURS["train"], 9: OTHER_COLOURS[0], 10: SET_COLOURS["test"]}
_PANELS_A_ROW, _Y_FONT = 3, 10
_BARE = {"showgrid": False, "automargin": False}
"""Of an axis along a map: its room is known, and plotly would find it by drawing twice."""
_USE = {"decodable": SET_COLOURS["train"], "direction": SET_COLOURS["test"], "whole": SET_COLOURS["val"]}
_USE_WORDS = {
    "decodable": "decodable (balanced accuracy)",
    "direction": "used along the direction that reads it (share)",
    "whole": "used, the whole activation (share)",
}


def class_curves(found: xr.DataArray, title: str, template: str = "plotly_white") -> go.Figure:
    """Exact match over the steps of a run, a line for each complexity class; steps on a log axis from 1.

    Args:
        found: over `step` and `complexity`, as the measure class_exact_match gives it over a trajectory.
        title: what is shown.
        template: a plotly template.

    Raises:
        ValueError: the dims are others.
    """
    _check("class_curves", found, ("step", "complexity"))
    names = found["complexity"].to_numpy().tolist()
    colours = _colours(names)
    figure = go.Figure(layout=_layout(title, template, 440))
    for name in names:
        one = found.sel(complexity=name)
        figure.add_scatter(
            x=_from_one(one["step"].to_numpy()),
            y=one.to_numpy(),
            customdata=one["step"].to_numpy(),
            name=name,
            mode="lines+markers",
            marker={"size": 5},
            line={"color": colours[name]},
            hovertemplate="step %{customdata:,}: %{y:.3f}",
        )
    figure.update_yaxes(title="exact match (share)", range=[-0.03, 1.03])
    figure.update_xaxes(title="step (updates), step 0 drawn at 1", type="log", exponentformat="none")
    return figure.update_layout(hovermode="x", legend={"title": "class"})


def place_maps(
    values: xr.DataArray,
    x: str,
    y: str,
    title: str,
    panels: str | None = None,
    x_names: Sequence[str] | None = None,
    x_title: str | None = None,
    span: tuple[float, float] = (0, 1),
    template: str = "plotly_white",
) -> go.Figure:
    """Heat maps of one measure, a panel for each label of a third dim; with a slider where there is a dim `step`.

    Such as a probe's accuracy (hook over position, a panel a column), the effect of patching (part over position) or
    attention by role (role over answer token, a panel a head).

    Args:
        values: over x, y, the panels' dim if any, and `step` if it is there.
        x: dim along a panel.
        y: dim up a panel.
        title: what is shown.
        panels: dim of which every label gets a panel of its own.
        x_names: what to write along x in place of the labels, such as a task's position_names.
        x_title: in place of the dim's name.
        span: values of the two ends of the colours; where it reaches as far below 0 as above, 0 is white.
        template: a plotly template.

    Raises:
        ValueError: the dims are others.
    """
    dims = [
        dim for dim in ("step", panels, y, x) if dim is not None and (dim != "step" or "step" in values.dims)
    ]
    _check("place_maps", values, dims)
    values = values.transpose(*dims)
    steps = values["step"].to_numpy().tolist() if "step" in values.dims else [None]
    draw = partial(_heat_maps, values, x, y, panels)
    traces = draw(steps[-1])
    columns = min(_PANELS_A_ROW, len(traces))
    rows = math.ceil(len(traces) / columns)
    height = max(90, min(24 * values.sizes[y], 250))
    left = room(map(str, values[y].to_numpy()), _Y_FONT)
    layout = _layout(title, template, 150 + rows * (height + 75) + 60 * (len(steps) > 1)) | {
        "margin": {"l": left, "r": 10, "t": 90, "b": 60 + 70 * (len(steps) > 1)},
        "coloraxis": _colour_axis(values, span),
    }
    figure = in_panels(
        traces,
        columns,
        layout,
        x={
            "tickvals": [*range(values.sizes[x])],
            "ticktext": [*map(str, _names(values, x, x_names))],
            "tickangle": 0,
            "tickfont": {"size": 9},
            **_BARE,
        },
        y={"autorange": "reversed", "tickfont": {"size": _Y_FONT}, **_BARE},
        lowest={"title": {"text": x_title or x.replace("_", " "), "standoff": 4}},
        subplot_titles=None
        if panels is None
        else [_panel_name(panels, each) for each in _labels(values, panels)],
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=min(0.9 / max(rows - 1, 1), 75 / (rows * (height + 75))),
    )
    if len(steps) > 1:
        _add_slider(figure, steps, draw)
    return figure


def _colour_axis(values: xr.DataArray, span: tuple[float, float]) -> dict[str, Any]:
    """Of the values, with their name and unit; white in the middle where it has two ends."""
    words = f"{_words(values)}{unit_words(values)}"
    return {
        "colorscale": "RdBu_r" if span[0] == -span[1] else COLOURS,
        "cmin": span[0],
        "cmax": span[1],
        "colorbar": {"title": words, "title_side": "right", "thickness": 14},
    }


def _heat_maps(
    values: xr.DataArray, x: str, y: str, panels: str | None, step: int | None
) -> list[go.Heatmap]:
    """One for each panel, at a step if there are steps."""
    at = values if step is None else values.sel(step=step)
    return [
        go.Heatmap(
            x=np.arange(values.sizes[x]),
            y=[str(label) for label in values[y].to_numpy()],
            z=(at if panels is None else at.sel({panels: label})).to_numpy(),
            coloraxis="coloraxis",
            hovertemplate="%{y}, %{x}: %{z:.3f}<extra></extra>",
        )
        for label in _labels(values, panels)
    ]


def _labels(values: xr.DataArray, panels: str | None) -> list:
    """Of the panels; where there are none, one that says nothing."""
    return [None] if panels is None else values[panels].to_numpy().tolist()


def use_curves(
    decodable: xr.DataArray, used: xr.DataArray, title: str, template: str = "plotly_white"
) -> go.Figure:
    """When the carry into each column is decodable and when it is used, over training: a panel for each column.

    Of each step the best hook is drawn; the dashed line is what one token alone tells.

    Args:
        decodable: over `step`, `column` and `hook`, with the coordinate `baseline`, as carry_decodable gives it.
        used: over `step`, `column`, `hook` and `way`, as carry_used gives it.
        title: what is shown.
        template: a plotly template.

    Raises:
        ValueError: the dims are others.
    """
    _check("use_curves", decodable, ("step", "column", "hook"))
    _check("use_curves", used, ("step", "column", "hook", "way"))
    labels = decodable["column"].to_numpy().tolist()
    columns = min(_PANELS_A_ROW, len(labels))
    rows = math.ceil(len(labels) / columns)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[f"column {label}" for label in labels],
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.3 / rows,
    )
    curves = {"decodable": decodable.max("hook")}
    curves |= {str(way): used.sel(way=way).max("hook") for way in used["way"].to_numpy()}
    steps = decodable["step"].to_numpy()
    for index, label in enumerate(labels):
        where = {"row": index // columns + 1, "col": index % columns + 1}
        for name, values in curves.items():
            figure.add_scatter(
                x=_from_one(steps),
                y=values.sel(column=label).to_numpy(),
                customdata=steps,
                name=_USE_WORDS[name],
                legendgroup=name,
                showlegend=not index,
                line={"color": _USE[name], "dash": "dot" if name == "whole" else "solid"},
                hovertemplate="step %{customdata:,}: %{y:.3f}",
                **where,
            )
        if "baseline" in decodable.coords:
            alone = decodable["baseline"].sel(column=label)
            height = float(alone.isel(step=-1) if "step" in alone.dims else alone)
            figure.add_hline(y=height, line={"dash": "dash", "width": 1, "color": "#9aa0a6"}, **where)  # pyright: ignore[reportArgumentType]
    figure.update_xaxes(type="log", exponentformat="none", tickfont_size=10)
    figure.update_xaxes(title_text="step (updates)", title_font_size=12, row=rows)
    figure.update_yaxes(range=[-0.03, 1.03]).update_yaxes(title_text="accuracy, share", col=1)
    figure.update_layout(_layout(title, template, 120 + 250 * rows))
    return figure.update_layout(legend={"orientation": "h", "y": -0.32 / rows, "x": 0}, margin_b=110)


def case_scatter(found: xr.DataArray, title: str, template: str = "plotly_white") -> go.Figure:
    """Where a node's activations lie for the three cases of a column, in the plane of their first two components.

    Args:
        found: over `case`, `question` and `component`, as geometry.tri_case_projection gives it.
        title: what is shown.
        template: a plotly template.

    Raises:
        ValueError: the dims are others.
    """
    _check("case_scatter", found, ("case", "question", "component"))
    figure = go.Figure(layout=_layout(title, template, 460))
    for case in found["case"].to_numpy().tolist():
        points = found.sel(case=case).transpose("question", "component").to_numpy()
        figure.add_scatter(
            x=points[:, 0],
            y=points[:, 1],
            mode="markers",
            name=_CASES[case],
            marker={"color": _CASE_COLOURS[case], "size": 6, "opacity": 0.7},
            hovertemplate="%{x:.3g}, %{y:.3g}",
        )
    figure.update_xaxes(title="first component (units of the activation)", zeroline=False)
    figure.update_yaxes(title="second component", zeroline=False)
    return figure.update_layout(legend={"title": "digits of the column"})


def _add_slider(figure: go.Figure, steps: Sequence[Any], traces_at: Any) -> None:
    """One frame a step, and a slider that shows it."""
    figure.frames = [go.Frame(data=traces_at(step), name=f"{step}") for step in steps]
    choices = [
        {
            "label": f"{step:,}",
            "method": "animate",
            "args": [[f"{step}"], {"mode": "immediate", "frame": {"duration": 0, "redraw": True}}],
        }
        for step in steps
    ]
    figure.update_layout(
        sliders=[
            {
                "steps": choices,
                "active": len(steps) - 1,
                "currentvalue": {"prefix": "step "},
                "pad": {"t": 50},
            }
        ]
    )


def _from_one(steps: np.ndarray) -> np.ndarray:
    """Steps for a log axis: 0 at 1."""
    return np.maximum(steps, 1)


def _colours(names: Sequence[str]) -> dict[str, str]:
    """One colour a class, darker for harder ones, the darkest still seen on a dark page; a scale for sums, and for
    differences of each sign."""
    scales = {"S": "Blues", "M": "Oranges", "N": "Greens"}
    found = {}
    for letter, scale in scales.items():
        of = [name for name in names if name.startswith(letter)]
        shades = sample_colorscale(scale, np.linspace(0.3, 0.75, max(len(of), 2)).tolist())
        found |= dict(zip(of, shades, strict=False))
    return found


def _names(values: xr.DataArray, dim: str, given: Sequence[str] | None) -> Sequence[str]:
    return [str(label) for label in values[dim].to_numpy()] if given is None else given


def _panel_name(dim: str, label: Any) -> str:
    return str(label) if isinstance(label, str) else f"{dim.replace('_', ' ')} {label}"


def _words(values: xr.DataArray) -> str:
    return str(values.name or "value").replace("_", " ")


def _check(name: str, values: xr.DataArray, dims: Sequence[str]) -> None:
    if set(values.dims) != set(dims):
        given = ", ".join(map(str, values.dims))
        raise ValueError(f"{name} draws ({', '.join(dims)}); given ({given})")


def _layout(title: str, template: str, height: int) -> dict[str, Any]:
    return {
        "title": {"text": title, "x": 0.0, "xref": "paper"},
        "template": template,
        "height": height,
        "margin": {"l": 70, "r": 30, "t": 80, "b": 60},
    }
