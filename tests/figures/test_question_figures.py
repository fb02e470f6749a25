"""Figures of questions show what came in."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from plotly.subplots import make_subplots

from interp_arith.figures.curves import with_cursor
from interp_arith.figures.questions import pair_grid, run_curves, weighed_tokens


def weighed() -> pd.DataFrame:
    rows = [
        (1, "4", 5.0, 0.7, True, False),
        (1, "5", 4.0, 0.2, False, True),
        (1, "6", 1.0, 0.1, False, False),
        (2, "7", 9.0, 1.0, True, True),
    ]
    return pd.DataFrame(rows, columns=["step", "token", "logit", "probability", "chosen", "right"])


def test_every_step_has_a_column_and_the_right_and_the_written_token_are_marked():
    (heat,) = weighed_tokens(weighed(), "title", shown=1).data
    assert list(heat.x) == ["1", "2"]
    assert heat.text.tolist() == [["▸4", "▸7 ✓"], ["5 ✓", ""]]
    np.testing.assert_array_equal(heat.z, [[0.7, 1.0], [0.2, np.nan]])
    assert heat.customdata.tolist() == [["5.000", "9.000"], ["4.000", ""]]
    (wider,) = weighed_tokens(weighed(), "title", shown=3).data
    assert wider.text.tolist()[2] == ["6", ""]


def test_a_grid_has_a_up_and_b_along():
    values = xr.DataArray(np.arange(6).reshape(2, 3), coords={"a": [0, 1], "b": [0, 1, 2]})
    (heat,) = pair_grid(values.T, "title", "logit").data
    np.testing.assert_array_equal(heat.z, values)
    with pytest.raises(ValueError, match=r"draws \(a, b\)"):
        pair_grid(values.rename(a="c"), "", "")


def test_runs_are_lines_on_one_axis_and_losses_are_logarithmic():
    metrics = pd.DataFrame({"step": [0, 5, 9], "test_loss": [2.0, np.nan, 0.5]})
    figure = run_curves(
        {"one": metrics, "other": metrics.drop(columns="test_loss")}, "test_loss", "t", cursor=5
    )
    assert [list(line.x) for line in figure.data] == [[0, 9], []]
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.yaxis.title.text == "test loss (nats)"
    (cursor,) = figure.layout.shapes
    assert cursor.x0 == cursor.x1 == 5


def test_on_a_log_axis_the_cursor_of_step_0_stands_at_1():
    figure = run_curves({}, "test_accuracy", "t").update_xaxes(type="log")
    assert with_cursor(figure, 0).layout.shapes[0].x0 == 1


def test_a_cursor_stands_in_every_panel_that_has_lines():
    figure = make_subplots(2, 2).add_scatter(y=[1, 2], row=1, col=1).add_scatter(y=[1, 2], row=1, col=2)
    figure.update_xaxes(type="log", col=2)
    lines = with_cursor(figure, 0).layout.shapes
    assert [(line.xref, line.yref, line.x0) for line in lines] == [
        ("x", "y domain", 0),
        ("x2", "y2 domain", 1),
    ]


def test_a_run_is_called_by_its_name_whatever_signs_are_in_it():
    (line,) = run_curves({"<b>bold": pd.DataFrame({"step": [0], "test_loss": [1.0]})}, "test_loss", "t").data
    assert line.name == "&lt;b&gt;bold"  # which plotly shows as <b>bold
