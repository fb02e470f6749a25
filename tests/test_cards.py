"""What objects say of themselves in a notebook and on a terminal: short, escaped, and without the machine's paths."""

import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from interp_arith.cards import card
from interp_arith.interp.measures import MEASURES
from interp_arith.models.config import ModelConfig
from interp_arith.models.positions import POSITIONS
from interp_arith.presets import preset, presets
from interp_arith.run import SHIPPED, Run, load_run
from interp_arith.tasks import TASKS, Addition, ModularArithmetic, Text
from interp_arith.training import config as training_config
from interp_arith.training.config import RunConfig
from interp_arith.training.curricula import CURRICULA
from interp_arith.training.optimizers import OPTIMIZERS
from interp_arith.training.schedules import SCHEDULES

TABLES = (POSITIONS, CURRICULA, OPTIMIZERS, SCHEDULES)
HOSTILE = "<script>alert('&')</script>"


def words(html: str) -> str:
    """What is read on the page."""
    found: list[str] = []
    parser = HTMLParser()
    parser.handle_data = found.append
    parser.feed(html)
    return " ".join(" ".join(found).split())


SHOWN = {
    "run": lambda: load_run("add-10d-tiny-s0"),
    "config": lambda: preset("mod-add-113"),
    "task": lambda: Addition(n_digits=3),
    "text": lambda: Text(text_to_learn=HOSTILE),
    "model": ModelConfig,
    "measure": lambda: MEASURES["key_frequencies"],
    "measures": lambda: MEASURES,
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_card_is_one_whole_element_without_colours_of_its_own_or_scripts(name):
    html = SHOWN[name]()._repr_html_()
    assert ElementTree.fromstring(html).tag == "div"
    assert "<script" not in html
    assert set(re.findall(r"(?:color|background)\s*:\s*(\w+)", html)) <= {"none"}
    assert not re.findall(r"#[0-9a-f]{3}|rgb|https?:", html)


def test_everything_is_escaped():
    html = card(HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, (HOSTILE, {HOSTILE: HOSTILE}))
    assert words(html) == " ".join([HOSTILE] * 7)
    assert ElementTree.fromstring(html).find(".//script") is None


def test_lines_that_say_nothing_are_left_out():
    assert words(card("a", "b", {"c": "", "d": "e"}, ("f", {"g": ""}))) == "a b d e"


def test_a_run_says_where_it_stands():
    said = words(load_run("mod-113-canonical-s0")._repr_html_())
    assert said.startswith("mod-113-canonical-s0 run status finished checkpoints 29, steps 0 to 20,000")
    assert "test accuracy 1" in said
    assert "model 1 × (4 heads, 512 neurons), width 128" in said


def test_a_run_that_has_only_begun_has_a_card(tmp_path):
    source = load_run("add-10d-tiny-s0")
    shutil.copy(source.path / "config.yaml", tmp_path)
    said = words(Run(tmp_path)._repr_html_())
    assert "status stopped checkpoints 0 task" in said
    assert said.endswith(str(tmp_path))


def test_a_shipped_run_has_its_name_for_an_address():
    run = load_run("add-10d-tiny-s0")
    assert repr(run).startswith("Run(add-10d-tiny-s0: finished")
    assert str(SHIPPED) not in run._repr_html_()


def test_a_task_shows_a_question_its_answer_and_what_is_read():
    said = words(ModularArithmetic(p=7, train_fraction=0.5)._repr_html_())
    a, b, answer, *read = map(int, re.search(r"(\d)\+(\d)= (\d), read as (\d) (\d) =", said).groups())
    assert (answer, read) == ((a + b) % 7, [a, b])
    assert Text().worked_example() == ""


def test_a_measure_shows_its_definition_dims_units_and_source():
    said, entry = words(MEASURES["key_frequencies"]._repr_html_()), MEASURES["key_frequencies"]
    for part in (entry.source, "dims freq: frequency k", "units 1"):
        assert part in said
    assert repr(entry) == "Measure(key_frequencies: dims freq; units 1; ordinary)"
    assert repr(MEASURES["test_loss"]) == "Measure(test_loss: a number; units nats; cheap)"


def test_every_measure_stands_in_the_table_of_all():
    assert repr(MEASURES) == f"Measures({', '.join(MEASURES)})"
    assert [name for name in MEASURES if name not in words(MEASURES._repr_html_())] == []


@pytest.mark.parametrize("name", presets())
def test_a_config_prints_what_is_not_usual_and_evaluates_to_itself(name):
    config = preset(name)
    names = {t.__name__: t for t in [*TASKS.values(), ModelConfig, RunConfig]} | vars(training_config)
    names |= {t.__name__: t for table in TABLES for t in table.values()}
    assert eval(repr(config), names) == config
    assert len(repr(config)) < 1100
    assert words(config._repr_html_()).startswith(f"{config.run_name} RunConfig name {config.name}")
