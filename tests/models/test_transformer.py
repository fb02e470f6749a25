"""The hooked model: every hook lives, its calls do what they say, and foreign weights load."""

import copy
import re

import pytest
import torch
from oracles import example_model_configs, published_config, random_weights
from transformer_lens import HookedTransformer

from interp_arith.errors import RequestError
from interp_arith.models import ArithmeticTransformer, ModelConfig, build_model
from interp_arith.models.hooked_parts import hooked_config
from interp_arith.tasks import Addition, ModularArithmetic

CONFIGS = example_model_configs()
TASK = Addition(n_digits=2)
TOKENS = TASK.examples(["23+45=", "99+1=", "7+8="]).tokens
SWITCHED_BY_TRANSFORMER_LENS = re.compile(
    r"attn\.hook_result|hook_attn_in|hook_[qkv]_input|hook_mlp_in|hook_tokens"
)
"""Hook points that are off until one of its `set_use_…` calls."""


def make(name: str = "layer-norm") -> ArithmeticTransformer:
    return random_weights(build_model(CONFIGS[name], TASK))


@pytest.fixture
def model() -> ArithmeticTransformer:
    return make()


def hook_count(model) -> int:
    """Every hook of any kind on any module."""
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()
    )


class TestHooks:
    @pytest.mark.parametrize("name", CONFIGS)
    def test_every_hook_point_fires(self, name):
        model = make(name)
        _, cache = model.run_with_cache(TOKENS)
        silent = {
            hook
            for hook in set(model.hook_dict) - set(cache.keys())
            if not SWITCHED_BY_TRANSFORMER_LENS.search(hook)
        }
        assert silent == set()

    @pytest.mark.parametrize("name", CONFIGS)
    def test_what_a_hook_changes_changes_the_logits(self, name):
        model = make(name)
        plain, cache = model.run_with_cache(TOKENS)
        generator = torch.Generator().manual_seed(1)
        for hook, value in cache.items():
            noise = torch.randn(value.shape, generator=generator)
            if hook.endswith("hook_attn_scores"):
                noise = noise.where(torch.isfinite(value), 0)
            changed = model.run_with_hooks(TOKENS, fwd_hooks=[(hook, lambda x, hook, n=noise: x + n)])
            assert not torch.allclose(changed, plain, atol=1e-3), hook

    @pytest.mark.parametrize("name", ["deep-mlp", "deep-gated-mlp"])
    def test_later_mlp_layers_have_hooks_of_their_own(self, name):
        _, cache = make(name).run_with_cache(TOKENS)
        for layer in (0, 1):
            pre, post = (cache[f"blocks.0.mlp.hidden.{layer}.hook_{which}"] for which in ("pre", "post"))
            assert pre.shape == post.shape == (3, TASK.n_ctx, 12)
            activation = torch.relu if name == "deep-mlp" else torch.nn.functional.silu
            assert torch.allclose(activation(pre), post)

    def test_switched_hooks_fire_once_switched_on(self, model):
        model.set_use_attn_result(True)
        model.set_use_hook_mlp_in(True)
        _, cache = model.run_with_cache(TOKENS)
        assert cache["blocks.0.attn.hook_result"].shape == (3, TASK.n_ctx, 2, 8)
        assert "blocks.1.hook_mlp_in" in cache

    def test_registered_hooks_see_and_replace_outputs(self, model):
        seen = []
        plain = model(TOKENS)
        model.register_hook("watch", "blocks.0.mlp", lambda module, inputs, output: seen.append(output.shape))
        assert torch.equal(model(TOKENS), plain)
        assert seen == [(3, TASK.n_ctx, 8)]
        model.register_hook("ablate", model.blocks[1].attn, lambda module, inputs, output: 0 * output)
        assert not torch.allclose(model(TOKENS), plain, atol=1e-3)

    def test_clear_hooks_leaves_nothing_behind(self, model):
        plain, before = model(TOKENS), hook_count(model)
        model.register_hook("point", "blocks.0.attn.hook_z", lambda module, inputs, output: 0 * output)
        model.register_hook("module", "blocks.1.mlp", lambda module, inputs, output: 0 * output)
        model.add_hook("blocks.0.hook_resid_post", lambda x, hook: 0 * x)
        assert hook_count(model) == before + 3
        assert not torch.allclose(model(TOKENS), plain, atol=1e-3)
        model.clear_hooks()
        assert hook_count(model) == before
        assert torch.equal(model(TOKENS), plain)
        model.register_hook("point", "blocks.0.attn.hook_z", lambda module, inputs, output: None)

    def test_a_name_serves_once_until_its_hook_is_removed(self, model):
        handle = model.register_hook("mine", "blocks.0.mlp", lambda module, inputs, output: None)
        with pytest.raises(RequestError, match="hook 'mine' is registered already; choose another name"):
            model.register_hook("mine", "blocks.1.mlp", lambda module, inputs, output: None)
        handle.remove()
        model.register_hook("mine", "blocks.1.mlp", lambda module, inputs, output: None)

    def test_an_unknown_module_names_the_nearest(self, model):
        with pytest.raises(
            RequestError, match=r"no module is called 'blocks\.0\.mlpp'; did you mean blocks\.0\.mlp"
        ):
            model.register_hook("mine", "blocks.0.mlpp", lambda module, inputs, output: None)
        assert hook_count(model) == 0

    def test_a_module_of_another_model_is_refused(self, model):
        with pytest.raises(RequestError, match="hook 'mine': the module given is no part of this model"):
            model.register_hook("mine", make().blocks[0].mlp, lambda module, inputs, output: None)

    def test_run_with_cache_leaves_no_hook(self, model):
        model.run_with_cache(TOKENS)
        model.forward_analysis(TOKENS, return_cache=True)
        assert hook_count(model) == 0


class TestTiedEmbeddings:
    def test_one_matrix_embeds_and_unembeds(self):
        model = make("tied")
        assert not any("W_U" in name for name, _ in model.named_parameters())
        assert torch.equal(model.W_U, model.W_E.T)
        with torch.no_grad():
            model.embed.W_E[3, 5] = 7.0
        assert model.unembed.W_U[5, 3] == 7.0

    def test_its_gradient_is_the_sum_of_both_uses(self):
        tied, untied = make("tied"), build_model(CONFIGS["nanda"], TASK)
        untied.load_state_dict({**tied.state_dict(), "unembed.W_U": tied.W_U.detach()})
        for model in (tied, untied):
            model(TOKENS).square().mean().backward()
        both = untied.W_E.grad + untied.unembed.W_U.grad.T
        assert untied.W_E.grad.any()
        assert torch.allclose(tied.W_E.grad, both, atol=1e-5 * both.abs().max())

    def test_a_copy_is_tied_to_its_own_embedding(self):
        model = make("tied")
        twin = copy.deepcopy(model)
        with torch.no_grad():
            twin.embed.W_E.zero_()
        assert not twin.W_U.any()
        assert model.W_U.any()

    def test_it_stays_tied_in_another_precision(self):
        assert make("tied").double().W_U.dtype == torch.float64

    def test_its_state_holds_the_matrix_once_and_loads_again(self):
        model, other = make("tied-norm-rotary"), build_model(CONFIGS["tied-norm-rotary"], TASK)
        assert "unembed.W_U" not in model.state_dict()
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(TOKENS), model(TOKENS))


class TestTrainedParameters:
    @pytest.mark.parametrize("name", CONFIGS)
    def test_each_one_has_a_gradient_and_the_others_have_none(self, name):
        model = make(name)
        model(TOKENS).square().mean().backward()
        trained = model.trained_parameters()
        for parameter_name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == (parameter_name in trained), parameter_name

    def test_biases_that_are_switched_off_are_zero_and_not_trained(self):
        model = make("no-biases")
        trained = model.trained_parameters()
        biases = {name: p for name, p in model.named_parameters() if ".b_" in name}
        assert len(biases) == 7
        assert not any(name in trained for name in biases)
        assert not any(p.any() for p in biases.values())

    def test_trained_parameters_alone_make_a_checkpoint(self):
        for name, config in CONFIGS.items():
            model, other = make(name), build_model(config, TASK)
            other.load_state_dict({k: v.detach() for k, v in model.trained_parameters().items()})
            assert torch.equal(other(TOKENS), model(TOKENS)), name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TransformerLens announces its version 4
class TestForeignWeights:
    PLAIN = ("all-biases", "rms-norm", "rotary", "geglu", "attention-only", "layer-norm", "two-layers")

    def plain(self, config: ModelConfig) -> HookedTransformer:
        """A HookedTransformer of TransformerLens' own, with random weights."""
        plain = HookedTransformer(hooked_config(config, 14, 14, TASK.n_ctx))
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter_name, parameter in plain.named_parameters():
                if "b_" not in parameter_name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
        return plain

    @pytest.mark.parametrize("name", PLAIN)
    def test_a_plain_state_dict_gives_the_plain_logits(self, name):
        plain, model = self.plain(CONFIGS[name]), build_model(CONFIGS[name], TASK)
        model.load_state_dict(plain.state_dict())
        assert torch.equal(model(TOKENS), plain(TOKENS))

    def test_a_plain_tied_state_dict_gives_the_plain_logits(self):
        plain, model = self.plain(CONFIGS["tied"]), build_model(CONFIGS["tied"], TASK)
        with torch.no_grad():
            plain.unembed.W_U.copy_(plain.W_E.T)
        model.load_state_dict(plain.state_dict())
        assert torch.allclose(model(TOKENS), plain(TOKENS), rtol=1e-5, atol=1e-5)

    def test_an_untied_unembedding_is_refused_by_a_tied_model(self):
        plain = self.plain(CONFIGS["tied"])
        with pytest.raises(
            RequestError, match=r"unembed\.W_U is not the transpose of embed\.W_E; set model\.tied"
        ):
            build_model(CONFIGS["tied"], TASK).load_state_dict(plain.state_dict())

    def test_a_bias_that_the_config_switches_off_is_refused(self):
        plain = self.plain(CONFIGS["nanda"])
        with torch.no_grad():
            plain.unembed.b_U[3] = 0.5
        with pytest.raises(
            RequestError, match=r"unembed\.b_U is not zero, and the model config switches it off"
        ):
            build_model(CONFIGS["nanda"], TASK).load_state_dict(plain.state_dict())

    def test_a_state_dict_of_another_shape_or_without_a_matrix_is_refused(self):
        model = build_model(CONFIGS["nanda"], TASK)
        state = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(RuntimeError, match=r"Missing key.*embed\.W_E"):
            model.load_state_dict({k: v for k, v in state.items() if k != "embed.W_E"})
        with pytest.raises(RuntimeError, match="size mismatch"):
            model.load_state_dict({**state, "embed.W_E": torch.zeros(3, 3)})

    def test_loading_changes_no_mapping_that_was_given(self):
        plain = self.plain(CONFIGS["tied"])
        state = dict(plain.state_dict())
        state["unembed.W_U"] = state["embed.W_E"].T.clone()
        keys = set(state)
        build_model(CONFIGS["tied"], TASK).load_state_dict(state)
        assert set(state) == keys


class TestForwardAnalysis:
    @pytest.mark.parametrize("name", CONFIGS)
    def test_attention_rows_look_back_only_and_sum_to_one_unless_part_of_them_is_constant(self, name):
        model, alpha = make(name), CONFIGS[name].attention_coefficient
        sums = alpha + (1 - alpha) * torch.arange(1, TASK.n_ctx + 1)
        logits, attention = model.forward_analysis(TOKENS)
        assert torch.equal(logits, model(TOKENS))
        assert len(attention) == model.cfg.n_layers
        for layer in attention:
            assert layer.shape == (3, model.cfg.n_heads, TASK.n_ctx, TASK.n_ctx)
            assert torch.allclose(layer.sum(dim=-1), sums, atol=1e-5)
            assert not layer.triu(diagonal=1).any()

    @pytest.mark.parametrize("training", [True, False])
    def test_training_mode_is_restored(self, model, training):
        model.train(training)
        modes = []
        handle = model.register_hook("mode", "blocks.0.mlp", lambda m, i, o: modes.append(m.training))
        model.forward_analysis(TOKENS)
        handle.remove()
        assert modes == [False]
        assert model.training is model.blocks[0].mlp.training is training

    def test_training_mode_is_restored_after_a_failure_too(self, model):
        def fail(module, inputs, output):
            raise ZeroDivisionError

        model.train()
        model.register_hook("fail", "blocks.0.mlp", fail)
        with pytest.raises(ZeroDivisionError):
            model.forward_analysis(TOKENS)
        assert model.training

    def test_nothing_has_a_gradient(self, model):
        logits, attention, cache = model.forward_analysis(TOKENS, return_cache=True)
        assert not logits.requires_grad
        assert not any(layer.requires_grad for layer in attention)
        assert not any(value.requires_grad for value in cache.values())
        assert torch.equal(cache["blocks.1.attn.hook_pattern"], attention[1])
        assert cache["blocks.0.mlp.hook_post"].shape == (3, TASK.n_ctx, 12)

    @pytest.mark.parametrize("name", ["nanda", "layer-norm", "rotary", "no-positions", "tied-norm-rotary"])
    def test_padding_on_the_left_leaves_the_logits_alone(self, name):
        config = CONFIGS[name].model_copy(update={"n_ctx": TASK.n_ctx + 5})
        model = random_weights(build_model(config, TASK))
        padding = torch.full((3, 4), 12)
        mask = torch.cat([torch.zeros_like(padding), torch.ones_like(TOKENS)], dim=1)
        padded, attention = model.forward_analysis(torch.cat([padding, TOKENS], dim=1), mask)
        plain, plain_attention = model.forward_analysis(TOKENS)
        assert torch.allclose(padded[:, 4:], plain, atol=1e-4)
        assert torch.allclose(attention[0][:, :, 4:, 4:], plain_attention[0], atol=1e-5)
        assert not attention[0][:, :, 4:, :4].any()

    def test_questions_of_different_lengths_can_be_padded_together(self):
        model = make("layer-norm")
        short = TOKENS[:1, 2:]
        rows = torch.cat([torch.cat([torch.full((1, 2), 12), short], dim=1), TOKENS[1:2]])
        mask = torch.tensor([[0, 0] + [1] * (TASK.n_ctx - 2), [1] * TASK.n_ctx])
        logits, _ = model.forward_analysis(rows, mask)
        assert torch.allclose(logits[0, 2:], model(short)[0], atol=1e-4)
        assert torch.allclose(logits[1], model(TOKENS[1:2])[0], atol=1e-4)

    @pytest.mark.parametrize(
        ("tokens", "message"),
        [
            (
                torch.zeros(3, dtype=torch.long),
                r"given shape \[3\] of torch.int64; allowed: integers \[batch, pos\]",
            ),
            (torch.zeros(1, 3), r"given shape \[1, 3\] of torch.float32"),
            (torch.zeros(1, 0, dtype=torch.long), r"given shape \[1, 0\]"),
            (
                torch.zeros(1, 9, dtype=torch.long),
                "9 positions are over the model's context of 8; shorten them",
            ),
            (torch.tensor([[1, 14]]), "ids from 1 to 14; allowed: 0 to 13"),
            (torch.tensor([[-1, 3]]), "ids from -1 to 3; allowed: 0 to 13"),
        ],
    )
    def test_tokens_that_the_model_cannot_read_are_refused(self, model, tokens, message):
        for call in (model.forward_analysis, model.generate_next_token):
            with pytest.raises(RequestError, match=message):
                call(tokens)

    def test_a_mask_of_another_shape_is_refused(self, model):
        with pytest.raises(
            RequestError, match=r"attention_mask: shape \[3, 2\] does not match tokens \[3, 8\]"
        ):
            model.forward_analysis(TOKENS, torch.ones(3, 2, dtype=torch.long))


def test_the_published_model_answers_a_question():
    task = Addition(n_digits=10)
    model = build_model(published_config(final_norm=True), task)
    answer = model.generate(task.tokens(["23+45="]), 11)[:, 22:]
    assert answer.shape == (1, 11)
    assert len(task.read_answer(answer)) == 1


def test_class_tasks_have_fewer_outputs_than_inputs():
    task = ModularArithmetic(p=7)
    model = build_model(ModelConfig(d_model=8, d_mlp=8), task)
    _, logits = model.generate_next_token(task.tokens(["3+5="]), temperature=0)
    assert logits.shape == (1, 7)
