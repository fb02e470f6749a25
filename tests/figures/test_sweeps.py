"""The figure of a sweep shows the numbers that came in, and says what was not reached."""

import numpy as np
import pytest
import xarray as xr

from interp_arith.figures.sweeps import sweep_points

NAN = float("nan")


def results(axis, values, steps) -> xr.Dataset:
    ends = np.where(np.isfinite(steps), 1.0, 0.25)
    return xr.Dataset(
        {
            "steps_to_test_accuracy_0.95": (
                (axis, "seed"),
                np.array(steps),
                {"long_name": "steps to test accuracy 0.95"},
            ),
            "test_accuracy": ((axis, "seed"), ends),
            "steps_to_train_accuracy_1": ((axis, "seed"), np.full_like(ends, NAN)),
        },
        coords={axis: values, "seed": [42, 123]},
    )


def traces(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def test_points_are_the_runs_that_arrived_and_the_line_their_median():
    found = results("optimizer.weight_decay", [0.1, 1.0, 3.0], [[NAN, NAN], [400.0, NAN], [100.0, 200.0]])
    points, line = traces(sweep_points(found, "decay"), "steps to test accuracy 0.95")
    assert list(zip(points.x, points.y, points.text, strict=True)) == [
        (1.0, 400.0, "seed 42"),
        (3.0, 100.0, "seed 42"),
        (3.0, 200.0, "seed 123"),
    ]
    assert list(zip(line.x, line.y, line.text, strict=True)) == [
        (1.0, 400.0, "1 of 2 seeds"),
        (3.0, 150.0, "2 of 2 seeds"),
    ]


def test_what_no_run_reached_is_not_drawn_and_accuracies_have_their_own_panel():
    figure = sweep_points(results("task.p", [5, 7], [[1.0, 2.0], [3.0, NAN]]), "p")
    assert not traces(figure, "steps to training accuracy 1")
    assert {trace.yaxis for trace in traces(figure, "test_accuracy")} == {"y2"}
    assert figure.layout.yaxis2.title.text == "final accuracy"
    assert not figure.layout.annotations


def test_an_empty_panel_says_that_no_run_reached_a_milestone():
    figure = sweep_points(results("task.p", [5, 7], [[NAN, NAN], [NAN, NAN]]), "p")
    (words,) = figure.layout.annotations
    assert words.text == "no run reached a milestone"
    assert figure.layout.yaxis.domain[0] < words.y < figure.layout.yaxis.domain[1]


@pytest.mark.parametrize(
    ("values", "kind"), [([0.1, 3.0], "log"), ([0.2, 0.9], "linear"), ([0.0, 3.0], "linear")]
)
def test_numbers_far_apart_get_a_logarithmic_axis(values, kind):
    figure = sweep_points(results("x", values, [[1.0, 2.0], [3.0, 4.0]]), "x")
    assert figure.layout.xaxis.type == kind
    assert list(figure.layout.xaxis.tickvals) == values


def test_words_and_several_axes_are_categories():
    one = results("preset", ["a", "b"], [[1.0, 2.0], [3.0, 4.0]])
    both = xr.concat([one, one], dim=xr.DataArray([97, 113], dims="task.p", name="task.p"))
    assert sweep_points(one, "x").layout.xaxis.type == "category"
    (line,) = [t for t in sweep_points(both, "x").data if t.name == "test_accuracy" and t.line.width == 2]
    assert sorted(line.x) == ["113, a", "113, b", "97, a", "97, b"]
    assert line.mode == "markers"  # what has no order is not joined


def test_what_is_no_sweep_is_refused():
    with pytest.raises(ValueError, match="a sweep has a 'seed' dim and others; there are: seed"):
        sweep_points(xr.Dataset({"x": ("seed", [1.0])}, coords={"seed": [0]}), "x")
