"""Every page of the explorer, without a browser: what is on it, and what it says where something is wrong."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from interp_arith.commands import app as app_command
from interp_arith.commands.app import FOLDER
from interp_arith.storage import RunDirectory

ROOT = Path(__file__).parent.parent.parent
APP = ROOT / "app"
MODULAR, ADDER = "mod-113-canonical-s0", "add-5d-msb-s1"
PAGES = {
    MODULAR: ("training", "attention", "logits", "fourier", "intervene", "compare", "data"),
    ADDER: ("training", "attention", "logits", "carries", "intervene", "compare", "data"),
}
SCRIPT = """from choice import choose, show
from view import opened
from views import {page}
chosen = choose()
show({page}.draw, chosen and opened(chosen))
"""
OWN = ("choice", "view", "charts", "figure", "widget", "views")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The runs that come along, in a folder of their own: pages may keep measures in them."""
    folder = tmp_path_factory.mktemp("explorer")
    for name in PAGES:
        shutil.copytree(ROOT / "checkpoints" / name, folder / name)
    return folder


@pytest.fixture
def page(runs, monkeypatch):
    """A page as it is drawn first, by its name and address."""
    monkeypatch.setenv(FOLDER, str(runs))
    monkeypatch.syspath_prepend(str(APP))

    def opened(name: str, **address: str) -> AppTest:
        test = AppTest.from_string(SCRIPT.format(page=name), default_timeout=120)
        for key, value in address.items():
            test.query_params[key] = value
        return test.run()

    yield opened
    for name in [n for n in sys.modules if n.partition(".")[0] in OWN]:
        del sys.modules[name]


def said(test: AppTest) -> str:
    kinds = (test.error, test.warning, test.info, test.markdown, test.caption)
    return " ".join(read(element) for elements in kinds for element in elements)


def figures(test: AppTest) -> list[dict]:
    shown = [json.loads(component.proto.json) for component in test.get("bidi_component")]
    return [json.loads(given["spec"]) for given in shown if "spec" in given]


def titles(test: AppTest) -> list[str]:
    """What stands above figures, as it is read."""
    return [read(element) for element in test.markdown if element.value.startswith("**")]


def read(element) -> str:
    """Text without the backslashes that keep it from being Markdown."""
    return element.value.replace("\\", "")


@pytest.mark.parametrize(("run", "name"), [(run, name) for run, names in PAGES.items() for name in names])
def test_every_page_is_drawn(page, run, name):
    test = page(name, run=run)
    assert not test.exception
    assert not test.error
    assert not test.warning
    assert len(test.dataframe if name == "data" else figures(test)) >= (1 if name == "data" else 2)


def test_pages_that_say_nothing_of_a_task_are_left_out(page, runs):
    from view import View

    assert View(RunDirectory(runs / MODULAR), 0).left_out == {"Carries"}
    assert View(RunDirectory(runs / ADDER), 0).left_out == {"Fourier"}


def test_the_first_figure_needs_neither_torch_nor_pandas(runs):
    program = f"""
import sys
sys.path.insert(0, {str(APP)!r})
from choice import Choice
from interp_arith.storage import RunDirectory
from views import logged
from pathlib import Path
assert logged.draw(Choice(RunDirectory(Path({str(runs / MODULAR)!r})), 100))
print(sorted({{"torch", "pandas", "xarray", "transformer_lens"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Never(threading.Timer):
    """One that has not come yet: the libraries are imported by the test itself."""

    def start(self) -> None:
        pass

    def is_alive(self) -> bool:
        return True


def test_the_first_page_has_a_figure_before_the_libraries_and_the_rest_with_them(page, monkeypatch):
    monkeypatch.setattr(app_command, "_WARM", set())
    monkeypatch.setattr(threading, "Timer", Never)
    test = AppTest.from_file(str(APP / "Home.py"), default_timeout=120)
    test.query_params["run"] = MODULAR
    test.run()
    assert not test.exception
    assert [chart["layout"]["xaxis"]["title"]["text"] for chart in figures(test)] == ["step (updates)"]
    assert "the libraries are loaded …" in said(test)
    app_command.warm(app_command.FIRST_PAGE)
    test.run()
    assert not test.exception
    assert len(figures(test)) == 3
    assert "the libraries are loaded …" not in said(test)


def test_the_slider_changes_what_is_drawn(page):
    test = page("logits", run=ADDER, q="45678+54322=", step="512")
    early = figures(test)
    test.select_slider(key="step").set_value(10_000).run()
    assert not test.exception
    assert "right" in said(test)
    assert figures(test)[0] != early[0]


def test_a_typed_question_changes_the_attention(page):
    test = page("attention", run=ADDER, q="11111+22222=")
    before = figures(test)[0]
    test.text_input(key="q").set_value("99999+00001=").run()
    assert not test.exception
    assert figures(test)[0] != before


def test_a_question_without_an_equals_sign_is_completed(page):
    assert "**12+34=**" in said(page("logits", run=ADDER, q="12+34"))


@pytest.mark.parametrize("typed", ["nonsense", "123456789+1=", "1+2+3=", "<script>alert(1)</script>"])
@pytest.mark.parametrize("name", ["attention", "logits", "intervene", "data"])
def test_what_is_no_question_is_a_sentence(page, name, typed):
    test = page(name, run=ADDER, q=typed)
    assert not test.exception
    (warning,) = test.warning
    assert "question" in warning.value
    assert "<script>" not in warning.value


def test_switching_off_a_head_changes_the_answer_and_the_scores(page):
    test = page("intervene", run=ADDER, q="45678+54322=")
    assert "(right)" in titles(test)[0]
    untouched = test.dataframe[0].value
    assert (untouched["untouched"] == untouched["changed"]).all()
    test.multiselect(key="heads_off").set_value([(0, 1)]).run()
    assert not test.exception
    assert "(wrong)" in titles(test)[1]
    changed = test.dataframe[0].value
    assert (changed["changed"] < 0.5).all()
    assert (changed["untouched"] == untouched["untouched"]).all()


def test_a_patch_from_another_question_needs_one_of_the_same_length(page):
    test = page("intervene", run=MODULAR, q="3+4=")
    test.radio(key="way").set_value("patch").run()
    test.multiselect(key="mlps_off").set_value([0]).run()
    assert "(right)" in titles(test)[1]  # the question patched with itself
    test.text_input(key="source").set_value("50+60=").run()
    assert not test.exception
    assert "110" in titles(test)[1]


def test_neurons_of_a_frequency_can_be_switched_off(page):
    test = page("intervene", run=MODULAR)
    key = 17  # one of those that the run adds by
    test.multiselect(key="frequencies_off").set_value([key]).run()
    assert not test.exception
    scores = test.dataframe[0].value
    assert scores["changed"].item() < scores["untouched"].item()


def test_failing_questions_are_listed_at_an_early_step(page):
    test = page("carries", run=ADDER, step="512")
    assert not test.exception
    assert "questions fail" in said(test)
    listed = next(table.value for table in test.dataframe if "said" in table.value)
    assert (listed["right"] != listed["said"]).all()


def test_an_address_with_unknown_keys_opens_all_the_same(page):
    test = page("data", run=ADDER, colour="red")
    assert not test.exception
    assert "colour" in test.toast[0].value


def test_an_address_cannot_leave_the_folder(page):
    test = page("data", run="../../etc")
    assert not test.exception
    picker = test.selectbox(key="run")
    assert picker.value == picker.options[0]
    assert ".." not in "".join(picker.options)


def broken(runs: Path, name: str) -> Path:
    return Path(shutil.copytree(runs / ADDER, runs / name))


def test_a_run_without_checkpoints_a_damaged_one_and_one_that_is_gone_are_sentences(page, runs):
    (broken(runs, "z-empty") / "checkpoints.jsonl").unlink()
    (broken(runs, "z-config") / "config.yaml").write_text("task: [", encoding="utf-8")
    damaged = broken(runs, "z-damaged")
    for file in (damaged / "weights").iterdir():
        file.write_bytes(b"0")
    try:
        for name, words in (
            ("z-empty", "no checkpoint yet"),
            ("z-config", "cannot be read"),
            ("z-damaged", "weights"),
        ):
            test = page("logits", run=name)
            assert not test.exception
            assert words in said(test), name
        test = page("logits", run="z-damaged")
        shutil.rmtree(damaged)
        test.run()
        assert not test.exception
        assert test.selectbox(key="run").value != "z-damaged"
    finally:
        for path in runs.glob("z-*"):
            shutil.rmtree(path)


def test_without_any_run_it_says_how_to_train_one(page, monkeypatch, tmp_path):
    import choice

    monkeypatch.setattr(choice, "SHIPPED", tmp_path / "none")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert choice.run_paths() == {}
    (tmp_path / "outside").symlink_to(ROOT / "checkpoints" / ADDER)
    assert choice.run_paths() == {}


def test_what_is_chosen_on_a_page_is_opened_again_by_its_address(page):
    test = page(
        "intervene", run=ADDER, q="45678+54322=", way="held at its mean", scale="1.5", heads_off="0.1"
    )
    assert test.radio(key="way").value == "mean"
    assert test.slider(key="scale").value == 1.5
    assert test.multiselect(key="heads_off").value == [(0, 1)]
    assert page("fourier", run=MODULAR, neuron="7").number_input(key="neuron").value == 7


def test_labels_are_shown_as_they_stand(page):
    import choice

    assert choice.plain("2*3= **x** `y` <b>") == "2\\*3= \\*\\*x\\*\\* \\`y\\` \\<b\\>"


def test_two_sessions_have_models_of_their_own(page, runs):
    first = page("intervene", run=MODULAR, heads_off="0.0")
    second = page("intervene", run=MODULAR)
    scores = [test.dataframe[0].value["changed"].item() for test in (first, second)]
    assert scores[0] < scores[1] == 1
