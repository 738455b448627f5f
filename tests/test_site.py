"""The documentation's site builds without a warning, in both languages, and loads nothing from another host."""

from __future__ import annotations

import functools
import http.server
import os
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

# Links that a reader follows (<a href>) may lead anywhere; what a browser loads by itself may not.
LOADED = re.compile(r"""<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href|srcset)="((?:https?:)?//[^"]*)""")
LOADED_BY_CSS = re.compile(r"""(?:url\(|@import )\s*["']?((?:https?:)?//[^)"']*)""")
LOCAL = re.compile(r"""\b(?:src|href)="([^":#?]+)[#?"]""")


PAGES_OF_EACH_KIND = (
    "index.html",
    "how-to/demo.html",
    "explanation/figures.html",
    "reference/commands.html",
    "zh/learn/gan.html",
    "zh/reference/errors.html",
    "zh/how-to/keras.html",
    "how-to/deploy.html",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    assert result.returncode == 0, result.stdout + result.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert spent < 60, f"{spent:.0f} s of CPU time; a build has to stay under a minute"
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site as a server on this machine shows it: search needs one."""

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_every_page_is_there_in_both_languages(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs/en") for path in (ROOT / "docs/en").rglob("*.md")]
    assert Path("how-to/demo.md") in pages
    for folder in (site, site / "zh"):
        assert [page for page in pages if not (folder / page.with_suffix(".html")).is_file()] == []


@pytest.mark.slow
def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    assert LOADED.search('<script async src="https://elsewhere.example/x.js">')
    assert LOADED.search('<link rel="stylesheet" href="//elsewhere.example/x.css">')
    assert LOADED_BY_CSS.search("@font-face{src:url(https://elsewhere.example/x.woff2)}")
    found = {}
    for path in site.rglob("*"):
        if path.suffix in (".html", ".css"):
            hosts = (LOADED if path.suffix == ".html" else LOADED_BY_CSS).findall(path.read_text(encoding="utf-8"))
            found.update({path.relative_to(site).as_posix(): hosts} if hosts else {})
    assert found == {}


@pytest.mark.slow
def test_links_lead_to_files_of_the_site(site: Path) -> None:
    """Also those to files outside docs/, which docs/site.py copies."""
    broken = {}
    for path in site.rglob("*.html"):
        if path.name == "404.html":  # shown at any address, so its links begin at the root
            continue
        targets = [target for target in LOCAL.findall(path.read_text(encoding="utf-8")) if "//" not in target]
        missing = sorted({target for target in targets if not (path.parent / target).exists()})
        broken.update({path.relative_to(site).as_posix(): missing} if missing else {})
    assert broken == {}
    assert (site / "repository/demo/screenshots/recognise-light.png").is_file()


@pytest.mark.slow
def test_the_options_come_from_the_commands(site: Path) -> None:
    from onnxferry.runtime.cli.main import VERBS

    for folder in (site, site / "zh"):
        page = (folder / "reference/commands.html").read_text(encoding="utf-8")
        headings = set(re.findall(r'<h2 id="[^"]+">onnxferry ([a-z -]+)<', page))
        assert {heading.partition(" ")[0] for heading in headings} == set(VERBS)
        assert {f"train {family}" for family in ("cnn", "rnn", "gan", "ae")} <= headings
        assert "--few-labels" in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("home", "words", "page"), [("/index.html", "parity tolerance", "tolerances"), ("/zh/index.html", "容差", "tolerances")]
)
def test_search_finds_pages_in_both_languages(address: str, chromium: str, home: str, words: str, page: str) -> None:
    from playwright.sync_api import sync_playwright

    asked = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"], timeout=120_000)
        tab = browser.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(address + home)
        tab.locator("input[data-md-component='search-query']").first.fill(words)
        tab.wait_for_selector("a.md-search-result__link", state="attached", timeout=60_000)
        found = tab.eval_on_selector_all("a.md-search-result__link", "links => links.map(link => link.href)")
        browser.close()
    assert any(page in link for link in found), found
    assert all(link.startswith(f"{address}/zh/" if "zh" in home else address) for link in found), found
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


@pytest.mark.slow
def test_the_site_is_small(site: Path) -> None:
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 15_000_000


def _serious(response: dict[str, Any]) -> list[str]:
    faults = [fault for fault in response["violations"] if fault["impact"] in ("serious", "critical")]
    return [f"{each['id']}: {each['nodes'][0]['html'][:160]} {each['nodes'][0].get('failureSummary', '')[:300]}" for each in faults]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_finds_no_serious_fault(site: Path, chromium: str, scheme: str) -> None:
    """axe in Chromium on a page of each kind, opened from the folder; the browser asks no other host for anything."""
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    faults, asked, errors = [], [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"], timeout=120_000)
        tab = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        for path in PAGES_OF_EACH_KIND:
            tab.goto((site / path).as_uri())
            tab.wait_for_timeout(300)
            for width in (390, 1200):
                tab.set_viewport_size({"width": width, "height": 900})
                wide = tab.evaluate("document.documentElement.scrollWidth")
                faults += [f"{path}: {wide} pixels wide in a window of {width}"] if wide > width else []
            for fault in Axe().run(tab).response["violations"]:
                if fault["impact"] in ("serious", "critical"):
                    faults.append(
                        f"{path}: {fault['id']}: {fault['nodes'][0]['html'][:160]} {fault['nodes'][0].get('failureSummary', '')[:300]}"
                    )
        browser.close()
    assert errors == []
    assert faults == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
