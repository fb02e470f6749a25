"""Recording and replaying a step, with a stand-in for the CUDA graph: nothing is computed while it records."""

import pytest
import torch
from chaos.small_runs import small_config

from interp_arith.tasks import Addition
from interp_arith.tasks.sampling import Limits
from interp_arith.tasks.sources import make_source
from interp_arith.training import ensemble, step
from interp_arith.training.batches import make_batches
from interp_arith.training.lanes import fresh_weights
from interp_arith.training.optimizers import OPTIMIZERS
from interp_arith.training.recorded import Recorded


def stand_in(work):
    """Like a CUDA graph: what the work gives is filled in at each replay, from inputs that stay where they are."""
    seen = torch.zeros(3, 2, dtype=torch.float64)
    return seen, lambda: seen.copy_(work())


def refused(work):
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


CPU = torch.device("cpu")
ADDER = {"task": Addition(n_digits=3, val_questions=4, test_questions=4), "batch_size": 16}
OF_ATTENTION = {"kind": "muon", "matrices": "attention", "adamw_weight_decay": 2.0}
KINDS = {"shuffled": {"batch_size": 8}, "whole": {"batch_size": None}, "drawn": ADDER}


def start(config):
    """Parameters, the batches of two seeds, and a way to update."""
    configs = [config.with_seed(seed) for seed in (0, 1)]
    batches = make_batches([make_source(c.task, c.batch_size, c.seed) for c in configs], CPU)
    parameters = ensemble.stack([fresh_weights(c) for c in configs])
    state = step.initial_state(config, parameters)

    def update(given, *, step, multiplier):
        batch = batches.batch(given, step - 1)
        return step_update(config, parameters, state, batch, step, multiplier)

    return parameters, batches, update


def step_update(config, parameters, state, batch, number, multiplier):
    return step.update(
        config, parameters, state, batch, config.task.answer_positions, step=number, multiplier=multiplier
    )


@pytest.mark.parametrize("optimizer", [*({"kind": kind} for kind in OPTIMIZERS), OF_ATTENTION], ids=str)
@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
def test_replayed_steps_are_those_that_are_computed(optimizer, fields):
    config = small_config(optimizer=optimizer, **fields)
    expected, batches, plain = start(config)
    found, _, update = start(config)
    recorded = Recorded(update, CPU, notify=pytest.fail, record=stand_in)
    for number in range(1, 10):
        given = batches.given(number - 1, None)
        multiplier = 1 / number
        wanted = plain(given, step=number, multiplier=multiplier)
        report = recorded(given, step=number, multiplier=multiplier)
        torch.testing.assert_close(report.loss, wanted.loss, rtol=1e-6, atol=0)
        norms = report.gradient_norm.double(), wanted.gradient_norm.double()
        torch.testing.assert_close(*norms, rtol=1e-5, atol=0)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fields", [KINDS["shuffled"], KINDS["drawn"]], ids=["shuffled", "drawn"])
def test_an_earlier_report_is_not_overwritten_by_a_later_step(fields):
    _, batches, update = start(small_config(**fields))
    recorded = Recorded(update, CPU, notify=pytest.fail, record=stand_in)
    reports = [recorded(batches.given(i, None), step=i + 1, multiplier=1.0) for i in range(7)]
    assert len({float(report.loss[0]) for report in reports}) == 7


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_resumed_run_goes_on_with_the_same_kernels_to_the_bit(kind):
    config = small_config(optimizer={"kind": kind}, batch_size=None)
    expected, batches, through = start(config)
    found, _, stopped = start(config)
    with_numbers = []

    def watched(given, *, step, multiplier):
        if not isinstance(step, torch.Tensor):
            with_numbers.append(step)
        return stopped(given, step=step, multiplier=multiplier)

    going_on = Recorded(through, CPU, notify=pytest.fail, record=stand_in)
    before, after = (Recorded(watched, CPU, notify=pytest.fail, record=stand_in) for _ in range(2))
    for number in range(1, 13):
        given = batches.given(number - 1, None)
        going_on(given, step=number, multiplier=0.3)
        (before if number < 7 else after)(given, step=number, multiplier=0.3)
    assert with_numbers == [1]  # what is compiled is given tensors
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def counting(recordings):
    """The stand-in, and a mark for each recording."""

    def record(work):
        recordings.append(1)
        return stand_in(work)

    return record


def test_rows_of_another_number_are_recorded_anew():
    _, batches, update = start(small_config())
    recordings = []
    recorded = Recorded(update, CPU, notify=pytest.fail, record=counting(recordings))
    for index in range(8):
        given = batches.given(index, None)
        recorded(given if index < 5 else given[:, :5], step=index + 1, multiplier=1.0)
    assert len(recordings) == 2


def test_other_limits_are_recorded_anew_and_drawn_within():
    config = small_config(**ADDER)
    _, batches, update = start(config)
    largest, recordings = [], []

    def watched(given, *, step, multiplier):
        tokens = batches.batch(given, step - 1).tokens
        largest.append(int((tokens[..., :3] * torch.tensor([100, 10, 1])).sum(dim=-1).max()))
        return update(given, step=step, multiplier=multiplier)

    recorded = Recorded(watched, CPU, notify=pytest.fail, record=counting(recordings))
    for index in range(12):
        recorded(Limits(1, 1 + index // 4, 0.0), step=index + 1, multiplier=1.0)
    assert len(recordings) == 3
    by_phase = [largest[0:4], largest[4:8], largest[8:12]]
    assert len(largest) == 12
    assert [max(phase) < 10**digits for digits, phase in enumerate(by_phase, start=1)] == [True] * 3
    assert [max(phase) >= 10 ** (digits - 1) for digits, phase in enumerate(by_phase, start=1)] == [True] * 3


def test_where_recording_fails_the_step_is_computed_and_the_user_told_once():
    config = small_config()
    expected, batches, plain = start(config)
    found, _, update = start(config)
    told = []
    recorded = Recorded(update, CPU, notify=told.append, record=refused)
    one = torch.ones((), dtype=torch.float64)
    for number in range(1, 8):
        given = batches.given(number - 1, None)
        plain(given, step=number if number == 1 else number * one, multiplier=1.0 if number == 1 else one)
        recorded(given, step=number, multiplier=1.0)
    assert told == [
        "the step could not be recorded (operation not permitted when stream is capturing); "
        "it is computed kernel by kernel"
    ]
    assert all(torch.equal(found[name], expected[name]) for name in expected)
