"""The cyclic table: right for every operation and format, refused where there is no cyclic group."""

import numpy as np
import pytest
import torch
from interp_oracles import CYCLIC_TASKS, by_number, lookup_model, right_answers
from oracles import example_model_configs, random_weights

from interp_arith.errors import RequestError
from interp_arith.interp.answers import answer_scores
from interp_arith.interp.base import Subject
from interp_arith.interp.cyclic import (
    cyclic_group,
    cyclic_table,
    no_cyclic_group,
    no_cyclic_table,
    no_number_tokens,
    smallest_primitive_root,
)
from interp_arith.interp.forward import forward, split_rows
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.tasks import Addition, ModularArithmetic, PermutationComposition, Text


@pytest.mark.parametrize(
    ("p", "root"), [(3, 2), (5, 2), (7, 3), (23, 5), (41, 6), (97, 5), (113, 3), (191, 19)]
)
def test_the_smallest_primitive_roots_are_those_of_the_tables(p, root):
    assert smallest_primitive_root(p) == root


@pytest.mark.parametrize("task", CYCLIC_TASKS.values(), ids=CYCLIC_TASKS)
def test_the_right_answer_is_the_sum_of_the_elements(task):
    subject = Subject(lookup_model(task, right_answers(task)), task)
    table = subject.get(cyclic_table)
    n = table.group.n
    assert n == (task.p - 1 if task.operation in ("multiply", "divide") else task.p)
    assert table.logits.dtype == torch.float64
    x, y, z = np.meshgrid(*[np.arange(n)] * 3, indexing="ij")
    np.testing.assert_array_equal(table.logits.numpy(), (x + y) % n == z)


def test_division_mod_7_by_hand():
    group = cyclic_group(ModularArithmetic(p=7, operation="divide"))
    assert group.numbers.tolist() == [1, 3, 2, 6, 4, 5]  # 3⁰ … 3⁵
    assert group.second.tolist() == [1, 5, 4, 6, 2, 3]  # their inverses
    assert group.frequencies.tolist() == [1, 2, 3]


def test_the_last_frequency_is_among_them():
    assert cyclic_group(ModularArithmetic(p=113)).frequencies[-1] == 56
    assert cyclic_group(ModularArithmetic(p=12)).frequencies[-1] == 6
    assert cyclic_group(ModularArithmetic(p=113, operation="multiply")).frequencies[-1] == 56


@pytest.mark.parametrize("name", ["odd", "subtract", "multiply", "divide"])
def test_splits_of_the_table_are_the_tasks_own(name):
    task = CYCLIC_TASKS[name]
    table = Subject(build_model(ModelConfig(d_model=8, n_heads=1, d_mlp=4), task), task).get(cyclic_table)
    found = {split: mask.sum().item() for split, mask in table.splits.items()}
    for split in ("train", "val", "test"):
        asked = {tuple(pair) for pair in task.split(split).tolist()}
        group = table.group
        inside = {(a, b) for a, b in asked if a in group.numbers and b in group.second}
        assert found.get(split, 0) == len(inside)
        x, y = np.nonzero(table.splits[split].numpy()) if split in table.splits else ([], [])
        assert set(zip(group.numbers[x].tolist(), group.second[y].tolist(), strict=True)) == inside
    assert found["all"] == table.group.n**2


def test_rows_of_the_splits_partition_all_questions():
    task = CYCLIC_TASKS["subtract"]
    rows = split_rows(Subject(build_model(ModelConfig(d_model=8, n_heads=1, d_mlp=4), task), task))
    assert (rows["train"].astype(int) + rows["val"] + rows["test"] == rows["all"]).all()


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (ModularArithmetic(p=7, operation="x^2+xy+y^2"), r"x\^2\+xy\+y\^2 is no operation of a cyclic group"),
        (ModularArithmetic(p=7, operation="parity-mixed"), "parity-mixed is no operation"),
        (ModularArithmetic(p=12, operation="multiply"), "12 is not prime"),
        (PermutationComposition(), "task is no operation of a cyclic group"),
        (Addition(n_digits=2), "the addition task is no operation"),
        (Text(), "the text task is no operation"),
    ],
    ids=lambda value: getattr(value, "operation", None) or str(value)[:12],
)
def test_what_is_no_cyclic_group_says_so(task, reason):
    with pytest.raises(RequestError, match=reason):
        cyclic_group(task)
    for why_not in (no_cyclic_group, no_cyclic_table, no_number_tokens):
        assert why_not(task, ModelConfig()) in str(no_cyclic_group(task))


def test_answers_scored_in_part_have_no_table():
    task = ModularArithmetic(p=13, format="characters", mask_first_n=1)
    assert no_cyclic_table(task, ModelConfig()) == (
        "mask_first_n = 1 leaves part of each answer untrained; it must be 0"
    )


@pytest.mark.parametrize("p", [7, 13, 101])
def test_spelled_answers_are_scored_by_the_probability_of_the_whole_string(p):
    task = ModularArithmetic(p=p, format="characters", train_fraction=0.5)
    model = random_weights(build_model(ModelConfig(d_model=8, n_heads=2, d_mlp=12), task)).eval()
    scores = Subject(model, task).get(answer_scores)
    assert scores.shape == (p * p, p)
    for a, b, c in [(3, 4, 0), (p - 1, 2, p - 1), (0, 0, p // 2)]:
        answer = [int(digit) for digit in str(c).zfill(len(str(p - 1)))]
        written, by_hand = task.tokens([f"{a}+{b}="]), 0.0
        for token in answer:  # one token after the other, as it would be written
            by_hand += model(written)[0, -1].double().log_softmax(dim=-1)[token].item()
            written = torch.cat([written, torch.tensor([[token]])], dim=1)
        assert scores[a * p + b, c].item() == pytest.approx(by_hand, abs=1e-5)


def test_hooks_that_stand_on_the_model_change_what_it_spells():
    task = ModularArithmetic(p=13, format="characters", train_fraction=0.5)
    model = random_weights(build_model(ModelConfig(d_model=8, n_heads=2, d_mlp=12), task)).eval()
    plain = answer_scores(Subject(model, task))
    handle = model.register_hook("same", "blocks.0.mlp.hook_post", lambda module, inputs, output: output)
    torch.testing.assert_close(answer_scores(Subject(model, task)), plain, rtol=0, atol=1e-5)
    handle.remove()
    model.register_hook("double", "blocks.0.mlp.hook_post", lambda module, inputs, output: 2 * output)
    assert not torch.allclose(answer_scores(Subject(model, task)), plain, atol=1e-2)


def test_a_table_of_spelled_answers_takes_part_in_the_group():
    task = ModularArithmetic(p=11, operation="multiply", format="characters", train_fraction=0.5)
    model = random_weights(build_model(ModelConfig(d_model=8, n_heads=2, d_mlp=12), task)).eval()
    subject = Subject(model, task)
    table, scores = subject.get(cyclic_table), subject.get(answer_scores).reshape(11, 11, 11)
    again = by_number(task, table.logits.numpy())
    np.testing.assert_allclose(again[1:, 1:, 1:], scores[1:, 1:, 1:])


@pytest.mark.parametrize("form", ["numbers", "numbers-bare", "characters"])
@pytest.mark.parametrize("name", example_model_configs())
def test_the_shared_pass_is_that_of_the_model(name, form):
    task, chosen = ModularArithmetic(p=5, format=form, train_fraction=0.5), example_model_configs()[name]
    untied = chosen.model_copy(update={"tied": chosen.tied and form != "numbers"})  # "=" is no answer there
    model = random_weights(build_model(untied, task))
    passed = forward(Subject(model, task))
    assert model.training  # as it was
    model.eval()
    logits, cache = model.run_with_cache(task.tokens(task.all_questions()))
    last, config = model.config.n_layers - 1, model.config
    torch.testing.assert_close(passed.logits, logits[:, -1], rtol=0, atol=1e-5)
    torch.testing.assert_close(passed.residual, cache[f"blocks.{last}.hook_resid_post"][:, -1])
    for block in range(config.n_layers):
        torch.testing.assert_close(
            passed.pattern[:, block], cache[f"blocks.{block}.attn.hook_pattern"][:, :, -1]
        )
        torch.testing.assert_close(
            passed.scores[:, block], cache[f"blocks.{block}.attn.hook_attn_scores"][:, :, -1]
        )
    if config.attention_only:
        assert passed.post_activation is None
        return
    neurons = f"hidden.{config.mlp_depth - 3}." if config.mlp_depth > 2 else ""
    post = cache[f"blocks.{last}.mlp.{neurons}hook_post"][:, -1]
    torch.testing.assert_close(passed.post_activation, post)
    torch.testing.assert_close(passed.pre_activation, cache[f"blocks.{last}.mlp.{neurons}hook_pre"][:, -1])
    mlp = model.blocks[-1].mlp
    torch.testing.assert_close(post @ mlp.W_out + mlp.b_out, cache[f"blocks.{last}.hook_mlp_out"][:, -1])


def test_hooks_that_stand_on_the_model_act_at_their_positions():
    task = ModularArithmetic(p=5, train_fraction=0.5)
    model = random_weights(build_model(ModelConfig(d_model=8, n_heads=2, d_mlp=12), task)).eval()
    plain = forward(Subject(model, task)).logits

    def zero_the_first_position(module, inputs, output):
        return torch.cat([torch.zeros_like(output[:, :1]), output[:, 1:]], dim=1)

    model.register_hook("zero", "blocks.0.mlp.hook_post", zero_the_first_position)
    torch.testing.assert_close(forward(Subject(model, task)).logits, plain)
    model.clear_hooks()
    model.register_hook("double", "blocks.0.mlp.hook_post", lambda module, inputs, output: 2 * output)
    assert not torch.allclose(forward(Subject(model, task)).logits, plain)
