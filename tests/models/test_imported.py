"""Weights of others: both layouts give the logits that their own code gives, and what does not fit is named."""

import io
import pickle
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from einops import rearrange
from oracles import example_model_configs, random_weights

from interp_arith.errors import RequestError
from interp_arith.models import ModelConfig, build_model
from interp_arith.models.imported import imported_model, layout_of, read_tensors
from interp_arith.tasks import ModularArithmetic

PIZZA = Path(__file__).parent.parent / "external" / "pizza"
CONFIG = ModelConfig(d_model=8, n_heads=2, d_head=3, d_mlp=12)
TASK = ModularArithmetic(p=5, train_fraction=0.5)
TOKENS = TASK.tokens(TASK.all_questions())


def transposed(layers: int = 1, d_vocab_out: int = 5) -> dict[str, torch.Tensor]:
    """Random weights as early grokking code keeps them."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"embed.W_E": (8, 6), "pos_embed.W_pos": (3, 8), "unembed.W_U": (8, d_vocab_out)}
    for layer in range(layers):
        block = {
            **{f"attn.W_{which}": (2, 3, 8) for which in "QKV"},
            "attn.W_O": (8, 6),
            "attn.mask": (3, 3),
            "mlp.W_in": (12, 8),
            "mlp.b_in": (12,),
            "mlp.W_out": (8, 12),
            "mlp.b_out": (8,),
        }
        shapes |= {f"blocks.{layer}.{name}": shape for name, shape in block.items()}
    return {name: torch.randn(shape, generator=generator) / 2 for name, shape in shapes.items()}


def as_early_code_computes(w: dict[str, torch.Tensor], tokens: torch.Tensor, alpha: float) -> torch.Tensor:
    """The logits of one layer at the last position, every matrix multiplied from the left."""
    x = w["embed.W_E"][:, tokens].permute(1, 2, 0) + w["pos_embed.W_pos"][: tokens.shape[1]]
    q, k, v = (torch.einsum("ihd,bpd->biph", w[f"blocks.0.attn.W_{which}"], x) for which in "QKV")
    scores = (q[:, :, -1:] @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5
    z = (alpha * scores.softmax(dim=-1) + 1 - alpha) @ v
    last = x[:, -1] + rearrange(z, "b i 1 h -> b (i h)") @ w["blocks.0.attn.W_O"].T
    neurons = (last @ w["blocks.0.mlp.W_in"].T + w["blocks.0.mlp.b_in"]).relu()
    return (last + neurons @ w["blocks.0.mlp.W_out"].T + w["blocks.0.mlp.b_out"]) @ w["unembed.W_U"]


class TestLayouts:
    @pytest.mark.parametrize("alpha", [1.0, 0.3])
    def test_transposed_weights_give_the_logits_of_their_own_code(self, alpha):
        config, weights = CONFIG.model_copy(update={"attention_coefficient": alpha}), transposed()
        model = imported_model(weights, config, TASK)
        assert not model.training
        wanted = as_early_code_computes(weights, TOKENS, alpha)
        torch.testing.assert_close(model(TOKENS)[:, -1], wanted, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(("file", "alpha"), [("p99zdpze5l", 0.0), ("l8k1hzciux", 1.0)])
    def test_published_models_of_the_transposed_layout_answer_every_question(self, file, alpha):
        task = ModularArithmetic(p=59, format="numbers-bare")
        weights = read_tensors(PIZZA / f"model_{file}.pt")
        model = imported_model(weights, ModelConfig(attention_coefficient=alpha), task)
        tokens = task.tokens(task.all_questions())
        logits = model(tokens)[:, -1]
        assert logits.argmax(dim=-1).tolist() == task.answer(task.all_questions()).tolist()
        wanted = as_early_code_computes(weights, tokens, alpha)
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-3)

    @pytest.mark.parametrize("name", ["nanda", "all-biases", "tied-norm-rotary", "swiglu-rms", "deep-mlp"])
    def test_a_transformer_lens_state_dict_gives_the_same_logits(self, name):
        config = example_model_configs()[name]
        task = ModularArithmetic(p=5, format="numbers-bare")
        model = random_weights(build_model(config, task))
        tokens = task.tokens(task.all_questions())
        assert torch.equal(imported_model(model.state_dict(), config, task)(tokens), model(tokens))

    def test_the_layout_is_told_by_the_axes_of_w_o(self):
        assert layout_of(transposed()) == "transposed"
        assert layout_of(build_model(CONFIG, TASK).state_dict()) == "transformer-lens"

    def test_buffers_of_older_versions_are_left_out(self):
        model = random_weights(build_model(CONFIG, TASK))
        old = {"blocks.0.attn.mask": torch.ones(3, 3) > 0, "blocks.0.attn.IGNORE": torch.tensor(-1e5)}
        assert torch.equal(imported_model(model.state_dict() | old, CONFIG, TASK)(TOKENS), model(TOKENS))

    def test_logits_of_tokens_that_answer_nothing_are_left_out_with_a_warning(self):
        weights = transposed(d_vocab_out=6)
        with pytest.warns(UserWarning, match=r"unembed\.W_U: of 6 logits the last 1, which answer nothing"):
            model = imported_model(weights, CONFIG, TASK)
        wanted = as_early_code_computes(weights, TOKENS, 1.0)[:, :5]
        torch.testing.assert_close(model(TOKENS)[:, -1], wanted, rtol=1e-5, atol=1e-5)

    def test_more_layers_of_the_transposed_layout_are_taken_as_causal_with_a_warning(self):
        config = CONFIG.model_copy(update={"n_layers": 2})
        with pytest.warns(UserWarning, match="attention is causal here"):
            model = imported_model(transposed(layers=2), config, TASK)
        assert not model.forward_analysis(TOKENS)[1][1].triu(diagonal=1).any()

    def test_weights_in_another_precision_become_float32(self):
        weights = {name: tensor.double() for name, tensor in transposed().items()}
        assert {p.dtype for p in imported_model(weights, CONFIG, TASK).parameters()} == {torch.float32}

    def test_the_weights_that_were_given_stay_as_they_are(self):
        weights = transposed()
        before = {name: tensor.clone() for name, tensor in weights.items()}
        model = imported_model(weights, CONFIG, TASK)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        assert all(torch.equal(weights[name], tensor) for name, tensor in before.items())


class TestWhatDoesNotFit:
    def refused(self, weights, match, **options):
        with pytest.raises(RequestError, match=match) as refusal:
            imported_model(weights, CONFIG, TASK, **options)
        assert "\n" not in str(refusal.value)

    def test_a_missing_tensor_is_named_with_the_shape_that_is_wanted(self):
        weights = transposed()
        del weights["blocks.0.mlp.b_in"]
        self.refused(
            weights, re.escape("(transposed layout) do not fit the config: missing blocks.0.mlp.b_in [12]")
        )

    def test_an_unexpected_tensor_is_named_and_can_be_ignored(self):
        weights = transposed() | {"x_embed": torch.zeros(6, 8)}
        self.refused(weights, re.escape("unexpected x_embed [6, 8]"))
        assert imported_model(weights, CONFIG, TASK, ignore=["x_embed"]).cfg.d_model == 8

    def test_a_tensor_of_another_shape_is_named_with_both_as_they_stand_in_the_layout(self):
        weights = transposed() | {"embed.W_E": torch.zeros(8, 7), "blocks.0.attn.W_O": torch.zeros(8, 8)}
        self.refused(weights, re.escape("embed.W_E is [8, 7], and the model wants [8, 6]; "))
        self.refused(weights, re.escape("blocks.0.attn.W_O is [8, 8], and the model wants [8, 6]"))

    def test_the_other_layout_by_force_names_its_shapes(self):
        self.refused(
            transposed(),
            re.escape("embed.W_E is [8, 6], and the model wants [6, 8]"),
            layout="transformer-lens",
        )

    def test_only_the_first_complaints_are_said_and_the_others_counted(self):
        weights = {f"extra.{i}": torch.zeros(1) for i in range(9)} | transposed()
        self.refused(weights, r"extra\.4 \[1\]; and 4 more;")

    def test_weights_that_are_not_finite_are_named(self):
        weights = transposed()
        weights["blocks.0.mlp.W_in"][3, 4] = torch.nan
        self.refused(weights, r"blocks\.0\.mlp\.W_in is not finite")

    def test_a_bias_that_the_config_switches_off_is_refused(self):
        weights = random_weights(
            build_model(CONFIG.model_copy(update={"unembed_bias": True}), TASK)
        ).state_dict()
        self.refused(weights, r"unembed\.b_U is not zero, and the model config switches it off")

    def test_an_ignored_name_that_is_not_there_is_refused(self):
        self.refused(transposed(), "ignore: there is no y_embed among these weights", ignore=["y_embed"])

    @pytest.mark.parametrize(
        "weights", [{}, {"step": 5}, {"a": {"b": torch.zeros(1)}, "c": {"d": torch.zeros(1)}}]
    )
    def test_what_is_no_state_dict_is_refused(self, weights):
        self.refused(weights, "what was given holds .* no state dict")


class TestFiles:
    def test_torch_and_safetensors_files_are_read_alike(self, tmp_path):
        weights = transposed()
        torch.save(weights, tmp_path / "weights.pt")
        safetensors.torch.save_file(weights, tmp_path / "weights.bin")
        for file in ("weights.pt", "weights.bin"):
            found = read_tensors(tmp_path / file)
            assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
            assert set(found) == set(weights)

    def test_a_state_dict_among_other_things_is_found(self, tmp_path):
        torch.save({"model": transposed(), "epoch": 3, "losses": [1.0]}, tmp_path / "all.pt")
        assert set(read_tensors(tmp_path / "all.pt")) == set(transposed())

    def test_a_file_without_one_says_what_it_holds(self, tmp_path):
        torch.save({"epoch": 3, "losses": [1.0]}, tmp_path / "all.pt")
        with pytest.raises(RequestError, match=r"all\.pt holds keys epoch, losses, and no state dict"):
            read_tensors(tmp_path / "all.pt")

    @pytest.mark.parametrize("how", ["pickle", "torch", "whole-model"])
    def test_a_pickle_with_code_in_it_is_refused_in_one_line_and_not_run(self, how, tmp_path):
        trap = Trap(tmp_path / "it-ran")
        file = tmp_path / "weights.pt"
        if how == "pickle":
            file.write_bytes(pickle.dumps(trap))
        elif how == "torch":
            torch.save({"embed.W_E": torch.zeros(1), "trap": trap}, file)
        else:
            torch.save(build_model(CONFIG, TASK).embed, file)
        with pytest.raises(RequestError, match="holds pickled code, none of which was run") as refusal:
            read_tensors(file)
        assert "\n" not in str(refusal.value)
        assert not (tmp_path / "it-ran").exists()

    @pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
    @pytest.mark.parametrize("kind", ["torch", "safetensors"])
    def test_a_file_that_was_cut_short_is_refused(self, kind, share, tmp_path):
        buffer = io.BytesIO()
        torch.save(transposed(), buffer)
        data = buffer.getvalue() if kind == "torch" else safetensors.torch.save(transposed())
        (tmp_path / "short").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(RequestError, match="is no file of tensors alone: it is damaged"):
            read_tensors(tmp_path / "short")

    @pytest.mark.parametrize(
        "text", ["no tensors at all", "{}", '{"a": 1}', "\x80\x04K\x05.", "I5\n.", "(lp0\n."]
    )
    def test_a_file_of_something_else_is_refused(self, text, tmp_path):
        (tmp_path / "text").write_bytes(text.encode("latin-1"))
        with pytest.raises(RequestError, match=r"is no file of tensors alone|and no state dict"):
            read_tensors(tmp_path / "text")

    def test_a_missing_file_and_a_folder_are_refused(self, tmp_path):
        with pytest.raises(RequestError, match="no such file"):
            read_tensors(tmp_path / "nothing.pt")
        with pytest.raises(RequestError, match=r"cannot be read \(Is a directory\)"):
            read_tensors(tmp_path)


class Trap:
    """Pickled, it makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))
