"""Seeds that a CPU trains at the same time: each as alone, whatever the threads; what a killed run goes on with."""

import os
import subprocess
import sys
from threading import Barrier

import pytest
import torch
from chaos.small_runs import SignalAt, differences, small_config, train_small

from interp_arith.presets import preset
from interp_arith.tasks import ModularArithmetic
from interp_arith.tasks.base import Examples
from interp_arith.training import ensemble, step
from interp_arith.training.lanes import fresh_weights
from interp_arith.training.optimizers import OPTIMIZERS, AdamW
from interp_arith.training.side_by_side import side_by_side
from interp_arith.training.signals import Interrupted

STOPS_ONE = {"metric": "train_loss", "threshold": 1.84, "hold": 2}
"""Of the seeds 0, 1, 2 of the small run the last meets it, at step 14."""


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture(autouse=True)
def _threads_are_set_back():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two_threads(_threads_are_set_back):
    torch.set_num_threads(2)


@pytest.fixture
def shared(monkeypatch) -> list[tuple[int, int, int]]:
    """Of every update that several threads shared: the parts, the workers, the threads of each."""
    seen, original = [], step.side_by_side

    def watched(do, parts, workers, own_threads):
        if workers > 1:
            seen.append((len(parts), workers, own_threads))
        return original(do, parts, workers, own_threads)

    monkeypatch.setattr(step, "side_by_side", watched)
    return seen


class TestThreads:
    def test_parts_are_done_at_the_same_time_and_come_back_in_order(self):
        both = Barrier(2)

        def do(part: int) -> int:
            both.wait(timeout=60)  # raises unless another part gets here too
            return 10 * part

        assert side_by_side(do, [3, 1, 2, 5], 2, 1) == [30, 10, 20, 50]

    @pytest.mark.parametrize("own_threads", [1, 2])
    def test_a_worker_has_its_own_number_of_threads_and_this_one_keeps_its_own(self, own_threads):
        before = torch.get_num_threads()

        def threads(part: int) -> tuple[int, int]:
            at_first = torch.get_num_threads()
            torch.ones(1 << 20).sigmoid()
            return at_first, torch.get_num_threads()

        assert set(side_by_side(threads, range(6), 3, own_threads)) == {(own_threads, own_threads)}
        assert torch.get_num_threads() == before
        torch.ones(1 << 20).sigmoid()
        assert torch.get_num_threads() == before

    def test_what_goes_wrong_in_a_part_is_raised_here(self):
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda part: 1 // part, [1, 0], 2, 1)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
    def test_a_forked_process_starts_threads_of_its_own(self):
        program = (
            "import os\n"
            "from interp_arith.training.side_by_side import side_by_side\n"
            "assert side_by_side(abs, [-1, -2], 2, 1) == [1, 2]\n"
            "child = os.fork()\n"
            "if not child:\n"
            "    os._exit(sum(side_by_side(abs, [-3, -4], 2, 1)))\n"
            "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        )
        done = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert done.stdout == "7\n"


class TestDivision:
    """Which seeds are computed together, and how many such parts at once."""

    @staticmethod
    def parts(n_seeds: int, questions: int, cores: int) -> tuple[list[tuple[int, int]], int]:
        """As (first seed, one past the last); of four tokens a question, in a model 128 wide."""
        tokens = torch.zeros(1, dtype=torch.int64).expand(n_seeds, questions, 4)
        batch = Examples(tokens, tokens, tokens)
        parts, workers = step._parts_and_workers(preset("mod-add-113"), batch, cores)
        return [(part.start, part.stop) for part in parts], workers

    def test_large_seeds_one_by_one_by_as_many_workers_as_there_are_cores_or_seeds(self):
        each = [(0, 1), (1, 2), (2, 3)]
        assert [self.parts(3, 3830, cores) for cores in (1, 2, 8)] == [(each, 1), (each, 2), (each, 3)]

    def test_no_more_at_once_than_there_is_memory_for(self):
        assert step._AT_ONCE == 64 * 1024 * 1024
        assert self.parts(8, 32 * 1024, 8)[1] == 4  # 16 Mi numbers of the residual stream each
        assert self.parts(8, 256 * 1024, 8)[1] == 1

    def test_small_seeds_in_two_parts_where_there_are_enough_and_a_second_core(self):
        assert self.parts(3, 100, 8) == ([(0, 3)], 1)
        assert self.parts(5, 100, 1) == ([(0, 5)], 1)
        assert self.parts(5, 100, 2) == ([(0, 2), (2, 5)], 2)
        assert self.parts(64, 100, 16) == ([(0, 32), (32, 64)], 2)


class TestTraining:
    @pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
    @pytest.mark.parametrize(
        "fields",
        [
            *({"optimizer": {"kind": kind}} for kind in OPTIMIZERS),
            {"precision": "bf16", "accumulation": 3, "clip_norm": 0.3, "loss": "stablemax"},
            {"batch_size": None, "model": {"d_model": 7, "n_heads": 1, "d_mlp": 5, "normalization": "layer"}},
        ],
        ids=[*OPTIMIZERS, "bf16-accumulated-clipped", "full-batch-odd-sizes"],
    )
    def test_a_seed_side_by_side_with_others_is_bitwise_the_seed_alone_by_one_thread(
        self, fields, large, monkeypatch, tmp_path, shared
    ):
        config, seeds = small_config(**fields), [3, 1, 0, 2]
        alone = [train_small(config, tmp_path / "alone", [seed])[0] for seed in seeds]
        assert not shared
        if large:
            monkeypatch.setattr(step, "_SMALL", 0)
        torch.set_num_threads(2)
        together = train_small(config, tmp_path / "together", seeds)
        assert shared == [(4 if large else 2, 2, 1)] * 24
        for one, other in zip(alone, together, strict=True):
            assert differences(one.path, other.path) == ["run.json"]  # which says how many cores there were

    @pytest.mark.parametrize("at", [6, 13, 14, 17])
    def test_an_ensemble_that_was_stopped_goes_on_bitwise_on_a_machine_with_fewer_cores(
        self, at, monkeypatch, tmp_path, shared, two_threads
    ):
        """At step 14 a seed leaves, and two go on."""
        monkeypatch.setattr(step, "_SMALL", 0)
        config, seeds = small_config(stop=STOPS_ONE), [0, 1, 2]
        whole = train_small(config, tmp_path / "whole", seeds)
        assert [parts for parts, _, _ in shared] == [3] * 14 + [2] * 10
        with pytest.raises(Interrupted):
            train_small(config, tmp_path / "cut", seeds, sink=SignalAt(at))
        torch.set_num_threads(1)
        found = train_small(config, tmp_path / "cut", seeds, resume=True)
        for one, other in zip(whole, found, strict=True):
            assert other.read_info()["cores"] == 2
            assert differences(one.path, other.path) == []

    def test_seeds_of_the_main_job_follow_the_seed_alone_by_two_threads(self, two_threads, shared):
        """The loss of every one of the first 50 steps, to within a ten-thousandth."""
        config = preset("mod-add-113-canonical").replace(
            task=ModularArithmetic(p=113, train_fraction=0.25), optimizer=AdamW(weight_decay=1.0)
        )
        alone = [self.losses(config, [seed]) for seed in (0, 1)]
        assert not shared
        together = self.losses(config, [0, 1])
        assert set(shared) == {(2, 2, 1)}
        torch.testing.assert_close(together, torch.cat(alone, dim=1), rtol=1e-4, atol=0)

    @staticmethod
    def losses(config, seeds) -> torch.Tensor:
        """[step, seed]."""
        configs = [config.with_seed(seed) for seed in seeds]
        examples = [c.task.examples(c.task.split("train")) for c in configs]
        batch = ensemble.stack_examples(examples, torch.device("cpu"))
        parameters = ensemble.stack([fresh_weights(c) for c in configs])
        state, positions = step.initial_state(config, parameters), config.task.answer_positions
        reports = [
            step.update(config, parameters, state, batch, positions, step=n, multiplier=1.0)
            for n in range(1, 51)
        ]
        return torch.stack([report.loss for report in reports])
