"""One update of an ensemble: every seed by itself, whatever it trains beside."""

import math

import pytest
import torch
from chaos.small_runs import EARLY_STOP, differences, small_config, train_small
from oracles import example_model_configs

from interp_arith.models.lean import answer_logits
from interp_arith.models.transformer import build_model
from interp_arith.tasks import Addition, ModularArithmetic, scoring
from interp_arith.tasks.base import Examples
from interp_arith.tasks.sources import make_source
from interp_arith.training import ensemble, step
from interp_arith.training.lanes import fresh_weights
from interp_arith.training.optimizers import OPTIMIZERS


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


def stacked(config, seeds=(0, 1)) -> tuple[dict[str, torch.Tensor], Examples]:
    """Initial weights and training questions of several seeds."""
    configs = [config.with_seed(seed) for seed in seeds]
    examples = [c.task.examples(c.task.split("train")) for c in configs]
    parameters = ensemble.stack([fresh_weights(c) for c in configs])
    return parameters, ensemble.stack_examples(examples, torch.device("cpu"))


def update(config, parameters, batch, state=None) -> step.StepReport:
    state = step.initial_state(config, parameters) if state is None else state
    positions = config.task.answer_positions
    return step.update(config, parameters, state, batch, positions, step=1, multiplier=1.0)


class TestStep:
    @pytest.mark.parametrize("parts", [2, 5, 24, 100])
    def test_accumulated_gradients_are_those_of_the_whole_batch(self, parts):
        task = ModularArithmetic(p=11, format="characters", train_fraction=0.2, mask_first_n=1)
        whole = small_config(task=task, batch_size=None)
        parameters, batch = stacked(whole)
        positions = task.answer_positions
        loss, largest, gradients = step._gradients(whole, parameters, batch, positions, None)
        in_parts = step._gradients(whole.replace(accumulation=parts), parameters, batch, positions, None)
        assert torch.allclose(in_parts[0], loss, rtol=1e-6)
        assert torch.allclose(in_parts[1], largest)
        for name, gradient in gradients.items():
            assert torch.allclose(in_parts[2][name], gradient, atol=1e-7), name

    def test_the_reported_loss_and_logit_are_those_of_the_hooked_model(self):
        config = small_config()
        parameters, batch = stacked(config)
        before = [ensemble.member(parameters, index) for index in range(2)]
        report = update(config, parameters, batch)
        for index, weights in enumerate(before):
            model = build_model(config.model, config.task)
            model.load_state_dict(weights)
            part = Examples(batch.tokens[index], batch.targets[index], batch.mask[index])
            logits = model(part.tokens)[:, list(config.task.answer_positions)]
            expected = scoring.cross_entropy(logits, part.targets, part.mask)
            assert report.loss[index].item() == pytest.approx(expected.item(), rel=1e-6)
            assert report.largest_logit[index].item() == pytest.approx(logits.abs().max().item(), rel=1e-5)

    def test_each_seed_is_clipped_by_its_own_norm(self):
        optimizer = {"kind": "adamw", "learning_rate": 0.5, "epsilon": 1.0, "weight_decay": 0.0}
        config = small_config(optimizer=optimizer)
        parameters, batch = stacked(config)
        parameters["unembed.W_U"][1] *= 8
        _, _, gradients = step._gradients(config, parameters, batch, config.task.answer_positions, None)
        norms = [
            math.sqrt(sum(float(g[seed].double().square().sum()) for g in gradients.values()))
            for seed in range(2)
        ]
        limit = (norms[0] + norms[1]) / 2
        assert norms[0] < limit < norms[1]
        before = {name: p.clone() for name, p in parameters.items()}
        report = update(config.replace(clip_norm=limit), parameters, batch)
        assert report.gradient_norm.tolist() == pytest.approx(norms, rel=1e-5)
        for name, gradient in gradients.items():
            for seed, scale in ((0, 1.0), (1, limit / norms[1])):
                g = gradient[seed] * scale
                expected = before[name][seed] - 0.5 * g / (g.abs() + 1.0)  # AdamW's first step
                assert torch.allclose(parameters[name][seed], expected, atol=1e-6), name

    def test_a_seed_with_infinite_gradients_is_left_alone_and_its_loss_scale_halves(self):
        config = small_config(precision="fp16")
        parameters, batch = stacked(config)
        state = step.initial_state(config, parameters)
        state["good_steps"] += 7
        plain_config = config.replace(precision="fp32")
        _, _, gradients = step._gradients(plain_config, parameters, batch, config.task.answer_positions, None)
        alone = {name: p.clone() for name, p in parameters.items()}
        alone_state = step.initial_state(plain_config, alone)
        config.optimizer.update(alone, gradients, alone_state, step=1, multiplier=1.0)
        before = {name: p.clone() for name, p in parameters.items()}
        gradients["unembed.W_U"][1, 0, 0] = torch.inf
        finite = torch.tensor([True, False])
        step._update_where_finite(config, parameters, gradients, state, finite, 1, 1.0)
        for name in parameters:
            assert torch.equal(parameters[name][0], alone[name][0]), name
            assert torch.equal(parameters[name][1], before[name][1]), name
            assert not state[f"exp_avg/{name}"][1].any()
        assert state["loss_scale"].tolist() == [2.0**16, 2.0**15]
        assert state["good_steps"].tolist() == [8, 0]

    def test_the_loss_scale_doubles_after_2000_good_steps(self):
        config = small_config(precision="fp16")
        parameters, _ = stacked(config)
        state = step.initial_state(config, parameters)
        state["good_steps"] += torch.tensor([1999.0, 1998.0])
        gradients = {name: torch.zeros_like(p) for name, p in parameters.items()}
        finite = torch.tensor([True, True])
        step._update_where_finite(config, parameters, gradients, state, finite, 1, 1.0)
        assert state["loss_scale"].tolist() == [2.0**17, 2.0**16]
        assert state["good_steps"].tolist() == [0, 1999]

    def test_scaled_gradients_are_scaled_back(self):
        config = small_config(precision="fp32")
        parameters, batch = stacked(config)
        positions = config.task.answer_positions
        _, _, plain = step._gradients(config, parameters, batch, positions, None)
        scale = torch.tensor([2.0**10, 2.0**4])
        _, _, scaled = step._gradients(config, parameters, batch, positions, scale)
        assert all(torch.allclose(scaled[name], plain[name], atol=1e-8) for name in plain)

    def test_fp16_learns_with_its_loss_scaled(self):
        config = small_config(precision="fp16")
        parameters, batch = stacked(config)
        state = step.initial_state(config, parameters)
        losses = []
        for number in range(1, 15):
            positions = config.task.answer_positions
            report = step.update(config, parameters, state, batch, positions, step=number, multiplier=1.0)
            losses.append(report.loss)
        assert (losses[-1] < losses[0] - 0.1).all()
        assert all(p.dtype == torch.float32 for p in parameters.values())


class TestEnsemble:
    @pytest.mark.parametrize("name", example_model_configs())
    def test_mapping_over_seeds_gives_the_logits_of_the_loop(self, name):
        model = example_model_configs()[name]
        task = ModularArithmetic(p=11, format="characters", train_fraction=0.3)
        parameters, batch = stacked(small_config(model=model, task=task))
        positions = task.answer_positions
        loop = ensemble.logits(model, parameters, batch.tokens, positions)
        mapped = torch.vmap(lambda p, t: answer_logits(model, p, t, positions, mapped=True))(
            parameters, batch.tokens
        )
        assert torch.allclose(mapped, loop, atol=1e-5)

    @pytest.mark.parametrize(
        "fields",
        [
            *({"optimizer": {"kind": kind}} for kind in OPTIMIZERS),
            {"loss": "stablemax", "clip_norm": 0.3},
            {"batch_size": None, "model": {"d_model": 7, "n_heads": 1, "d_mlp": 5, "normalization": "layer"}},
            {"precision": "bf16", "accumulation": 3},
        ],
        ids=[*OPTIMIZERS, "stablemax-clipped", "full-batch-odd-sizes", "bf16-accumulated"],
    )
    def test_a_seed_among_others_is_bitwise_the_seed_alone(self, fields, tmp_path):
        config = small_config(**fields)
        together = train_small(config, tmp_path / "together", [3, 1])
        for run, seed in zip(together, [3, 1], strict=True):
            (alone,) = train_small(config, tmp_path / "alone", [seed])
            assert differences(alone.path, run.path) == []

    @pytest.mark.parametrize("fields", [{}, {"precision": "bf16", "accumulation": 3}, {"batch_size": None}])
    def test_large_seeds_are_computed_one_after_the_other_and_to_the_same_bit(
        self, fields, monkeypatch, tmp_path
    ):
        config, at_once, original = small_config(**fields), set(), ensemble.logits

        def watched(model, parameters, tokens, *rest, **named):
            if torch.is_grad_enabled():
                at_once.add(len(tokens))
            return original(model, parameters, tokens, *rest, **named)

        monkeypatch.setattr(ensemble, "logits", watched)
        small = train_small(config, tmp_path / "small", [3, 1])
        assert at_once == {2}
        at_once.clear()
        monkeypatch.setattr(step, "_SMALL", 0)
        large = train_small(config, tmp_path / "large", [3, 1])
        assert at_once == {1}
        for one, other in zip(small, large, strict=True):
            assert differences(one.path, other.path) == []

    @pytest.mark.parametrize("kind", ["adamw", "muon", "grokfast", "orthograd"])
    def test_large_seeds_one_by_one_are_updated_as_together(self, kind, monkeypatch):
        """In fp16, where a seed has a loss scale of its own too; at 2⁴⁰ its gradients are not finite."""
        config = small_config(precision="fp16", accumulation=2, clip_norm=0.05, optimizer={"kind": kind})
        before, batch = stacked(config, (0, 1, 2))

        def updated() -> dict[str, torch.Tensor]:
            parameters = {name: p.clone() for name, p in before.items()}
            state = step.initial_state(config, parameters)
            state["loss_scale"].copy_(torch.tensor([2.0**10, 2.0**40, 2.0**3]))
            return parameters | state | update(config, parameters, batch, state).columns()

        small = updated()
        monkeypatch.setattr(step, "_SMALL", 0)
        large = updated()
        assert small["gradient_norm"].isfinite().tolist() == [True, False, True]
        assert not torch.equal(small["embed.W_E"], before["embed.W_E"])
        assert small.keys() == large.keys()
        for name, expected in small.items():
            torch.testing.assert_close(large[name], expected, rtol=0, atol=0, equal_nan=True, msg=name)

    @pytest.mark.parametrize("questions", [1, 2, 3])
    @pytest.mark.parametrize("loss", ["softmax", "stablemax"])
    def test_wherever_a_seed_lies_in_memory_its_gradients_are_the_same_to_the_bit(self, questions, loss):
        """Sizes of which hardly any fills 16 bytes, so that what the second seed has begins anywhere."""
        config = small_config(loss=loss, model={"d_model": 7, "n_heads": 1, "d_mlp": 5})
        parameters, everything = stacked(config, range(4))
        batch = everything.each(lambda x: x[:, :questions])
        positions = config.task.answer_positions
        together, largest, gradients = step._gradients(config, parameters, batch, positions, None)
        for seed in range(4):
            one = {name: p[seed : seed + 1].clone() for name, p in parameters.items()}
            examples = batch.each(lambda x, seed=seed: x[seed : seed + 1])
            alone = step._gradients(config, one, examples, positions, None)
            assert torch.equal(together[seed], alone[0][0])
            assert torch.equal(largest[seed], alone[1][0])
            assert all(torch.equal(gradients[name][seed], g[0]) for name, g in alone[2].items())

    def test_a_seed_that_stops_early_does_not_change_the_others(self, tmp_path):
        config = small_config(stop=EARLY_STOP)
        together = train_small(config, tmp_path / "together", [0, 1, 2])
        assert [run.checkpoints()[-1].step for run in together] == [24, 24, 14]
        for run, seed in zip(together, [0, 1, 2], strict=True):
            (alone,) = train_small(config, tmp_path / "alone", [seed])
            assert [d for d in differences(alone.path, run.path) if not d.startswith("state/")] == []

    def test_a_large_set_scores_the_same_to_the_bit_whoever_is_scored_beside_it(self):
        config = small_config(task=ModularArithmetic(p=113))
        configs = [config.with_seed(seed) for seed in range(3)]
        parameters = ensemble.stack([fresh_weights(c) for c in configs])
        questions = config.task.examples(config.task.all_questions())
        positions = config.task.answer_positions
        device = torch.device("cpu")
        together = ensemble.score(
            config.model, parameters, ensemble.stack_examples([questions] * 3, device), positions
        )
        alone = ensemble.score(
            config.model,
            {name: p[1:2] for name, p in parameters.items()},
            ensemble.stack_examples([questions], device),
            positions,
        )
        for name, values in alone.items():
            assert torch.equal(together[name][1:2], values), name

    def test_each_seed_is_scored_with_its_own_ids_and_questions(self):
        task = Addition(n_digits=2, val_questions=4, test_questions=6)
        model = {"d_model": 8, "n_heads": 2, "d_mlp": 12, "positions": {"kind": "abacus", "max_place": 8}}
        config = small_config(task=task, model=model)
        parameters = ensemble.stack([fresh_weights(config.with_seed(seed)) for seed in range(3)])
        sets = [make_source(task, 16, seed, None).evaluation["test"] for seed in range(3)]
        examples = ensemble.stack_examples(sets, torch.device("cpu"))
        moved = torch.tensor([0, 2, 4])[:, None, None].expand(3, examples.tokens.shape[1], 1)
        ids = config.model.positions.ids(task, examples.tokens, moved)
        together = ensemble.score(config.model, parameters, examples, task.answer_positions, ids)
        assert len(set(together["loss"].tolist())) == 3
        for seed in range(3):
            own = slice(seed, seed + 1)
            alone = ensemble.score(
                config.model,
                {name: p[own] for name, p in parameters.items()},
                examples.rows(own),
                task.answer_positions,
                {name: rows[own] for name, rows in ids.items()},
            )
            for name, values in alone.items():
                assert torch.equal(together[name][own], values), name

    def test_scores_are_those_of_the_hooked_model(self):
        config = small_config()
        weights = fresh_weights(config)
        model = build_model(config.model, config.task)
        model.load_state_dict(weights)
        examples = config.task.examples(config.task.split("test"))
        logits = model(examples.tokens)[:, list(config.task.answer_positions)]
        right = (logits.argmax(dim=-1) == examples.targets).double().mean().item()
        scores = ensemble.score(
            config.model,
            ensemble.stack([weights]),
            ensemble.stack_examples([examples], torch.device("cpu")),
            config.task.answer_positions,
        )
        loss = scoring.cross_entropy(logits, examples.targets, examples.mask).item()
        assert scores["loss"].item() == pytest.approx(loss, rel=1e-6)
        assert scores["accuracy"].item() == scores["exact_match"].item() == pytest.approx(right)

    def test_the_weight_norm_is_the_sum_of_squares(self):
        parameters = {"a": torch.tensor([[3.0, 4.0], [0.0, 1.0]]), "b": torch.tensor([[2.0], [-3.0]])}
        assert ensemble.weight_norm(parameters).tolist() == [29.0, 10.0]


@pytest.mark.parametrize(("precision", "inside"), [("tf32", "high"), ("fp32", "highest")])
def test_products_are_tf32_within_the_step_where_the_config_says_so(precision, inside):
    seen = []

    def watched(*given):
        seen.append(torch.get_float32_matmul_precision())
        return step.losses(*given)

    config = small_config(precision=precision)
    parameters, batch = stacked(config)
    state, positions = step.initial_state(config, parameters), config.task.answer_positions
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        kernels = step.Kernels(losses=watched)
        step.update(config, parameters, state, batch, positions, step=1, multiplier=1.0, kernels=kernels)
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == [inside]
