"""Takes the README's images of the demo's pages, with the models that are shipped: needs Chromium and ``pip install -e '.[dev]'``.

python tests/bench/demo_screenshots.py [--out demo/screenshots]

Every page in light and dark, and the narrow ones; each PNG is brought to a palette, below 100 kB.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from browsing import FLAGS, PATIENCE, chromium
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from onnxferry.demo.cli import free_port, serve_command
from onnxferry.demo.serving.head import CARD

ROOT = Path(__file__).parents[2]
SEVEN = ((0.27, 0.26), (0.46, 0.24), (0.72, 0.25), (0.58, 0.5), (0.47, 0.8))
PAGES = {
    "crossing": "",
    "recognise": "recognise",
    "write": "write?prompt=ROMEO%3A%0A&seed=4&length=450",
    "imagine": "imagine",
    "compress": "compress",
    "train": "train",
    "game": "game",
    "your-model": "your-model",
    "under-the-hood": "under-the-hood",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "demo" / "screenshots")
    parser.add_argument("--card", action="store_true", help="and the picture that shared links show, demo/assets/card.png")
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    port = free_port(None)
    url = f"http://localhost:{port}"
    with subprocess.Popen(serve_command(port), stdout=subprocess.DEVNULL) as server:
        try:
            wait_for(url)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
                for scheme in ("light", "dark"):
                    for name in PAGES:
                        save(shot(browser, url, name, scheme, 1180), out / f"{name}-{scheme}.png")
                for name, scheme in (("recognise", "dark"), ("write", "light")):
                    save(shot(browser, url, name, scheme, 390), out / f"{name}-narrow-{scheme}.png")
                if arguments.card:
                    with browser.new_context(viewport={"width": 1200, "height": 630}) as context:
                        page = context.new_page()
                        page.goto(f"{url}/?shown=7")
                        expect(page.get_by_text("The same answer each way.")).to_be_visible(timeout=PATIENCE)
                        settle(page)
                        save(page.screenshot(animations="disabled"), ROOT / "demo" / "assets" / CARD)
                browser.close()
        finally:
            server.terminate()


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise SystemExit("the demo did not come up")


def shot(browser: Browser, url: str, name: str, scheme: str, width: int) -> bytes:
    with browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 740 if width > 600 else 1150}) as context:  # type: ignore[arg-type]
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"{url}/{PAGES[name]}")
        expect(page.locator(".of-heading h1")).to_be_visible(timeout=PATIENCE)
        settle(page)
        if name == "recognise":
            draw(page)
        elif name == "game":
            page.get_by_role("button", name="Start the clock").click()
            expect(page.locator("canvas[data-ready]")).to_be_visible(timeout=PATIENCE)
        elif name == "your-model":
            page.locator('input[type="file"]').first.set_input_files(ROOT / "runtime" / "zoo" / "digits" / "digits.onnx")
            button = page.get_by_role("button", name="Run the built-in self-test")
            expect(button).to_be_visible(timeout=PATIENCE)
            settle(page)
        page.mouse.move(0, 0)
        settle(page)
        return page.screenshot(animations="disabled")


def settle(page: Page) -> None:
    expect(page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]')).to_be_attached(timeout=PATIENCE)
    page.wait_for_timeout(700)  # images and fonts come after the script has ended


def draw(page: Page) -> None:
    canvas = page.locator("canvas[data-ready]")
    expect(canvas).to_be_visible(timeout=PATIENCE)
    box = canvas.bounding_box()
    if box is None:
        raise SystemExit("the pad has no place on the page")
    points = [(box["x"] + box["width"] * across, box["y"] + box["height"] * down) for across, down in SEVEN]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=8)
    page.mouse.up()
    expect(page.locator(".of-answer strong")).to_have_text("7", timeout=PATIENCE)
    expect(page.get_by_role("img", name="spoke for 7")).to_be_visible(timeout=PATIENCE)


def save(data: bytes, path: Path) -> None:
    """With as many colours as fit below 100 kB."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    for colours in (128, 64, 32, 16):
        stream = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(stream, format="PNG", optimize=True)
        if stream.tell() < 100_000:
            break
    path.write_bytes(stream.getvalue())
    print(f"{path.name}: {stream.tell() / 1000:.0f} kB")


if __name__ == "__main__":
    main()
