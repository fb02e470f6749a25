"""The explorer in Chromium, as `interp-arith app` starts it: it paints, answers, and nothing leaves the machine."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from interp_arith.storage import RunDirectory

ROOT = Path(__file__).parent.parent.parent
MODULAR, ADDER = "mod-113-canonical-s0", "add-5d-msb-s1"
PAGES = {
    MODULAR: ("training", "attention", "logits", "fourier", "intervene", "compare", "data"),
    ADDER: ("training", "attention", "logits", "carries", "intervene", "compare", "data"),
}
FIGURE = ".js-plotly-plot .main-svg"
MILLISECONDS = 90_000
pytestmark = pytest.mark.browser
expect.set_options(timeout=MILLISECONDS)

Open = Callable[[str], Page]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The shipped runs, in a folder of their own."""
    folder = tmp_path_factory.mktemp("explorer")
    for name in PAGES:
        shutil.copytree(ROOT / "checkpoints" / name, folder / name)
    return folder


@pytest.fixture
def growing(folder) -> Iterator[Path]:
    """A run that is training, one checkpoint before its end."""
    path = Path(shutil.copytree(folder / ADDER, folder / "still-training"))
    info = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(info | {"status": "running"}))
    lines = (path / "checkpoints.jsonl").read_text().splitlines(keepends=True)
    (path / "checkpoints.jsonl").write_text("".join(lines[:-1]))
    with RunDirectory(path).lock():  # somebody writes it
        yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def address(folder) -> Iterator[str]:
    """Where an explorer answers."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    program = "from interp_arith.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, "app", str(folder), "--port", str(port), "--no-browser"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        base = f"http://localhost:{port}"
        wait_for(f"{base}/_stcore/health", server, folder / "log")
        yield base
    finally:
        server.terminate()
        server.wait(timeout=20)


def wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    """Ask until the server answers."""
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            with pytest.raises(subprocess.TimeoutExpired):
                server.wait(timeout=0.1)
    raise AssertionError(f"no answer from {url}: {log.read_text()}")


@pytest.fixture
def opened(browser: Browser, address: str) -> Iterator[Open]:
    """A page by its path; at the end, nothing was asked of another machine and no script failed."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(MILLISECONDS)
    outside: list[str] = []
    failed: list[str] = []
    context.on("request", lambda r: outside.append(r.url) if leaves(r.url, address) else None)

    def open_(path: str) -> Page:
        tab = context.new_page()
        tab.on("pageerror", lambda error: failed.append(str(error)))
        tab.goto(f"{address}/{path}")
        settled(tab)
        return tab

    yield open_
    context.close()
    assert outside == []
    assert failed == []


def leaves(url: str, address: str) -> bool:
    here = (address, address.replace("http", "ws", 1), "data:", "blob:", "about:")
    return not url.startswith(here)


def settled(tab: Page) -> None:
    """The script of the page has run to its end."""
    tab.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")


@pytest.mark.parametrize(("run", "name"), [(run, name) for run, names in PAGES.items() for name in names])
def test_every_page_loads(opened, run, name):
    tab = opened(f"{'' if name == 'training' else name}?run={run}")
    assert tab.locator("[data-testid=stException]").count() == 0
    assert tab.locator("[data-testid=stAlertContentError]").count() == 0
    if name == "data":
        expect(tab.locator("[data-testid=stDataFrame]").first).to_be_visible()
    else:
        expect(tab.locator(FIGURE).first).to_be_visible()


def test_circuitsvis_paints(opened):
    tab = opened(f"attention?run={ADDER}&q=45678%2B54322%3D")
    frame = tab.frame_locator("iframe").first
    expect(frame.get_by_text("Head selector")).to_be_visible()
    picture = Image.open(io.BytesIO(tab.locator("iframe").first.screenshot())).convert("RGB")
    colours = picture.getcolors(maxcolors=2**24)
    assert colours is not None
    strong = sum(count for count, (r, g, b) in colours if max(r, g, b) - min(r, g, b) > 60)
    assert strong > 500


def test_circuitsvis_stays_while_the_slider_moves(opened):
    tab = opened(f"attention?run={MODULAR}&q=3%2B4%3D")
    frame = tab.locator("iframe").first.element_handle().content_frame()
    frame.get_by_text("Head selector").wait_for()
    frame.evaluate("window.here = 1")
    before = frame.locator("body").screenshot()
    slider = tab.locator("[data-testid=stSidebar]").get_by_role("slider")
    shown = drawn(tab)
    for _ in range(6):
        slider.press("ArrowLeft")
    until_other(tab, shown)
    settled(tab)
    assert frame.evaluate("window.here") == 1
    assert frame.locator("body").screenshot() != before


def drawn(tab: Page, index: int = 0) -> str:
    """What a figure shows, as JSON, once it is there."""
    tab.wait_for_function("i => document.querySelectorAll('.js-plotly-plot')[i]?.data", arg=index)
    return tab.evaluate(
        "i => JSON.stringify(document.querySelectorAll('.js-plotly-plot')[i].data.map(t => [t.x, t.y, t.z]))",
        index,
    )


def until_other(tab: Page, before: str, index: int = 0) -> str:
    """What a figure shows once it shows something else."""
    tab.wait_for_function(
        "([i, old]) => { const p = document.querySelectorAll('.js-plotly-plot')[i]; return p && p.data && "
        "JSON.stringify(p.data.map(t => [t.x, t.y, t.z])) !== old }",
        arg=[index, before],
    )
    return drawn(tab, index)


def test_the_slider_changes_the_figure_and_the_address_opens_it_again(opened):
    tab = opened(f"logits?run={ADDER}&q=45678%2B54322%3D")
    late = drawn(tab)
    slider = tab.locator("[data-testid=stSidebar]").get_by_role("slider")
    slider.focus()
    for _ in range(9):
        slider.press("ArrowLeft")
    early = until_other(tab, late)
    settled(tab)
    tab.wait_for_url("**step=**")
    again = opened(tab.url.split("/", 3)[3])
    other = again.locator("[data-testid=stSidebar]").get_by_role("slider")
    assert slider.get_attribute("aria-valuetext") == other.get_attribute("aria-valuetext") == "1000"
    settled(again)
    assert drawn(again) == drawn(tab) != late
    assert early != late


def test_a_typed_question_changes_the_attention(opened):
    tab = opened(f"attention?run={MODULAR}&q=3%2B4%3D")
    before = drawn(tab)
    box = tab.get_by_label("Question", exact=True)
    box.fill("50+60=")
    box.press("Enter")
    assert until_other(tab, before) != before
    tab.wait_for_url("**q=50*")
    assert "q=50%2B60" in tab.url


def test_switching_off_a_head_changes_the_logits(opened):
    tab = opened(f"intervene?run={MODULAR}&q=3%2B4%3D")
    before = drawn(tab, 1)
    tab.get_by_label("Heads").click()
    tab.get_by_role("option", name="0.0").click()
    until_other(tab, before, 1)
    assert drawn(tab, 0) == before


def test_pages_keep_the_run_and_the_step(opened):
    tab = opened(f"logits?run={ADDER}&step=1000")
    drawn(tab)
    settled(tab)
    tab.get_by_role("link", name="Attention").click()
    tab.wait_for_url("**/attention**")
    settled(tab)
    assert tab.url.endswith("/attention?run=add-5d-msb-s1&step=1000")


def test_nonsense_is_a_sentence(opened):
    tab = opened(f"logits?run={ADDER}&q=%3Cb%3Ehello")
    expect(tab.locator("[data-testid=stAlert]").first).to_contain_text("hello")
    assert tab.locator("[data-testid=stException]").count() == 0


@pytest.mark.parametrize("page", ["", "logits"])
def test_a_run_that_cannot_be_read_is_a_sentence_on_every_page(opened, folder, page):
    broken = folder / "broken"
    broken.mkdir(exist_ok=True)
    (broken / "config.yaml").write_text("task: {kind: nonsense}")
    shutil.copy(folder / ADDER / "checkpoints.jsonl", broken)
    tab = opened(f"{page}?run=broken")
    expect(tab.locator("[data-testid=stAlert]").first).to_contain_text("broken cannot be read")
    settled(tab)
    assert tab.locator("[data-testid=stAlert]").count() == 1


def test_on_a_narrow_screen_nothing_is_cut_off(browser, address):
    context = browser.new_context(viewport={"width": 400, "height": 800})
    tab = context.new_page()
    tab.goto(f"{address}/logits?run={ADDER}")
    tab.wait_for_selector(FIGURE, timeout=MILLISECONDS)
    wide = tab.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth")
    assert wide <= 400
    context.close()


def test_on_a_narrow_screen_a_simple_figure_fits_and_one_of_many_panels_is_moved_sideways(browser, address):
    context = browser.new_context(viewport={"width": 400, "height": 800})
    tab = context.new_page()
    tab.goto(f"{address}/fourier?run={MODULAR}")
    widths = "[...document.querySelectorAll('.js-plotly-plot')].map(figure => figure.clientWidth)"
    tab.wait_for_function(f"{widths}.length === 5", timeout=MILLISECONDS)
    embedding, unembedding, circles, neuron, logit = tab.evaluate(widths)
    assert max(embedding, unembedding, neuron, logit) < 400
    assert circles == 640
    context.close()


def test_play_goes_from_the_first_checkpoint_on(opened):
    tab = opened(f"data?run={ADDER}")
    slider = tab.locator("[data-testid=stSidebar]").get_by_role("slider")
    assert slider.get_attribute("aria-valuetext") == "10000"
    tab.get_by_text("Play", exact=True).click()
    for step in ("0", "1", "2", "4"):
        expect(slider).to_have_attribute("aria-valuetext", step)


def test_a_link_opens_a_switched_off_head(opened):
    tab = opened(f"intervene?run={MODULAR}&q=3%2B4%3D&heads_off=0.0")
    assert drawn(tab, 1) != drawn(tab, 0)


def test_a_run_that_trains_is_followed(opened, address, growing):
    tab = opened(f"data?run={growing.name}")
    expect(tab.get_by_text("20 checkpoints")).to_be_visible()
    lines = (ROOT / "checkpoints" / ADDER / "checkpoints.jsonl").read_text()
    (growing / "checkpoints.jsonl").write_text(lines)
    expect(tab.get_by_text("21 checkpoints")).to_be_visible()


def test_names_beside_maps_are_whole_and_the_mouse_tells_what_a_cell_is(opened):
    tab = opened(f"carries?run={ADDER}")
    chart = tab.locator(
        ".js-plotly-plot", has=tab.locator(".ytick", has_text="blocks.1.hook_resid_post")
    ).first
    chart.scroll_into_view_if_needed()
    edge = chart.bounding_box()["x"]
    names = chart.locator(".ytick text")
    boxes = [names.nth(index).bounding_box() for index in range(names.count())]
    assert boxes
    assert all(edge <= box["x"] for box in boxes if box["width"])
    chart.locator(".nsewdrag").first.hover(position={"x": 3, "y": 3})
    expect(chart.locator(".hoverlayer .hovertext").first).to_contain_text("blocks.0.hook_resid_pre, a4: 0.")


def test_a_figure_stays_and_keeps_where_one_has_zoomed_while_the_slider_moves(opened):
    tab = opened(f"?run={MODULAR}")
    tab.wait_for_selector(FIGURE)
    tab.evaluate("document.querySelector('.js-plotly-plot .main-svg').here = 1")
    area = tab.locator(".js-plotly-plot .nsewdrag").first
    whole = axis_range(tab)
    box = area.bounding_box()
    tab.mouse.move(box["x"] + 100, box["y"] + 60)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 300, box["y"] + 70, steps=5)
    tab.mouse.up()
    tab.wait_for_function(f"old => {AXIS_RANGE} !== old", arg=whole)
    zoomed = axis_range(tab)
    line = "JSON.stringify(document.querySelector('.js-plotly-plot').layout.shapes)"
    before = tab.evaluate(line)
    tab.locator("[data-testid=stSidebar]").get_by_role("slider").press("ArrowLeft")
    tab.wait_for_function(f"old => {line} !== old", arg=before)
    assert axis_range(tab) == zoomed
    assert tab.evaluate("document.querySelector('.js-plotly-plot .main-svg').here") == 1


AXIS_RANGE = "JSON.stringify(document.querySelector('.js-plotly-plot')._fullLayout.xaxis.range)"


def axis_range(tab: Page) -> str:
    return tab.evaluate(AXIS_RANGE)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_figure_has_the_colours_of_the_page_also_when_they_change(browser, address, scheme):
    context = browser.new_context(color_scheme=scheme)
    tab = context.new_page()
    tab.goto(f"{address}/?run={MODULAR}")
    tab.wait_for_selector(FIGURE, timeout=MILLISECONDS)
    assert (brightness_of_letters(tab) > 128) == (scheme == "dark")
    tab.emulate_media(color_scheme="light" if scheme == "dark" else "dark")
    tab.wait_for_function(f"dark => ({LETTERS} > 128) !== dark", arg=scheme == "dark", timeout=MILLISECONDS)
    context.close()


LETTERS = (
    "getComputedStyle(document.querySelector('.js-plotly-plot .xtitle')).fill.match(/[0-9]+/g).slice(0, 3)"
    ".reduce((a, b) => a + +b, 0) / 3"
)


def brightness_of_letters(tab: Page) -> float:
    return tab.evaluate(LETTERS)


def test_a_figure_fills_the_screen_and_comes_back(opened):
    tab = opened(f"?run={MODULAR}")
    tab.wait_for_selector(FIGURE)
    figure = tab.locator(".js-plotly-plot").first
    height = "document.querySelector('.js-plotly-plot')._fullLayout.height"
    before = tab.evaluate(height)
    figure.hover()
    figure.locator("[data-title='Whole screen']").click()
    tab.wait_for_function(f"document.fullscreenElement && {height} === innerHeight")
    figure.hover()
    figure.locator("[data-title='Whole screen']").click()
    tab.wait_for_function(f"old => !document.fullscreenElement && {height} === old", arg=before)


def test_a_figure_is_taken_away_as_a_picture_and_offers_no_upload(opened, tmp_path):
    tab = opened(f"?run={MODULAR}")
    tab.wait_for_selector(FIGURE)
    buttons = tab.locator(".js-plotly-plot").first.locator(".modebar-btn")
    titles = [buttons.nth(index).get_attribute("data-title") for index in range(buttons.count())]
    assert "Whole screen" in titles
    assert not [title for title in titles if "hare" in title]
    tab.locator(".js-plotly-plot").first.hover()
    with tab.expect_download() as download:
        buttons.first.click()
    assert download.value.suggested_filename == f"{MODULAR}-training.png"
    download.value.save_as(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size[0] > 1000
