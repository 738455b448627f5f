"""End to end, in headless Chromium: what a person does, on a machine that may be slow. Waits are for conditions, never for a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from onnxferry.demo.pages.write import LONGEST

pytestmark = pytest.mark.slow

PATIENCE = 120_000  # milliseconds: two cores may be busy with other tests

PAGES = ("", "recognise", "find", "write", "review", "translate", "imagine", "compress", "train", "game", "your-model", "under-the-hood")

# Streamlit's own, by what they say: its client looks for its server beside the page's address before it looks at the root.
NOT_OURS = (
    re.compile(r"/[a-z-]+/_stcore/(health|host-config)"),
    re.compile(r"Failed to load resource: the server responded with a status of 404 \(Not Found\)"),
)


class Visitor:
    """A page in a context of its own, which keeps what the console says."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.complaints: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))

    def _heard(self, message: ConsoleMessage) -> None:
        where = str(message.location.get("url", ""))
        said = f"{message.text} ({where})"
        ours = not (NOT_OURS[1].search(said) and NOT_OURS[0].search(where))
        if message.type == "error" and ours:
            self.complaints.append(said)

    def open(self, path: str) -> None:
        """Opens a page and waits until Streamlit has run it to its end."""
        self.page.goto(f"{self.url}/{path}", timeout=PATIENCE)
        expect(self.page.locator(".of-heading h1")).to_be_visible(timeout=PATIENCE)
        self.settled()

    def settled(self) -> None:
        expect(self.page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]')).to_be_attached(timeout=PATIENCE)

    def point(self, across: float, down: float) -> tuple[float, float]:
        box = self.page.locator("canvas").bounding_box()
        assert box is not None
        return box["x"] + box["width"] * across, box["y"] + box["height"] * down

    def draw(self, *points: tuple[float, float]) -> None:
        """A stroke on the pad, through points in shares of its size."""
        canvas = self.page.locator("canvas[data-ready]")
        expect(canvas).to_be_visible(timeout=PATIENCE)
        canvas.scroll_into_view_if_needed()
        self.page.mouse.move(*self.point(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.point(*point), steps=10)
        self.page.mouse.up()


SEVEN = ((0.28, 0.25), (0.72, 0.25), (0.45, 0.82))
ONE = ((0.5, 0.2), (0.5, 0.8))


@pytest.fixture
def visitors(browser: Browser, server: str) -> Iterator:
    """``visitors(**context options)``: a new person each time."""
    contexts = []

    def come(**options) -> Visitor:
        contexts.append(browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options)))
        return Visitor(contexts[-1].new_page(), server)

    yield come
    for context in contexts:
        context.close()


@pytest.fixture
def visitor(visitors) -> Iterator[Visitor]:
    """A person, who in the end has heard no complaint."""
    person = visitors()
    yield person
    assert person.complaints == []


def says(visitor: Visitor, label: str) -> None:
    expect(visitor.page.locator(".of-answer strong")).to_have_text(label, timeout=PATIENCE)


def test_a_seven_drawn_with_the_mouse_is_read(visitor: Visitor) -> None:
    visitor.open("recognise")
    says(visitor, "?")
    visitor.draw(*SEVEN)
    says(visitor, "7")
    visitor.page.evaluate("window.kept = document.querySelector('.of-answer')")
    expect(visitor.page.locator(".of-bars li")).to_have_count(10, timeout=PATIENCE)
    expect(visitor.page.get_by_role("img", name="spoke for 7")).to_be_visible(timeout=PATIENCE)  # which pixels mattered
    expect(visitor.page.locator(".of-tile")).to_have_count(24, timeout=PATIENCE)
    visitor.page.get_by_role("button", name="Clear").click()
    says(visitor, "?")
    visitor.draw(*ONE)
    says(visitor, "1")
    assert visitor.page.evaluate("document.querySelector('.of-answer') === window.kept")  # the element is changed, not made anew
    visitor.page.get_by_role("button", name="Clear").click()
    says(visitor, "?")
    visitor.page.get_by_role("button", name="Undo").click()  # what was cleared comes back
    says(visitor, "1")
    visitor.page.get_by_role("button", name="Undo").click()
    says(visitor, "?")


def test_a_one_drawn_by_keyboard_is_read(visitor: Visitor) -> None:
    visitor.open("recognise")
    pad = visitor.page.locator("canvas[data-ready]")
    pad.focus()
    for _ in range(8):
        pad.press("ArrowUp")
    pad.press("Space")
    for _ in range(16):
        pad.press("ArrowDown")
    says(visitor, "1")
    pad.press("Delete")
    says(visitor, "?")


def test_a_drawing_stays_while_one_looks_elsewhere(visitor: Visitor) -> None:
    visitor.open("recognise")
    visitor.draw(*SEVEN)
    says(visitor, "7")
    visitor.page.get_by_role("radio", name="Its mistakes").click()
    expect(visitor.page.get_by_text("Test images that the model gets wrong").first).to_be_visible(timeout=PATIENCE)
    visitor.page.get_by_role("radio", name="Draw").click()
    says(visitor, "7")


def test_every_page_has_its_title_and_asks_no_other_host(visitors) -> None:
    person = visitors()
    foreign: list[str] = []
    person.page.on(
        "request", lambda request: foreign.append(request.url) if not re.match(r"(http|ws)://localhost:|data:|blob:", request.url) else None
    )
    titles = []
    for at, path in enumerate(PAGES):  # in the order of the bar
        person.open(path)
        link = person.page.locator(".st-key-menu a").nth(at)
        expect(link).to_have_attribute("aria-current", "page", timeout=PATIENCE)
        expect(person.page.locator('.st-key-menu a[aria-current="page"]')).to_have_count(1)
        titles.append(f"{link.inner_text().strip()} · onnxferry")
        expect(person.page).to_have_title(titles[-1], timeout=PATIENCE)
    assert foreign == []
    assert len(set(titles)) == len(PAGES)
    assert person.complaints == []  # the Content-Security-Policy refuses nothing that the pages need


def test_the_gallery_is_one_tab_stop_and_arrows_move_in_it(visitor: Visitor) -> None:
    visitor.open("recognise?source=Mistakes")
    images = visitor.page.locator(".gallery button")
    expect(images.first).to_be_visible(timeout=PATIENCE)
    assert visitor.page.locator('.gallery button[tabindex="0"]').count() == 1
    images.first.focus()
    images.first.press("ArrowRight")
    expect(images.nth(1)).to_be_focused()
    assert visitor.page.locator('.gallery button[tabindex="0"]').count() == 1


def test_a_second_finger_is_passed_over_and_a_link_carries_the_drawing(visitors) -> None:
    """A palm that lies beside the pen made one stroke of both, a filled zig-zag."""
    person = visitors()
    person.open("recognise")
    expect(person.page.locator("canvas[data-ready]")).to_be_visible(timeout=PATIENCE)
    person.page.evaluate(
        """() => {
          const find = (root) => root.querySelector("canvas")
            ?? [...root.querySelectorAll("*")].map((each) => each.shadowRoot && find(each.shadowRoot)).find(Boolean);
          const canvas = find(document), box = canvas.getBoundingClientRect();
          canvas.setPointerCapture = () => {};
          const touch = (kind, id, x, y) => canvas.dispatchEvent(new PointerEvent(kind, {
            pointerId: id, pointerType: "touch", clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true,
          }));
          touch("pointerdown", 1, .5, .2);
          touch("pointerdown", 2, .9, .9);
          for (let y = .2; y <= .8; y += .05) { touch("pointermove", 1, .5, y); touch("pointermove", 2, .9, .9 - y / 5); }
          touch("pointerup", 2, .9, .8);
          touch("pointerup", 1, .5, .8);
        }"""
    )
    says(person, "1")
    share = person.page.get_by_role("button", name="Copy link")
    share.click()
    expect(share).to_have_attribute("data-copied", re.compile("drawing="), timeout=PATIENCE)
    link = str(share.get_attribute("data-copied"))
    assert "." not in link.split("drawing=")[1]  # one stroke
    other = visitors()
    other.open(link.split("/", 3)[3])
    says(other, "1")


def test_a_chinese_browser_reads_chinese_and_may_choose(visitors) -> None:
    person = visitors(locale="zh-CN")
    person.open("recognise")
    expect(person.page.get_by_role("link", name="续写")).to_be_visible(timeout=PATIENCE)
    person.page.get_by_role("radio", name="English").click()
    expect(person.page.get_by_role("link", name="Write")).to_be_visible(timeout=PATIENCE)
    expect(person.page).to_have_url(re.compile("lang=en"), timeout=PATIENCE)
    assert person.complaints == []


@pytest.mark.parametrize("path", ["recognise", "find"])
def test_the_answer_stands_above_the_pad_on_a_phone(visitors, path: str) -> None:
    person = visitors(viewport={"width": 390, "height": 664}, has_touch=True, is_mobile=True)
    person.open(path)
    answer, canvas = (person.page.locator(each).bounding_box() for each in (".of-answer", "canvas[data-ready]"))
    assert answer is not None
    assert canvas is not None
    assert answer["y"] + answer["height"] <= canvas["y"]
    assert canvas["y"] + canvas["height"] <= 664
    assert person.complaints == []


def test_the_bar_of_a_phone_shows_where_one_is(visitors) -> None:
    person = visitors(viewport={"width": 390, "height": 664}, has_touch=True, is_mobile=True)
    person.open("your-model")
    current = person.page.locator('.st-key-menu a[aria-current="page"]')
    expect(current).to_be_in_viewport(ratio=0.99, timeout=PATIENCE)
    person.page.locator(".st-key-menu a").nth(1).click()
    expect(current).to_have_text("Recognise", timeout=PATIENCE)
    expect(current).to_be_in_viewport(ratio=0.99, timeout=PATIENCE)
    assert person.complaints == []


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_bar_takes_one_line_of_a_wide_screen(visitors, language: str) -> None:
    """Where its last link began a second line, the page below moved down while it came."""
    person = visitors(viewport={"width": 1280, "height": 900})
    person.open(f"recognise?lang={language}")
    links = person.page.locator(".st-key-menu a")
    boxes = [links.nth(at).bounding_box() for at in range(len(PAGES))] + [person.page.locator(".st-key-menu").bounding_box()]
    tops, bar = [box["y"] for box in boxes[:-1] if box is not None], boxes[-1]
    assert bar is not None
    assert len(tops) == len(PAGES)
    assert max(tops) - min(tops) < 2
    assert bar["height"] < 50


def test_two_people_do_not_disturb_each_other(visitors) -> None:
    first, second = visitors(), visitors()
    first.open("recognise")
    second.open("recognise")
    first.draw(*SEVEN)
    second.draw(*ONE)
    says(first, "7")
    says(second, "1")
    first.page.get_by_role("button", name="Clear").click()
    says(first, "?")
    says(second, "1")


# How much of the model's own text stands on the sheet while it is being written. Longer than what was there before?
WRITING_BEYOND = "before => { const sheet = document.querySelector('.of-sheet[aria-busy=\"true\"]'); \
return sheet && sheet.textContent.length > before ? sheet.textContent.length : 0; }"


STOPPED = re.compile(r"letters in [\d.]+ s, stopped")


def press_stop(visitor: Visitor) -> None:
    """At once: click() waits until nothing around it moves, and by then a fast machine has written all of the growing text."""
    visitor.page.get_by_role("button", name="Stop", exact=True).and_(visitor.page.locator(":enabled")).dispatch_event("click")


def test_text_streams_and_stops(visitor: Visitor) -> None:
    """The longest text: it takes the fastest machine some seconds, so that Stop comes long before its end, and a slow one is not kept."""
    visitor.page.goto(f"{visitor.url}/write?length={LONGEST}&seed=3", timeout=PATIENCE)
    length = len("ROMEO:\n")
    for _ in range(3):
        length = visitor.page.wait_for_function(WRITING_BEYOND, arg=length, timeout=PATIENCE).json_value()
    press_stop(visitor)
    expect(visitor.page.get_by_text(STOPPED)).to_be_visible(timeout=PATIENCE)
    visitor.settled()
    stopped = visitor.page.locator('.of-sheet[aria-busy="false"]')
    text = stopped.text_content()
    assert text is not None
    assert length <= len(text) < LONGEST / 2
    expect(visitor.page.get_by_role("button", name="Stop", exact=True)).not_to_be_attached(timeout=PATIENCE)
    # It stays stopped, and writes again when asked.
    visitor.page.get_by_role("button", name="Write", exact=True).click()
    visitor.page.wait_for_function(WRITING_BEYOND, arg=len("ROMEO:\n"), timeout=PATIENCE)
    press_stop(visitor)
    expect(visitor.page.get_by_text(STOPPED)).to_be_visible(timeout=PATIENCE)


def test_a_short_text_is_written_to_its_end(visitor: Visitor) -> None:
    visitor.open("write?length=300&seed=3")
    expect(visitor.page.locator('.of-sheet[aria-busy="false"]')).to_contain_text(re.compile(r"\w{3}.*\w{3}", re.DOTALL), timeout=PATIENCE)
    expect(visitor.page.get_by_text("300 letters in")).to_be_visible(timeout=PATIENCE)
    expect(visitor.page.get_by_text("stopped")).not_to_be_attached()


def test_a_link_carries_prompt_and_seed(visitors) -> None:
    texts = []
    for _ in range(2):
        person = visitors()
        person.open("write?prompt=JULIET%3A%0A&seed=7&length=100")
        expect(person.page.get_by_text("100 letters in")).to_be_visible(timeout=PATIENCE)
        texts.append(person.page.locator(".of-sheet").inner_text())
        expect(person.page.get_by_role("textbox", name="Begin with")).to_have_value("JULIET:\n", timeout=PATIENCE)
    assert texts[0] == texts[1]
    assert texts[0].startswith("JULIET:")


def test_a_grid_of_sixteen_images_and_its_download(visitor: Visitor) -> None:
    visitor.open("imagine")
    made = visitor.page.get_by_role("group", name="Generated").get_by_role("img")
    expect(made).to_have_count(16, timeout=PATIENCE)
    before = made.first.get_attribute("src")
    visitor.page.get_by_role("button", name="Another set").click()
    expect(made.first).not_to_have_attribute("src", str(before), timeout=PATIENCE)
    expect(visitor.page).to_have_url(re.compile(r"from_seed=1"), timeout=PATIENCE)
    visitor.settled()
    with visitor.page.expect_download(timeout=PATIENCE) as download:
        visitor.page.get_by_role("button", name="Download as one PNG").click()
    assert download.value.suggested_filename == "digits-gan-all-seed-1.png"
    assert Path(download.value.path()).read_bytes()[:4] == b"\x89PNG"


def test_the_dot_of_a_plane_moves_and_is_in_the_link_and_a_video_is_saved(visitor: Visitor) -> None:
    visitor.open("imagine?view=plane&seed_a=5")
    field = visitor.page.locator(".field[data-ready]")
    expect(field).to_be_visible(timeout=PATIENCE)
    field.press("Home")
    field.press("ArrowUp")
    expect(field).to_have_attribute("aria-valuenow", "1", timeout=PATIENCE)
    share = visitor.page.get_by_role("button", name="Copy link")
    for _ in range(100):  # where the dot was left is on its way
        share.click()
        if "at=0" in str(share.get_attribute("data-copied")):
            break
        visitor.page.wait_for_timeout(200)
    expect(share).to_have_attribute("data-copied", re.compile(r"at=0"))
    with visitor.page.expect_download(timeout=PATIENCE) as download:
        visitor.page.get_by_role("button", name="Save as video").click()
    assert download.value.suggested_filename.startswith("digits-gan-plane-5-2-3.")
    data = Path(download.value.path()).read_bytes()
    assert data[4:8] == b"ftyp" or data[:4] == b"\x1a\x45\xdf\xa3"  # MP4, or WebM where the browser has no encoder for it


def test_a_broken_copy_is_found_by_the_self_test(visitor: Visitor) -> None:
    visitor.open("")
    page = visitor.page
    expect(page.get_by_text("The same answer each way.")).to_be_visible(timeout=PATIENCE)
    page.get_by_text("Break the file").click()
    expect(page.get_by_text("The self-test has found the damage.")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("Self-test: 0 of 8 as in PyTorch")).to_be_visible(timeout=PATIENCE)
    expect(page).to_have_url(re.compile("broken=on"), timeout=PATIENCE)


def test_a_model_that_is_not_shipped_is_one_line(visitor: Visitor) -> None:
    visitor.open("imagine?maker=fashion-gan")
    expect(visitor.page.get_by_text("does not ship with this version yet")).to_be_visible(timeout=PATIENCE)


def test_a_latent_that_is_moved_draws_another_image(visitor: Visitor) -> None:
    visitor.open("compress")
    rebuilt = visitor.page.get_by_role("img", name="rebuilt from")
    expect(rebuilt).to_be_visible(timeout=PATIENCE)
    before = str(rebuilt.get_attribute("src"))
    drawn = visitor.page.get_by_role("img", name="your version")
    slider = visitor.page.get_by_role("slider", name="latent number 1", exact=True)
    slider.press("End")
    expect(drawn).to_be_visible(timeout=PATIENCE)
    visitor.page.get_by_role("button", name="Back to the image").click()
    expect(drawn).not_to_be_attached(timeout=PATIENCE)
    visitor.page.get_by_role("button", name="a handwritten 3").first.click()
    expect(rebuilt).not_to_have_attribute("src", before, timeout=PATIENCE)


def test_a_model_is_uploaded_reported_checked_and_run(visitor: Visitor, tiny_zoo: Path) -> None:
    visitor.open("your-model")
    visitor.page.locator('input[type="file"]').first.set_input_files(tiny_zoo / "digits" / "digits.onnx")
    expect(visitor.page.get_by_text("recogniser digits")).to_be_visible(timeout=PATIENCE)
    expect(visitor.page.get_by_role("region", name="Inputs and outputs")).to_contain_text("probabilities")
    visitor.settled()
    visitor.page.get_by_role("button", name="Run the built-in self-test").click()
    expect(visitor.page.get_by_text("comparisons passed on this computer")).to_be_visible(timeout=PATIENCE)
    visitor.settled()
    visitor.page.get_by_role("button", name="Run", exact=True).click()
    expect(visitor.page.get_by_text("Median run")).to_be_visible(timeout=PATIENCE)
    expect(visitor.page.get_by_role("region", name="Outputs", exact=True)).to_contain_text("probabilities")


def test_a_model_that_never_ends_shows_its_time_and_is_stopped(visitor: Visitor, build_onnx, tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    body = helper.make_graph(
        [helper.make_node("Identity", ["keep"], ["keep_on"]), helper.make_node("Add", ["so_far", "so_far"], ["more"])],
        "body",
        [helper.make_tensor_value_info(*each) for each in (("i", TensorProto.INT64, []), ("keep", TensorProto.BOOL, []))]
        + [helper.make_tensor_value_info("so_far", TensorProto.FLOAT, [])],
        [helper.make_tensor_value_info("keep_on", TensorProto.BOOL, []), helper.make_tensor_value_info("more", TensorProto.FLOAT, [])],
    )
    endless = build_onnx(
        [helper.make_node("Loop", ["times", "yes", "x"], ["y"], body=body)],
        [("x", TensorProto.FLOAT, [])],
        [("y", TensorProto.FLOAT, [])],
        [helper.make_tensor("times", TensorProto.INT64, [], [2**62]), helper.make_tensor("yes", TensorProto.BOOL, [], [True])],
    )
    path = tmp_path / "endless.onnx"
    path.write_bytes(endless.SerializeToString())
    visitor.open("your-model")
    visitor.page.locator('input[type="file"]').first.set_input_files(path)
    run = visitor.page.get_by_role("button", name="Run", exact=True)
    expect(run).to_be_visible(timeout=PATIENCE)
    visitor.settled()
    run.click()
    expect(visitor.page.get_by_text("Running …")).to_be_visible(timeout=PATIENCE)
    press_stop(visitor)
    expect(visitor.page.get_by_text("Running …")).not_to_be_attached(timeout=PATIENCE)
    visitor.settled()
    expect(run).to_be_enabled()
    assert visitor.page.get_by_text("Median run").count() == 0


def test_a_file_that_is_no_model_is_told_in_one_line(visitor: Visitor, tmp_path: Path) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(b"\x08\x09\x12\x07pytorch\x3a\xff\xff\x01only the start")
    visitor.open("your-model")
    visitor.page.locator('input[type="file"]').first.set_input_files(cut)
    expect(visitor.page.get_by_role("alert")).to_contain_text("not a readable ONNX file", timeout=PATIENCE)
    assert visitor.page.locator('[data-testid="stException"]').count() == 0


@pytest.mark.parametrize("path", PAGES)
def test_a_phone_shows_every_page_without_scrolling_sideways(visitors, path: str) -> None:
    person = visitors(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, device_scale_factor=2)
    person.open(path)
    wide = person.page.evaluate("[document.scrollingElement.scrollWidth, document.querySelector('.stMain').scrollWidth, innerWidth]")
    assert max(wide[:2]) <= wide[2]
    assert person.complaints == []


# Faults of Streamlit's own elements: axe's name for the rule, and what the element is called.
STREAMLITS_OWN = {
    "scrollable-region-focusable": "katex-display",  # st.latex: a formula wider than the screen
    "nested-interactive": "stFileUploader",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", [*PAGES, "?broken=on", "recognise?source=Mistakes", "recognise?source=Upload", "imagine?view=plane"])
def test_axe_finds_no_serious_fault(visitors, path: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    person = visitors(color_scheme=scheme)
    person.open(path)
    found = Axe().run(person.page).response["violations"]
    serious = [
        f"{fault['id']} ({fault['impact']}): {node['html'][:160]} {node.get('failureSummary', '')[:300]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
        if fault["id"] not in STREAMLITS_OWN or STREAMLITS_OWN[fault["id"]] not in node["html"]
    ]
    assert serious == []
