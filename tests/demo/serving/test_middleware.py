"""Headers on every answer, the page's head, and no more uploads in memory than there is room for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from onnxferry.demo.serving.head import asked_language, with_head
from onnxferry.demo.serving.middleware import HEADERS, POLICY, Headers, InBrowser, UploadBound
from onnxferry.demo.shipped import in_browser
from onnxferry.runtime.embed.web_runtime import FILES

UPLOAD = "/ferry/_stcore/upload_file/session/file"


def asked(app: Any, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One request to an ASGI application: status, headers, body."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(app({"type": "http", "method": method, "path": path, "headers": fields}, receive, send))
    got = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], got, b"".join(each.get("body", b"") for each in sent[1:])


def serves(kind: str, *pieces: bytes) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        length = str(sum(map(len, pieces))).encode()
        headers = [(b"content-type", kind.encode()), (b"X-Frame-Options", b"ALLOWALL"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, piece in enumerate(pieces):
            await send({"type": "http.response.body", "body": piece, "more_body": number + 1 < len(pieces)})

    return app


def test_every_answer_has_the_headers_once() -> None:
    status, headers, body = asked(Headers(serves("text/javascript", b"1", b"2")), "/static/index.js")
    assert (status, body) == (200, b"12")
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert headers["x-frame-options"] == "DENY"


def test_no_page_may_ask_another_host() -> None:
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert rules["default-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"
    for name, sources in rules.items():
        assert not any("http" in source or "*" in source for source in sources.split()), name


def test_the_first_page_has_a_title_and_what_a_link_shows() -> None:
    pieces = (b"<html><head><title>Stream", b"lit</title></head></html>")
    _, headers, body = asked(Headers(serves("text/html; charset=utf-8", *pieces)), "/write", accept_encoding="gzip")
    assert b"<title>onnxferry</title>" in body
    assert b'property="og:description"' in body
    assert int(headers["content-length"]) == len(body)
    assert with_head(b"no title") == b"no title"


@pytest.mark.parametrize(
    ("query", "accepts", "language"),
    [
        (b"", b"en-US,en", "en"),
        (b"", b"zh-CN,zh;q=0.9", "zh-CN"),
        (b"a=1&lang=zh", b"en", "zh-CN"),
        (b"lang=en", b"zh", "en"),
        (b"lang=x", b"", "en"),
    ],
)
def test_the_page_says_its_language(query: bytes, accepts: bytes, language: str) -> None:
    assert f'<html lang="{language}">'.encode() in with_head(b'<html lang="en">', language=asked_language(query, accepts))


def test_a_shared_link_shows_the_card_at_the_servers_own_address() -> None:
    page = b"<title>Streamlit</title>"
    _, _, body = asked(Headers(serves("text/html", page)), "/ferry/write", host="example.org:8501")
    assert b'property="og:image" content="http://example.org:8501/ferry/card.png"' in body
    for host in ('x"><script>', "", "a b"):
        _, _, body = asked(Headers(serves("text/html", page)), "/write", host=host)
        assert b"og:image" not in body
        assert b"<script>" not in body
    status, headers, body = asked(Headers(serves("text/html", page)), "/ferry/card.png")
    assert (status, headers["content-type"], body[:4]) == (200, "image/png", b"\x89PNG")
    assert headers["content-security-policy"] == POLICY


def test_something_is_seen_before_the_scripts_have_come() -> None:
    made = with_head(b'<title>Streamlit</title><div id="root"></div>')
    assert b"<svg" in made.split(b'<div id="root">')[1]
    assert b".of-begin" in made.split(b"<style>")[1]


def test_uploads_are_bounded_over_all_visitors() -> None:
    arrived = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        arrived.append(scope["path"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    bound = UploadBound(app, held=2**21, in_memory=lambda: 2**20)
    assert asked(bound, UPLOAD, "PUT", content_length=str(2**20))[0] == 204
    status, _, body = asked(bound, UPLOAD, "PUT", content_length=str(2**20 + 1))
    assert status == 413
    assert b"2 MB" in body
    assert asked(bound, UPLOAD, "PUT")[0] == 411
    assert asked(bound, UPLOAD, "DELETE")[0] == 204
    assert asked(bound, "/_stcore/health")[0] == 204
    assert arrived.count(UPLOAD) == 2


def test_uploads_on_their_way_count() -> None:
    """Ten large files that are sent at once are all on their way before the first has arrived."""
    statuses = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    bound = UploadBound(slow, held=100, in_memory=lambda: 0)
    scope = {"type": "http", "method": "PUT", "path": UPLOAD, "headers": [(b"content-length", b"60")]}

    async def both() -> None:
        await asyncio.gather(*(bound(dict(scope), None, send) for _ in range(3)))  # type: ignore[arg-type]

    asyncio.run(both())
    assert sorted(statuses) == [204, 413, 413]
    asyncio.run(both())
    assert sorted(statuses) == [204, 204, 413, 413, 413, 413]


@pytest.mark.parametrize("held", [1])
def test_other_requests_pass(held: int) -> None:
    assert asked(UploadBound(serves("text/plain", b"ok"), held, lambda: 10), "/_stcore/health")[2] == b"ok"


def test_streamlit_finds_no_pages_of_its_own() -> None:
    """A folder ``pages`` beside its script is a second set of pages: a direct link to one was answered with an empty page."""
    from onnxferry.demo.app import app

    assert app.script_path.is_file()
    assert not (app.script_path.parent / "pages").exists()


def test_what_the_browser_runs_is_served_under_an_address_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_browser, "_found", {})
    monkeypatch.setattr(in_browser, "web_runtime_here", lambda: dict.fromkeys(FILES, b"stand-in"))
    found = in_browser.browser_files()
    assert found is not None
    app = Headers(InBrowser(serves("text/html", b"page")))
    for name, kind in {
        "worker.mjs": "text/javascript; charset=utf-8",
        "ort-wasm-simd-threaded.wasm": "application/wasm",
        "digits.onnx": "application/octet-stream",
    }.items():
        status, headers, body = asked(app, f"/ferry/{found.address}{name}")  # with a base path too
        assert (status, body) == (200, found.files[name])
        assert headers["content-type"] == kind
        assert "immutable" in headers["cache-control"]
        assert headers["content-security-policy"] == POLICY
    status, headers, body = asked(app, f"/{found.address}worker.mjs", "HEAD")
    assert (status, body, int(headers["content-length"])) == (200, b"", len(found.files["worker.mjs"]))
    for path in (f"/{found.address}other", f"/in-browser/{16 * '0'}/worker.mjs"):
        assert asked(app, path)[0] == 404
    for path in (f"/{found.address}../worker.mjs", "/in-browser/", "/recognise"):
        assert asked(app, path)[2].startswith(b"page")


def test_without_onnxruntime_web_there_is_nothing_to_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_browser, "_found", {})
    monkeypatch.setattr(in_browser, "web_runtime_here", lambda: None)
    assert asked(InBrowser(serves("text/html", b"page")), f"/in-browser/{16 * '0'}/worker.mjs")[0] == 404
