"""Attention over a and b: a panel a head, one colour scale."""

import numpy as np
import pytest
import xarray as xr

from interp_arith.figures.attention_grids import attention_grids


def grid() -> xr.DataArray:
    coords = {"block": [0, 1], "head": [0, 1, 2], "source": ["a", "b", "="], "a": range(4), "b": range(5)}
    sizes = [len(values) for values in coords.values()]
    return xr.DataArray(np.linspace(0, 1, np.prod(sizes)).reshape(sizes), coords=coords)


def test_each_head_is_a_panel_of_its_block_with_a_upwards_and_b_rightwards():
    figure = attention_grids(grid().transpose("b", "a", "source", "head", "block"), "b", "attention to b")
    assert [note.text for note in figure.layout.annotations] == [
        f"block {block}, head {head}" for block in (0, 1) for head in (0, 1, 2)
    ]
    assert len(figure.data) == 6
    np.testing.assert_array_equal(figure.data[4].z, grid().sel(block=1, head=1, source="b"))
    assert (len(figure.data[4].x), len(figure.data[4].y)) == (5, 4)
    assert figure.layout.title.text == "attention to b"


def test_all_panels_share_one_scale_from_0_to_1():
    figure = attention_grids(grid(), "=", "attention")
    assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
    assert figure.layout.coloraxis.colorbar.title.text == "attention to = (0 to 1)"


def test_an_unknown_source_or_another_array_is_refused():
    with pytest.raises(ValueError, match="no source 'operation'; there are: a, b, ="):
        attention_grids(grid(), "operation", "x")
    with pytest.raises(
        ValueError, match=r"attention_grids draws \(block, head, source, a, b\); given block, head"
    ):
        attention_grids(grid().isel(a=0), "a", "x")
