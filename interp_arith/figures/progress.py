"""Trajectories of measures: the losses that tell grokking's phases apart, and many seeds with their mean.

Knows no run directory: labelled arrays come in, a figure goes out.
"""

import math
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp_arith.figures.curves import OTHER_COLOURS, SET_COLOURS

PHASES = ("memorization", "circuit formation", "cleanup")
LOSSES = {
    "train_loss": ("train loss", SET_COLOURS["train"]),
    "test_loss": ("test loss", SET_COLOURS["test"]),
    "restricted_loss": ("restricted loss", "#2a9d6f"),
    "excluded_loss": ("excluded loss", "#8e63c7"),
}
SHARES = {
    "train_accuracy": ("train accuracy", SET_COLOURS["train"]),
    "test_accuracy": ("test accuracy", SET_COLOURS["test"]),
    "logit_variance_explained": ("logit variance explained", OTHER_COLOURS[1]),
    "gini_embedding": ("Gini of embedding", OTHER_COLOURS[2]),
    "gini_unembedding": ("Gini of unembedding", OTHER_COLOURS[4]),
    "clustered_share": ("neurons in a cluster", OTHER_COLOURS[3]),
}
_PHASE_COLOURS = ("rgba(47,127,193,0.13)", "rgba(42,157,111,0.15)", "rgba(224,112,27,0.15)")
_LOSS_PANEL, _SHARE_PANEL = (0.42, 1.0), (0.0, 0.35)
_CHOICES = {"split": "all", "removed": "all"}


def progress_curves(
    measures: xr.Dataset,
    marks: xr.DataArray | None,
    title: str,
    variant: str = "sum",
    template: str = "plotly_white",
) -> go.Figure:
    """Train, test, restricted and excluded loss over the steps of one run, with the phases of its grokking shaded.

    Losses are in nats, on a log axis. What the Dataset has of measures between 0 and 1 (logit variance explained,
    Gini coefficients, …) is drawn in a panel below. Memorization lasts from the first step to the onset of the
    circuit, circuit formation until the onset of cleanup, cleanup until the model has grokked. A phase ends where a
    later one begins, whatever their order, and one that nothing ends lasts until the last step.
    Without a `memorized` mark nothing is shaded.

    Args:
        measures: over `step`; any of train_loss, test_loss, restricted_loss (variant, split) and excluded_loss
            (variant, removed), and of the measures in SHARES.
        marks: the four marks of `phases`, over a dim `mark` alone.
        title: what was trained.
        variant: of the restricted and the excluded loss: "sum", "cosine" or, for the first alone, "block".
        template: a plotly template.

    Raises:
        ValueError: there is no `step` dim, or several seeds.
    """
    if "step" not in measures.dims:
        raise ValueError(f"progress_curves needs a `step` dim; given {', '.join(map(str, measures.dims))}")
    if "seed" in measures.dims:
        raise ValueError("progress_curves draws one run; choose one of `seed`, or draw seed_trajectories")
    shares = [name for name in SHARES if name in measures]
    figure = go.Figure(layout=_layout(title, template, bool(shares)))
    for name, (words, colour) in LOSSES.items():
        if name in measures and variant in measures[name].coords.get("variant", [variant]):
            curve = _chosen(measures[name], variant)
            named = f"{words}, {variant}" if "variant" in measures[name].dims else words
            _add_curve(figure, curve, named, colour, "y", "%{y:.3e} nats")
    for name in shares:
        _add_curve(figure, measures[name], *SHARES[name], "y2", "%{y:.3f}")
    if marks is not None:
        _shade(figure, marks, measures["step"].to_numpy())
    return figure


def seed_trajectories(
    values: xr.DataArray,
    statistics: xr.DataArray,
    title: str,
    scale: Literal["linear", "log"] = "linear",
    template: str = "plotly_white",
) -> go.Figure:
    """One measure over the steps of several seeds: a thin line a seed, a thick one for the mean, its interval a band.

    Args:
        values: over `seed` and `step`, with a name and units.
        statistics: mean, low and high over `step`, as `mean_over_seeds` gives them.
        title: what was trained.
        scale: of the measure's axis.
        template: a plotly template.

    Raises:
        ValueError: the dims are others.
    """
    if set(values.dims) != {"seed", "step"} or set(statistics.dims) != {"statistic", "step"}:
        raise ValueError(
            "seed_trajectories draws (seed, step) and (statistic, step); "
            f"given {', '.join(map(str, values.dims))} and {', '.join(map(str, statistics.dims))}"
        )
    words, colour = str(values.name).replace("_", " "), SET_COLOURS["test"]
    layout = _layout(title, template, with_shares=False)
    layout["yaxis"] = {"title": f"{words}{unit_words(values)}", "type": scale, "exponentformat": "power"}
    layout["hovermode"] = "closest"
    figure = go.Figure(layout=layout)
    seeds, steps = values.transpose("seed", "step"), values["step"].to_numpy()
    # One trace draws all seeds: an empty point after each keeps their lines apart.
    figure.add_scatter(
        x=[step for _ in seeds for step in (*steps, None)],
        y=[value for row in seeds.to_numpy() for value in (*row, None)],
        text=[f"seed {seed}" for seed in seeds["seed"].to_numpy() for _ in range(len(steps) + 1)],
        hovertemplate="%{text}, step %{x:,}: %{y:.4~g}<extra></extra>",
        mode="lines",
        line={"color": colour, "width": 1},
        opacity=0.35,
        name="seeds",
    )
    band = {name: statistics.sel(statistic=name).dropna("step") for name in ("low", "high")}
    figure.add_scatter(
        x=[*band["low"]["step"].to_numpy(), *band["high"]["step"].to_numpy()[::-1]],
        y=[*band["low"].to_numpy(), *band["high"].to_numpy()[::-1]],
        fill="toself",
        fillcolor="rgba(224,112,27,0.22)",
        mode="lines",
        line={"width": 0},
        hoverinfo="skip",
        name="interval of the mean",
    )
    mean = statistics.sel(statistic="mean")
    _add_curve(figure, mean, "mean", colour, "y", "%{y:.4~g}", width=3)
    return figure


def unit_words(values: xr.DataArray) -> str:
    """ " (nats)"; nothing for a pure number."""
    units = values.attrs.get("units", "1")
    return "" if units == "1" else f" ({units})"


def _chosen(values: xr.DataArray, variant: str) -> xr.DataArray:
    """The curve of one variant, over all questions, all key frequencies removed."""
    wanted = {"variant": variant, **_CHOICES}
    return values.sel({dim: value for dim, value in wanted.items() if dim in values.dims})


def _add_curve(
    figure: go.Figure, curve: xr.DataArray, words: str, colour: str, axis: str, hover: str, width: int = 2
) -> None:
    there = curve.dropna("step")
    if not there.size:  # a Dataset fills variants that one of its measures lacks with NaN
        return
    figure.add_scatter(
        x=there["step"].to_numpy(),
        y=there.to_numpy(),
        name=words,
        mode="lines",
        line={"color": colour, "width": width},
        yaxis=axis,
        hovertemplate=hover,
        legendgroup="losses" if axis == "y" else "shares",
    )


def _shade(figure: go.Figure, marks: xr.DataArray, steps: np.ndarray) -> None:
    """A band for each phase and a dashed line at each of its ends, named in the legend with their steps."""
    at = {str(name): float(marks.sel(mark=name)) for name in marks["mark"].to_numpy()}
    if math.isnan(at["memorized"]):
        return
    bounds = [float(steps.min()), at["circuit_onset"], at["cleanup_onset"], at["grokked"]]
    first = float(min((step for step in steps if step > 0), default=1))
    turned: dict[str, dict[str, float]] = {"linear": {}, "log": {}}
    for row, (phase, colour) in enumerate(zip(PHASES, _PHASE_COLOURS, strict=True)):
        start = bounds[row]
        end = min((end for end in bounds[row + 1 :] if not math.isnan(end)), default=float(steps.max()))
        if not start < end:  # not reached, or begun after a later one
            continue
        # A log axis has no place for step 0.
        shape = len(turned["log"])
        turned["linear"][f"shapes[{shape}].x0"] = start
        turned["log"][f"shapes[{shape}].x0"] = max(start, first)
        figure.add_shape(
            type="rect", x0=start, x1=end, y0=0, y1=1, yref="paper", layer="below", fillcolor=colour,
            line_width=0, showlegend=True, legendgroup="phases", name=f"{phase}: {start:,.0f} – {end:,.0f}",
        )  # fmt: skip
    for name, colour in (("memorized", SET_COLOURS["train"]), ("grokked", SET_COLOURS["test"])):
        if not math.isnan(at[name]):
            figure.add_shape(
                type="line", x0=at[name], x1=at[name], y0=0, y1=1, yref="paper", showlegend=True,
                line={"dash": "dash", "width": 1.5, "color": colour}, legendgroup="phases",
                name=f"{name}: step {at[name]:,.0f}",
            )  # fmt: skip
    figure.update_layout(updatemenus=[_step_buttons(turned)])


def _layout(title: str, template: str, with_shares: bool) -> dict[str, Any]:
    layout = {
        "title": {"text": title, "x": 0.0, "xref": "paper"},
        "template": template,
        "height": 640 if with_shares else 480,
        "margin": {"l": 90, "r": 270, "t": 60, "b": 60},
        "hovermode": "x unified",
        "hoversubplots": "axis",
        "legend": {"x": 1.02, "y": 1.0, "tracegroupgap": 12, "groupclick": "toggleitem"},
        "xaxis": {"title": "step (updates)", "anchor": "y2" if with_shares else "y"},
        "yaxis": {
            "title": "loss (nats)",
            "type": "log",
            "exponentformat": "power",
            "domain": _LOSS_PANEL if with_shares else (0.0, 1.0),
        },
        "updatemenus": [_step_buttons({"linear": {}, "log": {}})],
    }
    if with_shares:
        layout["yaxis2"] = {"title": "share (0 to 1)", "range": [-0.03, 1.03], "domain": _SHARE_PANEL}
    return layout


def _step_buttons(turned: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Buttons that make the step axis linear or logarithmic, and bring what stands at step 0 along."""
    buttons = [
        {
            "label": f"{kind} steps",
            "method": "relayout",
            "args": [{"xaxis.type": kind, "xaxis.autorange": True, **moved}],
        }
        for kind, moved in turned.items()
    ]
    place = {"x": 1.02, "xanchor": "left", "y": 0.0, "yanchor": "bottom", "bgcolor": "rgba(128,128,128,0.12)"}
    # plotly draws the active button white in every template, and so hides its word in a dark one.
    return {"type": "buttons", "showactive": False, "buttons": buttons, **place}
