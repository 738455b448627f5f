"""What the pages' tests share."""

from __future__ import annotations

import io

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def huge_image() -> bytes:
    """A PNG of 100 megapixels, in a few kilobytes."""
    stream = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(stream, format="PNG")
    return stream.getvalue()
