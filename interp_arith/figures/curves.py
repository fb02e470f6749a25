"""Training curves: losses and accuracies over the steps of one run, or of many seeds.

Knows no run directory: a metrics table comes in, a figure or a page goes out.
"""

import html
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

if TYPE_CHECKING:
    import pandas as pd

SET_COLOURS = {"train": "#2f7fc1", "val": "#2a9d6f", "test": "#e0701b", "batch": "#9aa0a6"}
OTHER_COLOURS = ("#8e63c7", "#c74b78", "#a0892c", "#3aa6b0", "#7a6a5d", "#6478d6")
DASHES = {"accuracy": "solid", "exact_match": "dot", "loss": "solid"}
GENERALISED = 0.99
PAGE_OPTIONS = {"displaylogo": False, "responsive": True, "showSendToCloud": False}
"""Of a figure on a page: plotly's own would offer to upload it."""

_LOSS_PANEL, _ACCURACY_PANEL = (0.47, 1.0), (0.0, 0.41)
_LOG_AXIS = {"type": "log", "exponentformat": "power"}
_WORDS = {"loss": "loss", "accuracy": "token accuracy", "exact_match": "exact match"}
_HOVER = {"loss": "%{y:.3e} nats", "accuracy": "%{y:.4f}", "exact_match": "%{y:.4f}"}


def training_curves(
    metrics: "pd.DataFrame | Sequence[Mapping[str, float]]", title: str, template: str = "plotly_white"
) -> go.Figure:
    """One run's losses (nats per answer token, log axis) over its accuracies (shares in [0, 1]), by step.

    A dashed line marks the first step with every train token right, and the first with 0.99 of the test tokens
    right. Exact match is dotted, and left out where it is the token accuracy.

    Args:
        metrics: one row a logged step, as a table or as records, with a "step" and scores such as "train_loss"; gaps
            are skipped.
        title: what was trained.
        template: a plotly template; "plotly_dark" reads as well.

    Raises:
        ValueError: the table has no "step" column.
    """
    columns = _columns(metrics)
    figure = _empty_panels(columns, title, template)
    for name, score, colour in _scores(columns):
        values = columns[f"{name}_{score}"]
        there = ~np.isnan(values)
        figure.add_scatter(
            x=columns["step"][there],
            y=values[there],
            hovertemplate=_HOVER[score],
            line={"color": colour, "dash": DASHES[score], "width": 1 if name == "batch" else 2},
            visible="legendonly" if name == "batch" and "train_loss" in columns else True,
            **_place(name, score),
        )
    marks = {
        "train accuracy 1": _first_step(columns, "train_accuracy", at_least=1.0),
        f"test accuracy ≥ {GENERALISED}": _first_step(columns, "test_accuracy", at_least=GENERALISED),
    }
    _mark_steps(figure, {words: step for words, step in marks.items() if step is not None}, columns["step"])
    return figure.update_layout(hovermode="x unified")


def seed_curves(metrics: "pd.DataFrame", title: str, template: str = "plotly_white") -> go.Figure:
    """Several runs' losses and accuracies laid over each other: a thin line a run, a thick one for the median.

    Args:
        metrics: as for `training_curves`, with a "run" column that names the run of each row.
        title: what was trained.
        template: a plotly template.

    Raises:
        ValueError: the table has no "step" or no "run" column.
    """
    if "run" not in metrics:
        raise ValueError(
            f"metrics of several runs need a 'run' column; there are: {', '.join(metrics.columns)}"
        )
    columns = _columns(metrics)
    figure = _empty_panels(columns, title, template)
    columns.pop("batch_loss", None)
    for name, score, colour in _scores(columns):
        key = f"{name}_{score}"
        rows = metrics.dropna(subset=[key])
        line = {"color": colour, "dash": DASHES[score]}
        if score != "exact_match":
            # One trace draws all runs: an empty point after each keeps their lines apart.
            runs = [run for _, run in rows.groupby("run", sort=False)]
            figure.add_scatter(
                x=[step for run in runs for step in (*run["step"], None)],
                y=[value for run in runs for value in (*run[key], None)],
                text=[name for run in runs for name in (*run["run"], None)],
                hovertemplate=f"%{{text}}, step %{{x:,}}: {_HOVER[score]}<extra></extra>",
                line={**line, "width": 1},
                opacity=0.35,
                **{**_place(name, score), "name": f"{name} {_WORDS[score]}, runs", "showlegend": False},
            )
        median = rows.groupby("step")[key].median()
        figure.add_scatter(
            x=median.index,
            y=median,
            hovertemplate=f"step %{{x:,}}: {_HOVER[score]}",
            line={**line, "width": 3},
            **{**_place(name, score), "name": f"{name} {_WORDS[score]}, median"},
        )
    return figure.update_layout(hovermode="closest")


def pass_curves(
    passes: Mapping[str, "pd.DataFrame"], title: str, template: str = "plotly_white"
) -> go.Figure:
    """Passes of one model after another, on one step axis: test loss, and share of test questions wrong, both log.

    A dashed line marks where a pass begins, with its name. A share of 0 has no mark.

    Args:
        passes: name -> metrics with "step", "test_loss" and "test_exact_match"; each starts from the last one's end.
        title: what was trained.
        template: a plotly template.
    """
    figure = go.Figure(layout={"title": title, "template": template, "height": 560})
    begin, end = 0, sum(int(metrics["step"].to_numpy().max()) for metrics in passes.values())
    for name, metrics in passes.items():
        rows = metrics.dropna(subset=["test_loss", "test_exact_match"])
        steps, wrong = begin + rows["step"], 1 - rows["test_exact_match"]
        lines = {"mode": "lines", "legendgroup": name}
        figure.add_scatter(x=steps, y=rows["test_loss"], name=f"{name}: test loss", **lines)
        # With marks: an evaluation between two without errors has no line.
        dots = lines | {"mode": "lines+markers", "marker": {"size": 3}}
        figure.add_scatter(
            x=steps, y=wrong.where(wrong > 0), name=f"{name}: test questions wrong", yaxis="y2", **dots
        )
        side = "left" if begin < end / 2 else "right"
        label = {"text": f" {name} ", "textposition": "end", "textangle": 0, "xanchor": side}
        ends = {"x0": begin, "x1": begin, "y0": 0, "y1": 1.01, "yref": "paper"}
        figure.add_shape(type="line", **ends, line={"dash": "dash", "width": 1}, label=label)
        begin += int(metrics["step"].to_numpy().max())
    return figure.update_layout(
        xaxis={"title": "step (updates), all passes", "anchor": "y2"},
        yaxis={"title": "loss (nats per answer token)", "domain": (0.54, 1.0), **_LOG_AXIS},
        yaxis2={
            "title": "share wrong (0: no mark)",
            "domain": (0.0, 0.46),
            "type": "log",
            "tickformat": ".2~%",
        },
    )


def with_cursor(figure: go.Figure, step: int) -> go.Figure:
    """A line at a step of a figure over steps, in each of its panels; the figure itself."""
    traces: Any = figure.data  # a panel without a line stays empty
    names = dict.fromkeys(trace.xaxis or "x" for trace in traces)
    for name in names or ["x"]:
        axis: Any = figure.layout[name.replace("x", "xaxis")]
        at = max(step, 1) if axis.type == "log" else step
        across = {"yref": "paper"} if len(names) < 2 else {"yref": f"{axis.anchor} domain"}
        figure.add_shape(
            type="line",
            x0=at,
            x1=at,
            xref=name,
            y0=0,
            y1=1,
            **across,
            line={"color": "#c74b78", "width": 2},
            name="cursor",
        )
    return figure


def write_html(figure: go.Figure, path: Path | None = None) -> str:
    """The figure as a page that opens without a network, plotly.js within; written to `path` if one is given."""
    page = figure.to_html(include_plotlyjs=True, full_html=True, config=PAGE_OPTIONS)
    title = html.escape(figure.layout.title.text or "interp_arith")
    page = page.replace("<head>", f"<head><title>{title}</title>", 1)
    if path is not None:
        path.write_text(page, encoding="utf-8")
    return page


def _columns(metrics: "pd.DataFrame | Sequence[Mapping[str, float]]") -> dict[str, np.ndarray]:
    """Name -> values, NaN where a row has none."""
    if not isinstance(metrics, Sequence):
        return {str(name): metrics[name].to_numpy() for name in metrics}
    names = dict.fromkeys(name for record in metrics for name in record)
    found = {name: np.asarray([record.get(name, np.nan) for record in metrics]) for name in names}
    return {name: x.astype(float) if x.dtype == object else x for name, x in found.items()}


def _empty_panels(columns: Mapping[str, np.ndarray], title: str, template: str) -> go.Figure:
    """Two panels that share one step axis, with buttons that make it linear or logarithmic."""
    if "step" not in columns:
        raise ValueError(f"metrics need a 'step' column; there are: {', '.join(columns)}")
    return go.Figure(
        layout={
            "title": {"text": title, "x": 0.0, "xref": "paper", "y": 0.98, "yanchor": "top"},
            "template": template,
            "height": 640,
            "margin": {"l": 90, "r": 190, "t": 70, "b": 60},
            "hoversubplots": "axis",
            "legend": {"x": 1.02, "y": 1.0, "groupclick": "toggleitem", "tracegroupgap": 12},
            "xaxis": {"title": "step (updates)", "anchor": "y2", "rangemode": "tozero"},
            "yaxis": {"title": "loss (nats per answer token)", "domain": _LOSS_PANEL, **_LOG_AXIS},
            "yaxis2": {"title": "accuracy (share right)", "range": [-0.03, 1.03], "domain": _ACCURACY_PANEL},
            "updatemenus": [_step_buttons({})],
        }
    )


def _mark_steps(figure: go.Figure, marks: Mapping[str, int], steps: np.ndarray) -> None:
    """A dashed line at each step, its words on a row of their own above the panels.

    Words reach towards the middle, because plotly cuts them off at the axis' ends; a log axis has another middle.
    """
    least = steps[steps > 0].min(initial=steps.max())
    middles = {"linear": steps.max() / 2, "log": math.sqrt(least * steps.max())}
    sides = {
        kind: ["left" if step < middle else "right" for step in marks.values()]
        for kind, middle in middles.items()
    }
    for row, (words, step) in enumerate(marks.items()):
        colour = SET_COLOURS[words.split()[0]]
        label = {"text": f" {words}: step {step:,} ", "textposition": "end", "textangle": 0}
        place = {"xanchor": sides["linear"][row], "yanchor": "bottom", "font": {"size": 12, "color": colour}}
        ends = {"x0": step, "x1": step, "y0": 0, "y1": 1.01 + 0.045 * row, "yref": "paper"}
        line = {"dash": "dash", "width": 1, "color": colour}
        figure.add_shape(type="line", **ends, line=line, label=label | place)
    figure.update_layout(margin_t=70 + 25 * len(marks), updatemenus=[_step_buttons(sides)])


def _step_buttons(sides: Mapping[str, list[str]]) -> dict[str, Any]:
    """Buttons that make the step axis linear or logarithmic, and turn the words of the marks to their sides."""
    buttons = []
    for kind in ("linear", "log"):
        turned = {f"shapes[{row}].label.xanchor": side for row, side in enumerate(sides.get(kind, []))}
        axis = {"xaxis.type": kind, "xaxis.autorange": True}
        buttons.append({"label": f"{kind} steps", "method": "relayout", "args": [axis | turned]})
    place = {"x": 1.02, "xanchor": "left", "y": 0.0, "yanchor": "bottom", "bgcolor": "rgba(128,128,128,0.12)"}
    # plotly draws the active button white in every template, and so hides its word in a dark one.
    return {"type": "buttons", "showactive": False, "buttons": buttons, **place}


def _scores(columns: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str, str]]:
    """Each (set, score, colour) to draw: losses first, then accuracies, then exact matches that differ."""
    drawn = {score: [k[: -len(score) - 1] for k in columns if k.endswith(f"_{score}")] for score in _WORDS}
    others = dict.fromkeys(name for found in drawn.values() for name in found if name not in SET_COLOURS)
    colours = SET_COLOURS | dict(zip(others, itertools.cycle(OTHER_COLOURS), strict=False))
    for score, found in drawn.items():
        for name in (name for name in colours if name in found):
            key, token_key = f"{name}_{score}", f"{name}_accuracy"
            there = ~np.isnan(columns[key])
            if score == "exact_match" and token_key in columns:
                there &= ~np.isnan(columns[token_key]) & (columns[key] != columns[token_key])
            if there.any():
                yield name, score, colours[name]


def _place(name: str, score: str) -> dict[str, str]:
    """Which panel a score goes to, and what it is called there."""
    panel = "losses" if score == "loss" else "accuracies"
    return {
        "name": f"{name} {_WORDS[score]}",
        "mode": "lines",
        "yaxis": "y" if score == "loss" else "y2",
        "legendgroup": panel,
    }


def _first_step(columns: Mapping[str, np.ndarray], key: str, at_least: float) -> int | None:
    if key not in columns:
        return None
    reached = columns["step"][columns[key] >= at_least]
    return int(reached.min()) if len(reached) else None
