"""Checkpoints measured side by side: the same arrays, in order, whatever is measured first; threads are set back."""

import pytest
import torch
import xarray as xr

from interp_arith.interp import trajectory
from interp_arith.interp.base import Subject
from interp_arith.interp.measures import MEASURES, measure
from interp_arith.interp.trajectory import measure_steps, over_steps
from interp_arith.models import ModelConfig, build_model
from interp_arith.tasks import ModularArithmetic

TASK = ModularArithmetic(p=7)
CONFIG = ModelConfig(d_model=16, n_heads=2, d_mlp=24)
NAMES = ["test_loss", "restricted_loss", "clock_fit", "plane_ablation", "algorithm"]
CHOSEN = [MEASURES[name] for name in NAMES]


@pytest.fixture
def threads(request):
    """As many threads as the test says."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def measured(given, measures, keys=None) -> dict[str, xr.DataArray]:
    found = []
    measure_steps(given, build_model(CONFIG, TASK).eval(), TASK, measures, keys, found)
    return over_steps(found)


def weights(n: int) -> list[tuple[int, dict[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    model = build_model(CONFIG, TASK)
    found = []
    for step in range(n):
        model.initialize(generator)
        found.append((10 * step, {name: tensor.clone() for name, tensor in model.state_dict().items()}))
    return found


@pytest.mark.parametrize("threads", [1, 2, 5], indirect=True)
def test_each_step_has_the_measures_of_its_own_weights_in_order(threads):
    given, model = weights(7), build_model(CONFIG, TASK).eval()
    found = measured(iter(given), CHOSEN, keys=(1, 3))
    assert torch.get_num_threads() == threads
    for at, (step, tensors) in enumerate(given):
        model.load_state_dict(tensors)
        alone = measure(model, TASK, NAMES, keys=(1, 3))
        for name in NAMES:
            one = found[name][at]
            assert one["step"].item() == step
            xr.testing.assert_allclose(one.drop_vars("step"), alone[name], rtol=1e-5)


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_what_a_measure_raises_comes_out_and_threads_are_set_back(threads, monkeypatch):
    def broken(subject: Subject) -> xr.DataArray:
        raise MemoryError("no room for this")

    monkeypatch.setattr(trajectory, "SIDE_BY_SIDE", 2)
    with pytest.raises(MemoryError, match="no room for this"):
        measured(weights(3), [MEASURES["test_loss"], _replaced(broken)])
    assert torch.get_num_threads() == threads


def _replaced(take):
    entry = MEASURES["train_loss"]
    return type(entry)(take, entry.dims, entry.units, entry.source, entry.why_not)


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_weights_are_read_when_there_is_a_thread_for_them(threads):
    done: list[int] = []
    ahead: list[int] = []

    def noting(subject: Subject) -> xr.DataArray:
        done.append(1)
        return xr.DataArray(0.0)

    def read():
        for step, tensors in weights(8):
            ahead.append(step // 10 - len(done))
            yield step, tensors

    found = measured(read(), [_replaced(noting)])
    assert found["noting"].sizes == {"step": 8}
    assert max(ahead) <= 2 + 1


def test_no_weights_give_nothing():
    assert measured([], CHOSEN) == {}
