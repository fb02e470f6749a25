"""Trajectories as they are drawn: curves, phases and intervals are those that came in."""

import numpy as np
import pytest
import xarray as xr

from interp_arith.figures.curves import SET_COLOURS
from interp_arith.figures.progress import progress_curves, seed_trajectories

NAN = float("nan")
STEPS = [0, 10, 20, 30, 40]


def over_steps(values, units="nats", **coords) -> xr.DataArray:
    return xr.DataArray(
        np.array(values, dtype=float), coords={**coords, "step": STEPS}, attrs={"units": units}
    )


def measures() -> xr.Dataset:
    restricted = np.arange(2 * 2 * 5).reshape(2, 2, 5) + 1.0
    excluded = np.arange(2 * 3 * 5).reshape(2, 3, 5) + 101.0
    return xr.Dataset(
        {
            "train_loss": over_steps([4.7, 1.0, 1e-3, 1e-4, 1e-5]),
            "test_loss": over_steps([4.7, NAN, 9.0, 1.0, 1e-3]),
            "restricted_loss": over_steps(restricted, variant=["sum", "block"], split=["all", "train"]),
            "excluded_loss": over_steps(excluded, variant=["sum", "cosine"], removed=["all", "3", "5"]),
            "gini_embedding": over_steps([0.1, 0.2, 0.3, 0.4, 0.5], "1"),
        }
    )


def marks(*steps) -> xr.DataArray:
    return xr.DataArray(
        list(steps), coords={"mark": ["memorized", "circuit_onset", "cleanup_onset", "grokked"]}
    )


def bands(figure) -> dict[str, tuple[float, float]]:
    return {
        shape.name.split(":")[0]: (shape.x0, shape.x1)
        for shape in figure.layout.shapes
        if shape.type == "rect"
    }


def test_each_loss_is_its_curve_over_all_questions_with_all_keys_and_gaps_are_skipped():
    drawn = {trace.name: trace for trace in progress_curves(measures(), None, "run").data}
    assert list(drawn["train loss"].y) == [4.7, 1.0, 1e-3, 1e-4, 1e-5]
    assert list(drawn["test loss"].x) == [0, 20, 30, 40]
    assert list(drawn["restricted loss, sum"].y) == [1, 2, 3, 4, 5]
    assert list(drawn["excluded loss, sum"].y) == [101, 102, 103, 104, 105]
    assert (drawn["test loss"].line.color, drawn["train loss"].line.color) == (
        SET_COLOURS["test"],
        SET_COLOURS["train"],
    )
    block = {trace.name: trace for trace in progress_curves(measures(), None, "run", variant="block").data}
    assert list(block["restricted loss, block"].y) == [11, 12, 13, 14, 15]
    assert "excluded loss, block" not in block  # there is no such variant of it


def test_losses_are_logarithmic_in_nats_and_shares_have_a_panel_of_their_own():
    figure = progress_curves(measures(), None, "mod-add-113")
    assert figure.layout.title.text == "mod-add-113"
    assert (figure.layout.yaxis.title.text, figure.layout.yaxis.type) == ("loss (nats)", "log")
    assert figure.layout.yaxis2.title.text == "share (0 to 1)"
    assert figure.layout.xaxis.title.text == "step (updates)"
    assert [trace.name for trace in figure.data if trace.yaxis == "y2"] == ["Gini of embedding"]
    assert len({trace.line.color for trace in figure.data}) == len(figure.data)
    alone = progress_curves(measures().drop_vars("gini_embedding"), None, "run")
    assert "yaxis2" not in alone.to_dict()["layout"]


def test_the_phases_lie_between_the_marks_and_say_their_steps():
    figure = progress_curves(measures(), marks(10, 20, 30, 40), "run")
    assert bands(figure) == {"memorization": (0, 20), "circuit formation": (20, 30), "cleanup": (30, 40)}
    lines = {shape.name: shape.x0 for shape in figure.layout.shapes if shape.type == "line"}
    assert lines == {"memorized: step 10": 10, "grokked: step 40": 40}
    assert all(shape.showlegend for shape in figure.layout.shapes)


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        ((NAN, NAN, NAN, NAN), {}),
        ((10, NAN, NAN, NAN), {"memorization": (0, 40)}),
        ((10, 20, NAN, NAN), {"memorization": (0, 20), "circuit formation": (20, 40)}),
        ((10, NAN, 20, NAN), {"memorization": (0, 20), "cleanup": (20, 40)}),
        ((10, 30, 20, 30), {"memorization": (0, 20), "cleanup": (20, 30)}),
        ((10, 20, 20, 30), {"memorization": (0, 20), "cleanup": (20, 30)}),
    ],
)
def test_phases_that_are_not_reached_or_out_of_order_never_overlap(steps, wanted):
    assert bands(progress_curves(measures(), marks(*steps), "run")) == wanted


def test_on_a_log_axis_the_first_phase_begins_at_the_first_positive_step():
    figure = progress_curves(measures(), marks(10, 20, 30, 40), "run")
    linear, log = (button.args[0] for button in figure.layout.updatemenus[0].buttons)
    assert (linear["shapes[0].x0"], log["shapes[0].x0"]) == (0, 10)
    assert (linear["shapes[1].x0"], log["shapes[1].x0"]) == (20, 20)


def test_seeds_are_one_thin_trace_the_interval_a_band_and_the_mean_thick():
    values = over_steps([[1.0, 2, 3, 4, 5], [3.0, 4, 5, 6, 7]], seed=[4, 9]).rename("test_loss")
    names = ["mean", "low", "high", "count"]
    rows = [[2, 3, 4, 5, 6], [1, 2, 3, 4, NAN], [3, 4, 5, 6, NAN], [2] * 5]
    figure = seed_trajectories(values, over_steps(rows, statistic=names), "two seeds", scale="log")
    seeds, band, mean = figure.data
    assert list(seeds.y) == [1, 2, 3, 4, 5, None, 3, 4, 5, 6, 7, None]
    assert seeds.text[0] == "seed 4"
    assert seeds.text[-1] == "seed 9"
    assert list(band.x) == [0, 10, 20, 30, 30, 20, 10, 0]
    assert list(band.y) == [1, 2, 3, 4, 6, 5, 4, 3]
    assert list(mean.y) == [2, 3, 4, 5, 6]
    assert seeds.line.width < mean.line.width
    assert (figure.layout.yaxis.title.text, figure.layout.yaxis.type) == ("test loss (nats)", "log")


def test_arrays_of_other_dims_are_refused():
    with pytest.raises(ValueError, match="progress_curves needs a `step` dim"):
        progress_curves(measures().isel(step=0), None, "run")
    with pytest.raises(ValueError, match="choose one of `seed`"):
        progress_curves(measures().expand_dims("seed"), None, "run")
    with pytest.raises(ValueError, match="given step and step"):
        seed_trajectories(measures()["train_loss"], measures()["train_loss"], "run")
