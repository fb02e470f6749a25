"""A carry that was planted is read and used where it was planted; one that nothing reads is decodable and unused."""

import numpy as np
import pytest
import torch
import xarray as xr
from planted_carries import UNITS_FIRST, UNITS_LAST, PlantedAdder

from interp_arith.errors import RequestError
from interp_arith.interp.carry_use import Reading, carry_use, first_steps, residual_hooks
from interp_arith.models import ModelConfig
from interp_arith.tasks import Addition, ModularArithmetic

ECHO, USED = "blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"


@pytest.fixture(scope="module", params=[UNITS_FIRST, UNITS_LAST], ids=["units-first", "units-last"])
def found(request):
    return carry_use(
        PlantedAdder(request.param, echoes=True), request.param, [ECHO, USED], n=40, questions=500
    )


def test_a_carry_is_read_where_it_was_planted(found):
    assert (found.decodable == 1).all()
    assert found.column.values.tolist() == [1, 2, 3]
    assert ((found.baseline > 0.6) & (found.baseline < 0.9)).all()


def test_it_is_used_where_it_was_planted_along_its_direction_and_as_a_whole(found):
    assert (found.used.sel(hook=USED) == 1).all()


def test_what_nothing_reads_is_decodable_and_unused(found):
    assert (found.used.sel(hook=ECHO) == 0).all()


def test_what_is_not_there_is_not_decoded_better_than_by_one_token():
    found = carry_use(PlantedAdder(UNITS_LAST), UNITS_LAST, [ECHO], n=5, questions=500)
    assert (found.decodable.sel(hook=ECHO) < found.baseline + 0.05).all()
    assert (found.used == 0).all()


def test_an_exchange_moves_the_reading_to_the_source_s_along_the_difference_of_the_means():
    reading = Reading(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0]), 1.0)
    x, source = torch.tensor([[0.0, 5.0]]), torch.tensor([[3.0, 1.0]])
    #  read: 5 and 7; a step of 1 along (1, 0) reads 2 more
    assert reading.exchanged(x, source).tolist() == [[1.0, 5.0]]


def test_the_first_step_is_that_from_which_on_a_value_holds():
    shares = [[0.1, 0.95, 0.2, 0.9, 1.0], [0.9, 0.9, 0.9, 0.9, 0.9], [0.0, 1.0, 1.0, 1.0, 0.5]]
    found = xr.DataArray(shares, coords={"column": [1, 2, 3], "step": [0, 1, 2, 4, 8]})
    np.testing.assert_array_equal(first_steps(found, 0.9), [4, 0, np.nan])
    np.testing.assert_array_equal(first_steps(found.T, 0.9), [4, 0, np.nan])
    assert first_steps(found, 0.9).units == "steps"


def test_the_residual_stream_of_attention_alone_has_one_place_a_block():
    assert residual_hooks(ModelConfig(n_layers=2))[1:3] == (
        "blocks.0.hook_resid_post",
        "blocks.1.hook_resid_mid",
    )
    assert residual_hooks(ModelConfig(attention_only=True)) == ("blocks.0.hook_resid_post",)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (ModularArithmetic(), "has no columns"),
        (Addition(n_digits=3, padded=False, end_token=True), "padded = True"),
        (Addition(n_digits=1), "n_digits of 2 or more"),
        (Addition(n_digits=3, operands=3), "operands = 2"),
    ],
)
def test_a_task_without_places_for_carries_is_refused(task, said):
    with pytest.raises(RequestError, match=said):
        carry_use(PlantedAdder(UNITS_LAST), task)
