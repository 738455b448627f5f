"""The static site in headless Chromium, served as ``python -m http.server`` serves it: what a person does, and what can go wrong."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import io
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Route, expect

from onnxferry.demo.images.content import figures
from onnxferry.demo.images.uploads import framed_like_mnist
from onnxferry.demo.static.build import MODELS, build_site
from onnxferry.demo.widgets.html import percent
from onnxferry.runtime import load
from onnxferry.runtime.artifact.zoo import zoo_model
from onnxferry.runtime.embed.web_runtime import VERSION
from onnxferry.runtime.files import read_npz
from onnxferry.runtime.images.photo import without_background
from onnxferry.runtime.tasks.text_classifier import margin
from tests.npm import node_modules

pytestmark = [pytest.mark.slow, pytest.mark.network]

PATIENCE = 120_000  # milliseconds: two cores may be busy with other tests
PAGES = ("recognise", "find", "write", "review", "translate", "imagine", "compress")
SEVEN = ((0.28, 0.25), (0.72, 0.25), (0.45, 0.82))
LEFT, RIGHT = ((0.2, 0.2), (0.2, 0.8)), ((0.8, 0.2), (0.8, 0.8))


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing is said."""


def serve(folder: Path) -> http.server.ThreadingHTTPServer:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def address(server: http.server.ThreadingHTTPServer) -> str:
    return f"http://localhost:{server.server_port}/"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as the command writes it. Skips where npm cannot be had."""
    package = node_modules(tmp_path_factory, f"onnxruntime-web@{VERSION}") / "onnxruntime-web"
    folder = tmp_path_factory.mktemp("static") / "site"
    build_site(folder, package)
    return folder


@pytest.fixture(scope="module")
def url(site: Path) -> Iterator[str]:
    server = serve(site)
    yield address(server)
    server.shutdown()
    server.server_close()


class Visitor:
    """A page in a context of its own, which keeps what the console says and which other hosts are asked."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context, self.page, self.url = context, context.new_page(), url
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        self.page.on(
            "request", lambda request: self.foreign.append(request.url) if not request.url.startswith((url, "data:", "blob:")) else None
        )

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and "blocked by Playwright" not in message.text:
            self.complaints.append(message.text)

    def open(self, place: str = "") -> Page:
        self.page.goto(f"{self.url}{place}")
        return self.page

    def draw(self, *points: tuple[float, float]) -> None:
        canvas = self.page.locator("canvas[data-ready]")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        assert box is not None
        places = [(box["x"] + box["width"] * across, box["y"] + box["height"] * down) for across, down in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=10)
        self.page.mouse.up()

    def says(self, label: str) -> None:
        expect(self.page.locator(".of-answer strong")).to_have_text(label, timeout=PATIENCE)

    def tested(self, name: str) -> None:
        expect(self.page.locator(f'[data-model="{name}"] summary.passed')).to_be_visible(timeout=PATIENCE)

    def trouble(self, words: str | re.Pattern[str]) -> None:
        expect(self.page.get_by_role("alert")).to_contain_text(words, timeout=PATIENCE)


@pytest.fixture
def visitors(browser: Browser, url: str) -> Iterator[Callable[..., Visitor]]:
    """``visitors(**context options)``: a new person each time; nothing is stored, unless ``service_workers="allow"`` is asked for."""
    contexts = []

    def come(**options) -> Visitor:
        usual = {"viewport": {"width": 1280, "height": 900}, "service_workers": "block", "locale": "en-US"}
        contexts.append(browser.new_context(**(usual | options)))
        return Visitor(contexts[-1], url)

    yield come
    for context in contexts:
        context.close()


def shown(page: Page, selector: str) -> list[np.ndarray]:
    """The images that a page shows, as grey levels."""
    sources = page.eval_on_selector_all(selector, "images => images.map((image) => image.src)")
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("L")) for source in sources]


def test_drawings_are_read_and_the_damaged_model_is_found_out(visitors) -> None:
    person = visitors()
    page = person.open()
    person.draw(*SEVEN)
    person.says("7")
    expect(page.locator(".of-bars li")).to_have_count(10)
    expect(page.locator(".took")).to_have_text(re.compile(r"[\d.]+ ms from the pen to the answer"))
    test = page.locator('[data-model="digits"]')
    expect(test.locator("summary")).to_contain_text("8 of 8 as expected, largest difference 0.0")
    test.locator("summary").click()
    expect(test.locator("tbody tr")).to_have_count(8)
    page.get_by_role("button", name="Damage it").click()
    expect(test.locator("summary.failed")).to_contain_text("Do not trust")
    page.get_by_role("button", name="Repair it").click()
    person.tested("digits")
    page.get_by_role("button", name="Clear").click()
    person.says("?")
    person.draw(*LEFT)
    person.says("1")
    person.draw(*RIGHT)
    expect(page.locator(".of-answer")).to_contain_text("I see 2 figures")
    expect(page).to_have_url(re.compile(r"drawing=.*\."))  # two strokes, once the pen rests
    link = page.url
    assert person.complaints == []
    other = visitors()
    other.page.goto(link)
    expect(other.page.locator(".of-answer")).to_contain_text("I see 2 figures", timeout=PATIENCE)


def test_examples_mistakes_and_uploads(visitors, tmp_path: Path) -> None:
    person = visitors()
    page = person.open("#recognise?model=fashion")
    expect(page.locator(".of-answer")).to_contain_text("Correct: it is", timeout=PATIENCE)
    page.get_by_role("radio", name="Its mistakes").check()
    expect(page.locator(".of-answer")).to_contain_text("Wrong: it is")
    page.get_by_role("radio", name="Digits").check()
    page.get_by_role("radio", name="Upload").check()
    upload = page.locator("input[type=file]")
    broken = tmp_path / "notes.png"
    broken.write_text("no image")
    upload.set_input_files(broken)
    person.trouble("notes.png is not an image that this browser can read; expected PNG, JPEG, GIF, BMP or WebP.")
    blank = tmp_path / "blank.png"
    Image.new("L", (200, 300), 255).save(blank)
    upload.set_input_files(blank)
    expect(page.locator(".of-answer")).to_contain_text("I see nothing here.")
    expect(page.get_by_role("alert")).to_have_count(0)
    examples = np.load(zoo_model("digits").path.with_name("examples.npz"))
    three = tmp_path / "three.png"
    Image.fromarray(examples["images"][np.flatnonzero(examples["labels"] == 3)[0]].reshape(28, 28)).resize((280, 280)).save(three)
    upload.set_input_files(three)
    person.says("3")
    assert person.complaints == []


def test_a_second_finger_is_passed_over(visitors) -> None:
    person = visitors(has_touch=True)
    page = person.open()
    expect(page.locator("canvas[data-ready]")).to_be_visible()
    page.evaluate(
        """() => {
          const canvas = document.querySelector(".part-canvas").shadowRoot.querySelector("canvas"), box = canvas.getBoundingClientRect();
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
    person.says("1")


def test_text_is_what_python_writes_and_stops(visitors) -> None:
    person = visitors()
    page = person.open("#write?prompt=JULIET%3A%0A&seed=7&length=120&temperature=0.9")
    expect(page.locator(".took")).to_contain_text("120 letters in", timeout=PATIENCE)
    expected = load("shakespeare").generate("JULIET:\n", 120, temperature=0.9, seed=7)
    assert page.locator(".of-sheet > div").text_content() == "JULIET:\n" + expected.removeprefix("JULIET:\n")
    expect(page.locator('[data-model="shakespeare"] summary')).to_contain_text("as expected")
    page.get_by_label("Length").fill("100000")
    page.get_by_role("button", name="Another one").click()
    expect(page.locator(".of-sheet")).to_contain_text(re.compile(r"JULIET:\s.{20}", re.DOTALL), timeout=PATIENCE)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".took")).to_contain_text("stopped", timeout=PATIENCE)
    assert "seed=8" in page.url
    assert person.complaints == []


def test_images_are_what_python_makes_and_morph(visitors) -> None:
    person = visitors()
    page = person.open("#imagine?from_seed=3&count=12&maker=fashion-gan")
    images = page.locator(".of-grid img")
    expect(images).to_have_count(12, timeout=PATIENCE)
    model = load("fashion-gan")
    expected = model.sample(12, labels=[i % 10 for i in range(12)], seed=3)
    for made, wanted in zip(shown(page, ".of-grid img"), expected, strict=True):
        assert np.abs(made.astype(int) - wanted.astype(int)).max() <= 1
    first = images.first.get_attribute("src")
    page.get_by_role("button", name="Another set").click()
    expect(images.first).not_to_have_attribute("src", str(first), timeout=PATIENCE)
    page.get_by_role("radio", name="Morph one into another").check()
    expect(page.locator(".of-strip img")).to_have_count(9, timeout=PATIENCE)
    walk = model.walk(1, 2, 25, model.labels[0])
    for made, wanted in zip(shown(page, ".of-strip img"), walk[::3], strict=True):
        assert np.abs(made.astype(int) - wanted.astype(int)).max() <= 1
    expect(page.locator(".player p")).to_contain_text("The recognition network reads it as")
    assert person.complaints == []


def test_a_latent_that_is_moved_draws_another_image(visitors) -> None:
    person = visitors()
    page = person.open("#compress")
    yours = page.get_by_role("img", name="your version")
    rebuilt = page.get_by_role("img", name="rebuilt from 32 numbers")
    expect(rebuilt).to_be_visible(timeout=PATIENCE)
    before = str(rebuilt.get_attribute("src"))
    page.get_by_role("slider", name="latent number 31", exact=True).press("Home")
    expect(yours).to_be_visible(timeout=PATIENCE)
    expect(page.locator(".of-meter")).to_contain_text("The recognition network reads your version as")
    page.get_by_role("button", name="Back to the image").click()
    expect(yours).not_to_be_attached(timeout=PATIENCE)
    page.get_by_role("button", name="a handwritten 3").first.click()
    expect(rebuilt).not_to_have_attribute("src", before, timeout=PATIENCE)
    expect(page.locator(".of-meter.of-under")).to_be_visible()
    page.get_by_role("radio", name="Things it has never seen").check()
    expect(page.locator(".of-meter.of-over")).to_be_visible(timeout=PATIENCE)
    page.get_by_role("radio", name="Draw").check()
    person.draw(*SEVEN)
    expect(rebuilt).to_be_visible(timeout=PATIENCE)
    assert person.complaints == []


def test_numbers_are_found_as_in_python(visitors) -> None:
    person = visitors()
    page = person.open("#find?source=Examples")
    scenes = read_npz(zoo_model("digit-scenes").path.with_name("examples.npz"))["images"]
    detector = load("digit-scenes")
    for at in (0, 5):
        expected = detector.detect(scenes[at])
        page.get_by_role("button", name=f"Scene {at + 1}").click()
        person.says(" / ".join(expected.text.splitlines()))
        expect(page.locator(".of-bars li")).to_have_count(len(expected))
    expect(page.get_by_role("img", name="The image with a box around each digit")).to_be_visible()
    page.get_by_role("radio", name="Draw").check()
    expect(page.locator(".of-answer")).to_contain_text("Write two or three digits")
    person.draw((0.2, 0.3), (0.2, 0.7))
    person.draw((0.6, 0.3), (0.6, 0.7))
    expect(page.locator(".of-answer")).to_contain_text("found: 2", timeout=PATIENCE)
    assert person.complaints == []


def test_texts_are_judged_and_dates_read_as_in_python(visitors) -> None:
    person = visitors()
    page = person.open("#review")
    for name, text in (
        ("sentiment-en", "A wonderful film, though it starts slowly."),
        ("sentiment-zh", "看了一半就看不下去了，不值这个价钱。"),
    ):
        found = load(name).explain(text)
        page.get_by_role("textbox", name="Review").fill(text)
        person.says(found.prediction.label)
        expect(page.locator(".of-answer")).to_contain_text(percent(found.prediction.probability))
        assert page.locator(".of-leaning").text_content() == text
        expect(page.locator(".of-leaning span")).to_have_count(len(found.words))
        strongest = max(found.words, key=lambda word: abs(margin(word.evidence, 1)))
        expect(page.locator(".of-table tbody tr").first).to_contain_text(f"{strongest.text}{margin(strongest.evidence, 1):+.2f}")
        page.locator(f'[data-model="{name}"] summary').click()
        page.locator(f'[data-model="{name}"]').get_by_role("button", name="Damage it").click()
        expect(page.locator(f'[data-model="{name}"] summary.failed')).to_be_visible(timeout=PATIENCE)
    page.get_by_role("link", name="Translate").click()
    page.get_by_role("textbox", name="A date").fill("2 marzo 2021")
    person.says("2021-03-02")
    best, *others = load("dates").explain("2 marzo 2021", beam=3)
    expect(page.locator(".of-answer")).to_contain_text(percent(best.probability))
    for other in others:
        expect(page.get_by_text("It also considered:")).to_contain_text(other.text)
    rows = page.locator(".of-heat tbody tr")
    expect(rows).to_have_count(11)
    shares = best.attention[5]  # of the first digit of the month, a byte a letter
    cells = [f"{round(100 * share)}" if share >= 0.05 else "" for share in shares]
    assert rows.nth(5).locator("td").all_text_contents() == cells
    page.get_by_role("textbox", name="A date").fill(" ")
    expect(page.get_by_text("Type a date, or press one of the examples.")).to_be_visible()
    assert person.complaints == []


def test_a_phone_reads_chinese_sees_every_page_and_asks_no_other_host(visitors) -> None:
    person = visitors(viewport={"width": 390, "height": 700}, has_touch=True, is_mobile=True, locale="zh-CN", color_scheme="dark")
    page = person.open()
    person.tested("digits")
    answer, canvas = (page.locator(each).bounding_box() for each in (".of-answer", "canvas[data-ready]"))
    assert answer is not None
    assert canvas is not None
    assert answer["y"] + answer["height"] <= canvas["y"]
    assert canvas["y"] + canvas["height"] <= 700
    titles = set()
    for name, words in zip(PAGES, ("识别", "查找", "续写", "评论", "翻译", "生成", "压缩"), strict=True):
        page.get_by_role("link", name=words).click()
        expect(page.locator(".model summary.passed").first).to_contain_text("符合预期", timeout=PATIENCE)
        expect(page.locator("h1")).to_have_text(words)
        titles.add(page.title())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    assert len(titles) == len(PAGES)
    page.get_by_role("button", name="English").click()
    expect(page.locator("h1")).to_have_text("Compress")
    for name in ("Recognise", "Find", "Write", "Review", "Translate", "Imagine"):  # longer words
        page.get_by_role("link", name=name).click()
        expect(page.locator("h1")).to_have_text(name)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    assert person.foreign == []
    assert person.complaints == []  # the Content-Security-Policy refuses nothing that the pages need


def test_axe_finds_no_serious_fault(visitors) -> None:
    from axe_playwright_python.sync_playwright import Axe

    person = visitors(bypass_csp=True)  # axe is put into the page as an inline script
    serious = []
    for name in PAGES:
        person.open(f"#{name}")
        expect(person.page.locator(".model summary.passed").first).to_be_visible(timeout=PATIENCE)
        for scheme in ("light", "dark"):
            person.page.emulate_media(color_scheme=scheme)
            found = Axe().run(person.page).response["violations"]
            serious += [
                (name, scheme, each["id"], each["nodes"][0]["html"][:120]) for each in found if each["impact"] in ("serious", "critical")
            ]
    assert serious == []


def test_all_pages_work_without_a_server_and_with_two_threads(site: Path, browser: Browser) -> None:
    server = serve(site)
    with browser.new_context(locale="en-US") as context:
        person = Visitor(context, address(server))
        page = person.open()
        expect(page.locator(".stored")).to_have_text("Stored in this browser: the pages work without a connection now.", timeout=PATIENCE)
        server.shutdown()
        server.server_close()
        page.reload()
        person.tested("digits")
        assert page.evaluate("crossOriginIsolated")
        expect(page.locator("footer")).to_contain_text("2 threads" if (os.cpu_count() or 1) > 1 else "1 thread")
        person.draw(*SEVEN)
        person.says("7")
        page.get_by_role("link", name="Imagine").click()  # never opened before
        expect(page.locator(".of-grid img")).to_have_count(16, timeout=PATIENCE)


def test_storage_that_is_full_is_told_and_breaks_nothing(visitors, browser: Browser) -> None:
    person = visitors(service_workers="allow")
    session = person.context.new_cdp_session(person.page)
    session.send("Storage.overrideQuotaForOrigin", {"origin": person.url.rstrip("/"), "quotaSize": 100_000})
    page = person.open()
    person.draw(*SEVEN)
    person.says("7")
    expect(page.locator(".stored")).to_contain_text("storage is full or closed to this page (QuotaExceededError)", timeout=PATIENCE)
    page.reload()
    person.draw(*SEVEN)
    person.says("7")


def answered_with(change: Callable[[bytes], bytes]) -> Callable[[Route], None]:
    def answer(route: Route) -> None:
        body = route.fetch().body()
        route.fulfill(body=change(body), content_type="application/octet-stream")

    return answer


MODEL = f"models/{MODELS['digits'].partition('/')[2]}"


def test_files_that_do_not_arrive_whole_are_told(visitors) -> None:
    person = visitors()
    context = person.context
    page = person.page
    size = zoo_model("digits").path.with_name("digits.int8.onnx").stat().st_size
    faults = {
        f"{MODEL} arrived cut off: 200,000 of {size:,} bytes. Check the connection and load the page again.": lambda body: body[:200_000],
        f"{MODEL} arrived damaged, or belongs to another version of this site": lambda body: body[:-1] + bytes([body[-1] ^ 1]),
    }
    person.open("icon.svg")
    for words, change in faults.items():
        context.route(f"**/{MODEL}", answered_with(change))
        person.page.goto(f"{person.url}?{len(words)}")
        person.trouble(words)
        context.unroute(f"**/{MODEL}")
    context.route(f"**/{MODEL}", lambda route: route.fulfill(status=503))
    page.reload()
    person.trouble(f"{MODEL} cannot be loaded (HTTP 503)")
    context.unroute(f"**/{MODEL}")
    page.get_by_role("button", name="Load again").click()
    person.tested("digits")
    other = visitors()
    other.context.route("**/ort/ort.wasm.min.mjs", answered_with(lambda body: body[:20_000]))
    other.open()
    other.trouble("ort/ort.wasm.min.mjs arrived cut off: 20,000 of 50,126 bytes")
    third = visitors()  # it is compiled while it arrives, and not run
    third.context.route("**/ort/*.wasm", answered_with(lambda body: body[:5_000_000]))
    third.open()
    third.trouble("ort/ort-wasm-simd-threaded.wasm arrived cut off: 5,000,000 of 14,239,897 bytes")
    assert [each for each in third.complaints if "uncaught" in each] == []


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--js-flags=--jitless", "This browser has no WebAssembly, or it is switched off, so no model can run here."),
        ("--js-flags=--no-enable-sse4-1", "This browser or processor has no WebAssembly SIMD, so no model can run here."),
    ],
)
def test_a_browser_that_cannot_run_models_is_told(browser: Browser, chromium: str, url: str, flag: str, words: str) -> None:
    running = browser.browser_type.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", flag])
    try:
        person = Visitor(running.new_context(locale="en-US"), url)
        person.open()
        person.trouble(words)
    finally:
        running.close()


def photograph() -> np.ndarray:
    """A dark stroke on grey paper with a shadow, on a dark table: uint8 (300, 400, 3)."""
    rows, columns = np.mgrid[:300, :400]
    light = 205 - 0.2 * columns + 8 * np.sin(rows / 17) + np.random.default_rng(0).normal(0, 2, rows.shape)
    light[(rows < 25) | (rows > 270) | (columns < 40) | (columns > 350)] = 45
    light[(abs(columns - 180 - 0.3 * (rows - 150)) < 6) & (abs(rows - 150) < 80)] -= 110
    return np.clip(light[..., None] + [4, 0, -6], 0, 255).astype(np.uint8)


def test_images_and_hashes_are_prepared_as_in_python(visitors) -> None:
    person = visitors()
    page = person.open("icon.svg")  # any file of the site, so that modules load
    photo = photograph()
    several = np.full((112, 112, 1), 255, np.uint8)
    several[20:90, 20:30] = several[25:85, 70:80] = 17
    one = np.full((90, 112, 1), 255, np.uint8)
    one[10:70, 40:53] = one[10:20, 40:90] = 40
    blank, chalk = np.full((64, 64, 3), 200, np.uint8), 255 - photo
    for image in (photo, several, one, blank, chalk):
        height, width, channels = image.shape
        given = {"data": base64.b64encode(image.tobytes()).decode(), "height": height, "width": width, "channels": channels}
        made = page.evaluate(
            """async (given) => {
              const { figures, framedLikeMnist, withoutBackground } = await import("./images.mjs");
              const image = { ...given, data: Uint8Array.from(atob(given.data), (character) => character.charCodeAt(0)) };
              const cleaned = withoutBackground(image);
              return { count: figures(cleaned), cleaned: Array.from(cleaned.data), framed: Array.from(framedLikeMnist(image).data) };
            }""",
            given,
        )
        cleaned = without_background(image)
        found = np.array(made["cleaned"], np.int64).reshape(cleaned.shape)
        off = np.abs(found - cleaned.astype(np.int64))
        assert off.max() <= 1  # Python interpolates the light in float32
        assert made["count"] == figures(cleaned)
        assert np.abs(np.array(made["framed"]) - framed_like_mnist(image).ravel().astype(int)).max() <= 1
    for length in (0, 55, 56, 63, 64, 1000):
        data = bytes(i * 7 % 251 for i in range(length))
        digest = page.evaluate('async (data) => Array.from((await import("./files.mjs")).plainSha256(Uint8Array.from(data)))', list(data))
        assert bytes(digest) == hashlib.sha256(data).digest()
