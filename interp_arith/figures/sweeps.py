"""What a sweep found, over its swept values: steps to the milestones, and where the runs ended.

Knows no run directory: a Dataset comes in, a figure goes out.
"""

from collections.abc import Hashable, Iterator

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp_arith.figures.curves import SET_COLOURS

MILESTONES = {"steps_to_train_accuracy_1": "train", "steps_to_test_accuracy_0.95": "test"}
ENDS = {"train_accuracy": "train", "test_accuracy": "test"}
_LOG_FROM = 8  # numbers whose ends are this many times apart are spread evenly by a logarithm
_UPPER, _LOWER = (0.42, 1.0), (0.0, 0.32)


def sweep_points(results: xr.Dataset, title: str, template: str = "plotly_white") -> go.Figure:
    """A point a run and a line through the medians over seeds: steps to milestones above, final accuracies below.

    A run that did not reach a milestone has no point there; the hover of the median says how many did.
    Where none did, words stand in their place.

    Args:
        results: with a `seed` dim and one for each swept axis, as `interp_arith.load_sweep` gives them.
        title: what was swept.
        template: a plotly template.

    Raises:
        ValueError: there is no `seed` dim, or nothing else.
    """
    axes = [name for name in results.dims if name != "seed"]
    if "seed" not in results.dims or not axes:
        raise ValueError(
            f"a sweep has a 'seed' dim and others; there are: {', '.join(map(str, results.dims))}"
        )
    flat, places = _flat(results, axes)
    is_ordered = isinstance(places[0], float)
    figure = go.Figure(layout=_layout(results, axes, places, title, template))
    for name, colour, panel in _drawn(results):
        values = flat[name].transpose("place", "seed").to_numpy().astype(float)
        reached = np.asarray(np.isfinite(values))
        words = results[name].attrs.get("long_name", str(name))
        place = {"yaxis": panel, "legendgroup": str(name)}
        figure.add_scatter(
            x=[place for place, row in zip(places, reached, strict=True) for _ in range(row.sum())],
            y=values[reached],
            text=[f"seed {seed}" for row in reached for seed in flat["seed"].to_numpy()[row]],
            hovertemplate="%{text}: %{y:,.4~g}<extra></extra>",
            mode="markers",
            marker={"color": colour, "size": 7, "opacity": 0.55},
            name=words,
            showlegend=False,
            **place,
        )
        some = [bool(row.any()) for row in reached]
        figure.add_scatter(
            x=[place for place, keep in zip(places, some, strict=True) if keep],
            y=[np.median(row[there]) for row, there in zip(values, reached, strict=True) if there.any()],
            text=[f"{row.sum()} of {row.size} seeds" for row in reached if row.any()],
            hovertemplate="median %{y:,.4~g}, %{text}<extra></extra>",
            mode="lines+markers" if is_ordered else "markers",
            line={"color": colour, "width": 2},
            marker={"color": colour, "size": 6 if is_ordered else 12},
            name=words,
            **place,
        )
    if all(panel != "y" for *_, panel in _drawn(results)):
        middle = {"xref": "paper", "x": 0.5, "yref": "paper", "y": sum(_UPPER) / 2}
        figure.add_annotation(text="no run reached a milestone", showarrow=False, **middle)
    return figure


def _drawn(results: xr.Dataset) -> Iterator[tuple[str, str, str]]:
    """Each (variable, colour, axis) that some run has."""
    for names, axis in ((MILESTONES, "y"), (ENDS, "y2")):
        for name, colour in names.items():
            if name in results and bool(results[name].notnull().any()):
                yield name, SET_COLOURS[colour], axis


def _flat(results: xr.Dataset, axes: list[Hashable]) -> tuple[xr.Dataset, list[float] | list[str]]:
    """All axes as one `place`, and what each place is called: a number where there is one axis of numbers."""
    flat = results.stack(place=axes, create_index=False)
    if len(axes) == 1 and np.issubdtype(results[axes[0]].dtype, np.number):
        return flat, [float(value) for value in results[axes[0]].to_numpy()]
    columns = (flat[axis].to_numpy() for axis in axes)
    return flat, [", ".join(map(str, values)) for values in zip(*columns, strict=True)]


def _layout(
    results: xr.Dataset, axes: list[Hashable], places: list[float] | list[str], title: str, template: str
) -> dict:
    numbers = [place for place in places if isinstance(place, float)]
    is_wide = len(numbers) > 1 and min(numbers) > 0 and max(numbers) / min(numbers) >= _LOG_FROM
    x = {"title": ", ".join(str(results[axis].attrs.get("long_name", axis)) for axis in axes), "anchor": "y2"}
    if numbers:
        x |= {"tickmode": "array", "tickvals": numbers, "type": "log" if is_wide else "linear"}
    else:
        x |= {"type": "category"}
    return {
        "title": {"text": title, "x": 0.0, "xref": "paper"},
        "template": template,
        "height": 560,
        "margin": {"l": 90, "r": 240, "t": 60, "b": 60},
        "legend": {"x": 1.02, "y": 1.0},
        "xaxis": x,
        "yaxis": {"title": "steps (updates)", "domain": _UPPER, "rangemode": "tozero"},
        "yaxis2": {"title": "final accuracy", "domain": _LOWER, "range": [-0.03, 1.05]},
    }
