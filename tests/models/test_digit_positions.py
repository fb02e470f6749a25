"""Positions that follow digits: rows worked by hand, what an offset does, and what the hooked model shows of them."""

import copy
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import digit_model_configs, random_weights
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

from interp_arith.errors import RequestError
from interp_arith.models import Abacus, ArithmeticTransformer, Coupled, ModelConfig, SegmentDigit, build_model
from interp_arith.tasks import Addition, ModularArithmetic, PermutationComposition, Text
from interp_arith.tasks.base import Places
from interp_arith.tasks.sampling import Moves

SMALL = {"d_model": 8, "n_heads": 2, "d_mlp": 12}
CONFIGS = digit_model_configs()
SCHEMES = [SegmentDigit(), Abacus(), Coupled()]
TASK = Addition(n_digits=2)
TOKENS = TASK.examples(["23+45=", "99+1=", "7+8="]).tokens  # 2 3 + 4 5 = 8 6, and so on


def make(name, **fields) -> ArithmeticTransformer:
    return random_weights(build_model(CONFIGS[name].model_copy(update=fields), TASK))


def ids_of(scheme, question="23+45=", offset: int | list[int] | None = None) -> dict[str, list[int]]:
    offset = None if offset is None else torch.tensor([offset if isinstance(offset, list) else [offset]])
    ids = scheme.ids(TASK, TASK.examples([question]).tokens, offset)
    return {name: rows[0].tolist() for name, rows in ids.items()}


class TestRows:
    @pytest.mark.parametrize(
        ("scheme", "rows"),
        [
            #                             2  3  +  4  5  =  8  6
            (SegmentDigit(), {"segment": [1, 1, 0, 2, 2, 0, 3, 3], "place": [3, 2, 1, 3, 2, 1, 2, 3]}),
            (Abacus(), {"place": [2, 1, 0, 2, 1, 0, 1, 2]}),
            (Coupled(), {"place": [3, 2, 1, 3, 2, 1, 2, 3]}),
        ],
    )
    def test_by_hand(self, scheme, rows):
        assert ids_of(scheme) == ids_of(scheme, "99+1=") == rows

    @pytest.mark.parametrize(
        ("scheme", "place"),
        [
            (SegmentDigit(), [8, 7, 6, 8, 7, 6, 7, 8]),
            (Abacus(), [7, 6, 0, 7, 6, 0, 6, 7]),
            (Coupled(), [8, 7, 6, 8, 7, 6, 7, 8]),
        ],
    )
    def test_moved_by_five(self, scheme, place):
        assert ids_of(scheme, offset=5) == ids_of(scheme) | {"place": place}

    @pytest.mark.parametrize(
        ("scheme", "place"),
        [
            # Units and signs are moved by 1, tens and what is above by 4.
            (SegmentDigit(), [7, 3, 2, 7, 3, 2, 3, 7]),
            (Abacus(), [6, 2, 0, 6, 2, 0, 2, 6]),
            (Coupled(), [7, 3, 2, 7, 3, 2, 3, 7]),
        ],
    )
    def test_with_a_gap_above_the_units(self, scheme, place):
        assert ids_of(scheme, offset=[1, 4])["place"] == place

    @pytest.mark.parametrize(
        ("fields", "moves"),
        [
            ({"max_place": 10}, Moves(7, 0, 7, 3)),  # three digits in an answer
            ({"max_place": 10, "gap": 2}, Moves(7, 2, 7, 3)),
            ({"max_place": 10, "gap": 20, "offset": 3}, Moves(3, 7, 7, 3)),
        ],
    )
    def test_offset_and_gap_go_as_far_as_the_places(self, fields, moves):
        assert Coupled(**fields).moves(TASK) == moves

    def test_coupled_padding_has_row_0_and_only_a_sign_behind_a_digit_is_coupled(self):
        # <pad> <pad> 7 - 1 2 = - 5, an answer with its sign first
        place = torch.tensor([-1, -1, 0, -1, 1, 0, -1, -1, 0])
        places = Places(torch.tensor([-1, -1, 0, -1, 1, 1, -1, 2, 2]), place)
        found = Coupled().ids_at(places, torch.tensor([3]))
        assert found["place"].tolist() == [0, 0, 5, 4, 6, 5, 4, 0, 5]

    @pytest.mark.parametrize("scheme", SCHEMES)
    @given(tokens=st.lists(st.integers(0, 13), min_size=2, max_size=8), offset=st.integers(0, 20))
    def test_an_offset_moves_all_places_alike_and_nothing_else(self, scheme, tokens, offset):
        tokens = torch.tensor([tokens])
        plain, moved = scheme.ids(TASK, tokens), scheme.ids(TASK, tokens, torch.tensor([[offset]]))
        assert torch.equal(moved["place"] - plain["place"], offset * (plain["place"] > 0))
        assert all(torch.equal(moved[name], plain[name]) for name in plain if name != "place")

    @pytest.mark.parametrize("scheme", SCHEMES)
    @given(written=st.lists(st.integers(0, 13), min_size=1, max_size=8), data=st.data())
    def test_tokens_that_are_written_later_change_nothing_before_them(self, scheme, written, data):
        asked = TASK.tokens(["3+7="])
        whole = torch.cat([asked, torch.tensor([written])], dim=1)
        kept = data.draw(st.integers(asked.shape[1], whole.shape[1]))
        before, after = scheme.ids(TASK, whole[:, :kept]), scheme.ids(TASK, whole)
        assert all(torch.equal(before[name], after[name][:, :kept]) for name in after)

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_stacked_questions_have_the_rows_that_they_have_alone(self, scheme):
        stacked, offset = (
            torch.stack([TOKENS, TOKENS.flip(0)]),
            torch.tensor([[[0, 0], [1, 3], [2, 2]], [[5, 6], [4, 4], [3, 9]]]),
        )
        together = scheme.ids(TASK, stacked, offset)
        for index in range(2):
            alone = scheme.ids(TASK, stacked[index], offset[index])
            assert all(torch.equal(together[name][index], alone[name]) for name in alone)

    def test_places_beyond_the_table_share_its_last_row(self):
        table = torch.arange(12.0).reshape(4, 3)
        found = Abacus(max_place=3).parts({"pos_embed.W_place": table}, {"place": torch.tensor([[0, 3, 7]])})
        assert torch.equal(found["place"], table[torch.tensor([[0, 3, 3]])])


class TestHookedModel:
    @pytest.mark.parametrize("name", CONFIGS)
    def test_hooks_show_what_each_table_adds(self, name):
        model = make(name)
        _, cache = model.run_with_cache(TOKENS)
        ids = model.position_ids(TOKENS)
        for table, rows in ids.items():
            shown = cache[f"pos_embed.hook_{table}"]
            assert torch.equal(shown, getattr(model.pos_embed, f"W_{table}")[rows])
        assert torch.equal(cache["hook_pos_embed"], sum(cache[f"pos_embed.hook_{table}"] for table in ids))
        assert torch.equal(cache["blocks.0.hook_resid_pre"], cache["hook_embed"] + cache["hook_pos_embed"])

    @pytest.mark.parametrize("name", ["segment-digit", "coupled"])
    def test_a_hook_replaces_what_a_table_adds(self, name):
        model = make(name)
        plain = model(TOKENS)
        changed = model.run_with_hooks(
            TOKENS, fwd_hooks=[("pos_embed.hook_place", lambda x, hook: torch.zeros_like(x))]
        )
        assert not torch.allclose(changed, plain)
        with torch.no_grad():
            model.pos_embed.W_place.zero_()
        assert torch.equal(model(TOKENS), changed)

    def test_digits_of_a_column_are_told_apart_by_their_segment_alone(self):
        added = {name: make(name).run_with_cache(TOKENS)[1]["hook_pos_embed"][0] for name in CONFIGS}
        for name in ("abacus", "coupled"):
            assert torch.equal(added[name][1], added[name][4])
            assert torch.equal(added[name][1], added[name][6])
        assert not torch.allclose(added["segment-digit"][1], added["segment-digit"][4])

    @pytest.mark.parametrize(
        ("scheme", "shapes"),
        [
            (SegmentDigit(max_place=7), {"W_segment": (4, 8), "W_place": (9, 8)}),
            (Abacus(max_place=7), {"W_place": (8, 8)}),
            (Coupled(max_place=7), {"W_place": (9, 8)}),
        ],
    )
    def test_its_tables_are_all_that_is_trained_in_place_of_positions(self, scheme, shapes):
        model = build_model(ModelConfig(**SMALL, positions=scheme), TASK)
        plain = build_model(ModelConfig(**SMALL, positions={"kind": "none"}), TASK)
        assert {n: tuple(p.shape) for n, p in model.pos_embed.named_parameters()} == shapes
        others = set(model.trained_parameters()) - set(plain.trained_parameters())
        assert others == {f"pos_embed.{name}" for name in shapes}

    def test_tables_start_normal_of_the_std_of_all_weights(self):
        model = build_model(ModelConfig(d_model=64, init_scale=0.5, positions=Abacus(max_place=200)), TASK)
        assert model.pos_embed.W_place.std().item() == pytest.approx(0.5 / 8, rel=0.05)

    @pytest.mark.parametrize("name", CONFIGS)
    def test_padding_on_the_left_leaves_the_logits_alone(self, name):
        model = make(name, n_ctx=TASK.n_ctx + 3)
        padding = torch.full((3, 3), 12)
        mask = torch.cat([torch.zeros_like(padding), torch.ones_like(TOKENS)], dim=1)
        padded, attention = model.forward_analysis(torch.cat([padding, TOKENS], dim=1), mask)
        assert torch.allclose(padded[:, 3:], model(TOKENS), atol=1e-4)
        assert not any(layer[:, :, 3:, :3].any() for layer in attention)

    def test_a_copy_computes_the_same(self):
        model = make("segment-digit")
        assert torch.equal(copy.deepcopy(model)(TOKENS), model(TOKENS))

    def test_answers_are_written_token_by_token(self):
        model = make("coupled")
        prompts = TASK.tokens(["23+45=", "99+1="])
        written = model.generate(prompts, 3)
        for position in range(6, 9):
            assert torch.equal(model(written[:, :position])[:, -1].argmax(dim=-1), written[:, position])

    def test_a_state_dict_goes_from_model_to_model_whatever_the_length_of_numbers(self):
        model, wider = make("segment-digit"), build_model(CONFIGS["segment-digit"], Addition(n_digits=4))
        wider.load_state_dict(model.state_dict())
        assert torch.equal(wider.pos_embed.W_place, model.pos_embed.W_place)


class TestRefusals:
    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("task", [ModularArithmetic(p=7), PermutationComposition(), Text()])
    def test_a_task_without_digits(self, scheme, task):
        message = f"the {task.kind} task has no digits; choose positions learned, rotary or none"
        with pytest.raises(RequestError, match=message):
            build_model(ModelConfig(**SMALL, positions=scheme), task)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"max_place": 10}, "up to 11 digits; set max_place to 11 or more, or task.n_digits to 9"),
            (
                {"max_place": 12, "offset": 4},
                "up to 11 digits, moved by up to 4; set max_place to 15 or more, or task.n_digits to 7",
            ),
            ({"max_place": 1}, "up to 11 digits; set max_place to 11 or more"),
        ],
    )
    def test_numbers_with_more_places_than_rows(self, fields, message):
        with pytest.raises(RequestError, match=re.escape(message) + "$"):
            build_model(ModelConfig(**SMALL, positions=Abacus(**fields)), Addition(n_digits=10))

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_answers_whose_columns_cannot_be_told_before_they_end(self, scheme):
        task = Addition(padded=False, end_token=True, answer_order="units-last")
        with pytest.raises(RequestError, match="set answer_order to units-first, or padded to True"):
            build_model(ModelConfig(**SMALL, positions=scheme), task)

    def test_the_suggested_length_fits(self):
        assert build_model(ModelConfig(**SMALL, positions=Abacus(max_place=10)), Addition(n_digits=9))

    def test_an_offset_that_leaves_no_place(self):
        with pytest.raises(
            RequestError, match="offset = 5 leaves digits no place of max_place = 5; allowed: 0 to 4"
        ):
            Coupled(max_place=5, offset=5)

    def test_a_model_without_a_task(self):
        with pytest.raises(RequestError, match=r"positions abacus follow the digits .* use build_model"):
            ArithmeticTransformer(ModelConfig(**SMALL, positions=Abacus()), 14, 14, 8)

    def test_a_cache_of_keys(self):
        model = make("coupled")
        cache = TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", 3)
        whole = torch.ones_like(TOKENS)
        model(TOKENS[:, :5], past_kv_cache=cache, attention_mask=whole[:, :5])
        message = r"positions coupled need the whole question, .* holds 5 of its tokens"
        with pytest.raises(RequestError, match=message):
            model(TOKENS[:, 5:], past_kv_cache=cache, attention_mask=whole[:, 5:])


def test_the_largest_offset_is_the_one_given_or_as_far_as_the_places_go():
    task = Addition(n_digits=10)
    assert [Coupled(offset=offset).moves(task).offset for offset in (None, 0, 7)] == [89, 0, 7]
    assert ModelConfig().positions.moves(task) == Moves()
