"""What Chughtai et al. 2023 published for their addition mod 113, seed 1; `pytest --external DIR` compares it.

DIR, or DIR/C113_T_seed1, holds model.pt and summary_metrics.json. The values without a published counterpart were
computed elsewhere, from the definitions alone, in float32 with float64 losses.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from interp_arith.interp.base import Subject
from interp_arith.interp.keys import keys_of, table_waves
from interp_arith.interp.measures import MEASURES
from interp_arith.interp.neurons import CLUSTER_FRACTION
from interp_arith.interp.progress import cosine_parts, losses_by_sum
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.tasks import ModularArithmetic

pytestmark = pytest.mark.external
P, TRAINED = 113, 3830
FREQUENCIES = range(1, 57)


@pytest.fixture(scope="module")
def folder(external: Path) -> Path:
    named = external / "C113_T_seed1"
    return named if named.is_dir() else external


@pytest.fixture(scope="module")
def published(folder: Path) -> dict[str, float]:
    return json.loads((folder / "summary_metrics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def subject(folder: Path) -> Subject:
    order = torch.randperm(P * P, generator=torch.Generator().manual_seed(1))
    trained = np.zeros(P * P, dtype=bool)
    trained[order[:TRAINED].numpy()] = True
    task = ModularArithmetic(p=P).with_split(trained.reshape(P, P))
    model = build_model(ModelConfig(), task).eval()
    state = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(
        {name: value for name, value in state.items() if name not in ("x_embed", "y_embed")}
    )
    return Subject(model, task)


def take(name, subject):
    return MEASURES[name](subject)


def of_each(published, name):
    """A value of each frequency; the name has its place as {}."""
    return [published[name.format(k)] for k in FREQUENCIES]


def test_losses_and_accuracies(subject, published):
    for ours, theirs in (("train_loss", "train_loss"), ("test_loss", "test_loss")):
        assert take(ours, subject).item() == pytest.approx(published[theirs], rel=1e-6)
    assert take("train_accuracy", subject).item() == published["train_acc"]
    assert take("test_accuracy", subject).item() == published["test_acc"]


def test_the_cosine_of_every_frequency(subject, published):
    cosines = of_each(published, "logit_freq_{}_rep_trace_similarity")
    np.testing.assert_allclose(take("logit_cosines", subject), cosines, rtol=1e-4, atol=1e-7)
    explained = take("logit_variance_explained", subject).item()
    assert explained == pytest.approx(published["percent_logits_explained"], rel=1e-6)


def test_the_key_frequencies_the_last_one_among_them(subject):
    assert subject.get(keys_of) == (16, 30, 56)
    found = take("key_frequencies", subject)
    assert found.freq[found].values.tolist() == [16, 30, 56]


def test_the_excluded_loss_of_every_frequency_and_of_all_keys(subject, published):
    excluded = take("excluded_loss", subject)
    each = of_each(published, "logit_excluded_loss_freq_{}_rep")
    np.testing.assert_allclose(
        excluded.sel(variant="cosine", removed=list(map(str, FREQUENCIES))), each, rtol=1e-4
    )
    every = excluded.sel(removed="all")
    assert every.sel(variant="cosine").item() == pytest.approx(
        published["total_logit_excluded_loss"], rel=1e-6
    )
    assert every.sel(variant="sum").item() == pytest.approx(9.0558, rel=1e-5)


def test_the_restricted_loss_of_every_frequency_and_of_all_keys(subject, published):
    parts = cosine_parts(subject.get(table_waves))
    each = [losses_by_sum(part).mean().item() for part in parts]
    np.testing.assert_allclose(each, of_each(published, "logit_restricted_loss_freq_{}_rep"), rtol=1e-4)
    restricted = take("restricted_loss", subject).sel(split="all")
    theirs = published["total_logit_restricted_loss"]
    assert restricted.sel(variant="cosine").item() == pytest.approx(theirs, rel=1e-4)
    assert restricted.sel(variant="sum").item() == pytest.approx(5.568e-08, rel=1e-4)


def test_the_share_of_every_frequency_in_the_weights(subject, published):
    for ours, theirs in (("embedding", "x_embed"), ("unembedding", "unembed")):
        energy = take(f"{ours}_spectrum", subject).values ** 2
        varying = 1 - published[f"percent_{theirs}_trivial_rep"]
        shares = of_each(published, f"percent_{theirs}_freq_{{}}_rep")
        np.testing.assert_allclose(energy / energy.sum() * varying, shares, rtol=1e-4, atol=1e-8)


def test_the_concentration_of_the_spectra_and_the_clusters_of_neurons(subject):
    assert take("gini_embedding", subject).item() == pytest.approx(0.654, abs=5e-4)
    assert take("gini_unembedding", subject).item() == pytest.approx(0.838, abs=5e-4)
    clustered = take("neuron_fractions", subject) >= CLUSTER_FRACTION
    assert clustered.sum().item() == 495
    assert take("clustered_share", subject).item() == 495 / 512
    assert set(np.unique(take("neuron_frequencies", subject)[clustered])) == {16, 30, 56}
    assert take("neuron_clusters", subject).sel(freq=[16, 30, 56]).sum().item() == 495
