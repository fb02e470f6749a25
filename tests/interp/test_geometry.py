"""How tri-cases lie apart: planted clusters are found, and nothing is where nothing was planted."""

import numpy as np
import pytest
import torch
import xarray as xr
from oracles import random_weights
from planted_columns import EQUALS, TASK, empty_model, plant, tri_case
from sklearn.decomposition import PCA

from interp_arith.errors import RequestError
from interp_arith.interp.base import Subject
from interp_arith.interp.geometry import (
    cluster_scores,
    principal_components,
    tri_case_geometry,
    tri_case_projection,
    tri_case_questions,
)
from interp_arith.interp.measures import MEASURES
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.tasks import Addition, ModularArithmetic

SMALL = ModelConfig(d_model=8, n_heads=2, d_mlp=12)
PLANTED = "blocks.0.hook_mlp_out"


def clouds(*centres, n=100, spread=0.1):
    """n points around each centre, with noise in five more directions."""
    rng = np.random.default_rng(0)
    at = np.repeat(np.array(centres, dtype=float), n, axis=0)
    return torch.from_numpy(np.hstack([at, np.zeros((len(at), 5))]) + spread * rng.normal(size=(len(at), 7)))


def test_three_clouds_are_three_clusters_and_two_are_two():
    apart = cluster_scores(clouds((0, 0), (10, 0), (0, 10)))
    assert apart[0, 1] > 0.95  # silhouette of three
    assert apart[1, 1] == 1  # k-means finds them
    carry = cluster_scores(clouds((0, 0), (0, 0), (10, 0)))
    assert carry[0, 0] > 0.9
    assert carry[1, 0] == 1
    assert carry[0, 1] < 0.4


def test_one_cloud_has_no_clusters():
    scores = cluster_scores(clouds((0, 0), (0, 0), (0, 0)))
    assert np.abs(scores).max() < 0.1


def test_activations_that_do_not_vary_have_no_score():
    assert np.isnan(cluster_scores(torch.full((300, 4), 2.0))).all()
    assert np.isnan(cluster_scores(torch.full((300, 4), 2.0) + 1e-8 * torch.eye(300)[:, :4])).all()


def test_two_points_are_no_three_clusters():
    scores = cluster_scores(torch.eye(3)[torch.arange(3).repeat_interleave(100) // 2])
    assert scores[1, 0] == 1
    assert np.isnan(scores[1, 1])


def test_components_are_those_of_scikit_learn():
    x = clouds((0, 0), (3, 1), (1, 5), spread=0.5)
    found, wanted = principal_components(x).numpy(), PCA(2).fit_transform(x.numpy())
    np.testing.assert_allclose(np.abs(found), np.abs(wanted), atol=1e-9)
    largest = np.abs(found).argmax(axis=0)
    assert (found[largest, [0, 1]] > 0).all()


def test_planted_cases_are_found_where_they_were_planted():
    model = plant(empty_model(more=2), PLANTED, EQUALS, tri_case(1))
    found = MEASURES["tri_case_geometry"](Subject(model, TASK))
    there = found.sel(column=1, hook=PLANTED, pos=EQUALS)
    np.testing.assert_allclose(there.sel(clusters=3), 1, atol=1e-6)
    np.testing.assert_allclose(there.sel(score="silhouette", clusters=2) > 0.4, True)
    others = found.sel(column=[0, 2], hook=[PLANTED])
    assert bool(others.isnull().all())  # r ≤ 8 in column 1: nothing varies
    assert bool(found.sel(hook="blocks.0.hook_attn_out").isnull().all())
    points = tri_case_projection(model, TASK, 1, PLANTED, EQUALS, n=50)
    assert points.dims == ("case", "question", "component")
    assert points.sizes["question"] == 50
    assert len(np.unique(points.stack(at=("case", "question")).values.round(6), axis=1).T) == 3
    assert float(points.std("question").max()) < 1e-6


def test_questions_are_100_of_each_case_with_low_columns_beside():
    questions = tri_case_questions(TASK, 2)
    assert questions.shape == (300, 2, 3)
    r = questions.sum(dim=1)
    assert [bool((part <= 8).all()) for part in r[:, 2].split(100)] == [True, False, False]
    assert (r[:, :2] <= 8).all()


@pytest.mark.parametrize("order", ["units-first", "units-last"])
def test_the_measure_is_labelled_and_the_same_every_time(order):
    task = Addition(n_digits=2, operand_order=order, padded=False, end_token=True)
    model = random_weights(build_model(SMALL, task))
    model.train()
    found = MEASURES["tri_case_geometry"](Subject(model, task))
    assert (found.dims, found.dtype) == (MEASURES["tri_case_geometry"].dims, np.float64)
    assert found.pos.values.tolist() == list(task.answer_positions)
    assert set(found.dims) == set(found.coords)
    xr.testing.assert_equal(found, tri_case_geometry(Subject(model, task)))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_what_has_no_tri_cases_is_refused_in_one_line():
    def refusal(task):
        model = build_model(SMALL, task)
        with pytest.raises(RequestError) as found:
            MEASURES["tri_case_geometry"](Subject(model, task))
        return str(found.value)

    assert refusal(ModularArithmetic(p=7)).endswith("the modular task has no digit columns")
    assert refusal(Addition(n_digits=1)).endswith(
        "of one digit have 10 questions of r = 9, and 100 are looked at"
    )
    assert refusal(Addition(n_digits=3, operation="mixed")).endswith(
        "tri-cases are those of sums of two numbers, and the task has operation = mixed and operands = 2"
    )
    model = build_model(SMALL, TASK)
    with pytest.raises(RequestError, match=r"no node is called 'hook_pattern'; did you mean blocks.0"):
        tri_case_projection(model, TASK, 0, "hook_pattern", EQUALS)
    with pytest.raises(RequestError, match="pos = 11; questions of this task have positions 0 to 10"):
        tri_case_projection(model, TASK, 0, PLANTED, 11)
    with pytest.raises(RequestError, match="column 3: questions of 3 digits have columns 0 to 2"):
        tri_case_projection(model, TASK, 3, PLANTED, EQUALS)
    with pytest.raises(
        RequestError, match="tri-cases are those of sums of two numbers, and the task has operation"
    ):
        tri_case_questions(Addition(n_digits=3, operation="subtract"), 0)
    with pytest.raises(
        RequestError, match="30 questions of each tri-case: with n_digits = 1 there are 10 of r = 9"
    ):
        tri_case_questions(Addition(n_digits=1), 0, 30)
