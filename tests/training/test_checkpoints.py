"""What a run keeps: in the right order, nothing deleted before what replaces it stands."""

import numpy as np
import pytest
import torch
from chaos.small_runs import small_config

from interp_arith.errors import RequestError, WorkError
from interp_arith.storage import RunDirectory
from interp_arith.tasks import ModularArithmetic
from interp_arith.training.checkpoints import Keeper, check, create
from interp_arith.training.lanes import common_step


def weights(number: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3,), number)}


@pytest.fixture
def keeper(tmp_path) -> Keeper:
    config = small_config(checkpoints={"keep_best": 2, "best_metric": "test_loss"})
    create(config, directory := RunDirectory(tmp_path / config.run_name))
    return Keeper(config, directory)


def feed(keeper: Keeper, losses: dict[int, float]) -> None:
    for step, loss in losses.items():
        keeper.records.append({"step": step, "test_loss": loss})
        if keeper.would_be_best({"test_loss": loss}):
            keeper.add_best(step, weights(step), {"step": step, "test_loss": loss})


class TestBest:
    def test_the_least_losses_are_kept_and_the_earlier_wins_a_tie(self, keeper):
        feed(keeper, {0: 5.0, 1: 3.0, 2: 4.0, 3: 3.0, 4: 3.0})
        assert [c.step for c in keeper.best] == [1, 3]
        assert not keeper.would_be_best({"test_loss": 3.0})
        assert keeper.would_be_best({"test_loss": 2.9})
        assert sorted(keeper.candidates) == [1, 3]

    def test_a_record_without_the_metric_is_no_candidate(self, keeper):
        assert not keeper.would_be_best({"train_loss": 0.0})

    def test_they_reach_the_disk_with_the_state(self, keeper):
        feed(keeper, {0: 5.0, 1: 3.0})
        assert not (keeper.directory.path / "best").exists()
        keeper.write_state(1, {"parameters": weights(1)})
        assert [c.step for c in keeper.directory.best()] == [1, 0]
        for checkpoint in keeper.directory.best():
            assert torch.equal(keeper.directory.read_weights(checkpoint)["w"], weights(checkpoint.step)["w"])

    def test_those_of_the_state_before_stay_as_long_as_it_does(self, keeper):
        def kept() -> list[int]:
            return sorted(int(f.stem[5:]) for f in (keeper.directory.path / "best").glob("step-*"))

        feed(keeper, {0: 9.0, 1: 8.0})
        keeper.write_state(1, {})
        feed(keeper, {2: 7.0, 3: 6.0})
        keeper.write_state(3, {})
        assert kept() == [0, 1, 2, 3]
        feed(keeper, {4: 5.0})
        keeper.write_state(4, {})
        assert kept() == [2, 3, 4]
        keeper.finish()
        assert kept() == [3, 4]


class TestOrder:
    def test_metrics_and_best_are_on_disk_before_the_state_and_nothing_goes_before_it_stands(
        self, keeper, monkeypatch
    ):
        feed(keeper, {0: 5.0})
        keeper.write_state(0, {})
        feed(keeper, {1: 4.0, 2: 3.0, 3: 2.0})

        def fail(*arguments, **options):
            raise WorkError("full")

        monkeypatch.setattr(keeper.directory, "write_state", fail)
        with pytest.raises(WorkError):
            keeper.write_state(3, {})
        run = keeper.directory
        assert [r["step"] for r in run.read_metrics()] == [0, 1, 2, 3]
        assert [c.step for c in run.best()] == [3, 2]
        assert (run.path / "best" / "step-00000000.safetensors").exists()

    def test_a_rewind_forgets_what_came_after_and_keeps_what_the_state_rests_on(self, keeper):
        feed(keeper, {0: 5.0, 1: 4.0})
        keeper.write_checkpoint(1, weights(1), {})
        keeper.write_state(1, {"held": 7})
        feed(keeper, {2: 3.0, 3: 2.0})
        keeper.write_checkpoint(3, weights(3), {})
        keeper.flush()
        again = Keeper(keeper.config, keeper.directory)
        state = again.rewind(1)
        assert state is not None
        assert (state["step"], state["held"]) == (1, 7)
        assert [r["step"] for r in keeper.directory.read_metrics()] == [0, 1]
        assert [c.step for c in keeper.directory.checkpoints()] == [1]
        assert [c.step for c in again.best] == [1, 0]

    def test_a_rewind_to_nothing_forgets_everything(self, keeper):
        feed(keeper, {0: 5.0})
        keeper.write_checkpoint(0, weights(0), {})
        keeper.write_state(0, {})
        again = Keeper(keeper.config, keeper.directory)
        assert again.rewind(None) is None
        run = keeper.directory
        assert (run.read_metrics(), run.checkpoints(), run.state_steps(), again.best) == ([], [], [], [])

    def test_a_rewind_clears_away_half_written_states(self, keeper):
        keeper.write_state(4, {})
        left = keeper.directory.path / "state" / ".step-00000005.pt.tmp"
        left.write_bytes(b"half")
        keeper.rewind(4)
        assert [f.name for f in left.parent.iterdir()] == ["step-00000004.pt"]


class TestCommonStep:
    def runs(self, tmp_path, *steps: list[int]) -> list[RunDirectory]:
        found = []
        for index, of_one in enumerate(steps):
            found.append(RunDirectory(tmp_path / f"run-{index}"))
            for step in of_one:
                found[-1].write_state(step, {})
        return found

    @pytest.mark.parametrize(
        ("steps", "expected"),
        [
            (([],), None),
            (([0, 100],), 100),
            (([100, 200], [200, 300]), 200),
            (([0], []), None),
            (([], []), None),
        ],
    )
    def test_it_is_the_newest_that_all_have(self, steps, expected, tmp_path):
        assert common_step(self.runs(tmp_path, *steps), lambda message: None) == expected

    @pytest.mark.parametrize("steps", [([100, 200], []), ([100, 200], [300, 400])])
    def test_runs_that_share_none_are_refused_rather_than_begun_anew(self, steps, tmp_path):
        with pytest.raises(RequestError, match="cannot go on together: run-0 at step 200, run-1 at step"):
            common_step(self.runs(tmp_path, *steps), lambda message: None)

    def test_damaged_states_are_named(self, tmp_path):
        (run,) = self.runs(tmp_path, [100, 200])
        file = run.path / "state" / "step-00000200.pt"
        file.write_bytes(b"nothing")
        said: list[str] = []
        assert common_step([run], said.append) == 100
        assert said == [f"{file} is damaged; it is passed over"]


class TestDirectories:
    def test_what_was_created_is_this_run_and_no_other(self, tmp_path):
        directory = RunDirectory(tmp_path / "run")
        check(small_config(), directory, resume=False)
        create(small_config(), directory)
        check(small_config(), directory, resume=True)
        with pytest.raises(RequestError, match="exists already; add --resume"):
            check(small_config(), directory, resume=False)
        with pytest.raises(
            RequestError, match=r"with another config \(seed: there 0, here 1, task\.seed: there"
        ):
            check(small_config().with_seed(1), directory, resume=True)

    def test_a_given_split_is_part_of_what_a_run_is(self, tmp_path):
        mask = np.eye(7, dtype=bool)
        task = ModularArithmetic(p=7, train_fraction=0.5)
        directory = RunDirectory(tmp_path / "run")
        given = small_config(task=task.with_split(mask))
        create(given, directory)
        check(given, directory, resume=True)
        for other in (task, task.with_split(~mask)):
            with pytest.raises(RequestError, match=r"another split\.npy"):
                check(small_config(task=other), directory, resume=True)

    def test_a_split_left_by_a_killed_process_is_never_mistaken_for_one_that_was_given(self, tmp_path):
        directory = RunDirectory(tmp_path / "run")
        mask = np.eye(7, dtype=bool)
        directory.write_split(mask)
        check(small_config(task=ModularArithmetic(p=7).with_split(mask)), directory, resume=False)
        with pytest.raises(RequestError, match="exists and is no run"):
            check(small_config(), directory, resume=False)
