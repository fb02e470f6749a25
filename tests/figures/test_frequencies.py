"""Figures by frequency show the numbers that came in, with the key frequencies marked."""

import numpy as np
import pytest
import xarray as xr

from interp_arith.figures.frequencies import (
    frequencies_over_steps,
    frequency_bars,
    key_circles,
    neuron_clusters,
    transform_map,
)

NAN = float("nan")


def array(values, units="1", name="embedding_spectrum", **coords) -> xr.DataArray:
    return xr.DataArray(np.array(values), coords=coords, name=name, attrs={"units": units})


def circle(n=7, radius=2.0) -> xr.DataArray:
    k, x = np.arange(1, n // 2 + 1), np.arange(n)
    angle = 2 * np.pi * k[:, None] * x / n
    found = array(
        radius * np.stack([np.cos(angle), np.sin(angle)], axis=1), freq=k, plane=["cosine", "sine"], element=x
    )
    return found.assign_coords(number=("element", (x * 3) % n))


def test_key_frequencies_are_bars_of_their_own_colour_and_are_named():
    spectrum = array([0.5, 3.0, 0.25, 2.0], units="nats", freq=[1, 2, 3, 4])
    key, other = frequency_bars(spectrum, (2, 4), "spectrum").data
    assert (list(key.x), list(key.y), list(key.text)) == ([2, 4], [3.0, 2.0], ["2", "4"])
    assert (list(other.x), list(other.y)) == ([1, 3], [0.5, 0.25])
    assert key.marker.color != other.marker.color


def test_bars_have_axes_with_units_and_a_threshold_where_one_is_given():
    spectrum = array([0.5, 3.0], units="nats", freq=[1, 2])
    figure = frequency_bars(spectrum, (), "the title", threshold=0.05)
    assert figure.layout.title.text == "the title"
    assert figure.layout.yaxis.title.text == "embedding spectrum (nats)"
    assert figure.layout.xaxis.title.text == "frequency k (waves over the group)"
    (line,) = figure.layout.shapes
    assert (line.y0, line.y1) == (0.05, 0.05)
    assert not frequency_bars(spectrum, (), "the title").layout.shapes


def test_a_spectrum_over_steps_has_a_column_a_checkpoint_and_names_the_keys():
    values = array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], step=[0, 1000], freq=[1, 2, 3])
    figure = frequencies_over_steps(values, (3,), "spectrum")
    (heat,) = figure.data
    assert list(heat.x) == ["0", "1,000"]
    assert heat.z.tolist() == [[1, 4], [2, 5], [3, 6]]
    assert heat.colorbar.title.text == "embedding spectrum"
    assert [(note.y, note.text) for note in figure.layout.annotations] == [(3, "◂ 3")]


def test_neurons_stand_in_the_order_of_their_frequency_and_the_dead_are_left_out():
    fractions = array([0.9, 0.95, NAN, 0.5, 0.85], neuron=range(5))
    frequencies = array([7.0, 2.0, NAN, 2.0, 7.0], neuron=range(5))
    figure = neuron_clusters(fractions, frequencies, "clusters")
    drawn = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}
    assert drawn == {
        "k = 2: 1 neurons": ([1], [0.95]),
        "k = 7: 2 neurons": ([2, 3], [0.85, 0.9]),
        "no cluster: 1 neurons": ([0], [0.5]),
    }
    assert len({trace.marker.color for trace in figure.data}) == 3
    assert figure.layout.shapes[0].y0 == 0.85


def test_each_key_has_a_panel_in_which_its_circle_is_walked_once_around():
    figure = key_circles(circle(), (3, 1), "circles")
    assert [note.text for note in figure.layout.annotations] == ["k = 1", "k = 3"]
    assert len(figure.data) == 2
    for trace in figure.data:
        angle = np.unwrap(np.arctan2(trace.y, trace.x))
        np.testing.assert_allclose(np.diff(angle), 2 * np.pi / 7)
        np.testing.assert_allclose(np.hypot(trace.x, trace.y), 2.0)
    # 3·5 = 15 = 1 mod 7: element 5 comes second around the circle of k = 3, and stands for the number 15 mod 7.
    assert figure.data[1].text[1] == "1"
    assert figure.layout.yaxis.scaleanchor == "x"
    assert figure.layout.yaxis2.scaleanchor == "x2"
    assert "units of W_E" in figure.layout.xaxis.title.text


def test_the_transform_is_drawn_as_it_is_and_names_the_keys():
    names = ["const", "cos 1", "sin 1", "cos 2", "sin 2"]
    values = np.arange(25.0).reshape(5, 5)
    figure = transform_map(array(values, basis_x=names, basis_y=names), (2,), "transform")
    (heat,) = figure.data
    assert heat.z.tolist() == values.tolist()
    assert list(figure.layout.xaxis.tickvals) == list(figure.layout.yaxis.tickvals) == ["const", "cos 2"]
    assert figure.layout.yaxis.title.text == "wave over the first operand, x"
    assert "units of the logits" in heat.colorbar.title.text


def test_arrays_of_other_dims_are_refused():
    spectrum = array([1.0, 2.0], freq=[1, 2])
    with pytest.raises(ValueError, match=r"frequency_bars draws \(freq\); given no dim"):
        frequency_bars(spectrum.isel(freq=0), (), "x")
    with pytest.raises(ValueError, match=r"frequencies_over_steps draws \(freq, step\); given freq"):
        frequencies_over_steps(spectrum, (), "x")
    with pytest.raises(ValueError, match=r"neuron_clusters draws \(neuron\); given freq"):
        neuron_clusters(spectrum, spectrum, "x")
    with pytest.raises(ValueError, match=r"transform_map draws \(basis_x, basis_y\); given freq"):
        transform_map(spectrum, (), "x")
    with pytest.raises(ValueError, match="one panel a key frequency; given none"):
        key_circles(circle(), (), "x")
