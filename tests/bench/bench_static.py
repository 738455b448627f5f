"""Times the static site as a person feels it, in headless Chromium on a quiet machine: needs Chromium, npm and ``pip install -e '.[dev]'``.

python tests/bench/bench_static.py [--rounds 40] [--ort-web DIR]

JSON: seconds from a fresh browser's request of a page to the frame that shows its first answer, of every page, and once the browser has
stored the site; milliseconds from the pen's touch to the new answer
on the screen; bytes of text a second in Chromium, with one thread and with two, and in Python with as many, and their ratio, each the best
of three, in turn; bytes that each page transfers with gzip by its first answer, and the whole site.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import http.server
import json
import os
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from browsing import FLAGS, PATIENCE, chromium, watch
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from onnxferry.demo.static.build import build_site
from onnxferry.runtime import load

LETTERS = 2000
ANSWERS = {
    "recognise": (".of-bars li", ""),
    "find": (".of-bars li", ""),
    "write": (".of-sheet", r"ROMEO:\n\w"),
    "review": (".of-leaning", ""),
    "translate": (".of-heat", ""),
    "imagine": (".of-grid img", ""),
    "compress": (".of-meter", ""),
}
"""By page, where its answer is, and the text in it, a regular expression."""

FIRST = """
window.answered = new Promise((resolve) => new MutationObserver((_, observer) => {
  const found = document.querySelector(%s);
  if (!found || !RegExp(%s).test(found.textContent)) return;
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => resolve(performance.now())));
}).observe(document, { subtree: true, childList: true, characterData: true }));
"""
"""JavaScript that promises the milliseconds from the request of the page to the frame that shows its first answer."""

WATCH = watch("textContent")


class Handler(http.server.SimpleHTTPRequestHandler):
    """As ``python -m http.server``, with gzip where it helps; the folder ``isolated`` is the site with two threads."""

    sent: dict[str, int] = {}  # noqa: RUF012  # by path, of what was asked for last

    def send_head(self) -> Any:
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() else path
        if not path.is_file():
            return super().send_head()
        body = zipped(path)
        self.sent[path.name] = len(body)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return path.open("rb") if self.command == "HEAD" else _Body(body)

    def end_headers(self) -> None:
        if os.environ.get("ISOLATED"):
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing is said."""


@functools.cache
def zipped(path: Path) -> bytes:
    """Once for each file, as a web server keeps it: 14 MB take half a second."""
    return gzip.compress(path.read_bytes(), 6)


class _Body:
    def __init__(self, data: bytes) -> None:
        self._left = data

    def read(self, size: int = -1) -> bytes:
        part, self._left = (self._left, b"") if size < 0 else (self._left[:size], self._left[size:])
        return part

    def close(self) -> None:
        self._left = b""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--ort-web", type=Path)
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"load of the machine at the start": round(os.getloadavg()[0], 1)}
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        site = build_site(Path(temporary) / "site", arguments.ort_web)
        figures["MB of the site with gzip"] = round(sum(site.transferred.values()) / 1e6, 2)
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        with served(site.folder) as url:
            firsts, seconds, bytes_sent = {}, {}, {}
            for name in ANSWERS:
                Handler.sent.clear()
                firsts[name] = round(statistics.median(first_answer(browser, url, name) for _ in range(5)), 2)
                bytes_sent[name] = round(sum(Handler.sent.values()) / 1e6, 2)
                seconds[name] = round(statistics.median(second_visit(browser, url, name) for _ in range(3)), 2)
            figures["seconds to the first answer, median of 5"] = firsts
            figures["the same on a second visit, median of 3"] = seconds
            figures["MB of a page with gzip, by its first answer"] = bytes_sent
            times = answers(browser, url, arguments.rounds)
            figures["milliseconds from touch to answer"] = {
                "median": round(statistics.median(times), 1),
                "nine of ten below": round(sorted(times)[int(0.9 * (len(times) - 1))], 1),
                "n": len(times),
            }
            figures["bytes of text a second"] = text_speeds(browser, url)
        browser.close()
    print(json.dumps(figures, indent=2))


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}/"
    server.shutdown()


def first_answer(browser: Browser, url: str, name: str) -> float:
    """Seconds from a fresh browser's request to the first answer, to a drawing in the address on the pages Recognise and Find."""
    with browser.new_context(viewport={"width": 1280, "height": 900}, service_workers="block") as context:
        return answered(context, url, name)


def second_visit(browser: Browser, url: str, name: str) -> float:
    """The same once the browser has stored the site, in a new tab: the service worker answers, and two threads run."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"{url}#{name}")
        expect(page.locator(".stored")).to_contain_text("without a connection", timeout=PATIENCE)
        page.close()
        return answered(context, url, name)


def answered(context: BrowserContext, url: str, name: str) -> float:
    """Seconds from the request to the frame that shows the answer, by the page's own clock: to ask from outside takes up to a second."""
    drawing = "?drawing=YBvBLCeBLCkBxBeDK" if name in ("recognise", "find") else ""
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    selector, words = ANSWERS[name]
    page.add_init_script(FIRST % (json.dumps(selector), json.dumps(words)))
    page.goto(f"{url}#{name}{drawing}")
    return float(page.evaluate("window.answered")) / 1000


def answers(browser: Browser, url: str, rounds: int) -> list[float]:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(url)
        expect(page.locator("summary.passed")).to_be_visible(timeout=PATIENCE)
        page.wait_for_timeout(6000)  # what is stored in the background
        page.evaluate(WATCH)
        box = page.locator("canvas").bounding_box()
        if box is None:
            raise SystemExit("the pad has no place on the page")
        for turn in range(rounds):
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.3)
            page.mouse.down()
            page.mouse.up()
            expect(page.locator(".of-answer strong")).not_to_have_text("?", timeout=PATIENCE)
            page.wait_for_timeout(400)  # the pen rests, and is answered once more
            page.get_by_role("button", name="Clear").click()
            expect(page.locator(".of-answer strong")).to_have_text("?", timeout=PATIENCE)
            page.wait_for_timeout(400)
            if page.evaluate("window.answers.length") <= turn:
                raise SystemExit("an answer was missed")
        found: list[float] = page.evaluate("window.answers")
        return found


def text_speeds(browser: Browser, url: str) -> dict[str, float]:
    """The best of three of each, in turn, so that a busy moment meets all of them."""
    found: dict[str, list[float]] = {"Chromium, 1 thread": [], "Chromium, 2 threads": [], "Python, 1 thread": [], "Python, 2 threads": []}
    native = {threads: load("shakespeare", threads=threads) for threads in (1, 2)}
    with browser.new_context() as context:
        pages = {}
        for threads in (1, 2):
            os.environ["ISOLATED"] = "1" if threads == 2 else ""
            pages[threads] = context.new_page()
            pages[threads].set_default_timeout(PATIENCE)
            pages[threads].goto(f"{url}#write?length={LETTERS}")
            speed(pages[threads])
        for _ in range(3):
            for threads, page in pages.items():
                page.get_by_role("button", name="Write", exact=True).click()
                found[f"Chromium, {threads} thread{'s' * (threads > 1)}"].append(speed(page))
            for threads, model in native.items():
                started = time.perf_counter()
                written = sum(len(piece.encode()) for piece in model.stream("ROMEO:\n", LETTERS, 0.8, None, None, 0))
                found[f"Python, {threads} thread{'s' * (threads > 1)}"].append(written / (time.perf_counter() - started))
        isolated = pages[2].evaluate("crossOriginIsolated")
    best: dict[str, float] = {name: round(max(each)) for name, each in found.items()}
    best["Chromium beside Python, the better of each"] = round(
        max(best["Chromium, 1 thread"], best["Chromium, 2 threads"]) / max(best["Python, 1 thread"], best["Python, 2 threads"]), 3
    )
    best["the second page is cross-origin isolated"] = isolated
    return best


def speed(page: Page) -> float:
    """Bytes a second, as the page says once it has written all."""
    expect(page.locator(".of-sheet")).to_have_attribute("aria-busy", "true", timeout=PATIENCE)
    expect(page.locator(".of-sheet")).to_have_attribute("aria-busy", "false", timeout=PATIENCE)
    note = page.locator(".took").inner_text()
    count, seconds = re.findall(r"([\d,]+) letters in ([\d.]+) s", note)[0]
    return int(count.replace(",", "")) / float(seconds)


if __name__ == "__main__":
    main()
