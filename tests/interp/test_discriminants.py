"""Linear discriminants, all at once, beside scikit-learn's, one at a time."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score

from interp_arith.interp.column_labels import groups
from interp_arith.interp.discriminants import balanced, discriminants, hits, moments, one_hot


def gaussian(n=600, positions=2, width=5, seed=0):
    """Activations that three labellings of 2, 3 and 4 classes shift, and the labels; one misses some questions."""
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.integers(0, classes, n) for classes in (2, 3, 4)], axis=1)
    x = rng.normal(size=(n, positions, width)) @ rng.normal(size=(width, width))
    for probe in range(3):
        x += 0.8 * rng.normal(size=(4, positions, width))[labels[:, probe]]
    labels[: n // 4, 1] = -1
    return torch.from_numpy(x), torch.from_numpy(labels)


def fitted(x, labels, shrinkage, size=0.0):
    group, first = groups(labels)
    found = moments(x, labels, 4, first)
    return discriminants(found, group, torch.full((x.shape[1],), size), shrinkage)


@pytest.mark.parametrize("pos", [0, 1])
@pytest.mark.parametrize(("probe", "classes"), [(0, 2), (1, 3), (2, 4)])
def test_every_probe_predicts_what_a_fit_of_its_own_by_scikit_learn_does(pos, probe, classes):
    (x, labels), (other, _) = gaussian(), gaussian(seed=1)
    found = fitted(x, labels, 0.0).scores(other)[:, pos, probe].argmax(dim=-1)
    has = labels[:, probe] >= 0
    single = LinearDiscriminantAnalysis(priors=[1 / classes] * classes)
    single.fit(x[has, pos].numpy(), labels[has, probe].numpy())
    assert (found.numpy() == single.predict(other[:, pos].numpy())).all()


def test_shrinkage_is_that_of_scikit_learn():
    x, _ = gaussian()
    labels = (torch.arange(len(x)) % 3)[:, None]
    x = x + labels[:, :, None] * torch.linspace(-1, 1, x.shape[-1])
    found = fitted(x, labels, 0.3).scores(x)[:, 0, 0].argmax(dim=-1)
    single = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3)
    single.fit(x[:, 0].numpy(), labels[:, 0].numpy())
    assert (found.numpy() == single.predict(x[:, 0].numpy())).all()
    plain = fitted(x, labels, 0.0).scores(x)[:, 0, 0].argmax(dim=-1)
    assert (found != plain).any()


def test_moments_of_batches_add_up():
    x, labels = gaussian()
    _, first = groups(labels)
    whole = moments(x, labels, 4, first)
    parts = moments(x[:100], labels[:100], 4, first) + moments(x[100:], labels[100:], 4, first)
    for name in ("sums", "counts", "squares"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


def test_probes_that_miss_the_same_questions_are_one_group():
    _, labels = gaussian()
    group, first = groups(labels)
    assert group[0] == group[2] != group[1]
    assert [int(group[probe]) for probe in first] == [0, 1]


def test_balanced_accuracy_is_that_of_scikit_learn_and_leaves_missing_labels_out():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(300, 2, 2, 4, generator=generator)
    labels = torch.randint(0, 4, (300, 2), generator=generator) ** 2 // 3  # uneven: 0, 0, 1, 3
    labels[:40, 0] = -1
    found = balanced(hits(scores, labels), one_hot(labels, 4).sum(dim=0))
    for pos in range(2):
        for probe in range(2):
            has = labels[:, probe] >= 0
            predicted = scores[has, pos, probe].argmax(dim=-1)
            truth = labels[has, probe].numpy()
            recalls = [(predicted.numpy()[truth == c] == c).mean() for c in (0, 1, 3)]
            assert found[pos, probe].item() == pytest.approx(np.mean(recalls))
    sure = torch.randint(0, 2, (300,), generator=generator)
    one = balanced(hits(scores[..., :1, :2], sure[:, None]), one_hot(sure[:, None], 2).sum(dim=0))
    predicted = scores[:, 0, 0, :2].argmax(dim=-1)
    assert one[0, 0].item() == pytest.approx(balanced_accuracy_score(sure, predicted))


def test_activations_that_do_not_vary_give_chance_and_those_without_noise_are_told_apart():
    labels = (torch.arange(300) % 3)[:, None]
    constant = torch.zeros(300, 1, 4)
    exact = one_hot(labels, 4)
    for x, accuracy in ((constant, 1 / 3), (exact, 1.0)):
        scores = fitted(x, labels, 1e-3, size=1.0).scores(x)
        assert torch.isfinite(scores[..., :3]).all()
        found = balanced(hits(scores, labels), one_hot(labels, 4).sum(dim=0))
        assert found.item() == pytest.approx(accuracy)


def test_a_class_that_a_probe_does_not_have_is_never_predicted():
    x, labels = gaussian()
    scores = fitted(x, labels, 1e-3).scores(x)
    assert (scores[:, :, 0, 2:] == -torch.inf).all()
    assert scores[:, :, 0].argmax(dim=-1).max() == 1
