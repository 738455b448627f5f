"""A page as Streamlit's AppTest runs it: no browser, the logic and what it shows."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest


def _script(name: str) -> None:
    import importlib

    importlib.import_module(f"onnxferry.demo.pages.{name}").page()


@pytest.fixture
def show(tiny_zoo: Path, show_zoo: Callable[[Path], None]) -> Callable[..., AppTest]:
    """``show("write", seed="3")``: the page, run once; the names after the first are what stands in the address. ``zoo``: another."""

    def open_page(name: str, *, zoo: Path = tiny_zoo, **query: str) -> AppTest:
        show_zoo(zoo)
        page = AppTest.from_function(_script, args=(name,), default_timeout=300)
        for key, value in query.items():
            page.query_params[key] = value
        return page.run()

    return open_page


def html_of(page: AppTest) -> str:
    """All HTML of a page, joined."""
    return "\n".join(each.body for each in page.get("html"))


@pytest.fixture
def html() -> Callable[[AppTest], str]:
    """``html(page)``: all its HTML."""
    return html_of


@pytest.fixture
def well() -> Callable[[AppTest], None]:
    """``well(page)``: nothing was raised, and no error is shown."""

    def check(page: AppTest) -> None:
        assert [each.value for each in page.exception] == []
        assert [each.value for each in page.error] == []

    return check


@pytest.fixture(scope="session")
def huge_image() -> bytes:
    """A PNG of 100 megapixels, in a few kilobytes."""
    stream = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(stream, format="PNG")
    return stream.getvalue()
