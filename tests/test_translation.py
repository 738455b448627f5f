"""The Chinese documentation says what the English says: the same pages, headings, code blocks, tables and figures.

A failure lists what the Chinese page lacks. CONTRIBUTING.md says how to translate.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGLISH = sorted(path.relative_to(ROOT / "docs/en").as_posix() for path in (ROOT / "docs/en").rglob("*.md"))
PAIRS = {"README.md": "README.zh-CN.md"} | {f"docs/en/{page}": f"docs/zh/{page}" for page in ENGLISH}
ONLY_CHINESE = {"terms.md"}

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def prose(page: str) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page)


def heading_levels(page: str) -> list[int]:
    return [len(marks) for marks in re.findall(r"^(#+) ", prose(page), re.MULTILINE)]


def figures(page: str) -> Counter[str]:
    """Numbers outside code blocks and link targets, in any order: Chinese sentences have another one."""
    words = re.sub(r"\]\([^)]*\)|<img [^>]*>", "", prose(page))
    return Counter(re.findall(r"\d+(?:[.,]\d+)*", words))


def tables(page: str) -> list[int]:
    """Number of cells of every row of every table, and of none for the lines between."""
    return [line.count("|") for line in prose(page).splitlines() if line.startswith("|")]


def links(page: str) -> Counter[str]:
    """Targets of links and images, as the English page has them."""
    targets = re.findall(r"\]\(([^)#]+)", prose(page)) + re.findall(r'src="([^"]+)"', prose(page))
    return Counter(target.replace("docs/zh/", "docs/en/") for target in targets if not target.startswith("README"))


def lacking(english: str, chinese: str) -> list[str]:
    """What of an English page is not in its Chinese one, and what is there alone."""
    found = []
    if heading_levels(english) != heading_levels(chinese):
        found.append(f"headings: {heading_levels(english)} in English, {heading_levels(chinese)} in Chinese")
    if tables(english) != tables(chinese):
        found.append(f"table rows: {len(tables(english))} in English, {len(tables(chinese))} in Chinese, or other columns")
    ours, theirs = FENCE.findall(english), FENCE.findall(chinese)
    found += [f"code block:\n{block}" for block in ours if block not in theirs]
    found += [f"code block of the Chinese page alone:\n{block}" for block in theirs if block not in ours]
    if ours != theirs and not found:
        found.append("code blocks are in another order")
    for what, count in (("figure", figures), ("link", links)):
        a, b = count(english), count(chinese)
        found += [f"{what} {name}: {a[name]} in English, {b[name]} in Chinese" for name in sorted(a | b) if a[name] != b[name]]
    return found


@pytest.mark.parametrize("page", PAIRS)
def test_chinese_page_says_the_same(page: str) -> None:
    translated = ROOT / PAIRS[page]
    assert translated.is_file(), f"{PAIRS[page]} is missing: translate {page}, see CONTRIBUTING.md"
    assert lacking((ROOT / page).read_text(encoding="utf-8"), translated.read_text(encoding="utf-8")) == []


def test_no_chinese_page_is_left_over() -> None:
    chinese = {path.relative_to(ROOT / "docs/zh").as_posix() for path in (ROOT / "docs/zh").rglob("*.md")}
    assert chinese - set(ENGLISH) == ONLY_CHINESE


def test_the_readmes_link_to_each_other() -> None:
    first = {page: (ROOT / page).read_text(encoding="utf-8").splitlines()[0] for page in ("README.md", "README.zh-CN.md")}
    assert "(README.zh-CN.md)" in first["README.md"]
    assert "(README.md)" in first["README.zh-CN.md"]


@pytest.mark.parametrize(
    ("chinese", "says"),
    [
        ("# 一\n\n```bash\na\n```\n\n| 3 |\n", []),
        ("一\n\n```bash\na\n```\n\n| 3 |\n", ["headings"]),
        ("# 一\n\n```bash\nb\n```\n\n| 3 |\n", ["code block", "code block of the Chinese page alone"]),
        ("# 一\n\n```bash\na\n```\n\n| 4 |\n", ["figure 3", "figure 4"]),
        ("# 一\n\n```bash\na\n```\n\n3\n", ["table rows"]),
    ],
)
def test_what_is_lacking_is_listed(chinese: str, says: list[str]) -> None:
    """The comparison above can fail."""
    assert [line.partition(":")[0] for line in lacking("# One\n\n```bash\na\n```\n\n| 3 |\n", chinese)] == says
