"""What a model does at each frequency: bars, heat maps, neurons by cluster, circles of embeddings, the 2-D transform.

Knows no model: labelled arrays come in, a figure goes out.
"""

import itertools
import math
from collections.abc import Collection
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp_arith.figures.curves import OTHER_COLOURS, SET_COLOURS
from interp_arith.figures.panels import in_panels
from interp_arith.figures.progress import unit_words

COLOURS = "Viridis"
KEY_COLOUR, OTHER_COLOUR = SET_COLOURS["test"], "#9aa0a6"
_CLUSTER_COLOURS = (*(c for c in SET_COLOURS.values() if c != OTHER_COLOUR), *OTHER_COLOURS)
_CIRCLES_A_ROW = 3


def frequency_bars(
    values: xr.DataArray,
    keys: Collection[int],
    title: str,
    threshold: float | None = None,
    template: str = "plotly_white",
) -> go.Figure:
    """A bar for each frequency: a spectrum, or the cosines of the logits; key frequencies stand out and are named.

    Args:
        values: over `freq`, with a name and units.
        keys: the key frequencies.
        title: what is shown.
        threshold: where to draw a dashed line, if anywhere.
        template: a plotly template.

    Raises:
        ValueError: the dims are others.
    """
    _check_dims("frequency_bars", values, ("freq",))
    figure = go.Figure(layout=_layout(title, template, 420))
    frequencies = values["freq"].to_numpy()
    is_key = np.isin(frequencies, list(keys))
    for words, chosen, colour in (("key frequency", is_key, KEY_COLOUR), ("other", ~is_key, OTHER_COLOUR)):
        figure.add_bar(
            x=frequencies[chosen],
            y=values.to_numpy()[chosen],
            text=[str(k) for k in frequencies[chosen]] if words == "key frequency" else None,
            textposition="outside",
            textangle=0,
            constraintext="none",
            cliponaxis=False,
            width=0.8,
            marker_color=colour,
            name=words,
            hovertemplate="k = %{x}: %{y:.4~g}<extra></extra>",
        )
    if threshold is not None:
        figure.add_hline(y=threshold, line={"dash": "dash", "width": 1, "color": "#808080"})
    return figure.update_layout(
        xaxis={"title": "frequency k (waves over the group)"},
        yaxis={"title": f"{_words(values)}{unit_words(values)}"},
        barmode="overlay",
    )


def frequencies_over_steps(
    values: xr.DataArray, keys: Collection[int], title: str, template: str = "plotly_white"
) -> go.Figure:
    """A heat map of a spectrum, or of cosines, over the steps of a run; the key frequencies are named at its right.

    Steps are drawn evenly, one column a checkpoint.

    Args:
        values: over `freq` and `step`, with a name and units.
        keys: the key frequencies.
        title: what is shown.
        template: a plotly template.

    Raises:
        ValueError: the dims are others.
    """
    _check_dims("frequencies_over_steps", values, ("freq", "step"))
    steps = [f"{step:,}" for step in values["step"].to_numpy()]
    figure = go.Figure(layout=_layout(title, template, 560))
    figure.add_heatmap(
        x=steps,
        y=values["freq"].to_numpy(),
        z=values.transpose("freq", "step").to_numpy(),
        colorscale=COLOURS,
        colorbar={"title": f"{_words(values)}{unit_words(values)}", "title_side": "right", "x": 1.08},
        hovertemplate="step %{x}, k = %{y}: %{z:.4~g}<extra></extra>",
    )
    named = [k for k in values["freq"].to_numpy().tolist() if k in keys]
    for k in named:
        figure.add_annotation(
            x=1.005, xref="paper", y=k, text=f"◂ {k}", showarrow=False, xanchor="left", font_color=KEY_COLOUR
        )
    return figure.update_layout(
        xaxis={"title": "step (updates), one column a checkpoint", "type": "category", "nticks": 12},
        yaxis={"title": "frequency k (waves over the group)"},
        margin_r=150,
    )


def neuron_clusters(
    fractions: xr.DataArray,
    frequencies: xr.DataArray,
    title: str,
    threshold: float = 0.85,
    template: str = "plotly_white",
) -> go.Figure:
    """Every neuron's share of energy at its best frequency, neurons ordered by frequency; one colour a cluster.

    Neurons below the threshold belong to no cluster and are grey; dead neurons (NaN) are left out.

    Args:
        fractions: over `neuron`, in [0, 1].
        frequencies: over `neuron`: the frequency of that share.
        title: what is shown.
        threshold: fraction from which a neuron belongs to its frequency's cluster.
        template: a plotly template.

    Raises:
        ValueError: the dims are others.
    """
    _check_dims("neuron_clusters", fractions, ("neuron",))
    _check_dims("neuron_clusters", frequencies, ("neuron",))
    fraction, frequency = fractions.to_numpy(), frequencies.to_numpy()
    order = np.lexsort((fraction, frequency))
    order = order[~np.isnan(fraction[order])]
    place = np.empty(len(fraction), dtype=int)
    place[order] = np.arange(len(order))
    groups = {
        f"k = {int(k)}": order[(frequency[order] == k) & (fraction[order] >= threshold)]
        for k in np.unique(frequency[order])
    }
    groups["no cluster"] = order[fraction[order] < threshold]
    colours = itertools.cycle(_CLUSTER_COLOURS)
    figure = go.Figure(layout=_layout(title, template, 460))
    for name, members in groups.items():
        if len(members):
            figure.add_scatter(
                x=place[members],
                y=fraction[members],
                customdata=np.stack([members, frequency[members]], axis=1),
                mode="markers",
                marker={"size": 5, "color": OTHER_COLOUR if name == "no cluster" else next(colours)},
                name=f"{name}: {len(members):,} neurons",
                hovertemplate="neuron %{customdata[0]}, k = %{customdata[1]}: %{y:.3f}<extra></extra>",
            )
    figure.add_hline(y=threshold, line={"dash": "dash", "width": 1, "color": "#808080"})
    return figure.update_layout(
        xaxis={"title": "neurons, in the order of their frequency"},
        yaxis={"title": "share of energy at the best frequency (0 to 1)", "range": [-0.03, 1.03]},
    )


def key_circles(
    circles: xr.DataArray, keys: Collection[int], title: str, template: str = "plotly_white"
) -> go.Figure:
    """The numbers' embeddings in the plane of each key frequency, joined in the order of k·x mod n.

    A frequency that the model uses shows a circle (an ellipse, if its two directions differ in length).

    Args:
        circles: over `freq`, `plane` and `element`, as the measure embedding_circles gives them.
        keys: the key frequencies; one panel each.
        title: what is shown.
        template: a plotly template.

    Raises:
        ValueError: the dims are others, or there is no key frequency.
    """
    _check_dims("key_circles", circles, ("freq", "plane", "element"))
    chosen = sorted(keys)
    if not chosen:
        raise ValueError("key_circles draws one panel a key frequency; given none")
    columns = min(_CIRCLES_A_ROW, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    n = circles.sizes["element"]
    numbers = circles["number"].to_numpy() if "number" in circles.coords else np.arange(n)
    layout = _layout(title, template, 90 + 320 * rows)
    return in_panels(
        [_circle(circles, k, n, numbers, is_first=k == chosen[0]) for k in chosen],
        columns,
        layout | {"margin": layout["margin"] | {"t": 80}},
        x={"title": {"text": "along cos (units of W_E)"}, "constrain": "domain"},
        y={"constrain": "domain"},
        leftmost={"title": {"text": "along sin (units of W_E)"}},
        square=True,
        subplot_titles=[f"k = {k}" for k in chosen],
    )


def _circle(circles: xr.DataArray, k: int, n: int, numbers: np.ndarray, is_first: bool) -> go.Scatter:
    """The numbers in the plane of one frequency."""
    x, y = circles.sel(freq=k).transpose("plane", "element").to_numpy()
    angle = np.arange(n) * k % n
    order = np.argsort(angle, kind="stable")
    around = [*order, order[0]]
    return go.Scatter(
        x=x[around],
        y=y[around],
        mode="lines+markers",
        line={"width": 1, "color": OTHER_COLOUR},
        marker={
            "size": 7,
            "color": angle[around] / n,
            "colorscale": "Phase",
            "cmin": 0,
            "cmax": 1,
            "showscale": is_first,
            "colorbar": {"title": "k·x mod n, over n", "title_side": "right"},
        },
        text=[str(number) for number in numbers[around]],
        hovertemplate="number %{text}: (%{x:.3f}, %{y:.3f})<extra></extra>",
        showlegend=False,
    )


def transform_map(
    transform: xr.DataArray, keys: Collection[int], title: str, template: str = "plotly_white"
) -> go.Figure:
    """The 2-D Fourier transform of the logits as a heat map: the norm over the classes of each coefficient.

    A model that computes by cos ω_k(x+y) shows a 2×2 block on the diagonal for each key frequency; axes name them.

    Args:
        transform: over `basis_x` and `basis_y`, as the measure logit_transform gives it.
        keys: the key frequencies.
        title: what is shown.
        template: a plotly template.

    Raises:
        ValueError: the dims are others.
    """
    _check_dims("transform_map", transform, ("basis_x", "basis_y"))
    names = transform["basis_x"].to_numpy().tolist()
    wanted = ["const", *(f"cos {k}" for k in sorted(keys))]
    ticks = {"tickmode": "array", "tickvals": [name for name in wanted if name in names], "type": "category"}
    figure = go.Figure(layout=_layout(title, template, 620))
    figure.add_heatmap(
        x=names,
        y=names,
        z=transform.transpose("basis_x", "basis_y").to_numpy(),
        colorscale=COLOURS,
        colorbar={"title": "norm over the classes (units of the logits)", "title_side": "right"},
        hovertemplate="%{y} of x, %{x} of y: %{z:.4~g}<extra></extra>",
    )
    return figure.update_layout(
        width=760,
        xaxis={"title": "wave over the second operand, y", "tickangle": -90, "constrain": "domain", **ticks},
        yaxis={
            "title": "wave over the first operand, x",
            "autorange": "reversed",
            "scaleanchor": "x",
            "constrain": "domain",
            **ticks,
        },
    )


def _words(values: xr.DataArray) -> str:
    return str(values.name).replace("_", " ")


def _check_dims(function: str, values: xr.DataArray, wanted: tuple[str, ...]) -> None:
    if set(values.dims) != set(wanted):
        raise ValueError(
            f"{function} draws ({', '.join(wanted)}); given {', '.join(map(str, values.dims)) or 'no dim'}"
        )


def _layout(title: str, template: str, height: int) -> dict[str, Any]:
    return {
        "title": {"text": title, "x": 0.0, "xref": "paper"},
        "template": template,
        "height": height,
        "margin": {"l": 90, "r": 40, "t": 60, "b": 70},
    }
