"""The page "Conformance" holds what is recorded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tables import DOCS, PAGE, WORDS, page


@pytest.mark.parametrize("language", WORDS)
def test_the_page_is_what_is_recorded(language: str) -> None:
    assert (DOCS / language / PAGE).read_text(encoding="utf-8") == page(language), "run: python tests/conformance/tables.py"
