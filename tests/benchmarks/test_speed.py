"""The benchmark times competitors that compute the same, and counts operations right. No time is asserted."""

import importlib
import json
import sys
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import grok  # noqa: E402
import growth  # noqa: E402
import rounds  # noqa: E402
import speed  # noqa: E402
from competitors import COMPETITORS  # noqa: E402
from competitors.base import CHECKED_STEPS, Impossible, Setting  # noqa: E402
from flops import mlp_shape, step_flops  # noqa: E402
from grok import first_grokked, given_steps  # noqa: E402
from rounds import Timing, disagreement  # noqa: E402
from tables import growth_table, seeds_table, step_table  # noqa: E402

from interp_arith.models.config import ModelConfig  # noqa: E402
from interp_arith.tasks.addition import Addition  # noqa: E402
from interp_arith.tasks.modular import ModularArithmetic  # noqa: E402
from interp_arith.training.config import Budget, RunConfig  # noqa: E402

TOGETHER = ("jax", "ours fp32", "ours bf16")


def modular() -> RunConfig:
    """The architecture of mod-add-113, small."""
    model = ModelConfig(d_model=16, n_heads=2, d_mlp=24)
    return RunConfig(name="small", task=ModularArithmetic(p=7), model=model, budget=Budget(steps=10))


def adder() -> RunConfig:
    """The architecture of the adders, small: norms, gelu, tied, clipped, with biases and two layers."""
    model = ModelConfig(
        n_layers=2,
        d_model=8,
        n_heads=2,
        d_mlp=12,
        activation="gelu",
        normalization="layer",
        attention_bias=True,
        tied=True,
    )
    task = Addition(n_digits=2, val_questions=5, test_questions=5)
    return RunConfig(
        name="small", task=task, model=model, budget=Budget(steps=10), batch_size=16, clip_norm=0.05
    )


@pytest.fixture(autouse=True)
def _uncompiled(monkeypatch):
    """A C++ compiler takes half a minute, and changes no loss that a test could see."""
    monkeypatch.setattr(torch, "compile", lambda model, **choices: model)


def losses(name: str, config: RunConfig, seeds: int = 1) -> list[list[float]]:
    made = importlib.import_module(COMPETITORS[name]).make(Setting(config, seeds), name)
    found = made.losses()
    made.run(made.stride)
    return found.tolist()


class TestCompetitors:
    @pytest.mark.parametrize("config", [modular(), adder()], ids=["modular", "adder"])
    def test_all_have_the_same_losses(self, config):
        found = {name: losses(name, config) for name in COMPETITORS}
        assert disagreement(found) is None
        assert all(len(rows) >= CHECKED_STEPS for rows in found.values())
        assert found["plain"][0] != found["plain"][2]

    @pytest.mark.parametrize("config", [modular(), adder()], ids=["modular", "adder"])
    def test_seeds_trained_together_have_the_same_losses_each(self, config):
        found = {name: losses(name, config, seeds=3) for name in TOGETHER}
        assert disagreement(found) is None
        assert len(set(found["jax"][0])) == 3
        assert all(len(rows) >= CHECKED_STEPS for rows in found.values())

    @pytest.mark.parametrize("name", ["plain", "handwritten"])
    def test_one_seed_at_a_time_is_said_of_those_that_cannot_do_more(self, name):
        with pytest.raises(Impossible, match="one seed at a time"):
            losses(name, modular(), seeds=2)

    @pytest.mark.parametrize("name", ["handwritten", "jax"])
    def test_an_architecture_that_was_not_written_by_hand_is_refused_by_name(self, name):
        config = modular().replace(model={"gated": True, "normalization": "rms"})
        with pytest.raises(Impossible, match="gated, normalization"):
            losses(name, config)


class TestDisagreement:
    def test_the_first_difference_is_named(self):
        found = {"plain": [[1.0, 2.0]], "jax": [[1.0, 2.001]], "ours bf16": [[1.01, 2.0]]}
        assert disagreement(found) == "step 0, seed 1: 2 (plain) and 2.001 (jax)"

    def test_bf16_may_differ_by_two_percent(self):
        assert disagreement({"plain": [[1.0]], "ours bf16": [[1.019]]}) is None
        assert disagreement({"plain": [[1.0]], "ours bf16": [[1.03]]}) is not None


class TestRequests:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("mod-add-113-canonicl", "no preset is called 'mod-add-113-canonicl'; did you mean"),
            ("--no-tables", "--no-tables leaves nothing to do without --out DIR"),
            ("--no-tables --out DIR --grok", "--readme and --grok are of tables: leave out --no-tables"),
            ("--device cuda", "--device cuda: this machine has none that torch can use"),
            ("--seeds 1,two", "--seeds 1,two: give whole numbers from 1 on, separated by commas: 1,4,16"),
            ("--seeds 0", "--seeds 0: give whole numbers from 1 on"),
            ("--rounds 0", "argument --rounds: 0: give a whole number from 1 on"),
            ("--seed-rounds few", "argument --seed-rounds: few: give a whole number from 1 on"),
        ],
    )
    def test_wrong_ones_end_before_anything_starts(self, arguments, message, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["speed.py", *arguments.split()])
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(SystemExit) as ended:
            speed.read_arguments()
        assert ended.value.code == 2
        assert f"speed.py: error: {message}" in capsys.readouterr().err

    def test_good_ones_are_read(self, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["speed.py", "add-10d-4k", "--out", "DIR", "--no-tables"])
        read = speed.read_arguments()
        assert (read.presets, read.out, read.no_tables) == (["add-10d-4k"], Path("DIR"), True)
        assert read.seeds == [1, 4, 16, 64, 256]

    def test_several_seeds_have_five_rounds_or_as_few_as_one_has(self, monkeypatch):
        for given, expected in (("", 5), ("--rounds 3", 3), ("--rounds 3 --seed-rounds 7", 7)):
            monkeypatch.setattr(sys, "argv", ["speed.py", *given.split()])
            assert speed.read_arguments().seed_rounds == expected, given

    def test_quick_takes_few_seeds_but_those_that_are_asked(self, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["speed.py", "--quick"])
        assert speed.read_arguments().seeds == [1, 4]
        monkeypatch.setattr(sys, "argv", ["speed.py", "--quick", "--seeds", "8, 2,8"])
        assert speed.read_arguments().seeds == [2, 8]


class TestTogether:
    """One seed takes ours 0.1 seconds and JAX 1."""

    @pytest.fixture
    def asked(self, monkeypatch):
        asked = []

        def compare(plan, config, names, seeds, launched=None):
            asked.append((seeds, tuple(names), launched))
            return {name: Timing([{"ours": 0.1, "jax": 1.0}[name] * seeds]) for name in names}

        monkeypatch.setattr(rounds, "compare", compare)
        return asked

    ALONE: ClassVar = {"ours": Timing([0.1]), "jax": Timing([1.0]), "gone": Timing(problem="not here")}

    def together(self, longest, **choices):
        plan = rounds.Plan("cpu", 1, 3, 3, 0.1, 512, longest)
        return rounds.compare_together(plan, None, ("ours", "jax"), self.ALONE, [1, 4, 64], **choices)

    def test_who_would_take_too_long_is_left_out_and_said_so(self, asked):
        found = self.together(longest=10)
        assert [names for _, names, _ in asked] == [("ours", "jax"), ("ours",)]
        assert found[64]["ours"].step == pytest.approx(6.4)
        assert found[64]["jax"].problem == "left out: about 64 s a step"
        assert "left out: about 64 s a step" in "".join(seeds_table("small", found))

    def test_nothing_is_timed_where_all_would_take_too_long(self, asked):
        found = self.together(longest=1)
        assert [(seeds, names) for seeds, names, _ in asked] == [(4, ("ours",))]
        assert found[4]["jax"].problem == "left out: about 4 s a step"
        assert {timing.problem for timing in found[64].values()} == {
            "left out: about 6 s a step",
            "left out: about 64 s a step",
        }

    def test_processes_that_wait_for_nothing_are_ended(self, asked):
        class Waiting:
            closed = False

            def close(self):
                self.closed = True

        waiting = {64: {"ours": Waiting(), "jax": Waiting()}}
        jax, ours = waiting[64]["jax"], waiting[64]["ours"]
        self.together(longest=10, launched=waiting)
        assert (jax.closed, ours.closed) == (True, False)
        assert asked[-1] == (64, ("ours",), {"ours": ours})

    def test_who_was_never_timed_is_tried(self):
        assert rounds.expected_step({1: self.ALONE}, "gone", 64) == 0
        assert rounds.expected_step({1: self.ALONE}, "jax", 64) == 64


class TestCounts:
    """A seed takes 0.1 seconds in the first two blocks that are timed, 0.2 in the next two, and so on in turn."""

    @pytest.fixture
    def made(self, monkeypatch):
        made, blocks = [], []

        class Scripted:
            stride = 1

            def __init__(self, name, config, seeds, device, threads):
                self.seeds, self.asked, self.closed = seeds, 0, False
                self.cores = self.spinning = 0.0
                made.append(self)

            def first_losses(self):
                if self.seeds == 16:
                    raise rounds.Failed("failed: no memory | at all")
                return [[1.0] * self.seeds]

            def ask(self, do, steps=0):
                if do == "memory":
                    return {"bytes": 0}
                self.asked += 1
                if self.seeds == 16 or (self.seeds == 64 and self.asked == 3):
                    raise rounds.Failed("failed: no memory | at all")
                if self.asked > 1:
                    blocks.append(self.seeds)
                return {"seconds": 0.1 * self.seeds * (1 + (len(blocks) - 1) // 2 % 2)}

            def close(self):
                assert not self.closed
                self.closed = True

        monkeypatch.setattr(rounds, "Child", Scripted)
        monkeypatch.setattr(rounds, "SETTLE_SECONDS", 0)
        self.blocks = blocks
        return made

    PLAN = rounds.Plan("cpu", 1, 9, 4, 0.1, 512, 10)

    def test_numbers_of_seeds_take_turns_round_by_round(self, made):
        found = rounds.compare_counts(self.PLAN, modular(), "ours", [1, 4])
        assert self.blocks == [1, 4, 4, 1] * 4 + [1, 4]
        assert [round(seconds, 3) for seconds in found[4].seconds] == [0.4, 0.8] * 4 + [0.4]
        assert found[1].ratio(found[4]) == pytest.approx(4)
        assert all(child.closed for child in made)

    def test_who_fails_is_said_and_the_others_go_on(self, made):
        found = rounds.compare_counts(self.PLAN, modular(), "ours", [1, 4, 16, 64])
        assert [len(found[n].seconds) for n in (1, 4, 16, 64)] == [9, 9, 0, 0]
        assert all(child.closed for child in made)
        lines = growth_table("small", [1, 4, 16, 64, 256], {"ours fp32": found})
        assert lines[0].endswith("| 1 → 4 seeds | 4 → 16 seeds | 16 → 64 seeds | 64 → 256 seeds |")
        failed = "failed: no memory / at all"
        assert lines[2].endswith(f"| {failed} | {failed} | – |")

    def test_one_seed_has_as_many_rounds_as_numbers_in_turn_and_several_their_own(self, made):
        found = {n: rounds.compare(self.PLAN, modular(), ["ours"], n)["ours"] for n in (1, 4)}
        assert {n: len(timing.seconds) for n, timing in found.items()} == {1: 9, 4: 4}


def test_several_seeds_of_the_plain_loop_are_one_after_the_other():
    rows = [(1, "plain", 100.0), (1, "jax", 120.0), (4, "jax", 400.0)]
    frame = pd.DataFrame([dict(zip(("seeds", "competitor", "step_ms"), row, strict=True)) for row in rows])
    found = growth.with_plain(frame.assign(rounds=3))
    assert found[found["competitor"] == "plain"].to_numpy().tolist() == [
        [1, "plain", 100.0, 3],
        [4, "plain", 400.0, 0],
    ]


class TestFlops:
    def test_one_layer_that_answers_once_is_folded(self):
        # p = 7: 8 tokens, 3 positions, 1 answer; d = h = 16, m = 24, 7 logits; 10 questions
        tables = 2 * 16 * 16 * 8 * (1 + 2 * 3)
        into_neurons, past_them, behind_them = 16 * 24, 16 * 7, 24 * 7
        folded = 2 * 16 * (into_neurons + past_them + behind_them)
        questions = 2 * 10 * (into_neurons + past_them + behind_them)
        assert step_flops(modular(), 10, "cuda") == 3 * (tables + folded + questions) == 189_600
        # On a CPU what each of 8 tokens at 2 positions adds to neurons and logits is a table too; one token asks.
        tables = 2 * 16 * 16 * (1 + 2 * (8 * 2 + 1))
        table = 2 * 8 * 2 * (into_neurons + past_them)
        questions = 2 * 10 * behind_them
        assert step_flops(modular(), 10, "cpu") == 3 * (tables + folded + table + questions) == 175_200

    def test_one_layer_with_norms(self):
        config = modular()
        config = config.replace(model=config.model.model_copy(update={"normalization": "layer"}))
        tables = 2 * 16 * 16 * 8 * (1 + 2 * 3)
        attention = 4 * 16 * 10 * 1 * 3
        output = 2 * 16 * 16 * 10
        mlp = 4 * 16 * 24 * 10
        logits = 2 * 16 * 7 * 10
        assert step_flops(config, 10, "cpu") == 3 * (tables + attention + output + mlp + logits) == 159_936

    def test_of_two_layers_the_last_alone_asks_at_the_answers_only(self):
        # two digits: 8 positions, 3 answers, 12 tokens in and out; d = h = 8, m = 12; 16 questions
        config = adder()
        assert (config.task.n_ctx, len(config.task.answer_positions)) == (8, 3)
        tokens = len(config.task.vocabulary)
        first = 2 * 8 * 8 * tokens * 24 + 4 * 8 * 16 * 8 * 8 + 2 * 8 * 8 * 16 * 8 + 4 * 8 * 12 * 16 * 8
        last = 2 * 8 * 8 * 16 * 19 + 4 * 8 * 16 * 3 * 8 + 2 * 8 * 8 * 16 * 3 + 4 * 8 * 12 * 16 * 3
        assert step_flops(config, 16, "cpu") == 3 * (first + last + 2 * 8 * tokens * 16 * 3)

    def test_the_mlp_multiplies_a_row_for_each_answer(self):
        assert mlp_shape(adder(), 16) == (48, 8, 12)


class TestTables:
    def test_a_ratio_is_the_median_within_rounds_and_a_problem_is_said_in_words(self):
        timings = {
            "plain": Timing([0.4, 0.2, 0.2]),
            "handwritten": Timing(problem="failed: no C++ compiler"),
            "ours fp32": Timing([0.1, 0.1, 0.02], rates={"square": 1e9, "mlp": 5e8}),
        }
        lines = step_table("small", timings, 10**7)
        assert "| 200.00 | 1.00 |" in lines[2]
        assert "failed: no C++ compiler" in lines[3]
        assert "| 100.00 | 4.00 |" in lines[4]
        assert "10.0% / 20.0%" in lines[4]

    def test_an_ensemble_counts_every_seed(self):
        alone = {"plain": Timing([0.5]), "ours fp32": Timing([0.1])}
        lines = seeds_table("small", {1: alone, 4: {"ours fp32": Timing([0.2])}})
        assert lines[2].endswith("| 2 | 2 |")
        assert lines[3].endswith("| 10 | 20 |")  # who was not timed has no row


class TestGrok:
    def test_steps_are_given_or_read_from_run_directories(self, tmp_path):
        records = [{"step": 5, "test_accuracy": 0.99}, {"step": 10}, {"step": 15, "test_accuracy": 0.9991}]
        lines = [json.dumps(record) for record in records]
        (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 20, "te')
        assert given_steps([120, str(tmp_path)]) == [120, 15]

    def test_a_run_that_never_grokked_is_named(self, tmp_path):
        (tmp_path / "metrics.jsonl").write_text('{"step": 5, "test_accuracy": 0.99}\n')
        with pytest.raises(SystemExit, match=r"never reached 0\.999"):
            first_grokked(tmp_path)

    def test_the_gain_is_told_apart_by_what_it_is_due_to(self, monkeypatch, tmp_path):
        """1,000 steps of 100 ms against 100 of 10 ms, where (a) takes 50 ms for the fast recipe's step."""
        asked = []

        def compare(plan, config, names):
            asked.append((config.name, config.optimizer.kind, tuple(names)))
            fast = config.name == grok.FAST
            seconds = {"plain": 0.05 if fast else 0.1, "ours fp32": 0.01, "ours bf16": 0.02}
            return {name: Timing(seconds=[seconds.get(name, 0.08)]) for name in names}

        monkeypatch.setattr(grok, "compare", compare)
        (tmp_path / "steps.json").write_text(json.dumps({grok.CANONICAL: [1000], grok.FAST: [90, 100, 300]}))
        lines = grok.table_lines(None, tmp_path / "steps.json")
        assert lines[2] == "| (a) plain HookedTransformer loop | 100.0 | 100.0 | 50.0 | 5.0 |"
        assert lines[5] == "| (d) ours, fp32 | 10.0 | 10.0 | 10.0 | 1.0 |"
        assert "100 × less than (a) with the canonical recipe: 20.0 × from the recipe" in lines[-2]
        assert (
            "(10.0 × fewer steps, each 2.00 × less work for (a) with AdamW), 5.00 × from the step"
            in lines[-2]
        )
        assert "50 × less" in lines[-1]
        assert asked == [
            (grok.CANONICAL, "adamw", grok.COMPETITORS),
            (grok.FAST, "adamw", ("plain", "handwritten", "jax")),
            (grok.FAST, "muon", grok.OURS),
        ]
