"""The report of a run: one page, self-contained, that says what the measures say."""

import re
import shutil

import numpy as np
import pytest
from test_kept import tiny

from interp_arith.cli import main
from interp_arith.errors import RequestError
from interp_arith.presets import preset
from interp_arith.report import write_report
from interp_arith.run import Run
from interp_arith.runs import train

QUIET = {"device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return train(tiny(30), out=tmp_path_factory.mktemp("runs"), **QUIET)


@pytest.fixture(scope="module")
def page(run, tmp_path_factory) -> str:
    return write_report(run, tmp_path_factory.mktemp("page") / "report.html", "cpu").read_text(
        encoding="utf-8"
    )


def text_of(page: str) -> str:
    without_code = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", without_code).split())


def test_the_page_needs_nothing_from_elsewhere(page):
    outside = re.sub(r"<script>/\*\*.*?</script>", "", page, count=1, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="?(?:https?:)?//', outside)
    assert len(page) < 15e6


def test_it_says_what_the_measures_say(page, run):
    text, now = text_of(page), run.measure().isel(step=-1)
    assert "add mod 11, trained on 72 of all 121 questions; 1 layer" in text
    assert f"Verdict: {now['algorithm'].item()}" in text.replace("  ", " ")
    kept = float(now["restricted_loss"].sel(variant="sum", split="all"))
    assert f"restricted loss, sum, all questions {kept:.3g} nats" in text
    assert "After 30 updates it gets" in text
    assert "Within these steps it did not get to know its training questions by heart" in text


def test_every_number_has_its_definition_behind_a_fold(page, run):
    numbers = page[page.index("Every number") :]
    for name in run.measure().data_vars:
        if name != "phases":
            assert f"<summary>{str(name).replace('_', ' ')}</summary><pre>" in numbers
    assert numbers.count("Source: ") >= 25


def test_a_mark_that_is_not_reached_is_told_as_what_did_not_happen(page, run):
    assert np.isnan(run.measure(["phases"])["phases"].sel(mark="grokked"))
    assert "its test loss did not fall below 0.01 nats" in text_of(page)


def test_of_one_checkpoint_alone_nothing_is_said_of_the_way(tmp_path):
    run = train(tiny(1), out=tmp_path, **QUIET)
    lines = (run.path / "checkpoints.jsonl").read_text().splitlines()
    (run.path / "checkpoints.jsonl").write_text(lines[-1] + "\n")
    text = text_of(write_report(run, tmp_path / "page.html", "cpu").read_text(encoding="utf-8"))
    assert "There is one checkpoint alone" in text
    assert "At the checkpoints" not in text


def test_a_run_without_frequencies_has_a_page_too(tmp_path):
    run = train(preset("sanity", budget={"steps": 3}), out=tmp_path, **QUIET)
    text = text_of(write_report(run, tmp_path / "page.html", "cpu").read_text(encoding="utf-8"))
    assert "After 3 updates its training loss is" in text
    assert "By which frequencies" not in text


def test_a_name_that_is_html_is_shown_as_it_is(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "a<b>&c")
    page = write_report(Run(tmp_path / "a<b>&c"), tmp_path / "page.html", "cpu").read_text(encoding="utf-8")
    assert "<h1>a&lt;b&gt;&amp;c</h1>" in page
    assert "<b>&c" not in page


@pytest.mark.browser
def test_every_picture_is_drawn_in_a_browser_without_a_network(run, browser, tmp_path):
    file = write_report(run, tmp_path / "report.html", "cpu")
    context = browser.new_context(offline=True)
    complaints: list[str] = []
    tab = context.new_page()
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.goto(file.as_uri())
    tab.wait_for_selector(".js-plotly-plot .main-svg")
    pictures = tab.locator(".js-plotly-plot")
    assert pictures.count() >= 6
    assert tab.locator(".js-plotly-plot .main-svg").count() >= pictures.count()
    assert complaints == []
    tab.locator("summary", has_text="restricted loss").first.click()
    assert tab.locator("pre", has_text="key frequencies").first.is_visible()
    context.close()


@pytest.fixture(scope="module")
def adder(tmp_path_factory) -> Run:
    config = preset(
        "add-5d-msb",
        task={"n_digits": 2, "val_questions": 50, "test_questions": 50},
        model={"n_layers": 1, "n_heads": 2, "d_model": 24, "d_mlp": 48},
        budget={"steps": 60},
    )
    return train(config, out=tmp_path_factory.mktemp("adders"), **QUIET)


@pytest.fixture(scope="module")
def adders_page(adder, tmp_path_factory) -> str:
    adder.measure(["carry_decodable", "carry_used"], steps=[0, 60])
    file = tmp_path_factory.mktemp("page") / "report.html"
    return write_report(adder, file, "cpu").read_text(encoding="utf-8")


def test_an_adder_s_page_says_what_its_measures_say(adder, adders_page):
    text, last = text_of(adders_page), [adder.steps[-1]]
    shares = adder.measure(["class_exact_match"], last)["class_exact_match"].isel(step=0)
    told = " ".join(f"{float(share):.3f}" for share in shares)
    assert f"class S0 S1 S2 exact match {told}" in text
    both = adder.measure(["carry_decodable", "carry_used"], last).isel(step=0).sel(column=1)
    hook = "blocks.0.hook_resid_post"
    read = float(both["carry_decodable"].sel(hook=hook))
    used = [float(both["carry_used"].sel(hook=hook, way=way)) for way in ("direction", "whole")]
    assert f"{read:.2f} · {used[0]:.2f} · {used[1]:.2f}" in text
    assert "decodable from step used from step into column 1" in text
    assert "Where it looks, and where the answer forms" in text


def test_an_adder_s_page_shows_circuits_only_where_the_run_keeps_them(adders_page):
    assert "nodes left, all others at their means" not in text_of(adders_page)
    assert "the nodes that each token of the answer needs" not in adders_page


def test_of_an_adder_that_answers_nothing_what_cannot_be_taken_is_left_out_and_said(tmp_path):
    config = preset(
        "add-5d-msb", task={"n_digits": 2}, model={"d_model": 12, "d_mlp": 8}, budget={"steps": 1}
    )
    run = train(config, out=tmp_path, **QUIET)
    text = text_of(write_report(run, tmp_path / "r.html", "cpu").read_text(encoding="utf-8"))
    assert "Which questions it answers" in text
    assert "patch effect" not in text
    assert "ablation effect" in text
    assert "What could not be measured" in text
    assert "patch_effect: " in text


def test_a_folder_is_no_page(run, tmp_path):
    with pytest.raises(RequestError, match=r"is a folder; give the name of a page, such as .*report\.html"):
        write_report(run, tmp_path, "cpu")


def test_the_command_writes_it_and_says_where(run, tmp_path, capsys):
    assert main(["report", str(run.path), "-o", str(tmp_path / "r.html"), "--device", "cpu"]) == 0
    assert re.fullmatch(r".*r\.html: \d\.\d MB; open it in a browser\n", capsys.readouterr().out)
    assert main(["report", "no-such-run"]) == 2
