"""Hooks of MkDocs: what pages link to outside docs/ (screenshots, SECURITY.md) is copied into the site, and the links follow; the page
of all options is made from the commands themselves.

So one relative link works both in the repository's view and on the site. Named in mkdocs.yml.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
COPIES = "repository"
"""Folder of the site that holds the copies, by their paths in the repository."""

COMMANDS = "<!-- commands -->"
"""The comment in a page for which the options of all commands stand on the site."""

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

    markdown = LINK.sub(followed, markdown)
    return markdown.replace(COMMANDS, commands()) if COMMANDS in markdown else markdown


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The theme's search dialog has no name for screen readers; roles of docstrings (:class:`~a.b.C`) are shown as the name alone."""
    output = ROLE.sub(r"<code>\1</code>", output)
    name = "搜索" if config.theme["language"] == "zh" else "Search"
    return output.replace('data-md-component="search" role="dialog"', f'data-md-component="search" role="dialog" aria-label="{name}"')


@event_priority(-100)  # after the search plugin
def on_post_build(config: Any) -> None:
    """The search's index as a script: opened from a folder, a page may not read files, and the theme's script would stop without it."""
    index = Path(config.site_dir, "search/search_index.json").read_text(encoding="utf-8")
    Path(config.site_dir, "search/search_index.js").write_text(f"var __index = {index}", encoding="utf-8")


@cache
def commands() -> str:
    """The options of every command, from the commands themselves, as Markdown: what stands for the comment of :data:`COMMANDS`."""
    from importlib import import_module

    import typer

    from onnxferry.runtime.cli.main import VERBS

    sections = []
    for verb, (place, _) in VERBS.items():
        module, _, attribute = place.partition(":")
        command: Any = typer.main.get_command(getattr(import_module(module), attribute))
        family = getattr(command, "commands", None)
        for name, each in ((f"{verb} {name}", each) for name, each in family.items()) if family else ((verb, command),):
            sections.append(section(name, each))
    return "\n".join(sections)


def section(name: str, command: Any) -> str:
    """One command: what it does, its examples, and a table of its arguments and options."""
    what, _, rest = (command.help or "").partition("\n\n")
    examples = "\n".join(line.strip() for line in rest.splitlines() if line.strip().startswith("onnxferry "))
    lines = [f"## onnxferry {name}", "", " ".join(what.split()), ""]
    if examples:
        lines += ["```console", *(f"$ {line}" for line in examples.splitlines()), "```", ""]
    lines += ["| | |", "|---|---|"]
    context = command.make_context(name, [], resilient_parsing=True)
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is None or parameter.name == "help":
            continue
        shown, words = (" ".join(part.split()).replace("|", "\\|") for part in record)
        lines.append(f"| `{shown}` | {words.replace('<', '&lt;')} |")
    return "\n".join(lines) + "\n"
