"""A hook of MkDocs: what pages link to outside docs/ (screenshots, SECURITY.md) is copied into the site, and the links follow.

So one relative link works both in the repository's view and on the site. Named in mkdocs.yml.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
COPIES = "repository"
"""Folder of the site that holds the copies, by their paths in the repository."""

LINK = re.compile(r'(?P<before>\]\(|src=")(?P<target>[^)"#:]+)(?=[)"#])')


ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):<code>~?\.?(?:[\w.]+\.)?(\w+)</code>")


def outside(page: Path, target: str) -> Path | None:
    """The file outside docs/ that a link of ``page`` leads to, as a path from the repository's root."""
    found = (page.parent / target).resolve()
    if found.is_relative_to(ROOT) and not found.is_relative_to(DOCS) and found.is_file():
        return found.relative_to(ROOT)
    return None


def copied_as(path: Path) -> str:
    """Where the copy is. Markdown is shown as text: its own links lead on into the repository."""
    return f"{COPIES}/{path.as_posix()}" + (".txt" if path.suffix in ("", ".md") else "")


def on_files(files: Any, config: Any) -> Any:
    wanted = set()
    for file in files.documentation_pages():
        text = Path(file.abs_src_path).read_text(encoding="utf-8")
        wanted |= {path for link in LINK.finditer(text) if (path := outside(Path(file.abs_src_path), link["target"]))}
    for path in sorted(wanted):
        files.append(File.generated(config, copied_as(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    source = Path(page.file.abs_src_path)
    folder = Path(page.file.dest_uri).parent

    def followed(link: re.Match[str]) -> str:
        path = outside(source, link["target"])
        if path is None:
            return link[0]
        return link["before"] + Path(os.path.relpath(copied_as(path), folder)).as_posix()

    return LINK.sub(followed, markdown)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The theme's search dialog has no name for screen readers; roles of docstrings (:class:`~a.b.C`) are shown as the name alone."""
    output = ROLE.sub(r"<code>\1</code>", output)
    name = "搜索" if config.theme["language"] == "zh" else "Search"
    return output.replace('data-md-component="search" role="dialog"', f'data-md-component="search" role="dialog" aria-label="{name}"')
