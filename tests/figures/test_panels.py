"""Panels in one go are those that plotly's own updates make, and one figure leaves nothing on the next."""

import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots

from interp_arith.figures.panels import in_panels, room

GRID = {"subplot_titles": ["a", "b", "c"], "shared_yaxes": True, "horizontal_spacing": 0.1}


def three():
    return [go.Scatter(y=[index, 1]) for index in range(3)]


def test_they_are_those_of_plotly_s_own_updates():
    expected = make_subplots(2, 2, **GRID)
    expected.add_traces(three(), rows=[1, 1, 2], cols=[1, 2, 1])
    expected.update_xaxes(showgrid=False).update_xaxes(title_text="x", row=2)
    expected.update_yaxes(tickfont_size=9).update_yaxes(title_text="y", col=1)
    for axis in expected.select_yaxes():
        axis.update(scaleanchor=axis.anchor)
    expected.update_layout(height=300)
    found = in_panels(
        three(),
        2,
        {"height": 300},
        x={"showgrid": False},
        y={"tickfont": {"size": 9}},
        lowest={"title": {"text": "x"}},
        leftmost={"title": {"text": "y"}},
        square=True,
        **GRID,
    )
    assert found.to_plotly_json() == expected.to_plotly_json()


@pytest.mark.parametrize("part", [{"lowest": {"title": {"text": "x"}}}, {"square": True}])
def test_a_figure_leaves_nothing_on_the_next(part):
    def plain():
        return in_panels(three(), 3, {}, x={}, y={}, **GRID).to_plotly_json()

    before = plain()
    assert in_panels(three(), 3, {"height": 90}, x={}, y={}, **part, **GRID).to_plotly_json() != before
    assert plain() == before


def test_room_is_that_of_the_longest_word():
    assert room(["a", "blocks.0.hook_resid_post"], 10) == 12 + 149
    assert room([], 10) == 12
