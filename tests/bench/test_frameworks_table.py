"""The table of frameworks: rows that are cheap are measured again, the others are there."""

from __future__ import annotations

import pytest
from frameworks_table import ROWS, line, measured, page

CHEAP = [number for number, row in enumerate(ROWS) if row.cheap]


def rows(language: str) -> list[list[str]]:
    lines = [each for each in page(language).read_text(encoding="utf-8").splitlines() if each.startswith("| ")][1:]
    return [[cell.strip() for cell in each.strip("|").split("|")] for each in lines]


@pytest.mark.parametrize("number", CHEAP)
def test_a_cheap_row_is_what_is_measured(number: int) -> None:
    found = measured(ROWS[number])
    for place, language in enumerate(("en", "zh")):
        wanted = [cell.strip() for cell in line(ROWS[number], found, place).strip("|").split("|")]
        said = rows(language)[number]
        # The sizes are always the same; how many special values are tried depends on the time that they take.
        assert said[4].split(", ")[1] == wanted[4].split(", ")[1]
        assert said[:4] + said[6:] == wanted[:4] + wanted[6:], "python tests/bench/frameworks_table.py writes it anew"


def test_every_row_is_in_the_table() -> None:
    for place, language in enumerate(("en", "zh")):
        assert [each[:2] for each in rows(language)] == [[row.framework, row.model[place]] for row in ROWS]
