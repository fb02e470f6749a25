"""What every entry of every table keeps to."""

import re

import numpy as np
import pytest
import torch
from oracles import example_tasks, is_large, plain_answer
from pydantic import ValidationError

from interp_arith.errors import RequestError
from interp_arith.evaluation.protocols import PROTOCOLS
from interp_arith.files import dump_yaml, read_yaml
from interp_arith.models.lean import answer_logits
from interp_arith.models.positions import POSITIONS
from interp_arith.models.transformer import build_model
from interp_arith.presets import PRESETS
from interp_arith.tasks import TASKS, Addition, ModularArithmetic, PermutationComposition, Text
from interp_arith.tasks.base import SampledTask
from interp_arith.tasks.sampling import SPLITS, key
from interp_arith.tasks.sources import make_source, split_questions
from interp_arith.training import ensemble, step
from interp_arith.training.config import RunConfig
from interp_arith.training.curricula import CURRICULA
from interp_arith.training.lanes import fresh_weights
from interp_arith.training.measuring import check_metrics
from interp_arith.training.optimizers import OPTIMIZERS
from interp_arith.training.schedules import SCHEDULES

TABLES = (TASKS, POSITIONS, OPTIMIZERS, SCHEDULES, CURRICULA, PROTOCOLS)
ENTRIES = [pytest.param(table, kind, id=f"{table.noun}-{kind}") for table in TABLES for kind in table]
REQUIRED = {"restarts": {"period": 7}}
"""Fields without a default."""


@pytest.mark.parametrize(("table", "kind"), ENTRIES)
class TestEveryEntry:
    def test_is_made_of_its_defaults_and_is_called_by_its_kind(self, table, kind):
        choice = table.make(kind, **REQUIRED.get(kind, {}))
        assert isinstance(choice, table[kind])
        assert choice.kind == kind

    def test_is_frozen_and_can_stand_in_a_set(self, table, kind):
        choice = table.make(kind, **REQUIRED.get(kind, {}))
        with pytest.raises(ValidationError, match="frozen"):
            choice.kind = kind
        assert len({choice, table.make(kind, **REQUIRED.get(kind, {}))}) == 1

    def test_refuses_unknown_fields(self, table, kind):
        with pytest.raises(RequestError, match=f"no field of {kind} is called 'colour'"):
            table.make(kind, colour="red", **REQUIRED.get(kind, {}))

    def test_survives_yaml(self, table, kind, tmp_path):
        choice = table.make(kind, **REQUIRED.get(kind, {}))
        (tmp_path / "choice.yaml").write_text(dump_yaml(choice.model_dump(mode="json")), encoding="utf-8")
        assert table.parse(read_yaml(tmp_path / "choice.yaml")) == choice


def test_every_kind_of_task_has_an_example_here():
    assert {task.kind for task in example_tasks()} == set(TASKS)


def some_questions(task):
    """A few of every split that has any."""
    for split in SPLITS:
        available = 12 if isinstance(task, SampledTask) else len(task.split(split))
        if available:
            yield split, split_questions(task, split, min(12, available))


@pytest.mark.parametrize("task", example_tasks(), ids=lambda task: repr(task)[:70])
class TestEveryTask:
    def test_agrees_with_plain_python(self, task):
        for _, questions in some_questions(task):
            assert [str(answer) for answer in task.answer(questions)] == [
                by_plain_python(task, text) for text in task.text(questions)
            ]

    def test_text_parses_back_to_the_same_questions(self, task):
        for _, questions in some_questions(task):
            np.testing.assert_array_equal(task.parse(task.text(questions)), questions)
            np.testing.assert_array_equal(task.tokens(task.text(questions)), task.tokens(questions))

    def test_reads_its_own_answers(self, task):
        for _, questions in some_questions(task):
            read = task.read_answer(task.answer_tokens(questions))
            assert read == [str(answer) for answer in task.answer(questions)]

    def test_tokens_are_in_the_vocabulary_and_fit_the_context(self, task):
        for _, questions in some_questions(task):
            examples = task.examples(questions)
            assert examples.tokens.shape == (len(questions), task.n_ctx)
            assert 0 <= int(examples.tokens.min()) <= int(examples.tokens.max()) < len(task.vocabulary)
            assert 0 <= int(examples.targets.min()) <= int(examples.targets.max()) < task.d_vocab_out
            assert task.d_vocab_out <= len(task.vocabulary)

    def test_the_loss_counts_at_answer_positions_that_exist(self, task):
        positions = list(task.answer_positions)
        assert positions == list(range(positions[0], task.n_ctx))
        for _, questions in some_questions(task):
            examples = task.examples(questions)
            assert examples.targets.shape == examples.mask.shape == (len(questions), len(positions))
            assert not examples.mask[:, : task.mask_first_n].any()
            assert examples.mask.any(dim=1).all()
            if getattr(task, "padded", True) and getattr(task, "supervision", "none") == "none":
                assert examples.mask[:, task.mask_first_n :].all()
            assert task.tokens(questions).shape[1] == positions[0] + 1

    def test_each_answer_token_is_the_next_input(self, task):
        for _, questions in some_questions(task):
            examples = task.examples(questions)
            fed_back = examples.tokens[:, list(task.answer_positions)[1:]]
            assert torch.equal(fed_back, examples.targets[:, :-1])

    def test_splits_share_no_question(self, task):
        if isinstance(task, SampledTask):
            sets = {"train": task.questions(task.sample("train", 500, key(0, "train")))}
            sets |= {name: task.split(name) for name in ("val", "test")}
        else:
            sets = {name: task.split(name) for name in SPLITS}
        seen = [tuple(row) for rows in sets.values() for row in set(map(tuple, rows.tolist()))]
        assert len(seen) == len(set(seen))

    def test_the_same_seed_gives_the_same_questions_and_another_seed_others(self, task):
        other = task.with_seed(task.seed + 1)
        for name in ("val", "test") if isinstance(task, SampledTask) else SPLITS:
            np.testing.assert_array_equal(task.split(name), type(task)(**task.model_dump()).split(name))
        if len(task.split("test")) > 5:
            assert task.split("test").tolist() != other.split("test").tolist()

    def test_survives_yaml(self, task, tmp_path):
        (tmp_path / "task.yaml").write_text(dump_yaml(task.model_dump(mode="json")), encoding="utf-8")
        assert TASKS.parse(read_yaml(tmp_path / "task.yaml")) == task

    def test_refuses_what_is_no_question(self, task):
        for wrong in ("", "23+=", "23+4a=", "-1+2=", f"{10**20}+1=", "=", "1++2="):
            with pytest.raises(RequestError, match="question") as caught:
                task.parse([wrong])
            assert "\n" not in str(caught.value)


def by_plain_python(task, text):
    """The answer, as a string, by integers and tuples alone."""
    if isinstance(task, Text):
        return task.text_to_learn.removeprefix(text)
    if isinstance(task, Addition):
        first, *rest = re.findall(r"[+-]?\d+", text)
        return str(int(first) + sum(map(int, rest)))
    a, b = map(int, re.fullmatch(r"(\d+)\D(\d+)=", text).groups())
    if isinstance(task, ModularArithmetic):
        return str(plain_answer(task.operation, a, b, task.p))
    assert isinstance(task, PermutationComposition)
    return str(plain_composition(task.operation, a, b))


def plain_composition(operation, a, b):
    """Permutations of 0 … 4 in lexicographic order, (x·y)(i) = x(y(i)), each found by its rank."""
    x, y = nth_permutation(a), nth_permutation(b)
    last = {"xy": range(5), "xyx^-1": [x.index(i) for i in range(5)], "xyx": x}[operation]
    return rank([x[y[last[i]]] for i in range(5)])


def nth_permutation(n):
    left, found = list(range(5)), []
    for size in (24, 6, 2, 1, 1):
        place, n = divmod(n, size)
        found.append(left.pop(place))
    return found


def rank(permutation):
    sizes = (24, 6, 2, 1, 1)
    smaller = [sum(later < value for later in permutation[i:]) for i, value in enumerate(permutation)]
    return sum(size * count for size, count in zip(sizes, smaller, strict=True))


@pytest.mark.parametrize("name", PRESETS)
class TestEveryPreset:
    def test_is_filed_under_its_name_and_says_what_it_should_reach(self, name):
        assert PRESETS[name].config.name == name
        assert PRESETS[name].reaches

    def test_survives_yaml(self, name, tmp_path):
        config = PRESETS[name].config
        (tmp_path / "config.yaml").write_text(dump_yaml(config.plain()), encoding="utf-8")
        assert RunConfig.model_validate(read_yaml(tmp_path / "config.yaml")) == config

    def test_its_task_fits_its_model_and_its_metrics_are_measured(self, name):
        config = PRESETS[name].config
        assert build_model(config.model, config.task).cfg.n_ctx >= config.task.n_ctx
        source = make_source(config.task, config.batch_size, config.seed)
        check_metrics(config, source)
        assert config.total_steps(source.steps_per_epoch) >= 1

    def test_a_training_step_lowers_the_loss_of_its_batch(self, name):
        config = PRESETS[name].config
        n = 8 if is_large(config) else 32
        config = config.replace(batch_size=n, optimizer={"learning_rate": 1e-4, "weight_decay": 0.0})
        limits = None
        if isinstance(config.task, SampledTask):
            epoch = config.budget.steps_per_epoch
            limits = config.curriculum.limits(0, 100, epoch, config.task.limits)
        batch = make_source(config.task, config.batch_size, config.seed).batch(0, limits)
        batch = ensemble.stack_examples([batch], torch.device("cpu"))
        parameters = ensemble.stack([fresh_weights(config)])
        before = {key: tensor.clone() for key, tensor in parameters.items()}
        state = step.initial_state(config, parameters)
        losses = [
            step.update(
                config, parameters, state, batch, config.task.answer_positions, step=i, multiplier=1.0
            ).loss.item()
            for i in (1, 2, 3)
        ]
        assert losses[2] < losses[0]
        assert all(not torch.equal(before[key], tensor) for key, tensor in parameters.items())

    def test_training_sees_the_model_that_the_hooks_see(self, name):
        config = PRESETS[name].config
        model = build_model(config.model, config.task).eval()
        available = 8 if isinstance(config.task, SampledTask) else len(config.task.split("train"))
        tokens = config.task.examples(split_questions(config.task, "train", min(8, available))).tokens
        positions = config.task.answer_positions
        with torch.no_grad():
            hooked = model(tokens)[:, list(positions)]
            ids = model.position_ids(tokens)
            lean = answer_logits(config.model, model.trained_parameters(), tokens, positions, ids=ids)
        assert (lean - hooked).abs().max() <= 1e-5 * hooked.abs().max()


@pytest.mark.parametrize(("name", "published"), [("add-10d-763", 763), ("add-10d-777", 777)])
def test_presets_with_a_published_parameter_count_match_it(name, published):
    config = PRESETS[name].config
    model = build_model(config.model, config.task)
    assert sum(p.numel() for p in model.trained_parameters().values()) == published
    assert model.W_E.shape == (14, 7)
    assert model.W_pos.shape == (35, 7)
