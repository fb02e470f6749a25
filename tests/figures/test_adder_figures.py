"""Figures of adders show the numbers that came in, where they belong."""

import numpy as np
import pytest
import xarray as xr

from interp_arith.figures.adders import case_scatter, class_curves, place_maps, use_curves
from interp_arith.figures.circuits import circuit_diagram
from interp_arith.figures.panels import room


def array(values, name="probe_accuracy", **coords) -> xr.DataArray:
    return xr.DataArray(np.array(values), coords=coords, name=name, attrs={"units": "1"})


def test_every_class_has_a_line_and_step_0_stands_at_1():
    found = array([[0.0, 0.1], [0.5, 0.2], [1.0, 0.9]], step=[0, 10, 100], complexity=["S0", "M1"])
    figure = class_curves(found, "by class")
    assert [line.name for line in figure.data] == ["S0", "M1"]
    assert list(figure.data[1].y) == [0.1, 0.2, 0.9]
    assert list(figure.data[0].x) == [1, 10, 100]
    assert list(figure.data[0].customdata) == [0, 10, 100]
    assert figure.layout.yaxis.title.text == "exact match (share)"


def test_classes_of_one_kind_grow_darker_and_kinds_differ():
    found = array(np.zeros((1, 3)), step=[0], complexity=["S0", "S5", "N1"])
    colours = [line.line.color for line in class_curves(found, "").data]
    assert len(set(colours)) == 3


def maps(**more):
    values = np.arange(24).reshape(2, 2, 2, 3) / 24
    coords = {"step": [0, 50], "column": [1, 2], "hook": ["low", "high"], "pos": [0, 1, 2]}
    return place_maps(array(values, **coords), "pos", "hook", "map", panels="column", **more), values


def test_a_map_has_a_panel_for_each_label_and_shows_the_last_step():
    figure, values = maps(x_names=["a", "+", "b"])
    assert [note.text for note in figure.layout.annotations] == ["column 1", "column 2"]
    for panel, trace in enumerate(figure.data):
        np.testing.assert_array_equal(trace.z, values[1, panel])
        assert list(trace.y) == ["low", "high"]
    assert list(figure.layout.xaxis.ticktext) == ["a", "+", "b"]
    assert figure.layout.margin.l == room(["high"], figure.layout.yaxis.tickfont.size)
    assert figure.layout.coloraxis.colorbar.title.text == "probe accuracy"


def test_a_slider_moves_a_map_over_the_steps():
    figure, values = maps()
    (slider,) = figure.layout.sliders
    assert [step.label for step in slider.steps] == ["0", "50"]
    assert slider.active == 1
    assert [frame.name for frame in figure.frames] == [step.args[0][0] for step in slider.steps]
    np.testing.assert_array_equal(figure.frames[0].data[1].z, values[0, 1])


def test_a_map_without_steps_has_no_slider_and_a_centred_one_is_white_at_0():
    figure = place_maps(array([[0.5, -2.0]], hook=["low"], pos=[0, 1]), "pos", "hook", "map", span=(-2, 2))
    assert not figure.layout.sliders
    assert not figure.frames
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-2, 2)
    middle = figure.layout.coloraxis.colorscale[5]
    assert (middle[0], middle[1]) == (0.5, "rgb(247,247,247)")


def test_the_best_hook_is_drawn_beside_what_one_token_tells():
    decodable = array(
        [[[0.5, 0.6]], [[0.7, 0.9]]], step=[0, 8], column=[3], hook=["low", "high"]
    ).assign_coords(baseline=("column", [0.75]))
    used = array(
        [[[[0.0, 0.1], [0.2, 0.0]]], [[[0.5, 0.6], [0.3, 1.0]]]],
        step=[0, 8],
        column=[3],
        hook=["low", "high"],
        way=["direction", "whole"],
    )
    figure = use_curves(decodable, used, "use")
    drawn = {line.legendgroup: list(line.y) for line in figure.data}
    assert drawn == {"decodable": [0.6, 0.9], "direction": [0.2, 0.5], "whole": [0.1, 1.0]}
    (line,) = figure.layout.shapes
    assert line.y0 == line.y1 == 0.75
    assert figure.layout.annotations[0].text == "column 3"


def test_cases_are_points_of_their_own_colour():
    points = array(
        np.arange(12).reshape(3, 2, 2), case=[8, 9, 10], question=[0, 1], component=[0, 1], name=None
    )
    figure = case_scatter(points, "cases")
    assert [group.name for group in figure.data] == ["r ≤ 8", "r = 9", "r ≥ 10"]
    assert list(figure.data[1].x) == [4, 6]
    assert list(figure.data[1].y) == [5, 7]
    assert len({group.marker.color for group in figure.data}) == 3


def circuit():
    nodes, loss = np.zeros((2, 2, 2, 4)), np.full((2, 2, 2, 4), np.nan)
    for place, lost in {(0, 0, 0, 1): 0.2, (0, 1, 1, 2): 0.9, (1, 0, 0, 3): 0.5, (1, 0, 1, 3): 0.7}.items():
        nodes[place], loss[place] = 1, lost
    coords = {"answer": [0, 1], "block": [0, 1], "part": ["H0", "MLP"], "pos": [0, 1, 2, 3]}
    return array(nodes, **coords), array(loss, **coords)


def test_each_token_of_the_answer_has_a_lane_with_its_nodes():
    figure = circuit_diagram(*circuit(), ["a", "b", "=", "s1"], ["s1", "s0"], "circuit")
    first, second = figure.data
    assert list(first.x) == [1, 2]
    assert list(first.y) == [0, 1]
    assert list(first.text) == ["0", "M"]
    assert list(first.marker.symbol) == ["circle", "square"]
    assert list(first.marker.color) == [0.2, 0.9]
    assert max(second.y) < min(first.y)
    assert list(figure.layout.yaxis.ticktext) == ["s1, block 0", "s1, block 1", "s0, block 0", "s0, block 1"]
    assert list(figure.layout.xaxis.ticktext) == ["a", "b", "=", "s1"]


def test_nodes_of_one_place_stand_side_by_side_and_say_what_they_are():
    second = circuit_diagram(*circuit(), ["a", "b", "=", "s1"], ["s1", "s0"], "circuit").data[1]
    left, right = second.x
    assert left < 3 < right
    assert second.hovertext[1].startswith("s0: block 0, MLP at s1 (position 3)<br>without it 70.0%")


def test_other_dims_are_refused():
    wrong = array([1.0], step=[0])
    for draw in (
        lambda: class_curves(wrong, ""),
        lambda: place_maps(wrong, "pos", "hook", ""),
        lambda: use_curves(wrong, wrong, ""),
        lambda: case_scatter(wrong, ""),
        lambda: circuit_diagram(wrong, wrong, [], [], ""),
    ):
        with pytest.raises(ValueError, match=r"draws \(.*\); given \(step\)"):
            draw()
