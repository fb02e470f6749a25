import math
import re

import numpy as np
import pandas as pd
import pytest

from interp_arith.figures.curves import SET_COLOURS, pass_curves, seed_curves, training_curves, write_html


def grokking(generalises_at: int = 600) -> pd.DataFrame:
    """A made-up run of 1,000 steps: train accuracy is 1 from step 200, test accuracy from a later one."""
    step = np.arange(0, 1001, 100)
    fitted, generalised = step >= 200, step >= generalises_at
    columns = {
        "step": step,
        "batch_loss": np.where(fitted, 1e-6, 4.7),
        "train_loss": np.where(fitted, 1e-6, 4.7),
        "train_accuracy": np.where(fitted, 1.0, 0.5),
        "train_exact_match": np.where(fitted, 1.0, 0.5),
        "test_loss": np.where(generalised, 1e-5, 12.0),
        "test_accuracy": np.where(generalised, 1.0, 0.1),
        "test_exact_match": np.where(generalised, 1.0, 0.01),
        "gradient_norm": 0.1,
    }
    return pd.DataFrame(columns)


def traces(figure) -> dict:
    return {trace.name: trace for trace in figure.data}


def test_each_score_of_each_set_is_a_trace_and_a_repeated_exact_match_is_not():
    assert list(traces(training_curves(grokking(), "run"))) == [
        "train loss",
        "test loss",
        "batch loss",
        "train token accuracy",
        "test token accuracy",
        "test exact match",
    ]


def test_one_set_has_one_colour_and_exact_match_is_dotted():
    drawn = traces(training_curves(grokking(), "run"))
    of_test = [drawn[f"test {score}"].line for score in ("loss", "token accuracy", "exact match")]
    assert {line.color for line in of_test} == {SET_COLOURS["test"]}
    assert [line.dash for line in of_test] == ["solid", "solid", "dot"]


def test_axes_say_their_units_and_losses_are_logarithmic():
    layout = training_curves(grokking(), "mod-add-113").layout
    assert layout.title.text == "mod-add-113"
    assert layout.xaxis.title.text == "step (updates)"
    assert layout.yaxis.title.text == "loss (nats per answer token)"
    assert layout.yaxis2.title.text == "accuracy (share right)"
    assert (layout.xaxis.type, layout.yaxis.type, layout.yaxis2.type) == (None, "log", None)


def test_records_without_an_evaluation_leave_no_gap():
    metrics = grokking()
    metrics.loc[metrics["step"] % 200 == 100, ["test_loss", "test_accuracy", "test_exact_match"]] = np.nan
    assert list(traces(training_curves(metrics, "run"))["test loss"].x) == [0, 200, 400, 600, 800, 1000]


def test_first_fitted_and_first_generalised_step_are_marked_on_rows_of_their_own():
    train, test = training_curves(grokking(), "run").layout.shapes
    assert (train.x0, train.x1, train.label.text.strip()) == (200, 200, "train accuracy 1: step 200")
    assert (test.x0, test.x1, test.label.text.strip()) == (600, 600, "test accuracy ≥ 0.99: step 600")
    assert train.y1 < test.y1
    assert (train.label.xanchor, test.label.xanchor) == ("left", "right")


def test_a_run_that_never_generalises_has_no_such_mark():
    (mark,) = training_curves(grokking(generalises_at=2000), "run").layout.shapes
    assert "train" in mark.label.text


def test_a_button_makes_the_step_axis_logarithmic_and_turns_the_words():
    (menu,) = training_curves(grokking(), "run").layout.updatemenus
    assert [button.label for button in menu.buttons] == ["linear steps", "log steps"]
    changes = menu.buttons[1].args[0]
    assert changes["xaxis.type"] == "log"
    # The middle of a log axis from 100 to 1,000 is 316.
    assert changes["shapes[0].label.xanchor"] == "left"
    assert changes["shapes[1].label.xanchor"] == "right"


def test_a_set_of_another_name_has_a_colour_of_its_own():
    metrics = grokking().assign(length_5_loss=2.0, length_6_loss=3.0)
    drawn = traces(training_curves(metrics, "run"))
    colours = [drawn[f"{name} loss"].line.color for name in ("train", "test", "length_5", "length_6")]
    assert len(set(colours)) == 4


def test_a_table_without_evaluations_is_still_a_figure():
    metrics = grokking().filter(["step", "batch_loss"])
    drawn = traces(training_curves(metrics, "run"))
    assert list(drawn) == ["batch loss"]
    assert drawn["batch loss"].visible is True


def test_seeds_are_one_thin_trace_with_gaps_and_a_thick_median():
    runs = {"s0": 400, "s1": 600, "s2": 800}
    metrics = pd.concat([grokking(step).assign(run=name) for name, step in runs.items()], ignore_index=True)
    drawn = traces(seed_curves(metrics, "three seeds"))
    thin, median = drawn["test token accuracy, runs"], drawn["test token accuracy, median"]
    assert thin.line.width < median.line.width
    assert [name for name, step in zip(thin.text, thin.x, strict=True) if step == 0] == ["s0", "s1", "s2"]
    assert list(thin.x).count(None) == 3
    # Two of three runs have generalised from step 600 on.
    assert dict(zip(median.x, median.y, strict=True))[500] == pytest.approx(0.1)
    assert dict(zip(median.x, median.y, strict=True))[600] == pytest.approx(1.0)


def test_a_second_pass_begins_where_the_first_ends():
    first = pd.DataFrame(
        {"step": [0, 10, 20], "test_loss": [2.0, 0.5, 0.1], "test_exact_match": [0, 0.5, 0.9]}
    )
    second = pd.DataFrame({"step": [0, 5], "test_loss": [0.1, 0.01], "test_exact_match": [0.9, 1.0]})
    figure = pass_curves({"first": first, "second": second}, "two passes")
    drawn = traces(figure)
    assert list(drawn["first: test loss"].x) == [0, 10, 20]
    assert list(drawn["second: test loss"].x) == [20, 25]
    assert list(drawn["first: test questions wrong"].y) == pytest.approx([1, 0.5, 0.1])
    assert math.isnan(drawn["second: test questions wrong"].y[1])  # none is wrong: no place on a log axis
    assert [shape.x0 for shape in figure.layout.shapes] == [0, 20]
    assert "markers" in drawn["first: test questions wrong"].mode  # a single one between zeros has no line
    # The name of a late pass is not cut off.
    assert [shape.label.xanchor for shape in figure.layout.shapes] == ["left", "right"]


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="need a 'step' column; there are: train_loss"):
        training_curves(grokking().filter(["train_loss"]), "run")
    with pytest.raises(ValueError, match="need a 'run' column"):
        seed_curves(grokking(), "seeds")


def test_a_page_holds_plotly_and_loads_nothing(tmp_path):
    page = write_html(training_curves(grokking(), "run"), tmp_path / "curves.html")
    assert (tmp_path / "curves.html").read_text(encoding="utf-8") == page
    assert not re.search(r"<(script|link)[^>]+(src|href)=", page)
    assert "Plotly.newPlot" in page
    assert len(page) > 1_000_000
