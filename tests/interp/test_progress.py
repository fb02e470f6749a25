"""Restricted and excluded loss, trig fractions: planted answers, and every variant against explicit projections."""

import math

import numpy as np
import pytest
import torch
from interp_oracles import (
    CYCLIC_TASKS,
    by_number,
    cosine_subject,
    cosine_table,
    lookup_model,
    two_number_model,
)

from interp_arith.interp.base import Subject
from interp_arith.interp.cyclic import cyclic_group, cyclic_table
from interp_arith.interp.keys import keys_of
from interp_arith.interp.measures import MEASURES
from interp_arith.interp.progress import grid_losses, mean_losses_without
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.tasks import ModularArithmetic


def take(name, subject):
    return MEASURES[name](subject)


def whole_loss(table):
    """Cross-entropy of each question of a table over the n classes, by numpy."""
    n = len(table)
    right = (np.arange(n)[:, None] + np.arange(n)) % n
    shifted = table - table.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return -np.take_along_axis(log_p, right[..., None], axis=-1)[..., 0]


# ---- planted answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CYCLIC_TASKS)
def test_pure_cosines_are_kept_whole_and_leave_chance_behind(name):
    task = CYCLIC_TASKS[name]
    n, last = cyclic_group(task).n, int(cyclic_group(task).frequencies[-1])
    subject = cosine_subject(task, {2: 1.0, last: 2.0})
    expected = whole_loss(cosine_table(n, {2: 1.0, last: 2.0})).mean()
    np.testing.assert_allclose(take("restricted_loss", subject), expected, rtol=1e-5)
    excluded = take("excluded_loss", subject)
    np.testing.assert_allclose(excluded.sel(removed="all"), math.log(n), rtol=1e-5)
    without_last = whole_loss(cosine_table(n, {2: 1.0})).mean()
    np.testing.assert_allclose(excluded.sel(removed=str(last)), without_last, rtol=1e-5)
    np.testing.assert_allclose(excluded.sel(removed="1"), expected, rtol=1e-5)  # there is nothing to remove
    assert excluded.removed.values.tolist() == ["all", *(str(k) for k in range(1, n // 2 + 1))]


def test_without_keys_all_that_is_kept_is_the_class_mean_and_nothing_is_removed():
    task = CYCLIC_TASKS["odd"]
    table = np.random.default_rng(0).normal(size=(13, 13, 13)) + np.arange(13)
    subject = Subject(lookup_model(task, by_number(task, table)), task, keys=())
    restricted, excluded = take("restricted_loss", subject), take("excluded_loss", subject)
    mean_alone = whole_loss(np.broadcast_to(table.mean(axis=(0, 1)), table.shape)).mean()
    np.testing.assert_allclose(restricted.sel(split="all"), [mean_alone, mean_alone, math.log(13)], rtol=1e-5)
    np.testing.assert_allclose(excluded.sel(removed="all"), take("train_loss", subject), rtol=1e-5)


def test_the_class_mean_is_added_back_to_what_is_kept_and_not_to_what_is_left():
    task = CYCLIC_TASKS["odd"]
    table = cosine_table(13, {3: 2.0}) + 3 * np.sin(np.arange(13))
    subject = Subject(lookup_model(task, by_number(task, table)), task, keys=(3,))
    restricted, excluded = take("restricted_loss", subject), take("excluded_loss", subject)
    for variant in ("sum", "block"):
        np.testing.assert_allclose(
            restricted.sel(variant=variant, split="all"), whole_loss(table).mean(), rtol=1e-5
        )
    cosine_alone = whole_loss(cosine_table(13, {3: 2.0})).mean()
    np.testing.assert_allclose(restricted.sel(variant="cosine", split="all"), cosine_alone, rtol=1e-5)
    train = subject.get(cyclic_table).splits["train"].numpy()
    mean_alone = whole_loss(np.broadcast_to(3 * np.sin(np.arange(13)), table.shape))[train].mean()
    np.testing.assert_allclose(excluded.sel(removed="all"), mean_alone, rtol=1e-5)


def test_keys_that_are_given_stay_fixed():
    task = CYCLIC_TASKS["odd"]
    own = cosine_subject(task, {3: 2.0})
    fixed = cosine_subject(task, {3: 2.0}, keys=(5,))
    assert own.get(keys_of) == (3,)
    np.testing.assert_allclose(
        take("restricted_loss", own), whole_loss(cosine_table(13, {3: 2.0})).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(take("restricted_loss", fixed), math.log(13), rtol=1e-5)
    np.testing.assert_allclose(
        take("excluded_loss", fixed).sel(removed="all"),
        take("excluded_loss", own).sel(removed="5"),
        rtol=1e-6,
    )


def test_a_split_without_questions_has_no_loss():
    task = ModularArithmetic(p=5, train_fraction=1.0)
    restricted = take("restricted_loss", cosine_subject(task, {1: 2.0}))
    assert restricted.isnull().values.tolist() == [[False, False, True]] * 3


# ---- every variant against explicit projections --------------------------------------------------------------


def unit(table):
    return table / np.linalg.norm(table)


def waves_of_the_sum(n, k):
    x, y = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    angle = 2 * np.pi * k * ((x + y) % n) / n
    return [unit(np.cos(angle))] + ([unit(np.sin(angle))] if 2 * k < n else [])


def block_of(n, k):
    x = 2 * np.pi * k * np.arange(n) / n
    waves = [np.ones(n), np.cos(x)] + ([np.sin(x)] if 2 * k < n else [])
    return [unit(np.outer(v, w)) for v in waves for w in waves][1:]


def project(table, directions):
    """The part of T[:, :, z] on directions [x, y], for each z."""
    return sum(d[..., None] * np.einsum("xy,xyz->z", d, table) for d in directions)


def parts_by_hand(table, k):
    n = len(table)
    cosine = unit(cosine_table(n, {k: 1.0}))
    centred = table - table.mean(axis=-1, keepdims=True)
    return {
        "sum": project(table, waves_of_the_sum(n, k)),
        "block": project(table, block_of(n, k)),
        "cosine": cosine * np.vdot(cosine, centred),
    }


@pytest.mark.parametrize(
    ("name", "keys"), [("odd", (2, 6)), ("even", (1, 6)), ("multiply", (5,)), ("divide", (2, 3))]
)
def test_every_variant_is_an_explicit_projection_fitted_on_all_rows(name, keys):
    task = CYCLIC_TASKS[name]
    generator = np.random.default_rng(0)
    planted = generator.normal(size=(task.p, task.p, task.p)) * 2 + generator.normal(size=task.p)
    subject = Subject(lookup_model(task, planted), task, keys)
    table = subject.get(cyclic_table).logits.numpy()
    splits = {name: mask.numpy() for name, mask in subject.get(cyclic_table).splits.items()}
    parts = {k: parts_by_hand(table, k) for k in cyclic_group(task).frequencies.tolist()}
    mean = table.mean(axis=(0, 1))

    restricted = take("restricted_loss", subject)
    for variant, added in (("sum", mean), ("block", mean), ("cosine", 0)):
        kept = whole_loss(sum(parts[k][variant] for k in keys) + added)
        for split in ("all", "train", "test"):
            found = restricted.sel(variant=variant, split=split).item()
            assert found == pytest.approx(kept[splits[split]].mean(), rel=1e-9)

    excluded = take("excluded_loss", subject)
    for variant in ("sum", "cosine"):
        for removed in ("all", *parts):
            gone = sum(parts[k][variant] for k in (keys if removed == "all" else (removed,)))
            expected = whole_loss(table - gone)[splits["train"]].mean()
            assert excluded.sel(variant=variant, removed=str(removed)).item() == pytest.approx(
                expected, rel=1e-9
            )


def test_fitting_on_the_training_rows_alone_would_give_another_number():
    task = CYCLIC_TASKS["odd"]
    planted = np.random.default_rng(0).normal(size=(13, 13, 13)) * 2
    subject = Subject(lookup_model(task, planted), task, keys=(2,))
    table, train = subject.get(cyclic_table).logits.numpy(), subject.get(cyclic_table).splits["train"].numpy()
    waves = np.stack([wave[train] for wave in waves_of_the_sum(13, 2)], axis=1)
    fitted = np.linalg.lstsq(waves, table[train], rcond=None)[0]
    wrong = table.copy()
    wrong[train] -= waves @ fitted
    found = take("excluded_loss", subject).sel(variant="sum", removed="all").item()
    assert abs(found - whole_loss(wrong)[train].mean()) > 1e-3


@pytest.mark.parametrize("height", [1.0, 50.0, 400.0, 1e4])
def test_losses_without_a_part_are_exact_however_high_the_logits(height):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(7, 7, 7, generator=generator, dtype=torch.float64) * height
    parts = torch.randn(3, 7, 7, generator=generator, dtype=torch.float64) * height
    total = (torch.arange(7)[:, None] + torch.arange(7)) % 7
    chosen = torch.rand(7, 7, generator=generator) < 0.4
    found = mean_losses_without(table, parts, chosen)
    assert found.isfinite().all()
    for part, mean in zip(parts, found, strict=True):
        one_by_one = grid_losses(table - part[total])[chosen].mean().item()
        assert mean.item() == pytest.approx(one_by_one, rel=1e-12, abs=1e-13 * height)


# ---- trig fraction -------------------------------------------------------------------------------------------


def test_trig_fractions_by_hand():
    task = CYCLIC_TASKS["odd"]
    angles = 2 * np.pi * 3 * np.arange(13) / 13
    first = np.stack([np.cos(angles)] * 2, axis=1)
    subject = Subject(two_number_model(task, first, first, [2.0, 2.0], np.eye(2, 13)), task, keys=(3,))
    # relu leaves these neurons as they are: sums of a wave of x and one of y, with nothing on waves of x + y
    found = take("trig_fraction", subject)
    assert found.layer.values.tolist() == ["pre-activation", "post-activation", "logits"]
    np.testing.assert_allclose(found, 0, atol=1e-6)


def test_trig_fractions_of_relu_by_explicit_projection():
    task = CYCLIC_TASKS["even"]
    generator = np.random.default_rng(0)
    first, second, out = (generator.normal(size=shape) for shape in ((12, 5), (12, 5), (5, 12)))
    subject = Subject(two_number_model(task, first, second, [0.1] * 5, out), task, keys=(2, 6))
    pre = first[:, None] + second[None, :] + 0.1
    post = np.maximum(pre, 0)
    found = take("trig_fraction", subject)
    for layer, values in (("pre-activation", pre), ("post-activation", post), ("logits", post @ out)):
        part = sum(project(values, waves_of_the_sum(12, k)) for k in (2, 6))
        share = (part**2).sum() / ((values - values.mean(axis=(0, 1))) ** 2).sum()
        assert found.sel(layer=layer).item() == pytest.approx(share, rel=1e-4, abs=1e-7)


def test_planted_cosines_are_all_of_the_logits_variance():
    found = take("trig_fraction", cosine_subject(CYCLIC_TASKS["divide"], {2: 1.0, 5: 2.0}))
    assert found.sel(layer="logits").item() == pytest.approx(1, abs=1e-6)


def test_attention_alone_has_the_logits_alone():
    task = CYCLIC_TASKS["odd"]
    config = ModelConfig(d_model=8, n_heads=2, attention_only=True)
    found = take("trig_fraction", Subject(build_model(config, task), task, keys=(1,)))
    assert found.layer.values.tolist() == ["logits"]
