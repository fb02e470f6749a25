"""Choosing the next token: temperature, top-k, generators, refusals."""

import numpy as np
import pytest
import torch
from oracles import example_model_configs, random_weights

from interp_arith.errors import RequestError
from interp_arith.models import ArithmeticTransformer, ModelConfig, build_model
from interp_arith.tasks import Addition

CONFIGS = example_model_configs()
TASK = Addition(n_digits=2)
TOKENS = TASK.examples(["23+45=", "99+1=", "7+8="]).tokens


def make(name: str = "layer-norm") -> ArithmeticTransformer:
    return random_weights(build_model(CONFIGS[name], TASK))


@pytest.fixture
def model() -> ArithmeticTransformer:
    return make()


class TestGenerateNextToken:
    PROMPT = TASK.tokens(["23+45=", "99+1=", "7+8="])

    def planted(self, logits: list[float]) -> ArithmeticTransformer:
        """A model whose logits are those, whatever is asked."""
        model = build_model(ModelConfig(d_model=4, n_heads=1, d_mlp=4, unembed_bias=True), TASK)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            model.unembed.b_U[:] = torch.tensor(logits + [-30.0] * (14 - len(logits)))
        return model

    def test_shapes_and_the_logits_of_the_last_position(self, model):
        chosen, logits = model.generate_next_token(self.PROMPT)
        assert (chosen.shape, chosen.dtype, logits.shape) == ((3, 1), torch.int64, (3, 14))
        assert torch.equal(logits, model(self.PROMPT)[:, -1])
        assert not logits.requires_grad

    def test_logits_are_those_before_temperature(self, model):
        for temperature in (0.0, 0.3, 5.0):
            _, logits = model.generate_next_token(self.PROMPT, temperature=temperature, top_k=2)
            assert torch.equal(logits, model(self.PROMPT)[:, -1])

    def test_without_logits_the_token_comes_alone(self, model):
        chosen = model.generate_next_token(self.PROMPT, temperature=0, return_logits=False)
        assert isinstance(chosen, torch.Tensor)
        assert chosen.shape == (3, 1)

    def test_temperature_zero_takes_the_largest_logit(self, model):
        chosen, logits = model.generate_next_token(self.PROMPT, temperature=0)
        assert torch.equal(chosen[:, 0], logits.argmax(dim=-1))

    @pytest.mark.parametrize("temperature", [1e-320, 1e-3])
    def test_a_small_temperature_is_greedy_too(self, model, temperature):
        chosen, logits = model.generate_next_token(self.PROMPT, temperature=temperature)
        assert torch.equal(chosen[:, 0], logits.argmax(dim=-1))

    def test_the_best_one_alone_is_greedy(self, model):
        for seed in range(5):
            generator = torch.Generator().manual_seed(seed)
            chosen, logits = model.generate_next_token(
                self.PROMPT, temperature=9.0, top_k=1, generator=generator
            )
            assert torch.equal(chosen[:, 0], logits.argmax(dim=-1))

    def test_top_k_keeps_exactly_k_of_equal_logits(self):
        model = self.planted([0.0] * 14)
        prompts = self.PROMPT[:1].expand(2000, -1)
        chosen = model.generate_next_token(
            prompts, top_k=3, generator=torch.Generator().manual_seed(0), return_logits=False
        )
        assert len(chosen.unique()) == 3

    def test_a_seeded_generator_repeats_and_the_global_one_is_left_alone(self, model):
        before = torch.random.get_rng_state()
        prompts = self.PROMPT.repeat(20, 1)
        first, again, other = (
            model.generate_next_token(prompts, generator=torch.Generator().manual_seed(s))[0]
            for s in (0, 0, 1)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert torch.equal(torch.random.get_rng_state(), before)

    @pytest.mark.parametrize(("top_k", "temperature"), [(None, 1.0), (3, 2.0), (50, 0.5)])
    def test_tokens_are_drawn_with_the_probabilities_of_the_softmax(self, top_k, temperature):
        planted = [1.0, 3.0, -0.5, 2.0, 0.5]
        n = 20_000
        chosen = self.planted(planted).generate_next_token(
            self.PROMPT[:1].expand(n, -1),
            temperature=temperature,
            top_k=top_k,
            generator=torch.Generator().manual_seed(0),
            return_logits=False,
        )
        kept = sorted(range(5), key=lambda i: -planted[i])[: top_k or 5]
        weights = {i: float(np.exp(planted[i] / temperature)) for i in kept}
        counts = torch.bincount(chosen[:, 0], minlength=14).tolist()
        expected = [n * weights.get(i, 0.0) / sum(weights.values()) for i in range(14)]
        assert all(count == 0 for count, wanted in zip(counts, expected, strict=True) if not wanted)
        chi_square = sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True) if e)
        assert chi_square < 20  # at most 4 degrees of freedom: p < 0.001 beyond 18.5

    @pytest.mark.parametrize("temperature", [-0.1, -1, float("nan"), float("inf")])
    def test_a_temperature_below_zero_or_without_end_is_refused(self, model, temperature):
        with pytest.raises(
            RequestError, match=rf"temperature = {temperature}; allowed: 0 \(greedy\) or more"
        ):
            model.generate_next_token(self.PROMPT, temperature=temperature)

    @pytest.mark.parametrize("top_k", [0, -3])
    def test_a_top_k_below_one_is_refused(self, model, top_k):
        for temperature in (0.0, 1.0):
            with pytest.raises(RequestError, match=rf"top_k = {top_k}; allowed: 1 to 14, or None for all"):
                model.generate_next_token(self.PROMPT, temperature=temperature, top_k=top_k)

    def test_padding_on_the_left_leaves_the_choice_alone(self, model):
        padded = torch.cat([torch.full((3, 2), 12), self.PROMPT], dim=1)
        mask = torch.cat([torch.zeros(3, 2, dtype=torch.long), torch.ones_like(self.PROMPT)], dim=1)
        _, logits = model.generate_next_token(padded, temperature=0, attention_mask=mask)
        assert torch.allclose(logits, model(self.PROMPT)[:, -1], atol=1e-4)


class TestGenerate:
    PROMPT = TestGenerateNextToken.PROMPT

    def test_greedy_tokens_are_the_argmax_one_by_one(self, model):
        tokens = self.PROMPT
        for _ in range(2):
            tokens = torch.cat([tokens, model(tokens)[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
        assert torch.equal(model.generate(self.PROMPT, 2), tokens)

    def test_no_new_tokens_leave_the_prompt(self, model):
        assert torch.equal(model.generate(self.PROMPT, 0), self.PROMPT)

    def test_the_last_token_may_lie_one_beyond_the_context(self, model):
        assert model.generate(self.PROMPT, 3).shape == (3, 9)  # 8 positions in, a ninth predicted
        with pytest.raises(RequestError, match="9 positions are over the model's context of 8"):
            model.generate(self.PROMPT, 4)

    def test_a_generator_is_used_for_every_token(self, model):
        first, again, other = (
            model.generate(
                self.PROMPT.repeat(20, 1), 3, temperature=2.0, generator=torch.Generator().manual_seed(s)
            )
            for s in (0, 0, 1)
        )
        assert torch.equal(first, again)
        assert all((first[:, i] != other[:, i]).any() for i in (6, 7, 8))

    def test_padding_on_the_left_leaves_the_answer_alone(self):
        config = CONFIGS["nanda"].model_copy(update={"n_ctx": 12})
        model = random_weights(build_model(config, TASK))
        padded = torch.cat([torch.full((3, 2), 12), self.PROMPT], dim=1)
        mask = (torch.arange(8) >= 2).long().expand(3, 8)
        plain = model.generate(self.PROMPT, 3)
        assert torch.equal(model.generate(padded, 3, attention_mask=mask)[:, 2:], plain)
