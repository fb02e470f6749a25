"""Recording and replaying a step, with a stand-in for the CUDA graph: nothing is computed while it records."""

import pytest
import torch
from chaos.small_runs import small_config

from interp_arith.tasks.sources import make_source
from interp_arith.training import ensemble, step
from interp_arith.training.lanes import fresh_weights
from interp_arith.training.optimizers import OPTIMIZERS
from interp_arith.training.recorded import Recorded


def stand_in(work):
    """Like a CUDA graph: the report's tensors are filled at each replay, from inputs that stay where they are."""
    report = step.StepReport(
        *(torch.zeros(2, dtype=d) for d in (torch.float64, torch.float32, torch.float32))
    )

    def replay():
        found = work()
        for name in ("loss", "gradient_norm", "largest_logit"):
            getattr(report, name).copy_(getattr(found, name))

    return report, replay


def refused(work):
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


def start(config):
    """Parameters, state and a way to update them."""
    configs = [config.with_seed(seed) for seed in (0, 1)]
    parameters = ensemble.stack([fresh_weights(c) for c in configs])
    state = step.initial_state(config, parameters)

    def update(batch, *, step: int, multiplier: float):
        return step_update(config, parameters, state, batch, step, multiplier)

    return parameters, update


def step_update(config, parameters, state, batch, number, multiplier):
    return step.update(
        config, parameters, state, batch, config.task.answer_positions, step=number, multiplier=multiplier
    )


def batches(config, n):
    sources = [make_source(config.task, config.batch_size, seed) for seed in (0, 1)]
    for index in range(n):
        yield ensemble.stack_examples([s.batch(index, None) for s in sources], torch.device("cpu"))


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("batch_size", [8, None])
def test_replayed_steps_are_those_that_are_computed(kind, batch_size):
    config = small_config(optimizer={"kind": kind}, batch_size=batch_size)
    expected, plain = start(config)
    found, update = start(config)
    recorded = Recorded(update, notify=pytest.fail, record=stand_in)
    for number, batch in enumerate(batches(config, 9), start=1):
        multiplier = 1 / number
        wanted = plain(batch, step=number, multiplier=multiplier)
        report = recorded(batch, step=number, multiplier=multiplier)
        torch.testing.assert_close(report.loss, wanted.loss, rtol=1e-6, atol=0)
        torch.testing.assert_close(report.gradient_norm, wanted.gradient_norm, rtol=1e-5, atol=0)
    tolerance = 1e-2 if kind == "muon" else 1e-5  # Muon's products are in bfloat16
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=tolerance, atol=tolerance)


def test_an_earlier_report_is_not_overwritten_by_a_later_step():
    config = small_config()
    _, update = start(config)
    recorded = Recorded(update, notify=pytest.fail, record=stand_in)
    reports = [recorded(b, step=i, multiplier=1.0) for i, b in enumerate(batches(config, 7), start=1)]
    assert len({float(report.loss[0]) for report in reports}) == 7


def test_a_batch_of_another_size_is_recorded_anew():
    config = small_config()
    _, update = start(config)
    recordings = []

    def counting(work):
        recordings.append(1)
        return stand_in(work)

    recorded = Recorded(update, notify=pytest.fail, record=counting)
    for number, batch in enumerate(batches(config, 8), start=1):
        part = (
            batch
            if number < 6
            else ensemble.stack_examples(
                [batch.rows(i).rows(slice(0, 5)) for i in (0, 1)], torch.device("cpu")
            )
        )
        recorded(part, step=number, multiplier=1.0)
    assert len(recordings) == 2


def test_where_recording_fails_the_step_is_computed_and_the_user_told_once():
    config = small_config()
    expected, plain = start(config)
    found, update = start(config)
    told = []
    recorded = Recorded(update, notify=told.append, record=refused)
    for number, batch in enumerate(batches(config, 7), start=1):
        plain(batch, step=number, multiplier=1.0)
        recorded(batch, step=number, multiplier=1.0)
    assert told == [
        "the step could not be recorded (operation not permitted when stream is capturing); "
        "it is computed kernel by kernel"
    ]
    assert all(torch.equal(found[name], expected[name]) for name in expected)
