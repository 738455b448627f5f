"""Times the demo as a person feels it, in headless Chromium on a quiet machine: needs Chromium and ``pip install -e '.[dev]'``.

python tests/bench/bench_demo.py [--rounds 40]

JSON: seconds from the command to a first page that can be drawn on, and from a fresh browser to one on a server that runs;
milliseconds from the pen's touch to the new answer on the screen, by the browser's own clock; what the Write page says of its speed.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from onnxferry.demo.cli import free_port, serve_command

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120_000  # milliseconds

# From the event that the hand causes to the first change of the answer after it.
WATCH = """
() => {
  window.answers = [];
  const text = () => document.querySelector(".of-answer strong")?.innerText ?? "";
  let since = 0, before = "";
  document.addEventListener("pointerdown", (event) => {
    if (!event.composedPath().some((each) => each.tagName === "CANVAS")) return;
    since = performance.now(); before = text(); }, true);
  new MutationObserver(() => {
    if (since && text() && text() !== before) { window.answers.push(performance.now() - since); since = 0; }
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no chromium on PATH; apt-get install chromium")
    port = free_port(None)
    url = f"http://localhost:{port}"
    figures: dict[str, Any] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        started = time.perf_counter()
        with subprocess.Popen(serve_command(port), stdout=subprocess.DEVNULL) as server:
            try:
                wait_for(url)
                page = usable(browser, url)
                figures["seconds from the command to a first page to draw on"] = round(time.perf_counter() - started, 2)
                page.context.close()
                again = []
                for _ in range(5):
                    before = time.perf_counter()
                    page = usable(browser, url)
                    again.append(time.perf_counter() - before)
                    page.context.close()
                figures["seconds to a first page on a running server, median of 5"] = round(statistics.median(again), 2)
                times = answers(usable(browser, url), rounds)
                figures["milliseconds from touch to answer"] = {
                    "median": round(statistics.median(times), 1),
                    "nine of ten below": round(sorted(times)[int(0.9 * (len(times) - 1))], 1),
                    "largest": round(max(times), 1),
                    "n": len(times),
                }
                figures["what the Write page says"] = writing(browser, url)
            finally:
                server.terminate()
        browser.close()
    print(json.dumps(figures, indent=2))


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.02)
    raise SystemExit("the demo did not come up")


def usable(browser: Browser, url: str) -> Page:
    """A fresh person's page, as soon as the pad can be drawn on."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    expect(page.locator("canvas[data-ready]")).to_be_visible(timeout=PATIENCE)
    return page


def answers(page: Page, rounds: int) -> list[float]:
    page.wait_for_timeout(1500)
    page.evaluate(WATCH)
    box = page.locator("canvas").bounding_box()
    if box is None:
        raise SystemExit("the pad has no place on the page")
    for turn in range(rounds):
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.3)
        page.mouse.down()
        page.mouse.up()
        page.wait_for_function(f"window.answers.length > {turn}", timeout=PATIENCE)
        page.wait_for_timeout(300)  # the pixels that mattered, which come after the answer
        page.get_by_role("button", name="Clear").click()
        expect(page.locator(".of-answer strong")).to_have_text("?", timeout=PATIENCE)
        page.wait_for_timeout(100)
    found: list[float] = page.evaluate("window.answers")
    return found


def writing(browser: Browser, url: str) -> str:
    page = browser.new_context().new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{url}/write?length=2000")
    note = page.get_by_text(re.compile(r"^2,000 letters in"))
    expect(note).to_be_visible(timeout=PATIENCE)
    return note.inner_text()


if __name__ == "__main__":
    main()
