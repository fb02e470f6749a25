"""Arrays for figures: planted circles and waves come out as they were put in."""

import math

import numpy as np
import pytest
import torch
from oracles import random_weights

from interp_arith.errors import RequestError
from interp_arith.interp.base import Measures, Subject
from interp_arith.interp.cyclic import cyclic_table
from interp_arith.interp.pictures import PICTURES, circle_coordinates, row_names
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.tasks import ModularArithmetic

MEASURES = Measures(*PICTURES)


def subject_of(**fields) -> Subject:
    task = ModularArithmetic(p=7, **fields)
    model = random_weights(build_model(ModelConfig(d_model=8, n_heads=2, d_mlp=12), task))
    return Subject(model.eval(), task)


def planted_rows(n: int, k: int, radius: float) -> torch.Tensor:
    """A circle of frequency k in a slanted plane, beside a wave of another frequency and an offset."""
    x = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    plane = torch.tensor([[0.6, 0.8, 0.0, 0.0], [-0.8, 0.6, 0.0, 0.0]], dtype=torch.float64)
    circle = radius * torch.stack([(k * x).cos(), (k * x).sin()], dim=1) @ plane
    other = (2 * x).cos()[:, None] * torch.tensor([0.0, 0.0, 5.0, 0.0], dtype=torch.float64)
    return circle + other + torch.tensor([0.0, 0.0, 0.0, 9.0], dtype=torch.float64)


def test_a_planted_circle_comes_out_whatever_else_there_is():
    found = circle_coordinates(planted_rows(11, 3, 0.25))
    assert found.shape == (5, 2, 11)
    angle = 2 * math.pi * 3 * torch.arange(11, dtype=torch.float64) / 11
    torch.testing.assert_close(found[2], 0.25 * torch.stack([angle.cos(), angle.sin()]))


def test_directions_that_are_not_at_right_angles_give_distances_as_they_are():
    # cos along (1, 0), sin along (1, 1): the plane is the whole space, and distances in it are those of the rows.
    x = 2 * math.pi * torch.arange(9, dtype=torch.float64) / 9
    rows = torch.stack([x.cos() + x.sin(), x.sin()], dim=1)
    torch.testing.assert_close(
        torch.cdist(circle_coordinates(rows)[0].T, circle_coordinates(rows)[0].T), torch.cdist(rows, rows)
    )


def test_the_alternating_sign_has_one_axis_and_no_numbers_make_nan():
    sign = (-1.0) ** torch.arange(6, dtype=torch.float64)
    found = circle_coordinates(torch.stack([2 * sign, torch.zeros(6, dtype=torch.float64)], dim=1))
    torch.testing.assert_close(found[2], torch.stack([2 * sign, torch.zeros(6, dtype=torch.float64)]))
    assert not circle_coordinates(torch.zeros(6, 2)).isnan().any()


@pytest.mark.parametrize("operation", ["add", "multiply"])
def test_circles_are_of_the_numbers_rows_in_the_order_of_the_group(operation):
    subject = subject_of(operation=operation)
    numbers = {"add": [0, 1, 2, 3, 4, 5, 6], "multiply": [1, 3, 2, 6, 4, 5]}[
        operation
    ]  # 3 is a primitive root of 7
    found = MEASURES["embedding_circles"](subject)
    assert found["number"].to_numpy().tolist() == numbers
    assert found["freq"].to_numpy().tolist() == [1, 2, 3]
    wanted = circle_coordinates(subject.model.W_E.detach()[numbers])
    np.testing.assert_allclose(found, wanted)


@pytest.mark.parametrize(("operation", "n"), [("subtract", 7), ("divide", 6)])
def test_the_transform_has_the_energy_of_the_centred_logits(operation, n):
    subject = subject_of(operation=operation)
    found = MEASURES["logit_transform"](subject)
    table = subject.get(cyclic_table).logits
    centred = table - table.mean(dim=-1, keepdim=True)
    assert found.shape == (n, n)
    assert float((found**2).sum()) == pytest.approx(centred.square().sum().item())


def test_a_planted_wave_has_its_coefficient_and_no_other():
    subject = subject_of()
    x = torch.arange(7, dtype=torch.float64)
    wave = (2 * math.pi * 3 * x / 7).cos()[:, None] * (2 * math.pi * x / 7).sin()
    classes = torch.tensor([2.0, -2.0, 0, 0, 0, 0, 0], dtype=torch.float64)
    subject.get(cyclic_table).logits[:] = 5.0 + wave[..., None] * classes
    found = MEASURES["logit_transform"](subject)
    # ‖cos‖² = ‖sin‖² = 7/2 along each operand, and the classes have norm √8.
    assert float(found.sel(basis_x="cos 3", basis_y="sin 1")) == pytest.approx(3.5 * math.sqrt(8))
    assert float(found.sum()) == pytest.approx(3.5 * math.sqrt(8))


def test_rows_are_named_and_for_n_even_the_last_is_the_sign():
    assert row_names(5) == ["const", "cos 1", "sin 1", "cos 2", "sin 2"]
    assert row_names(4) == ["const", "cos 1", "sin 1", "cos 2"]


def test_they_are_taken_only_where_they_are_named_and_apply():
    assert {entry.cost for entry in MEASURES.values()} == {"dear"}
    with pytest.raises(
        RequestError, match="embedding_circles does not apply: numbers are spelled in characters"
    ):
        MEASURES["embedding_circles"](subject_of(format="characters"))
    with pytest.raises(RequestError, match=r"logit_transform does not apply: x\^3\+xy is no operation"):
        MEASURES["logit_transform"](subject_of(operation="x^3+xy"))
