"""Tables and choices: nearest names, frozen values, unknown fields."""

from typing import Literal

import pytest
from pydantic import Field, ValidationError

from interp_arith.errors import RequestError, unknown
from interp_arith.models import POSITIONS
from interp_arith.registry import Choice, Registry
from interp_arith.tasks import TASKS, ModularArithmetic


class Apple(Choice):
    kind: Literal["apple"] = "apple"
    weight: float = Field(1.0, gt=0)


class Apricot(Choice):
    kind: Literal["apricot"] = "apricot"
    stone: bool


FRUIT: Registry[Choice] = Registry("fruit", Apple, Apricot)


def test_a_table_lists_its_entries_in_order():
    assert list(FRUIT) == ["apple", "apricot"]
    assert len(FRUIT) == 2
    assert FRUIT["apple"] is Apple
    assert dict(FRUIT) == {"apple": Apple, "apricot": Apricot}


def test_a_table_can_be_asked_for_a_name():
    assert "apple" in FRUIT
    assert "pear" not in FRUIT


def test_a_name_that_is_nearly_right_gets_a_hint():
    with pytest.raises(RequestError) as caught:
        FRUIT["aple"]
    assert str(caught.value) == "no fruit is called 'aple'; did you mean apple? there are: apple, apricot"


def test_a_name_like_none_gets_the_list():
    with pytest.raises(RequestError) as caught:
        FRUIT["zzz"]
    assert str(caught.value) == "no fruit is called 'zzz'; there are: apple, apricot"


def test_several_near_names_are_all_offered():
    assert "did you mean apricots or apricot?" in str(unknown("fruit", "apricotts", ["apricot", "apricots"]))


def test_a_mapping_becomes_the_choice_that_it_names():
    assert FRUIT.parse({"kind": "apple", "weight": 2}) == Apple(weight=2.0)
    assert FRUIT.parse(Apple()) == Apple()


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "fruit: no kind given; there are: apple, apricot"),
        ({"weight": 2}, "no kind given"),
        ({"kind": "appel"}, "no fruit is called 'appel'; did you mean apple"),
        ({"kind": ["apple"]}, "no fruit is called"),
        ({"kind": None}, "no fruit is called 'None'"),
    ],
)
def test_a_mapping_without_a_known_kind_is_refused(mapping, message):
    with pytest.raises(RequestError, match=message):
        FRUIT.parse(mapping)


def test_a_choice_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Apple().weight = 3.0
    with pytest.raises(ValidationError, match="frozen"):
        ModularArithmetic().p = 7


def test_an_unknown_field_names_the_nearest():
    with pytest.raises(RequestError) as caught:
        Apple(wieght=2)
    assert (
        str(caught.value)
        == "no field of apple is called 'wieght'; did you mean weight? there are: kind, weight"
    )


def test_a_value_that_is_not_allowed_is_named_with_what_is():
    with pytest.raises(RequestError, match=r"apple: weight = -1: .*greater than 0"):
        Apple(weight=-1)
    with pytest.raises(RequestError, match=r"weight = 'heavy': .*valid number"):
        Apple(weight="heavy")
    with pytest.raises(RequestError, match="kind = 'pear': Input should be 'apple'"):
        Apple(kind="pear")


def test_a_missing_field_is_named():
    with pytest.raises(RequestError, match="apricot: stone: Field required"):
        Apricot()


def test_every_complaint_is_one_line():
    for wrong in ({"weight": -1}, {"weight": "x", "other": 1}, {"kind": 3}):
        with pytest.raises(RequestError) as caught:
            Apple(**wrong)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("table", [TASKS, POSITIONS])
def test_the_key_of_every_entry_is_its_kind(table):
    for name, entry in table.items():
        assert entry.model_fields["kind"].default == name
        assert entry.model_config["frozen"]
        assert entry.model_config["extra"] == "forbid"
