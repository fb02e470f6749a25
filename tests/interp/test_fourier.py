"""The transform, spectra, cosines, keys and neurons, on planted answers."""

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
from oracles import example_model_configs, random_weights

from interp_arith.errors import RequestError
from interp_arith.interp.base import Subject
from interp_arith.interp.cyclic import cyclic_group, cyclic_table
from interp_arith.interp.fourier import (
    by_sum,
    fourier_basis,
    gini,
    grid_transform,
    spectrum,
    sum_waves,
    sums,
)
from interp_arith.interp.keys import keys_of
from interp_arith.interp.measures import MEASURES
from interp_arith.interp.neurons import clusters
from interp_arith.interp.spectra import neuron_logits
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.tasks import ModularArithmetic, scoring

SMALL = ModelConfig(d_model=16, n_heads=2, d_mlp=24)


def take(name, subject):
    return MEASURES[name](subject)


@pytest.mark.parametrize("n", [2, 3, 4, 12, 113])
def test_the_basis_is_orthonormal_and_whole(n):
    basis = fourier_basis(n)
    torch.testing.assert_close(basis @ basis.T, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-13)


def test_the_basis_of_four_by_hand():
    half = math.sqrt(0.5)
    by_hand = [[0.5] * 4, [half, 0, -half, 0], [0, half, 0, -half], [0.5, -0.5, 0.5, -0.5]]
    np.testing.assert_allclose(fourier_basis(4), by_hand, atol=1e-15)


def test_a_spectrum_is_the_norm_of_numpys_transform():
    rows = np.random.default_rng(0).normal(size=(9, 5))
    transformed = np.abs(np.fft.rfft(rows, axis=0, norm="ortho"))[1:]
    np.testing.assert_allclose(
        spectrum(torch.from_numpy(rows)), math.sqrt(2) * np.linalg.norm(transformed, axis=1)
    )


def test_the_sign_row_has_no_sine_to_double_it():
    sign = torch.tensor([[3.0], [-3.0], [3.0], [-3.0]])
    np.testing.assert_allclose(spectrum(sign), [0, 6], atol=1e-12)


def test_gini_of_one_hot_and_of_equals():
    assert gini(torch.tensor([0.0, 0.0, 7.0, 0.0])).item() == pytest.approx(1 - 1 / 4)
    assert gini(torch.full((5,), 2.0)).item() == pytest.approx(0)
    assert gini(torch.tensor([3.0, 1.0])).item() == pytest.approx(0.25)  # (−1·1 + 1·3) / (2·4)


@pytest.mark.parametrize("n", [5, 6])
def test_the_grid_transform_is_the_two_dimensional_one(n):
    values = torch.randn(n, n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 5
    found, basis = grid_transform(values), fourier_basis(n)
    whole = torch.einsum("ix,jy,xyu->iju", basis, basis, values)
    torch.testing.assert_close(found.mean, values.mean(dim=(0, 1)))
    torch.testing.assert_close(found.energy, (values - values.mean(dim=(0, 1))).square().sum(dim=(0, 1)))
    for k in range(1, n // 2 + 1):
        rows = [0, 2 * k - 1, 2 * k] if 2 * k < n else [0, 2 * k - 1]
        block = whole[rows][:, rows].clone()
        block[0, 0] = 0
        torch.testing.assert_close(found.block[k - 1, : len(rows), : len(rows)], block)
        torch.testing.assert_close(found.block_energy()[k - 1], block.square().sum(dim=(0, 1)))


@pytest.mark.parametrize("n", [5, 6])
def test_waves_of_the_sum_are_projections(n):
    values = torch.randn(n, n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    waves, total = sum_waves(values), sums(n)
    torch.testing.assert_close(grid_transform(values).sum_waves(), waves)
    parts = by_sum(waves, n)
    for k in range(1, n // 2 + 1):
        angle = 2 * math.pi * k * total.double() / n
        directions = [angle.cos(), angle.sin()] if 2 * k < n else [angle.cos()]
        part = torch.zeros_like(values)
        for wave, direction in enumerate(directions):
            unit = direction / direction.norm()
            torch.testing.assert_close(waves[k - 1, wave], torch.einsum("xy,xyu->u", unit, values))
            part += unit[..., None] * waves[k - 1, wave]
        torch.testing.assert_close(parts[k - 1][total], part)
    assert n % 2 or not waves[-1, 1].abs().max() > 1e-12


# ---- logits and keys -----------------------------------------------------------------------------------------

PLANTED = [(name, k) for name, task in CYCLIC_TASKS.items() for k in cyclic_group(task).frequencies]


@pytest.mark.parametrize(("name", "k"), PLANTED)
def test_one_cosine_is_one_key_and_explains_all(name, k):
    subject = cosine_subject(CYCLIC_TASKS[name], {k: 3.0})
    assert take("logit_cosines", subject).sel(freq=k).item() == pytest.approx(1, abs=1e-6)
    assert take("logit_variance_explained", subject).item() == pytest.approx(1, abs=1e-6)
    assert subject.get(keys_of) == (k,)


@pytest.mark.parametrize("name", CYCLIC_TASKS)
def test_several_cosines_are_several_keys(name):
    task = CYCLIC_TASKS[name]
    last = int(cyclic_group(task).frequencies[-1])
    subject = cosine_subject(task, {2: 3.0, last: 4.0})
    found = take("key_frequencies", subject)
    assert found.dtype == bool
    assert found.freq[found].values.tolist() == [2, last] == list(subject.get(keys_of))
    cosines = take("logit_cosines", subject)
    lengths = np.array([3.0, 4.0 * (math.sqrt(2) if 2 * last == cyclic_group(task).n else 1.0)])
    np.testing.assert_allclose(cosines.sel(freq=[2, last]), lengths / np.linalg.norm(lengths), atol=1e-6)
    assert take("logit_variance_explained", subject).item() == pytest.approx(1, abs=1e-6)


def test_a_cosine_with_the_wrong_sign_is_no_key():
    subject = cosine_subject(CYCLIC_TASKS["odd"], {2: 3.0, 5: -1.0})
    assert subject.get(keys_of) == (2,)
    assert take("logit_cosines", subject).sel(freq=5).item() < -0.3
    assert take("logit_variance_explained", subject).item() == pytest.approx(1, abs=1e-6)


def test_what_all_classes_share_explains_nothing_and_takes_nothing_away():
    task = CYCLIC_TASKS["odd"]
    table = cosine_table(13, {3: 2.0}) + 50 * np.random.default_rng(0).normal(size=(13, 13, 1))
    subject = Subject(lookup_model(task, by_number(task, table)), task)
    assert take("logit_variance_explained", subject).item() == pytest.approx(1, abs=1e-5)


def test_logits_that_do_not_depend_on_the_class_have_no_keys():
    task = CYCLIC_TASKS["odd"]
    subject = Subject(lookup_model(task, np.zeros((13, 13, 13))), task)
    assert subject.get(keys_of) == ()
    assert take("logit_variance_explained", subject).item() == 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("operation", ["add", "multiply"])
def test_random_weights_have_no_keys(operation, seed):
    task = ModularArithmetic(p=31, operation=operation)
    model = build_model(SMALL, task).eval()
    model.initialize(torch.Generator().manual_seed(seed))
    subject = Subject(model, task)
    assert subject.get(keys_of) == ()
    assert take("logit_variance_explained", subject).item() < 0.02
    assert take("clustered_share", subject).item() == 0


@pytest.mark.parametrize("operation", ["multiply", "divide"])
def test_multiplication_is_sparse_in_its_own_characters_and_dense_in_the_additive_ones(operation):
    task = ModularArithmetic(p=23, operation=operation, train_fraction=0.5)
    model = lookup_model(task, by_number(task, cosine_table(22, {3: 2.0, 7: 2.0})))
    sums = task.model_copy(update={"operation": {"multiply": "add", "divide": "subtract"}[operation]})
    assert take("logit_variance_explained", Subject(model, task)).item() == pytest.approx(1, abs=1e-6)
    assert take("logit_variance_explained", Subject(model, sums)).item() < 0.1
    with torch.no_grad():
        character = cosine_table(22, {3: 1.0})[:, 0, 0]
        model.embed.W_E.zero_()
        model.embed.W_E[cyclic_group(task).numbers, 0] = torch.from_numpy(character).float()
    assert take("gini_embedding", Subject(model, task)).item() == pytest.approx(1 - 1 / 11, abs=1e-5)
    assert take("gini_embedding", Subject(model, sums)).item() < 0.6


def test_given_keys_are_used_and_the_models_own_are_still_told():
    subject = cosine_subject(CYCLIC_TASKS["odd"], {2: 3.0}, keys=(5, 1))
    assert subject.get(keys_of) == (1, 5)
    found = take("key_frequencies", subject)
    assert found.freq[found].values.tolist() == [2]


@pytest.mark.parametrize("keys", [(0,), (7,), (2, 13)])
def test_keys_out_of_range_are_refused(keys):
    subject = cosine_subject(CYCLIC_TASKS["odd"], {2: 3.0}, keys=keys)
    with pytest.raises(RequestError, match=r"key frequencies: given \[\d+\]; allowed: 1 to 6"):
        take("restricted_loss", subject)


# ---- weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["odd", "even", "multiply"])
def test_spectra_of_planted_weights_are_one_hot(name):
    task = CYCLIC_TASKS[name]
    group, k = cyclic_group(task), 4
    subject = Subject(build_model(SMALL, task).eval(), task)
    wave = torch.from_numpy(cosine_table(group.n, {k: 1.0})[:, 0, 0]).float()
    model = subject.model
    with torch.no_grad():
        model.embed.W_E.normal_(generator=torch.Generator().manual_seed(0))  # "=" and 0 may be anything
        model.embed.W_E[group.numbers] = wave[:, None] * torch.arange(1.0, 17)
        model.unembed.W_U.copy_(
            torch.randn(model.unembed.W_U.shape, generator=torch.Generator().manual_seed(1))
        )
        model.unembed.W_U[:, group.numbers] = torch.arange(1.0, 17)[:, None] * wave
    found = take("embedding_spectrum", subject)
    height = np.linalg.norm(np.arange(1, 17)) * math.sqrt(group.n / 2)
    np.testing.assert_allclose(found, np.where(found.freq == k, height, 0), atol=1e-4)
    m = len(group.frequencies)
    assert take("gini_embedding", subject).item() == pytest.approx(1 - 1 / m, abs=1e-5)
    assert take("gini_unembedding", subject).item() == pytest.approx(1 - 1 / m, abs=1e-5)
    assert take("unembedding_spectrum", subject).idxmax("freq").item() == k


@pytest.mark.parametrize("name", ["layer-norm", "rms-norm", "layer-norm-no-final", "deep-gated-mlp", "nanda"])
def test_neuron_logits_are_what_a_neuron_adds_up_to_the_norms_scale(name):
    task = ModularArithmetic(p=7, train_fraction=0.5)
    model = random_weights(build_model(example_model_configs()[name], task)).eval()
    residual = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(0))
    rows = neuron_logits(model)
    for W_out, row in zip(model.blocks[-1].mlp.W_out, rows, strict=True):
        added = unscaled_logits(model, residual + W_out) - unscaled_logits(model, residual)
        torch.testing.assert_close(added, row, rtol=1e-4, atol=1e-4)


def unscaled_logits(model, stream):
    """The logits of a residual stream, less the biases' part, times the scale that the final norm divides by."""
    config = model.config
    if config.normalization == "none" or not config.final_norm:
        return model.unembed(stream)[0, 0]
    centred = stream - stream.mean() if config.normalization == "layer" else stream
    scale = (centred.square().mean() + config.norm_epsilon).sqrt()
    biases = model.unembed(model.ln_final(torch.zeros_like(stream)))
    return ((model.unembed(model.ln_final(stream)) - biases) * scale)[0, 0]


def test_singular_values_by_hand():
    task = ModularArithmetic(p=3, train_fraction=0.5)
    model = build_model(ModelConfig(d_model=3, n_heads=1, d_mlp=3), task)
    with torch.no_grad():
        model.embed.W_E.copy_(torch.tensor([[0.0, 2, 0], [3, 0, 0], [0, 0, 1], [9, 9, 9]]))
        model.blocks[0].mlp.W_out.copy_(torch.eye(3))
        model.unembed.W_U.copy_(torch.diag(torch.tensor([1.0, 5, 4])))
    subject = Subject(model, task)
    np.testing.assert_allclose(take("embedding_singular_values", subject), [3, 2, 1])
    np.testing.assert_allclose(take("unembedding_singular_values", subject), [5, 4, 1])


def test_weight_norms_are_of_trained_tensors_and_a_tied_one_counts_once():
    task = ModularArithmetic(p=7, format="numbers-bare", train_fraction=0.5)
    model = random_weights(build_model(ModelConfig(d_model=4, n_heads=1, d_mlp=4, tied=True), task))
    found = take("weight_norm", Subject(model, task))
    assert "unembed.W_U" not in found.parameter
    assert "blocks.0.attn.b_Q" not in found.parameter
    assert found.sel(parameter="embed.W_E").item() == pytest.approx(model.embed.W_E.square().sum().item())
    by_hand = sum(p.detach().double().square().sum().item() for p in model.trained_parameters().values())
    assert found.sel(parameter="total").item() == pytest.approx(by_hand)


# ---- neurons -------------------------------------------------------------------------------------------------


def planted_neurons(task):
    """Two neurons at k = 2, three at k = 5, one that mixes, one dead; each only as large as relu leaves it linear."""
    angles = 2 * np.pi * np.arange(task.p) / task.p
    first = np.stack(
        [np.cos(2 * angles), np.sin(2 * angles + 0.3)]
        + [np.cos(5 * angles + phase) for phase in (0, 1, 2)]
        + [np.cos(2 * angles) + np.cos(5 * angles), -1 - np.cos(angles)],
        axis=1,
    )
    return first, np.array([2.0, 2, 2, 2, 2, 4, 0])


def test_neurons_of_planted_frequencies_cluster_and_a_dead_one_does_not():
    task = CYCLIC_TASKS["odd"]
    first, bias = planted_neurons(task)
    subject = Subject(two_number_model(task, first, first, bias, np.eye(7, task.p)), task)
    np.testing.assert_array_equal(
        take("neuron_frequencies", subject)[[0, 1, 2, 3, 4, 6]], [2, 2, 5, 5, 5, np.nan]
    )
    np.testing.assert_allclose(take("neuron_fractions", subject), [1, 1, 1, 1, 1, 0.5, np.nan], atol=1e-5)
    sizes = take("neuron_clusters", subject)
    assert sizes.sel(freq=[2, 5]).values.tolist() == [2, 3]
    assert sizes.sum() == 5
    assert take("clustered_share", subject).item() == pytest.approx(5 / 7)
    assert take("dead_share", subject).item() == pytest.approx(1 / 7)


def test_a_sign_neuron_counts_its_two_by_two_block():
    task = CYCLIC_TASKS["even"]
    sign = np.array([[1.0], [-1.0]] * 6)
    subject = Subject(two_number_model(task, sign, sign, [2.0], np.eye(1, 12)), task)
    assert take("neuron_frequencies", subject).item() == 6
    assert take("neuron_fractions", subject).item() == pytest.approx(1, abs=1e-6)


def hooked_test_loss(subject, change):
    """The test loss of a run in which the neurons of the last position are changed."""
    model, task = subject.model, subject.task
    config = model.config
    deep = f"hidden.{config.mlp_depth - 3}." if config.mlp_depth > 2 else ""
    name = f"blocks.{config.n_layers - 1}.mlp.{deep}hook_post"
    questions = task.all_questions()

    def replace(neurons, hook):
        return torch.cat([neurons[:, :-1], change(neurons[:, -1])[:, None]], dim=1)

    with torch.no_grad():
        logits = model.run_with_hooks(task.tokens(questions), fwd_hooks=[(name, replace)])[:, -1]
    tested = {tuple(pair) for pair in task.split("test").tolist()}
    rows = [i for i, pair in enumerate(questions.tolist()) if tuple(pair) in tested]
    targets = task.answer_tokens(questions)[rows]
    return scoring.cross_entropy(
        logits[rows, None], targets, torch.ones_like(targets, dtype=torch.bool)
    ).item()


def test_cluster_ablation_is_a_run_with_these_neurons_at_their_mean():
    task = CYCLIC_TASKS["odd"]
    first, bias = planted_neurons(task)
    out = np.random.default_rng(0).normal(size=(7, task.p))
    subject = Subject(two_number_model(task, first, first, bias, out), task)
    found = take("cluster_ablation", subject)
    for k, members in ((2, [0, 1]), (5, [2, 3, 4])):

        def to_the_mean(neurons, members=members):
            return neurons.index_copy(1, torch.tensor(members), neurons[:, members].mean(0).expand(169, -1))

        assert found.sel(freq=k).item() == pytest.approx(hooked_test_loss(subject, to_the_mean), rel=1e-5)
    assert found.sel(freq=3).item() == pytest.approx(take("test_loss", subject).item(), rel=1e-6)
    assert found.sel(freq=2).item() != pytest.approx(found.sel(freq=3).item(), rel=1e-2)


@pytest.mark.parametrize("name", ["nanda", "layer-norm", "rms-norm-no-final", "deep-gated-mlp", "rotary"])
@pytest.mark.parametrize("operation", ["add", "divide"])
def test_plane_ablation_is_a_run_without_these_waves(name, operation):
    task = ModularArithmetic(p=7, operation=operation, train_fraction=0.5)
    model = random_weights(build_model(example_model_configs()[name], task)).eval()
    subject = Subject(model, task, keys=(1, 3))
    found, group = take("plane_ablation", subject), cyclic_group(task)
    assert np.isnan(found.sel(freq=2))

    def without(neurons, k):
        changed = neurons.clone()
        log = {int(number): x for x, number in enumerate(group.numbers)}
        second = {int(number): y for y, number in enumerate(group.second)}
        rows = [i for i, (a, b) in enumerate(task.all_questions().tolist()) if a in log and b in second]
        total = torch.tensor([log[a] + second[b] for a, b in task.all_questions()[rows].tolist()])
        angle = 2 * math.pi * k * total.double() / group.n
        for wave in (angle.cos(), angle.sin()):
            if wave.norm() > 1e-6:
                unit = (wave / wave.norm()).float()
                changed[rows] -= torch.outer(unit, unit @ changed[rows])
        return changed

    for k in (1, 3):
        by_hooks = hooked_test_loss(subject, lambda neurons, k=k: without(neurons, k))
        assert found.sel(freq=k).item() == pytest.approx(by_hooks, rel=1e-4)


def test_a_neuron_belongs_to_one_cluster():
    task = CYCLIC_TASKS["odd"]
    first, bias = planted_neurons(task)
    subject = Subject(two_number_model(task, first, first, bias, np.eye(7, task.p)), task)
    assert subject.get(clusters).sum(dim=0).max() == 1
    assert subject.get(cyclic_table).logits.shape == (13, 13, 13)
