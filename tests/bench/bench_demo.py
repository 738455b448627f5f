"""Times the demo as a person feels it, in headless Chromium on a quiet machine: needs Chromium and ``pip install -e '.[dev]'``.

python tests/bench/bench_demo.py [--rounds 40] [--people 20]

JSON: seconds from the command to a first page that can be drawn on, and from a fresh browser to one on a server that runs;
milliseconds from the pen's touch to the new answer on the screen, and from lifting the pen to the last change of the answer, by the
browser's own clock, for one person; the first paint, and the shift of the layout while the first page comes; what the Write page says of
its speed; and, while ``--people`` draw at once, the milliseconds from lifting the pen to the answer to the whole drawing and to the last
change of all, 300 ms later at least, when the page has heard that the pen rests:

- one in a browser, the others without one (drawing_people.py): the time of the server. Its use of the CPUs meanwhile, and its memory;
- all in browsers on this machine: mostly the time of the browsers, which share the CPUs with the server.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from browsing import FLAGS, PATIENCE, chromium, watch
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

from onnxferry.demo.cli import free_port, serve_command

# When the pen was lifted, when the answer changed last, and when the page last stopped saying that an answer is on its way.
SETTLES = """
() => {
  window.lifted = window.settled = window.calm = 0;
  document.addEventListener("pointerup", () => { window.lifted = window.settled = performance.now(); }, true);
  const text = () => document.querySelector(".of-answer")?.textContent ?? "";  // innerText would lay the page out at each change
  let before = text();
  new MutationObserver(() => { if (text() !== before) { before = text(); window.settled = performance.now(); } })
    .observe(document.body, { subtree: true, childList: true, characterData: true });
  new MutationObserver(() => { if (!document.documentElement.hasAttribute("data-reading")) window.calm = performance.now(); })
    .observe(document.documentElement, { attributeFilter: ["data-reading"] });
}
"""

# A seven by a hand that takes 600 ms, then a pause, again and again. The milliseconds of each to the answer, and to the end.
DRAWS = """
async (rounds) => {
  const find = (root) => root.querySelector("canvas")
    ?? [...root.querySelectorAll("*")].map((each) => each.shadowRoot && find(each.shadowRoot)).find(Boolean);
  const canvas = find(document), way = [[.28, .25], [.72, .25], [.45, .82]], found = [];
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const event = (kind, x, y) => {
    const box = canvas.getBoundingClientRect();
    canvas.dispatchEvent(new PointerEvent(kind, { pointerId: 1, pointerType: "mouse", bubbles: true, composed: true,
      clientX: box.left + x * box.width, clientY: box.top + y * box.height }));
  };
  canvas.setPointerCapture = () => {};
  for (let round = 0; round < rounds; round++) {
    await wait(800 * Math.random());
    event("pointerdown", ...way[0]);
    for (let step = 1; step <= 40; step++) {
      const [from, to] = step <= 20 ? [way[0], way[1]] : [way[1], way[2]], share = (step <= 20 ? step : step - 20) / 20;
      event("pointermove", from[0] + (to[0] - from[0]) * share, from[1] + (to[1] - from[1]) * share);
      await wait(15);
    }
    event("pointerup", ...way[2]);
    // The page says while an answer is older than the drawing: first until the whole is read, then again when the pen rests.
    const until = async (holds) => { while (!holds() && performance.now() - window.lifted < 60000) await wait(5); };
    await until(() => window.calm > window.lifted);
    const read = window.calm;
    await wait(50);  // the answer comes right after the word that it was given
    const first = Math.max(read, window.settled < read + 50 ? window.settled : 0) - window.lifted;
    const reads = () => document.documentElement.hasAttribute("data-reading");
    await until(() => !reads() && performance.now() - Math.max(window.calm, window.settled) > 1500);
    found.push([first, Math.max(window.settled, window.calm) - window.lifted]);
    canvas.getRootNode().querySelector("[data-do=clear]").click();
    await wait(1500);
  }
  return found;
}
"""

LARGEST = """
() => new Promise((done) => {
  let at = 0;
  new PerformanceObserver((list) => { for (const each of list.getEntries()) at = each.startTime; })
    .observe({ type: "largest-contentful-paint", buffered: true });
  setTimeout(() => done(at), 500);
})
"""

SHIFT = """
() => new Promise((done) => {
  let sum = 0;
  new PerformanceObserver((list) => { for (const each of list.getEntries()) if (!each.hadRecentInput) sum += each.value; })
    .observe({ type: "layout-shift", buffered: true });
  setTimeout(() => done(sum), 500);
})
"""

WATCH = watch("innerText")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--people", type=int, default=20)
    arguments = parser.parse_args()
    rounds = arguments.rounds
    port = free_port(None)
    url = f"http://localhost:{port}"
    drawn = f"{url}/recognise"
    figures: dict[str, Any] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        started = time.perf_counter()
        with subprocess.Popen(serve_command(port), stdout=subprocess.DEVNULL) as server:
            try:
                wait_for(url)
                page = usable(browser, drawn)
                figures["seconds from the command to a first page to draw on"] = round(time.perf_counter() - started, 2)
                page.context.close()
                again = []
                for _ in range(5):
                    before = time.perf_counter()
                    page = usable(browser, drawn)
                    again.append(time.perf_counter() - before)
                    page.context.close()
                figures["seconds to a first page on a running server, median of 5"] = round(statistics.median(again), 2)
                times = answers(usable(browser, drawn), rounds)
                figures["milliseconds from touch to answer"] = {
                    "median": round(statistics.median(times), 1),
                    "nine of ten below": round(sorted(times)[int(0.9 * (len(times) - 1))], 1),
                    "largest": round(max(times), 1),
                    "n": len(times),
                }
                page = usable(browser, drawn)
                page.wait_for_timeout(2000)
                figures["shift of the layout of the first page"] = round(page.evaluate(SHIFT), 4)
                paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
                figures["milliseconds to the first paint, and to the largest so far"] = [
                    round(page.evaluate(paint)),
                    round(page.evaluate(LARGEST)),
                ]
                lifts = settling(page, rounds)
                figures["milliseconds from lifting the pen to the last change of the answer"] = spread(lifts)
                figures["what the Write page says"] = writing(browser, url)
                figures["MB of the server after one person"] = resident(server.pid)
                people = arguments.people
                figures[f"{people} people draw at once, one of them in a browser"] = one_of(browser, url, people, server.pid)
                figures[f"MB of the server after {people} people"] = resident(server.pid)
                figures[f"{people} people draw at once, all in browsers on this machine"] = crowd(playwright, drawn, people)
                figures[f"MB of the server after {people} more"] = resident(server.pid)
                figures["load of the machine, at the end"] = round(os.getloadavg()[0], 1)
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
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.75, steps=2)  # a 1: a dot alone is of no class
        page.mouse.up()
        page.wait_for_function(f"window.answers.length > {turn}", timeout=PATIENCE)
        page.wait_for_timeout(300)  # the pixels that mattered, which come after the answer
        page.get_by_role("button", name="Clear").click()
        expect(page.locator(".of-answer strong")).to_have_text("?", timeout=PATIENCE)
        page.wait_for_timeout(100)
    found: list[float] = page.evaluate("window.answers")
    return found


def settling(page: Page, rounds: int) -> list[float]:
    page.evaluate(SETTLES)
    box = page.locator("canvas").bounding_box()
    if box is None:
        raise SystemExit("the pad has no place on the page")
    found = []
    for turn in range(rounds):
        points = [(0.28, 0.25), (0.72, 0.25), (0.45, 0.82)] if turn % 2 else [(0.5, 0.2), (0.5, 0.8)]
        places = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in points]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=8)
        page.mouse.up()
        page.wait_for_timeout(1500)
        found.append(page.evaluate("window.settled - window.lifted"))
        page.get_by_role("button", name="Clear").click()
        expect(page.locator(".of-answer strong")).to_have_text("?", timeout=PATIENCE)
        page.wait_for_timeout(300)
    return found


def spread(times: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(times), 1),
        "nine of ten below": round(sorted(times)[int(0.9 * (len(times) - 1))], 1),
        "n": len(times),
    }


AWAKE = ["--disable-background-timer-throttling", "--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows"]


def one_of(browser: Browser, url: str, people: int, server: int) -> dict[str, Any]:
    """One in a browser among others without one."""
    page = usable(browser, f"{url}/recognise")
    page.evaluate(SETTLES)
    page.wait_for_timeout(2000)
    stream = f"ws{url.removeprefix('http')}/_stcore/stream"
    command = [sys.executable, str(Path(__file__).with_name("drawing_people.py")), stream, "--people", str(people - 1), "--drawings", "8"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as others:
        page.wait_for_timeout(4000)  # by now they draw
        used, begun = cpu_seconds(server), time.perf_counter()
        mine = page.evaluate(f"({DRAWS})(5)")
        share = (cpu_seconds(server) - used) / (time.perf_counter() - begun)
        said, _ = others.communicate()
    if others.returncode:
        raise SystemExit("the people without a browser gave up")
    theirs = json.loads(said)
    page.context.close()
    return {
        "the one, to the answer": spread([first for first, _ in mine]),
        "the one, to the last change": spread([last for _, last in mine]),
        "the others, to the answer": spread(theirs["to_end"]),
        "the others, to the last change": spread(theirs["to_rest"]),
        "CPUs that the server kept busy": round(share, 2),
    }


def crowd(playwright: Playwright, url: str, people: int) -> dict[str, Any]:
    """All in a browser of their own, where no page sleeps."""
    browser = playwright.chromium.launch(executable_path=chromium(), args=[*FLAGS, *AWAKE])
    pages = [usable(browser, url) for _ in range(people)]
    for page in pages:
        page.evaluate(SETTLES)
        page.evaluate(f"() => {{ window.drawn = ({DRAWS})(3); }}")
    found = [each for page in pages for each in page.evaluate("() => window.drawn")]
    browser.close()
    return {"to the answer": spread([first for first, _ in found]), "to the last change": spread([last for _, last in found])}


def cpu_seconds(process: int) -> float:
    """Of all threads, as Linux counts them."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(process: int) -> float:
    """Megabytes in memory, as Linux counts them."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def writing(browser: Browser, url: str) -> str:
    page = browser.new_context().new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{url}/write?length=2000")
    note = page.get_by_text(re.compile(r"^2,000 letters in"))
    expect(note).to_be_visible(timeout=PATIENCE)
    return note.inner_text()


if __name__ == "__main__":
    main()
