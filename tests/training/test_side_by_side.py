"""Seeds that a CPU trains at the same time: each as alone, whatever the threads; what a killed run goes on with."""

import os
import subprocess
import sys
from threading import Barrier, Event

import pytest
import torch
from chaos.small_runs import EARLY_STOP, SignalAt, differences, small_config, train_small

from interp_arith.presets import preset
from interp_arith.tasks import ModularArithmetic
from interp_arith.tasks.base import Examples
from interp_arith.tasks.sources import make_source
from interp_arith.training import ensemble, step
from interp_arith.training.lanes import fresh_weights
from interp_arith.training.measuring import make_measuring
from interp_arith.training.optimizers import OPTIMIZERS, AdamW
from interp_arith.training.side_by_side import side_by_side, workers_on
from interp_arith.training.signals import Interrupted


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture(autouse=True)
def _threads_are_set_back():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def shared(monkeypatch) -> list[tuple[int, int, int]]:
    """Of every update that several threads shared: the parts, the workers, PyTorch's threads of each."""
    seen, original = [], step.side_by_side

    def watched(do, parts, workers):
        if workers > 1:
            seen.append((len(parts), workers, torch.get_num_threads()))
        return original(do, parts, workers)

    monkeypatch.setattr(step, "side_by_side", watched)
    return seen


class TestThreads:
    def test_parts_are_done_at_the_same_time_and_come_back_in_order(self):
        both = Barrier(2)

        def do(part: int) -> int:
            both.wait(timeout=60)  # raises unless another part gets here too
            return 10 * part

        assert side_by_side(do, [3, 1, 2, 5], 2) == [30, 10, 20, 50]

    def test_there_is_room_for_as_many_as_the_threads_of_this_one_fit_into_the_cores(self):
        torch.set_num_threads(2)
        assert [workers_on(cores) for cores in (1, 2, 3, 4, 9)] == [1, 1, 1, 2, 4]

    @pytest.mark.parametrize("own_threads", [1, 2])
    def test_every_worker_has_as_many_threads_as_this_one_which_keeps_its_own(self, own_threads):
        def threads(_: int = 0) -> tuple[int, int]:
            before = torch.get_num_threads()
            torch.ones(1 << 20).sigmoid()
            return before, torch.get_num_threads()

        torch.set_num_threads(own_threads)
        expected = (own_threads, own_threads)
        assert set(side_by_side(threads, range(6), 3)) == {expected}
        assert threads() == expected
        torch.set_num_threads(3 - own_threads)
        assert set(side_by_side(threads, range(6), 3)) == {(3 - own_threads,) * 2}
        torch.set_num_threads(own_threads)
        assert set(side_by_side(threads, range(6), 3)) == {expected}  # those of before, as they were

    def test_what_goes_wrong_in_a_part_is_raised_here_when_the_others_have_ended(self):
        wrong, ended = Event(), []

        def do(part: int) -> None:
            if part == 0:
                wrong.set()
                raise ZeroDivisionError
            assert wrong.wait(timeout=60)
            torch.ones(1 << 22).sigmoid()
            ended.append(part)

        with pytest.raises(ZeroDivisionError):
            side_by_side(do, [0, 1], 2)
        assert ended == [1]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
    def test_a_forked_process_starts_threads_of_its_own(self):
        program = (
            "import os, signal\n"
            "from interp_arith.training.side_by_side import side_by_side\n"
            "assert side_by_side(abs, [-1, -2], 2) == [1, 2]\n"
            "child = os.fork()\n"
            "if not child:\n"
            "    signal.alarm(60)\n"
            "    os._exit(sum(side_by_side(abs, [-3, -4], 2)))\n"
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
    def parts(
        n_seeds: int, questions: int, workers: int, size: int = 1000
    ) -> tuple[list[tuple[int, int]], int]:
        """As (first seed, one past the last); of four tokens a question, in a model 128 wide of such a size."""
        tokens = torch.zeros(1, dtype=torch.int64).expand(n_seeds, questions, 4)
        weights = {"all": torch.zeros(1).expand(n_seeds, size)}
        batch = Examples(tokens, tokens, tokens)
        parts, most = step._parts_and_workers(preset("mod-add-113"), weights, batch, workers)
        return [(part.start, part.stop) for part in parts], most

    def test_large_seeds_one_by_one_and_as_many_at_once_as_there_is_room_for(self):
        each = [(0, 1), (1, 2), (2, 3)]
        assert [self.parts(3, 3830, workers) for workers in (1, 2, 8)] == [(each, 1), (each, 2), (each, 8)]

    def test_a_seed_of_many_parameters_is_large_too(self):
        assert self.parts(2, 50, 2, size=10_000_000) == ([(0, 1), (1, 2)], 2)

    def test_no_more_at_once_than_there_is_memory_for(self):
        assert step._AT_ONCE == 64 * 1024 * 1024
        assert self.parts(8, 32 * 1024, 8)[1] == 4  # 16 Mi numbers of the residual stream each
        assert self.parts(8, 256 * 1024, 8)[1] == 1

    def test_small_seeds_in_two_parts_where_there_are_enough_and_room_for_two(self):
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
            assert differences(one.path, other.path) == []

    @pytest.mark.parametrize("resumed", [[[0, 1, 2]], [[2], [0, 1]]], ids=["together", "one-by-itself"])
    @pytest.mark.parametrize("at", [6, 13, 14, 17])
    def test_what_was_stopped_goes_on_bitwise_whatever_cores_and_company_there_are(
        self, at, resumed, monkeypatch, tmp_path, shared
    ):
        """At step 14 a seed leaves, and two go on, with as many threads each as before."""
        monkeypatch.setattr(step, "_SMALL", 0)
        monkeypatch.setenv("OMP_NUM_THREADS", "6")
        config, seeds = small_config(stop=EARLY_STOP), [0, 1, 2]
        torch.set_num_threads(6)
        whole = train_small(config, tmp_path / "whole", seeds)
        assert shared == [(3, 3, 2)] * 14 + [(2, 3, 2)] * 10
        with pytest.raises(Interrupted):
            train_small(config, tmp_path / "cut", seeds, sink=SignalAt(at))
        torch.set_num_threads(1)
        for some in resumed:
            train_small(config, tmp_path / "cut", some, resume=True)
        for run in whole:
            assert run.read_info()["threads"] == 2
            assert differences(run.path, tmp_path / "cut" / run.path.name) == []

    def test_seeds_of_the_main_job_follow_the_seed_alone_on_two_threads(self, shared):
        """The loss of every one of the first 50 steps, to within a ten-thousandth."""
        config = preset("mod-add-113-canonical").replace(
            task=ModularArithmetic(p=113, train_fraction=0.25), optimizer=AdamW(weight_decay=1.0)
        )
        torch.set_num_threads(2)
        alone = [self.losses(config, [seed]) for seed in (0, 1)]
        assert not shared
        torch.set_num_threads(1)
        together = self.losses(config, [0, 1])
        assert set(shared) == {(2, 2, 1)}
        torch.testing.assert_close(together, torch.cat(alone, dim=1), rtol=1e-4, atol=0)

    def test_seeds_are_scored_side_by_side_as_by_themselves(self, monkeypatch):
        config, seen, original = small_config(), [], ensemble.side_by_side

        def watched(do, parts, workers):
            seen.append((len(parts), workers))
            return original(do, parts, workers)

        monkeypatch.setattr(ensemble, "side_by_side", watched)
        configs = [config.with_seed(seed) for seed in range(3)]
        examples = [c.task.examples(c.task.split("test")) for c in configs]
        sources = [make_source(c.task, c.batch_size, c.seed, c.data_dir) for c in configs]
        parameters = ensemble.stack([fresh_weights(c) for c in configs])
        found = make_measuring(configs, sources, torch.device("cpu"), cores=2).scores(parameters)
        assert seen == [(3, 2)] * 2
        for seed in range(3):
            own = {name: p[seed : seed + 1].clone() for name, p in parameters.items()}
            batch = ensemble.stack_examples([examples[seed]], torch.device("cpu"))
            positions, asker = config.task.answer_positions, config.task.asking_token
            alone = ensemble.score(config.model, own, batch, positions, asker=asker)
            for what, value in alone.items():
                assert torch.equal(found[f"test_{what}"][seed], value[0]), what

    @staticmethod
    def losses(config, seeds) -> torch.Tensor:
        """[step, seed]."""
        configs = [config.with_seed(seed) for seed in seeds]
        examples = [c.task.examples(c.task.split("train")) for c in configs]
        batch = ensemble.stack_examples(examples, torch.device("cpu"))
        parameters = ensemble.stack([fresh_weights(c) for c in configs])
        state, positions = step.initial_state(config, parameters), config.task.answer_positions
        reports = [
            step.update(config, parameters, state, batch, positions, step=n, multiplier=1.0, cores=2)
            for n in range(1, 51)
        ]
        return torch.stack([report.loss for report in reports])
