"""The crossing's column that the visitor's own browser computes, in headless Chromium. Waits are for conditions, never for a time."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from onnxferry.runtime.embed.web_runtime import FILES, VERSION
from tests.npm import node_modules

pytestmark = [pytest.mark.slow, pytest.mark.network]

PATIENCE = 120_000  # milliseconds: two cores may be busy with other tests

# Streamlit's client looks for its server beside the page's address before it looks at the root.
NOT_OURS = re.compile(r"status of 404 \(Not Found\).*_stcore/(health|host-config)")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """onnxruntime-web, unpacked. Skips where npm cannot be had."""
    return node_modules(tmp_path_factory, f"onnxruntime-web@{VERSION}") / "onnxruntime-web"


@pytest.fixture
def visits(browser: Browser, server_with_cache: tuple[str, Path]) -> Iterator[Callable[..., Page]]:
    """``visits(url, **context options)``: the page, in a browser that has not been there; nothing in it complains or asks another host.

    It is closed before the server stops, of which the page would complain.
    """
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        said = f"{message.text} {message.location.get('url', '')}"
        if message.type == "error" and not NOT_OURS.search(said):
            complaints.append(said)

    def come(url: str, **options: object) -> Page:
        contexts.append(browser.new_context(**({"viewport": {"width": 1280, "height": 900}, "locale": "en-US"} | options)))
        page = contexts[-1].new_page()
        own = ("/".join(url.split("/")[:3]), "data:", "blob:")
        page.on("console", heard)
        page.on("pageerror", lambda error: complaints.append(f"uncaught: {error}"))
        page.on("request", lambda request: None if request.url.startswith(own) else complaints.append(request.url))
        page.goto(url, timeout=PATIENCE)
        return page

    yield come
    for context in contexts:
        context.close()
    assert complaints == []


def test_the_browser_runs_the_same_file_and_finds_the_damage(visits, server_with_cache: tuple[str, Path], package: Path) -> None:
    url, cache = server_with_cache
    page = visits(f"{url}/?shown=7")
    expect(page.get_by_text("onnxferry demo --ort-web DIR")).to_be_visible(timeout=PATIENCE)
    expect(page.locator(".of-cards section")).to_have_count(3)

    place = cache / f"onnxruntime-web-{VERSION}"  # as `onnxferry demo --ort-web` leaves them, while the server runs
    place.mkdir(parents=True)
    for name in FILES:
        shutil.copy(package / "dist" / name, place)
    page.reload()
    way = page.get_by_role("region", name="ONNX, this browser")
    expect(way.locator("strong")).to_have_text("7", timeout=PATIENCE)
    expect(way.get_by_text("Self-test: 8 of 8 as in PyTorch")).to_be_visible(timeout=PATIENCE)
    expect(way).to_contain_text(re.compile(r"One answer\s*\d+\.\d ms"))
    apart = float(way.locator("dd").last.inner_text())
    assert 0 <= apart < 1e-4  # of the float32 file, from what PyTorch answered
    expect(page.get_by_text("The same answer each way.")).to_be_visible()

    page.get_by_role("button", name="a handwritten 4").first.click()
    expect(way.locator("strong")).to_have_text("4", timeout=PATIENCE)

    page.get_by_text("Break the file").click()
    expect(way.get_by_text("Self-test: 0 of 8 as in PyTorch")).to_be_visible(timeout=PATIENCE)
    expect(way).to_contain_text("The overwritten file")
    page.get_by_text("Break the file").click()
    expect(way.get_by_text("Self-test: 8 of 8 as in PyTorch")).to_be_visible(timeout=PATIENCE)

    phone = visits(f"{url}/?shown=2&lang=zh", viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    expect(phone.get_by_role("region", name="ONNX，这个浏览器").get_by_text("自检：8 项中 8 项与 PyTorch 一致")).to_be_visible(
        timeout=PATIENCE
    )
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_browser_that_cannot_run_it_says_so(visits, server_with_cache: tuple[str, Path], package: Path) -> None:
    url, cache = server_with_cache
    shutil.copytree(package / "dist", cache / f"onnxruntime-web-{VERSION}")
    page = visits(f"{url}/_stcore/health")
    page.add_init_script("delete globalThis.WebAssembly")
    page.goto(f"{url}/?shown=7")
    way = page.get_by_role("region", name="ONNX, this browser")
    expect(way).to_contain_text("This browser has no WebAssembly, or it is switched off", timeout=PATIENCE)
    expect(page.get_by_text("The same answer each way.")).to_be_visible()
